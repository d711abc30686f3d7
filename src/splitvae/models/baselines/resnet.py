"""The residual network of the two-stage VAE, from which that of the Split-VAE descends.

Dai & Wipf, *Diagnosing and Enhancing VAE Models* (ICLR 2019, arXiv 1903.05789), class ``Resnet`` of their
``network/two_stage_vae_model.py``; Asperti & Trentin use it in *Balancing reconstruction error and Kullback-Leibler
divergence in Variational Autoencoders* (2020, arXiv 2002.07514). The light variant is that of Asperti, Evangelista &
Loli Piccolomini, *A survey on Variational Autoencoders from a GreenAI perspective* (2021, arXiv 2103.01071).
"""

import itertools
import math
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.networks import keras_init, upsamplings

NORM_EPS = 1e-5
MAX_CHANNELS = 1024  # of the decoder
DEPTH = 2  # layers in a residual block
StemStride = Literal[1, 2]


class ResidualBlock(nn.Module):
    """Two times [batch norm, ReLU, 3×3 convolution], plus a 3×3 convolution of the raw input.

    (B, channels, H, W) → (B, channels, H, W).
    """

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, NORM_EPS, momentum) for _ in range(DEPTH))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(DEPTH))
        self.shortcut = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = norm(h)
            h = F.relu(h)
            h = conv(h)
        return h + self.shortcut(x)


class DenseBlock(nn.Module):
    """The residual block with dense layers, batch norm only on demand: (B, in_features) → (B, out_features)."""

    def __init__(self, in_features: int, out_features: int, norm: bool, momentum: float) -> None:
        super().__init__()
        widths = [in_features] + [out_features] * DEPTH
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, NORM_EPS, momentum) if norm else nn.Identity() for width in widths[:-1]
        )
        self.denses = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.shortcut = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, dense in zip(self.norms, self.denses, strict=True):
            h = norm(h)
            h = F.relu(h)
            h = dense(h)
        return h + self.shortcut(x)


class TwoStageResNet(nn.Module):
    """Residual blocks between strided convolutions, a global average on the way down, a dense layer on the way up.

    With b = ``base_channels``, N = ``num_scales`` and n up-samplings (→ of 32×32: n = 4)::

        encode  Conv b, N × block of b, 2b … channels with Conv s2 between, mean over pixels, dense block, Dense D
        decode  Dense → (2ⁿb, H'/2ⁿ, W'/2ⁿ), n × [ConvT s2, block] of 2ⁿ⁻¹b … b channels, Conv out_channels

    There is no non-linearity after a block, nor before the last layers. Three options make the light variant:
    ``stem_stride=2, decoder_start=4, last_scale_block=False``, with ``dense_norm=True``.

    Args:
        image_shape: (C, H', W') with sides as ``padded_size`` gives them.
        latent_dim: number of latent variables D.
        out_channels: maps of logits that ``decode`` returns.
        deterministic: without the variance of a posterior.
        base_channels: channels of the first scale; they double at each reduction.
        num_scales: number of scales N in the encoder.
        embedding_dim: width of the dense block.
        stem_stride: 2 = the first convolution reduces, too, and the last scale has no block.
        decoder_start: side from which the decoder up-samples: the largest n that keeps H'/2ⁿ and W'/2ⁿ at or above it.
        last_scale_block: whether a block follows the decoder's last up-sampling.
        dense_norm: batch norm in the dense block. The parameter counts in the Split-VAE paper contain it; the authors'
            code lacks it.
        batch_norm_momentum: weight of the new batch in the running statistics (TensorFlow's decay is 1 − this).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        out_channels: int,
        deterministic: bool = False,
        base_channels: int = 32,
        num_scales: int = 4,
        embedding_dim: int = 512,
        stem_stride: StemStride = 1,
        decoder_start: int = 2,
        last_scale_block: bool = True,
        dense_norm: bool = False,
        batch_norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        if stem_stride not in get_args(StemStride):
            raise InputError(f"stem_stride must be 1 or 2, not {stem_stride}.")
        C, H, W = image_shape
        n, momentum = upsamplings(H, W, decoder_start), batch_norm_momentum
        if H % 2**n or W % 2**n:
            raise InputError(f"the sides must be multiples of {2**n}, not {H}×{W}; pad them or raise decoder_start.")

        widths = [base_channels * 2**i for i in range(num_scales)]
        self.encoder_stem = nn.Conv2d(C, base_channels, 3, stride=stem_stride, padding=1)
        self.encoder_blocks = nn.ModuleList(ResidualBlock(width, momentum) for width in widths)
        if stem_stride == 2:
            self.encoder_blocks[-1] = nn.Identity()
        self.encoder_downsamples = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.encoder_dense_block = DenseBlock(widths[-1], embedding_dim, dense_norm, momentum)
        self.mean = nn.Linear(embedding_dim, latent_dim)
        self.log_std = None if deterministic else nn.Linear(embedding_dim, latent_dim)

        widths = [min(base_channels * 2**i, max(MAX_CHANNELS, base_channels)) for i in reversed(range(n + 1))]
        self.start = (widths[0], H // 2**n, W // 2**n)
        self.decoder_dense = nn.Linear(latent_dim, math.prod(self.start))
        self.decoder_upsamples = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1) for a, b in itertools.pairwise(widths)
        )
        self.decoder_blocks = nn.ModuleList(ResidualBlock(width, momentum) for width in widths[1:])
        if n and not last_scale_block:
            self.decoder_blocks[-1] = nn.Identity()
        self.decoder_head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """(H', W'): the sides rounded up to multiples of 2ⁿ, for a decoder that starts at 2 or later."""
        for _ in range(2):  # rounding up can make room for one more up-sampling
            unit = 2 ** upsamplings(height, width, start=2)
            height, width = -(-height // unit) * unit, -(-width // unit) * unit
        return height, width

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H', W') in [0, 1] → mean and logvar (B, D); a deterministic encoder has no logvar."""
        h = self.encoder_stem(x)
        for block, downsample in zip(self.encoder_blocks[:-1], self.encoder_downsamples, strict=True):
            h = block(h)
            h = downsample(h)
        h = self.encoder_blocks[-1](h)

        h = h.mean(dim=(2, 3))  # (B, base_channels·2^(num_scales−1))
        h = self.encoder_dense_block(h)
        return self.mean(h), None if self.log_std is None else 2 * self.log_std(h)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, D) → logits (B, out_channels, H', W')."""
        h = self.decoder_dense(z)
        h = h.unflatten(1, self.start)
        for upsample, block in zip(self.decoder_upsamples, self.decoder_blocks, strict=True):
            h = upsample(h)
            h = block(h)

        return self.decoder_head(h)

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of all the decoder's convolutions."""
        parts = (self.decoder_upsamples, self.decoder_blocks, self.decoder_head)
        layers = (layer for part in parts for layer in part.modules())
        return [layer.weight for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]

    def reset_parameters(self) -> None:
        """The defaults of ``tf.layers``, as the authors: glorot-uniform kernels, zero biases."""
        self.apply(keras_init)
