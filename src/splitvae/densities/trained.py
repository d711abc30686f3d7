"""What every density that is trained by steps needs: resampled batches, and a generator of its own."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from splitvae.densities.checks import as_latents
from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian


def as_posterior(codes: Any, device: torch.device | str | None = None) -> DiagonalGaussian:
    """Codes of any accepted kind as a float32 posterior; plain latents have std 0.

    Raises:
        InputError: another shape, fewer than 2 codes, a mean or a std that is not finite.
    """
    mean = as_latents(codes, device, torch.float32)
    if len(mean) < 2:
        raise InputError(f"{len(mean)} code is too few to fit a density; pass at least 2.")
    if not isinstance(codes, DiagonalGaussian):
        return DiagonalGaussian(mean, mean.new_full((1, 1), -torch.inf).expand_as(mean))
    if codes.logvar.shape != codes.mean.shape:
        shapes = f"{tuple(codes.mean.shape)} and {tuple(codes.logvar.shape)}"
        raise InputError(f"mean and logvar of a posterior must have one shape, not {shapes}.")
    as_latents(codes.std, device, torch.float32)  # σ is what must be finite: log σ² = −∞ is σ = 0
    return DiagonalGaussian(mean, codes.logvar.detach().to(mean))


def resampled_batches(posterior: DiagonalGaussian, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of full batches in random order, z (B, D) drawn anew from the posteriors; a CPU generator."""
    N = len(posterior.mean)
    B = min(batch_size, N)
    order = torch.randperm(N, generator=generator).to(posterior.mean.device)
    for rows in order[: N // B * B].split(B):
        yield DiagonalGaussian(posterior.mean[rows], posterior.logvar[rows]).sample(generator)


def derived(generator: torch.Generator | None) -> torch.Generator:
    """A CPU generator seeded by a draw: a fit is a function of the seed, on every device."""
    place = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=place))
    return torch.Generator().manual_seed(seed)


def finite_loss(loss: Tensor, epoch: int) -> float:
    """The loss as a float, which must be finite. Note: this waits for the device, once per epoch."""
    if not math.isfinite(value := loss.item()):
        raise InputError(f"the loss of epoch {epoch + 1} is {value}; lower lr or scale the codes.")
    return value


def load_state(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load weights that must fit by name and shape."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the tensors hold no {what}: {str(error).splitlines()[-1].strip()}") from error
