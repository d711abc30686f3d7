"""The convolutional network of the Regularized Autoencoders (RAE), for images of any size.

Ghosh, Sajjadi, Vergari, Black & Schölkopf, *From Variational to Deterministic Autoencoders* (ICLR 2020, arXiv
1903.12436), as in their code, ``models/rae/rae_mnist.py`` (MNIST, CIFAR-10) and ``rae_celeba.py``.
"""

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.networks import keras_init, upsamplings

NORM_EPS = 1e-3  # Keras' default
REDUCTIONS = 4  # of the encoder: 32 → 16 → 8 → 4 → 2


class RAENetwork(nn.Module):
    """Four strided convolutions to the latents, a dense layer and transposed convolutions back.

    With C channels in, n up-samplings and b = ``base_channels`` (→ of 32×32: n = 2)::

        encode  [Conv k, s2, BN, ReLU] of b, 2b, 4b, 8b channels → (8b, H'/16, W'/16) → Dense D
        decode  Dense → (8b, H'/2ⁿ, W'/2ⁿ), n × [ConvT k, s2, BN, ReLU] of 4b, 2b … channels, ConvT k, s1

    Args:
        image_shape: (C, H', W') with sides as ``padded_size`` gives them.
        latent_dim: number of latent variables D.
        out_channels: maps of logits that ``decode`` returns.
        deterministic: without the variance of a posterior; the authors' own case.
        base_channels: channels of the first convolution; they double at each reduction.
        kernel_size: side k of all kernels; None = the authors' choice, 4 below images of 64×64, and 5 from there on.
        decoder_start: side from which the decoder up-samples: the largest n that keeps H'/2ⁿ and W'/2ⁿ at or above it.
        dense_norm: batch norm and ReLU after the decoder's dense layer. The parameter counts in the Split-VAE paper
            contain them, and so does the RAE paper's appendix as we recall it; the authors' code lacks them.
        batch_norm_momentum: weight of the new batch in the running statistics (Keras writes 1 − this).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        out_channels: int,
        deterministic: bool = False,
        base_channels: int = 128,
        kernel_size: int | None = None,
        decoder_start: int = 8,
        dense_norm: bool = False,
        batch_norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        C, H, W = image_shape
        n = upsamplings(H, W, decoder_start)
        unit = 2 ** max(n, REDUCTIONS)
        if H % unit or W % unit:
            raise InputError(f"the sides must be multiples of {unit}, not {H}×{W}; pad them or raise decoder_start.")
        self.kernel_size = (4 if min(H, W) < 64 else 5) if kernel_size is None else kernel_size
        k, momentum = self.kernel_size, batch_norm_momentum
        # Padding by which a stride of 2 halves or doubles an even side, for odd and even kernels alike.
        padding, output_padding = (k - 1) // 2, k % 2

        widths = [base_channels * 2**i for i in range(REDUCTIONS)]
        self.encoder_convs = nn.ModuleList(
            nn.Conv2d(a, b, k, stride=2, padding=padding) for a, b in itertools.pairwise([C, *widths])
        )
        self.encoder_norms = nn.ModuleList(nn.BatchNorm2d(width, NORM_EPS, momentum) for width in widths)
        features = widths[-1] * (H // 2**REDUCTIONS) * (W // 2**REDUCTIONS)
        self.mean = nn.Linear(features, latent_dim)
        self.logvar = None if deterministic else nn.Linear(features, latent_dim)

        widths = [max(1, widths[-1] // 2**i) for i in range(n + 1)]
        self.start = (widths[0], H // 2**n, W // 2**n)
        self.decoder_dense = nn.Linear(latent_dim, math.prod(self.start))
        self.decoder_dense_norm = nn.BatchNorm2d(widths[0], NORM_EPS, momentum) if dense_norm else None
        self.decoder_upsamples = nn.ModuleList(
            nn.ConvTranspose2d(a, b, k, stride=2, padding=padding, output_padding=output_padding)
            for a, b in itertools.pairwise(widths)
        )
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(width, NORM_EPS, momentum) for width in widths[1:])
        self.decoder_head = nn.ConvTranspose2d(widths[-1], out_channels, k, padding=padding)

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """(H', W'): the sides rounded up to multiples of 16, or of 2ⁿ where a decoder that starts at 4 needs more."""
        for _ in range(2):  # rounding up can make room for one more up-sampling
            unit = 2 ** max(REDUCTIONS, upsamplings(height, width, start=4))
            height, width = -(-height // unit) * unit, -(-width // unit) * unit
        return height, width

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H', W') in [0, 1] → mean and logvar (B, D); a deterministic encoder has no logvar."""
        h = x * 2 - 1 if self.kernel_size == 4 else x  # the authors centre MNIST and CIFAR-10, and not CelebA
        for conv, norm in zip(self.encoder_convs, self.encoder_norms, strict=True):
            h = conv(h)
            h = norm(h)
            h = F.relu(h)

        h = h.flatten(1)
        return self.mean(h), None if self.logvar is None else self.logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, D) → logits (B, out_channels, H', W')."""
        h = self.decoder_dense(z)
        h = h.unflatten(1, self.start)
        if self.decoder_dense_norm is not None:
            h = self.decoder_dense_norm(h)
            h = F.relu(h)

        for upsample, norm in zip(self.decoder_upsamples, self.decoder_norms, strict=True):
            h = upsample(h)
            h = norm(h)
            h = F.relu(h)

        h = self.decoder_head(h)
        return h if self.kernel_size % 2 else h[..., :-1, :-1]  # an even kernel adds a row and a column

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of the transposed convolutions, and for CelebA (k = 5) the dense layer's."""
        convs = [layer.weight for layer in self.modules() if isinstance(layer, nn.ConvTranspose2d)]
        return [self.decoder_dense.weight, *convs] if self.kernel_size == 5 else convs

    def reset_parameters(self) -> None:
        """Keras' defaults, as the authors: glorot-uniform kernels, zero biases."""
        self.apply(keras_init)
