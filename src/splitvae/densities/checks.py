"""What densities accept: codes of several kinds, counts, rates, and what may be drawn."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian


def as_latents(codes: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Codes of any accepted kind as one finite tensor.

    Args:
        codes: a posterior (its means are taken), a tensor or an array, (N, D).
        device: None = where the codes are.
        dtype: None = the codes' own if that is float64, else float32.

    Raises:
        InputError: another shape, or a code that is not finite.
    """
    if isinstance(codes, DiagonalGaussian):
        codes = codes.mean
    if not isinstance(codes, Tensor):
        codes = torch.from_numpy(np.require(codes, requirements=["C", "W"]))
    dtype = dtype or (torch.float64 if codes.dtype == torch.float64 else torch.float32)
    x = codes.detach().to(device=device, dtype=dtype)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"codes must have the shape (N, D), not {tuple(x.shape)}.")
    for number, part in enumerate(x.split(65536)):  # in parts: a mask of everything would take a quarter of the codes
        if not (finite := part.isfinite().all(dim=1)).all():
            bad = 65536 * number + int(finite.int().argmin())
            raise InputError(f"code {bad} is not finite; leave it out or look for a diverged encoder.")
    return x


def check_at_least_one(**counts: int) -> None:
    """Refuse a count below 1, by its name."""
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")


def check_rates(**rates: float) -> None:
    """Refuse a rate that is not positive and finite, by its name."""
    for name, value in rates.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be above 0 and finite, not {value}.")


def check_draw(n: int, temperature: float) -> None:
    """Refuse what cannot be sampled."""
    if n < 1:
        raise InputError(f"the number of samples must be at least 1, not {n}.")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature must be at least 0 and finite, not {temperature}.")
