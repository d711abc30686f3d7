"""SplitVAE: a variational autoencoder whose output is a learned blend of K images.

Asperti, Bugo & Filippini, "Enhancing variational generation through self-decomposition" (arXiv 2202.02738):
x̂ = σ⊙x̂₁ + (1−σ)⊙x̂₂, here for any number of components. K = 1 is the plain VAE of Kingma & Welling (2014).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian
from splitvae.models.losses import DecoderVariance, GammaRule, balanced_loss
from splitvae.models.networks import Decoder, Encoder, Padding, keras_init, padded_size, upsamplings
from splitvae.models.pretrained import Pretrained

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


class SplitVAE(Pretrained, nn.Module):
    """A split variational autoencoder on the paper's network; the defaults are the paper's.

    Args:
        image_shape: (C, H, W); sides of at least 8, square or not.
        latent_dim: number of latent variables D, at least 1.
        num_components: K, the number of blended images; 2 = the paper, 1 = a plain VAE.
        base_channels: channels of the first scale; they double at each reduction.
        num_scales: number of reductions in the encoder.
        scale_blocks: Scale Blocks at each scale of the pyramid.
        blocks_per_scale: Residual Blocks inside each Scale Block.
        depth_per_block: convolutions inside each Residual Block.
        embedding_dim: width of the dense block between convolutions and latents.
        padding: "torch", or "tf-same" for weights from Keras.
        batch_norm_momentum: weight of the new batch in the running statistics (Keras writes 1 − this).
        beta: weight of the KL term.
        gamma_rule: how the decoder's variance γ follows the mse, see ``DecoderVariance``.
        gamma_init: γ at the start.

    Examples:
        >>> model = SplitVAE(image_shape=(1, 16, 16), latent_dim=4, base_channels=8)
        >>> x = torch.rand(3, 1, 16, 16)
        >>> sorted(model(x))
        ['gamma', 'kl', 'loss', 'mse', 'reconstruction']
        >>> model.decode(model.encode(x).mode()).components.shape
        torch.Size([3, 2, 1, 16, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        num_components: int = 2,
        base_channels: int = 64,
        num_scales: int = 4,
        scale_blocks: int = 1,
        blocks_per_scale: int = 1,
        depth_per_block: int = 2,
        embedding_dim: int = 512,
        padding: Padding = "torch",
        batch_norm_momentum: float = 0.001,
        beta: float = 1.0,
        gamma_rule: GammaRule = "running-min",
        gamma_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self._check(self.config)
        self.image_shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
        self.latent_dim, self.num_components, self.beta = latent_dim, num_components, beta
        C, H, W = self.image_shape
        self.padded_size = padded_size(H, W)
        blocks = (scale_blocks, blocks_per_scale, depth_per_block, padding, batch_norm_momentum)

        self.encoder = Encoder(C, base_channels, num_scales, embedding_dim, *blocks)
        self.mean = nn.Linear(embedding_dim, latent_dim)
        self.logvar = nn.Linear(embedding_dim, latent_dim)
        self.embedding = nn.Linear(latent_dim, embedding_dim)
        # K − 1 mask logits first, then the K images: 2C + 1 channels with the mask on channel 0 for K = 2.
        out_channels = (num_components - 1) + num_components * C
        self.decoder = Decoder(out_channels, self.padded_size, upsamplings(H, W), base_channels, embedding_dim, *blocks)
        self.variance = DecoderVariance(gamma_rule, gamma_init)
        self.apply(keras_init)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """The posterior q(z|x) of images x (B, C, H, W) in [0, 1]: mean and logvar (B, D), float32."""
        if x.dim() != 4 or x.shape[1:] != self.image_shape:
            raise InputError(
                f"images must have the shape (B, {', '.join(map(str, self.image_shape))}), not {tuple(x.shape)}."
            )
        embedding = self.encoder(F.pad(x, self._margins()))
        return DiagonalGaussian(self.mean(embedding).float(), self.logvar(embedding).float())

    def decode(self, z: Tensor) -> Decoded:
        """The blend, its components and their weights for latents z (B, D), float32."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise InputError(f"latents must have the shape (B, {self.latent_dim}), not {tuple(z.shape)}.")
        C, H, W = self.image_shape
        K = self.num_components

        logits = self.decoder(self.embedding(z)).float()  # (B, K−1 + K·C, H', W')
        left, _, top, _ = self._margins()
        logits = logits[..., top : top + H, left : left + W]  # padding never reaches the loss

        components = torch.sigmoid(logits[:, K - 1 :]).unflatten(1, (K, C))  # (B, K, C, H, W)
        # Softmax with an implicit last zero logit: for K = 2 weight 1 is sigmoid(logit), the paper's mask σ.
        weights = F.pad(logits[:, : K - 1], (0, 0, 0, 0, 0, 1)).softmax(dim=1).unsqueeze(2)  # (B, K, 1, H, W)
        return Decoded((weights * components).sum(dim=1), components, weights)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """The objective and its terms; changes no state but batch norm's.

        Args:
            x: (B, C, H, W) in [0, 1].
            noise: (B, D) standard normal, the ε of z = μ + σ·ε; None = drawn here.

        Returns:
            0-dim tensors ``loss``, ``mse``, ``reconstruction``, ``kl``, ``gamma``: see ``balanced_loss``.
        """
        posterior = self.encode(x)
        z = posterior.sample(noise=noise)
        x_hat = self.decode(z).x_hat
        squared_error = (x.float() - x_hat).square().sum(dim=(1, 2, 3))
        return balanced_loss(squared_error, posterior.kl(), self.variance, self.beta, x[0].numel())

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
        z = density.sample(n, generator=generator).to(self.mean.weight)
        with evaluating(self):
            return torch.cat([self.decode(part).x_hat for part in z.split(500)])

    def _margins(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) pixels between the image and the padded size."""
        _, H, W = self.image_shape
        rows, columns = self.padded_size[0] - H, self.padded_size[1] - W
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    @staticmethod
    def _check(config: dict) -> None:
        """Raise InputError where a value is out of its bounds."""
        shape = config["image_shape"]
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 8:
            raise InputError(
                f"image_shape must be (channels, height, width) with sides of at least 8, not {tuple(shape)}."
            )
        for name in (
            "latent_dim", "num_components", "base_channels", "num_scales", "scale_blocks", "blocks_per_scale",
            "depth_per_block", "embedding_dim",
        ):  # fmt: skip
            if config[name] < 1:
                raise InputError(f"{name} must be at least 1, not {config[name]}.")
        for name, choices in (("padding", get_args(Padding)), ("gamma_rule", get_args(GammaRule))):
            if config[name] not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, not '{config[name]}'.")
        if not 0 < config["batch_norm_momentum"] <= 1:
            raise InputError(f"batch_norm_momentum must lie in (0, 1], not {config['batch_norm_momentum']}.")
        if config["beta"] < 0:
            raise InputError(f"beta must not be negative, not {config['beta']}.")


class VAE(SplitVAE):
    """The plain variational autoencoder on the same network: a SplitVAE with one component.

    Args: as ``SplitVAE``, without ``num_components``.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, **network: object) -> None:
        if "num_components" in network:
            raise InputError("a VAE has one component; use SplitVAE for num_components.")
        super().__init__(image_shape, latent_dim, num_components=1, **network)  # type: ignore[arg-type]
        del self.config["num_components"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics inside the block; the mode before it comes back after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
