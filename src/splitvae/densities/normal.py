"""The prior N(0, I), and the protocol that every density on the latent space follows."""

import math
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from splitvae.densities.checks import check_draw
from splitvae.errors import InputError


class LatentDensity(Protocol):
    """A density on the latent space R^D: fitted on codes, then sampled. ``log_prob`` exists where it is tractable."""

    def fit(self, codes: Any, labels: Any = None, generator: torch.Generator | None = None) -> Self:
        """Fit to codes: a posterior (mean and logvar, (N, D) each) or plain latents (N, D)."""
        ...

    def sample(self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw n latents, (n, D) float32; temperature scales the standard deviation, 1 = the density itself."""
        ...


class StandardNormal:
    """The prior of every VAE, N(0, I); nothing is fitted.

    Args:
        latent_dim: D, at least 1.

    Examples:
        >>> StandardNormal(4).sample(10).shape
        torch.Size([10, 4])
    """

    def __init__(self, latent_dim: int) -> None:
        if latent_dim < 1:
            raise InputError(f"latent_dim must be at least 1, not {latent_dim}.")
        self.latent_dim = latent_dim

    def fit(self, codes: Any, labels: Any = None, generator: torch.Generator | None = None) -> Self:
        """Return self: the prior does not depend on the data."""
        return self

    def sample(self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw z ~ N(0, temperature²·I), (n, D)."""
        check_draw(n, temperature)
        device = None if generator is None else generator.device
        return temperature * torch.randn(n, self.latent_dim, generator=generator, device=device)

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) for z (N, D): (N,) nats."""
        return -0.5 * (z.square().sum(dim=1) + self.latent_dim * math.log(2 * math.pi))
