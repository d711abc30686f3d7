"""What regularises an autoencoder without noise: penalties on its decoder, and spectral normalisation.

Ghosh, Sajjadi, Vergari, Black & Schölkopf, *From Variational to Deterministic Autoencoders* (ICLR 2020), RAE-GP,
RAE-L2 and RAE-SN. Paper, authors' code and re-implementations define the gradient penalty differently; each is here
under its name.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

GradientPenalty = Literal["authors", "jacobian", "pythae"]


def squared_output_penalty(x_hat: Tensor, z: Tensor) -> Tensor:
    """‖∂/∂z Σ x̂²‖² for each image: (B,), summed over the latents.

    The authors' code ("authors") takes the mean over the latents instead, and ``RAE`` divides by their number;
    GreenVAE, a re-implementation, takes the sum. Batch norm in training mode couples the images of a batch.

    Args:
        x_hat: (B, C, H, W), made from z in the graph.
        z: (B, D) that the graph leads back to.
    """
    (gradient,) = torch.autograd.grad(x_hat.square().sum(), z, create_graph=True)
    return gradient.square().sum(dim=1)


def jacobian_penalty(x_hat: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """‖∂x̂/∂z‖²_F for each image, the paper's formula ("jacobian"), by one random direction: (B,).

    E‖Jᵀ·ε‖² = ‖J‖²_F for ε ~ N(0, I) over pixels (Hutchinson's estimate). ‖J·ε‖² with ε over latents has the same mean
    and variance, but takes one differentiation more, and torch differentiates batch norm only twice.

    Args:
        x_hat: (B, C, H, W), made from z in the graph.
        z: (B, D).
        noise: ε (B, C, H, W).
    """
    (pulled,) = torch.autograd.grad(x_hat, z, noise.to(x_hat), create_graph=True)
    return pulled.square().sum(dim=1)


def input_gradient_penalty(x_hat: Tensor, x: Tensor) -> Tensor:
    """‖∂/∂x Σ x̂‖² for each image: (B,), summed over the pixels of the *input*; pythae's definition ("pythae").

    Args:
        x_hat: (B, C, H, W), made from x in the graph.
        x: (B, C, H, W) that requires its gradient.
    """
    (gradient,) = torch.autograd.grad(x_hat.sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def weight_penalty(kernels: list[Tensor]) -> Tensor:
    """Σ w² over all kernels, 0-dim: a term of the loss (Keras' ``l2``), not Adam's decoupled decay."""
    return torch.stack([kernel.square().sum() for kernel in kernels]).sum()


class SpectralNorm(nn.Module):
    """W / σ(W) by one step of power iteration at each forward, as in the code of RAE-SN.

    With M = W as a matrix (rest, columns), whose columns are W's first dimension: v = u·Mᵀ/‖·‖, u' = v·M/‖·‖,
    σ = v·M·u'ᵀ; u is kept for the next step. Unlike ``torch.nn.utils.parametrizations.spectral_norm`` the gradient
    flows through the iteration, and the columns of a transposed convolution are its *input* channels. Unlike the
    authors', u rests in evaluation mode, so that a model gives the same images twice.

    Args:
        weight: the kernel.
    """

    u: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", torch.randn(len(weight), device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        # The norm is found in float32 even where autocast would take bf16: σ decides the scale of every layer.
        place = weight.device.type
        with torch.autocast("cpu" if place == "meta" else place, enabled=False):  # "meta" knows no autocast
            matrix = weight.flatten(1).T  # (rest, columns)
            v = matrix @ self.u.clone()
            v = v / (v.norm() + 1e-12)
            u = v @ matrix
            u = u / (u.norm() + 1e-12)
            sigma = v @ (matrix @ u)
            if self.training:
                self.u.copy_(u.detach())
            return weight / sigma


def normalise_spectrally(module: nn.Module) -> None:
    """Put ``SpectralNorm`` on every convolution, transposed convolution and dense layer; biases stay as they are."""
    for layer in list(module.modules()):
        normalised = parametrize.is_parametrized(layer)  # InfoGAN's encoder is, by its authors
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not normalised:
            # Output channels come first in torch, but for a transposed convolution input channels do.
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
