"""SplitVAE: a variational autoencoder whose output is a learned blend of K images.

Asperti, Bugo & Filippini, "Enhancing variational generation through self-decomposition" (arXiv 2202.02738):
x̂ = σ⊙x̂₁ + (1−σ)⊙x̂₂, here for any number of components. K = 1 is the plain VAE of Kingma & Welling (2014).
"""

from typing import Any, get_args

from torch import Tensor

from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.losses import DecoderVariance, GammaRule, balanced_loss
from splitvae.models.split_terms import SplitTerms


class SplitVAE(Autoencoder):
    """A split variational autoencoder; the defaults are the paper's.

    Args:
        image_shape: (C, H, W); sides of at least 8, square or not.
        latent_dim: number of latent variables D, at least 1.
        num_components: K, the number of blended images; 2 = the paper, 1 = a plain VAE.
        beta: weight of the KL term.
        gamma_rule: how the decoder's variance γ follows the mse, see ``DecoderVariance``.
        gamma_init: γ at the start.
        mask_scale: masks are painted in squares of this many pixels and made smooth; 1 = pixel by pixel, the paper.
        split_terms: weights of terms on the masks, see ``SplitTerms``; None = the paper, none.
        network: a name of ``splitvae.models.registry.NETWORKS``: the paper's own, or that of another paper.
        options: of the network, such as ``base_channels``; for the paper's see ``SplitVAENetwork``.

    Examples:
        >>> import torch
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
        beta: float = 1.0,
        gamma_rule: GammaRule = "running-min",
        gamma_init: float = 1.0,
        mask_scale: int = 1,
        split_terms: dict[str, float] | None = None,
        network: str = "split-vae",
        **options: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, num_components, False, network, options)
        if not 1 <= mask_scale <= min(self.image_shape[1:]) // 2:
            raise InputError(f"mask_scale must lie between 1 and half a side of the images, not {mask_scale}.")
        if num_components < 2 and (mask_scale > 1 or split_terms):
            raise InputError("one component has no masks; leave out mask_scale and split_terms.")
        if beta < 0:
            raise InputError(f"beta must not be negative, not {beta}.")
        if gamma_rule not in get_args(GammaRule):
            raise InputError(f"gamma_rule must be one of {', '.join(get_args(GammaRule))}, not '{gamma_rule}'.")
        self.config = {
            "image_shape": list(self.image_shape), "latent_dim": latent_dim, "num_components": num_components,
            "beta": beta, "gamma_rule": gamma_rule, "gamma_init": gamma_init, "network": network, **options,
        }  # fmt: skip
        if mask_scale > 1:
            self.config["mask_scale"] = mask_scale
        self.beta, self.mask_scale = beta, mask_scale
        # What they weigh matters to training alone, so a saved model has forgotten it.
        self.split_terms = SplitTerms(**split_terms) if split_terms else None
        if self.split_terms is not None:
            self.terms = (*type(self).terms, "split")
        self.variance = DecoderVariance(gamma_rule, gamma_init)

    def forward(
        self, x: Tensor, noise: Tensor | None = None, masks: Tensor | None = None, guided_images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The objective and its terms; changes no state but batch norm's.

        Args:
            x: (B, C, H, W) in [0, 1].
            noise: (B, D) standard normal, the ε of z = μ + σ·ε; None = drawn here.
            masks, guided_images: (B, H, W) uint8 and 0-dim, for guidance: see ``SplitTerms``.

        Returns:
            0-dim tensors ``loss``, ``mse``, ``reconstruction``, ``kl``, ``gamma``: see ``balanced_loss``; and
            ``split``, the terms on the masks, where there are some.
        """
        posterior = self.encode(x)
        z = posterior.sample(noise=noise)
        decoded = self.decode(z)
        squared_error = (x.float() - decoded.x_hat).square().sum(dim=(1, 2, 3))
        terms = balanced_loss(squared_error, posterior.kl(), self.variance, self.beta, x[0].numel())
        if self.split_terms is not None:
            split = self.split_terms(decoded.weights, x, masks, guided_images)
            terms |= {"loss": terms["loss"] + split, "split": split}
        return terms


class VAE(SplitVAE):
    """The plain variational autoencoder: a SplitVAE with one component.

    Args: as ``SplitVAE``, without ``num_components``.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, **options: Any) -> None:
        if "num_components" in options:
            raise InputError("a VAE has one component; use SplitVAE for num_components.")
        super().__init__(image_shape, latent_dim, num_components=1, **options)
        del self.config["num_components"]
