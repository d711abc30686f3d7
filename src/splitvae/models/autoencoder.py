"""What every autoencoder here is: a network between images and latents, and a decoder whose output is a blend.

``encode`` gives a posterior, ``decode`` the image x̂ with its components and their weights, ``forward`` the objective
and its terms. K = 1 component is an ordinary autoencoder; K = 2 with a mask σ is the Split-VAE (arXiv 2202.02738).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian
from splitvae.models.losses import DecoderVariance
from splitvae.models.pretrained import Pretrained
from splitvae.models.registry import build_network, network_class

if TYPE_CHECKING:
    from splitvae.densities.normal import LatentDensity


class Decoded(NamedTuple):
    """What a decoder returns.

    Attributes:
        x_hat: (B, C, H, W) in [0, 1], the blend Σₖ weightsₖ·componentsₖ.
        components: (B, K, C, H, W) in [0, 1].
        weights: (B, K, 1, H, W), non-negative, summing to 1 over K; for K = 2, ``weights[:, 0]`` is the paper's σ.
    """

    x_hat: Tensor
    components: Tensor
    weights: Tensor


@torch.inference_mode()
def decode_all(model: "Autoencoder", z: Tensor, batch_size: int = 500) -> Decoded:
    """Decode any number of latents (N, D), a batch at a time on the model's device; the result is on the CPU."""
    parts = [[tensor.cpu() for tensor in model.decode(part.to(model.device))] for part in z.split(batch_size)]
    return Decoded(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class Autoencoder(Pretrained, nn.Module):
    """The half that all systems share; ``forward`` is each system's own.

    Args:
        image_shape: (C, H, W); sides of at least 8, square or not.
        latent_dim: number of latent variables D, at least 1.
        num_components: K, the number of blended images, at least 1.
        deterministic: whether the encoder gives a point instead of a Gaussian.
        network: a name of ``NETWORKS``.
        options: of the network's class.

    Attributes:
        terms: what ``forward`` returns, in the order of the log.
        noise_shape: of the standard normal noise that ``forward`` takes for each image.
        network: between images and posteriors, and between latents and logits; see ``SplitVAENetwork``.
        variance: γ and its rule; each system makes its own.
        mask_scale: side in pixels of the squares in which masks are painted; 1 = pixel by pixel.
    """

    terms: tuple[str, ...] = ("loss", "mse", "reconstruction", "kl", "gamma")
    network: Any
    variance: DecoderVariance

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        num_components: int,
        deterministic: bool,
        network: str,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        if len(image_shape) != 3 or image_shape[0] < 1 or min(image_shape[1:]) < 8:
            raise InputError(
                f"image_shape must be (channels, height, width) with sides of at least 8, not {tuple(image_shape)}."
            )
        for name, value in (("latent_dim", latent_dim), ("num_components", num_components)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be at least 1 and whole, not {value!r}.")
        C, H, W = (int(side) for side in image_shape)
        self.image_shape, self.latent_dim, self.num_components = (C, H, W), latent_dim, num_components
        self.noise_shape: tuple[int, ...] = (latent_dim,)
        self.mask_scale = 1
        self.padded_size = network_class(network).padded_size(H, W)
        # K − 1 mask logits first, then the K images: 2C + 1 channels with the mask on channel 0 for K = 2.
        channels = (num_components - 1) + num_components * C
        self.network = build_network(network, (C, *self.padded_size), latent_dim, channels, deterministic, options)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """The posterior q(z|x) of images x (B, C, H, W) in [0, 1]: mean and logvar (B, D), float32."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"images must be a tensor of floats in [0, 1], not {found}.")
        if x.dim() != 4 or x.shape[1:] != self.image_shape:
            raise InputError(
                f"images must have the shape (B, {', '.join(map(str, self.image_shape))}), not {tuple(x.shape)}."
            )
        mean, logvar = self.network.encode(F.pad(x, self._margins()))
        mean = mean.float()
        return DiagonalGaussian(mean, torch.full_like(mean, -torch.inf) if logvar is None else logvar.float())

    def decode(self, z: Tensor) -> Decoded:
        """The blend, its components and their weights for latents z (B, D), float32."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise InputError(f"latents must have the shape (B, {self.latent_dim}), not {tuple(z.shape)}.")
        C, H, W = self.image_shape
        K = self.num_components

        logits = self.network.decode(z).float()  # (B, K−1 + K·C, H', W')
        left, _, top, _ = self._margins()
        logits = logits[..., top : top + H, left : left + W]  # padding never reaches the loss

        paint = getattr(self.network, "paint", torch.sigmoid)  # networks from elsewhere end otherwise
        components = paint(logits[:, K - 1 :]).unflatten(1, (K, C))  # (B, K, C, H, W)
        masks = logits[:, : K - 1]
        if self.mask_scale > 1:  # means of squares, and from square to square a slope
            masks = F.pad(masks, (0, -W % self.mask_scale, 0, -H % self.mask_scale), mode="replicate")
            squares = F.avg_pool2d(masks, self.mask_scale)
            masks = F.interpolate(squares, masks.shape[-2:], mode="bilinear")[..., :H, :W]
        # Softmax with an implicit last zero logit: for K = 2 weight 1 is sigmoid(logit), the paper's mask σ.
        weights = F.pad(masks, (0, 0, 0, 0, 0, 1)).softmax(dim=1).unsqueeze(2)  # (B, K, 1, H, W)
        return Decoded((weights * components).sum(dim=1), components, weights)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the posterior mean of x: (B, C, H, W) → (B, C, H, W), with batch norm's running statistics."""
        with evaluating(self):
            return self.decode(self.encode(x).mode()).x_hat

    @torch.no_grad()
    def sample(
        self, n: int, density: "LatentDensity | None" = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Generate n images (n, C, H, W).

        Args:
            n: number of images.
            density: where latents come from; None = the prior N(0, I).
            generator: for reproducible samples; None = torch's global one.
        """
        from splitvae.densities.normal import StandardNormal

        density = StandardNormal(self.latent_dim) if density is None else density
        if isinstance(density, str):
            raise InputError(f"density must be an object that was fitted, not its name '{density}'.")
        z = density.sample(n, generator=generator).to(self.device)
        with evaluating(self):
            return torch.cat([self.decode(part).x_hat for part in z.split(500)])

    def _margins(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) pixels between the image and the padded size."""
        _, H, W = self.image_shape
        rows, columns = self.padded_size[0] - H, self.padded_size[1] - W
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics inside the block; the mode before it comes back after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
