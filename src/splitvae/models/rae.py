"""RAE: a deterministic autoencoder with a regularised decoder, sampled from a density that is fitted on its codes.

Ghosh, Sajjadi, Vergari, Black & Schölkopf, *From Variational to Deterministic Autoencoders* (ICLR 2020, arXiv
1903.12436).
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from splitvae.errors import InputError, nearest
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.losses import DecoderVariance
from splitvae.models.penalties import (
    GradientPenalty,
    input_gradient_penalty,
    jacobian_penalty,
    normalise_spectrally,
    squared_output_penalty,
    weight_penalty,
)

Regularizer = Literal["none", "gp", "l2", "sn"]


class RAE(Autoencoder):
    """A Regularized Autoencoder. Its posterior is a point: ``logvar`` is −∞, every sample is the mean.

    The authors write, per image and with means over the D values of an image and the d latents,

        MSE + embedding_weight·mean(z²) + penalty_weight·penalty.

    Here everything is a sum, so their loss times D:

        loss = SSE + β·½‖z‖² + D·penalty_weight·penalty,   β = 2·embedding_weight·D/d,

    which is SSE/(2γ) + … with γ fixed at ½. Their coefficients are therefore given as they print them.

    Args:
        image_shape: (C, H, W); sides of at least 8.
        latent_dim: number of latent variables d, at least 1.
        regularizer: "gp" penalises a gradient of the decoder, "l2" the squares of its kernels, "sn" normalises every
            layer spectrally, "none" leaves only the embedding's term (RAE in their table 1).
        embedding_weight: their β; 0 with "none" = a plain autoencoder.
        penalty_weight: their λ, of "gp" and "l2".
        gradient_penalty: whose definition of "gp", see ``penalties.py``; "authors" takes the mean over the latents.
        network: a name of ``splitvae.models.registry.NETWORKS``.
        options: of the network.

    Examples:
        >>> model = RAE(image_shape=(1, 16, 16), latent_dim=4, regularizer="l2", base_channels=8)
        >>> float(model.encode(torch.rand(3, 1, 16, 16)).std.max())
        0.0
    """

    terms = (*Autoencoder.terms, "penalty")

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        regularizer: Regularizer = "none",
        embedding_weight: float = 1e-4,
        penalty_weight: float = 1e-7,
        gradient_penalty: GradientPenalty = "authors",
        network: str = "rae",
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, 1, True, network, options)
        for name, value, known in (
            ("regularizer", regularizer, get_args(Regularizer)),
            ("gradient_penalty", gradient_penalty, get_args(GradientPenalty)),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, not '{value}'.{nearest(value, known)}")
        for name, weight in (("embedding_weight", embedding_weight), ("penalty_weight", penalty_weight)):
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name} must be at least 0 and finite, not {weight}.")
        self.config = {
            "image_shape": list(self.image_shape), "latent_dim": latent_dim, "regularizer": regularizer,
            "embedding_weight": embedding_weight, "penalty_weight": penalty_weight,
            "gradient_penalty": gradient_penalty, "network": network, **options,
        }  # fmt: skip
        self.regularizer, self.gradient_penalty = regularizer, gradient_penalty
        C, H, W = self.image_shape
        self.values_per_image = C * H * W
        self.beta = 2 * embedding_weight * self.values_per_image / latent_dim
        self.penalty_weight = self.values_per_image * penalty_weight
        self.variance = DecoderVariance("fixed", 0.5)
        if (regularizer, gradient_penalty) == ("gp", "jacobian"):
            self.noise_shape = self.image_shape
        if regularizer == "sn":
            normalise_spectrally(self.network)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """The objective and its terms; changes no state but that of batch norm and of the spectral norms.

        Args:
            x: (B, C, H, W) in [0, 1].
            noise: (B, C, H, W) standard normal, the random direction of "jacobian", None = drawn here; of the others
                (B, d), which is not used.

        Returns:
            0-dim float32 tensors, batch means: ``loss``; ``mse`` per element; ``reconstruction`` = SSE per image;
            ``kl`` = ½‖z‖², what is finite of a point's KL; ``gamma`` = ½; ``penalty`` = D·penalty_weight·penalty,
            0 where gradients are off and the regularizer needs them.
        """
        if self.regularizer == "gp" and self.gradient_penalty == "pythae" and torch.is_grad_enabled():
            x = x.detach().requires_grad_()
        z = self.encode(x).mean
        x_hat = self.decode(z).x_hat
        sse = (x.detach().float() - x_hat).square().sum(dim=(1, 2, 3)).mean()
        kl = 0.5 * z.square().sum(dim=1).mean()
        penalty = self.penalty_weight * self._penalty(x, z, x_hat, noise)
        return {
            "loss": sse + self.beta * kl + penalty,
            "mse": sse / self.values_per_image,
            "reconstruction": sse,
            "kl": kl,
            "gamma": self.variance.value().detach().clone(),
            "penalty": penalty,
        }

    def _penalty(self, x: Tensor, z: Tensor, x_hat: Tensor, noise: Tensor | None) -> Tensor:
        """The regularizer's penalty without its weight, 0-dim."""
        if self.regularizer == "l2":
            return weight_penalty(self.network.decoder_kernels())
        if self.regularizer != "gp" or not self.penalty_weight or not torch.is_grad_enabled():
            return x_hat.new_zeros(())
        if self.gradient_penalty == "authors":
            return squared_output_penalty(x_hat, z).mean() / self.latent_dim
        if self.gradient_penalty == "jacobian":
            return jacobian_penalty(x_hat, z, torch.randn_like(x_hat) if noise is None else noise).mean()
        return input_gradient_penalty(x_hat, x).mean()
