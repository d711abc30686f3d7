"""The posterior q(z|x): a Gaussian with diagonal covariance (equation 4 of the Split-VAE paper)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """A batch of Gaussians N(mean, diag(exp(logvar))).

    A deterministic encoder is the case ``logvar = -inf``: std 0, every sample the mean.

    Attributes:
        mean: (B, D) float.
        logvar: (B, D) float, the logarithm of the *variance* σ² (Dai & Wipf's code holds log σ).
    """

    mean: Tensor
    logvar: Tensor

    @property
    def deterministic(self) -> bool:
        """Whether the posterior is a point. Note: waits for a GPU."""
        return bool(torch.isneginf(self.logvar).all())

    @property
    def std(self) -> Tensor:
        """(B, D) standard deviation σ."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """Draw z = mean + std·ε, ε ~ N(0, I) (the reparametrization trick).

        Args:
            generator: source of ε; None = torch's global one.
            noise: (B, D), used as ε instead of drawing it.

        Returns:
            z (B, D).
        """
        if noise is None:
            # Drawn where the generator lives, so that a CPU generator gives the same z on every device.
            place = self.mean.device if generator is None else generator.device
            noise = torch.randn(self.mean.shape, generator=generator, device=place)
        return self.mean + self.std * noise.to(self.mean)

    def mode(self) -> Tensor:
        """The most probable z: the mean (B, D)."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) = ½ Σᵢ (μᵢ² + σᵢ² − log σᵢ² − 1), equation 4.

        Of a deterministic encoder ½‖μ‖², what an autoencoder penalises: the rest of its KL is infinite.

        Returns:
            (B,) nats per image.
        """
        return self.kl_per_dimension().sum(dim=1)

    def kl_per_dimension(self) -> Tensor:
        """The terms of the sum in ``kl``: (B, D) nats."""
        spread = self.logvar.exp() - self.logvar - 1
        return 0.5 * (self.mean.square() + spread.masked_fill(self.logvar.isneginf(), 0.0))


def inactive_latents(posterior: DiagonalGaussian) -> dict[str, int]:
    """Count the latent variables that carry no information about x, by the two criteria of the official code.

    Args:
        posterior: of a whole data set, (N, D).

    Returns:
        ``by_mean``: variables whose mean varies over the data with a variance below 0.05, the prior's being 1; of a
        deterministic encoder, whose codes may have any scale, the average variable's being 1;
        ``by_variance``: variables whose mean posterior variance is above 0.95.
    """
    variance = posterior.mean.var(dim=0, correction=0)
    unit = variance.mean() if posterior.deterministic else 1.0
    return {
        "by_mean": int((variance <= 0.05 * unit).sum()),
        "by_variance": int((posterior.logvar.exp().mean(dim=0) > 0.95).sum()),
    }
