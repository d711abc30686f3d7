"""The residual network of the Split-VAE paper (section 3.1, figure 6).

The decoder knows nothing of masks: it returns ``out_channels`` maps of logits, and ``autoencoder.py`` says what they
mean. The networks of other papers are in ``baselines/``, with the same methods as ``SplitVAENetwork``.
After Dai & Wipf (2019), as in the official code of Asperti, Bugo & Filippini (arXiv 2202.02738), ``split_vae.py``:
swish for the non-linearity, a stem with stride 2, batch norm in the dense block, no block after the last reduction.
"""

import itertools
import math
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError

Padding = Literal["torch", "tf-same"]
NORM_EPS = 1e-5
MAX_CHANNELS = 1024  # as Dai & Wipf: channels double towards the 4×4 start of the decoder, up to this


def upsamplings(height: int, width: int, start: int = 4) -> int:
    """Number of ×2 up-samplings, n = ⌊log₂(min(H, W)/start)⌋ ≥ 0, so that a decoder begins near start×start."""
    return max(0, math.floor(math.log2(min(height, width) / start)))


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(H', W'): the sides rounded up to multiples of 2ⁿ, on which the networks work; n is that of (H', W')."""
    unit = 2 ** upsamplings(height, width)
    sides = -(-height // unit) * unit, -(-width // unit) * unit
    return sides if upsamplings(*sides) == upsamplings(height, width) else padded_size(*sides)


class Downsample(nn.Conv2d):
    """3×3 convolution with stride 2: (B, in, H, W) → (B, out, ⌈H/2⌉, ⌈W/2⌉).

    ``padding="tf-same"`` puts the odd pixel at the end, as TensorFlow does: needed for weights from Keras only.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: Padding) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1 if padding == "torch" else 0)
        self.tf_same = padding == "tf-same"

    def forward(self, x: Tensor) -> Tensor:
        if self.tf_same:
            H, W = x.shape[-2:]
            top, left = H % 2, W % 2  # an even side has one pixel to add, an odd one has two
            x = F.pad(x, (left, 1, top, 1))
        return super().forward(x)


class Upsample(nn.ConvTranspose2d):
    """3×3 transposed convolution with stride 2: (B, in, H, W) → (B, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding) -> None:
        torch_padding = int(padding == "torch")
        super().__init__(in_channels, out_channels, 3, stride=2, padding=torch_padding, output_padding=torch_padding)
        self.tf_same = padding == "tf-same"

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = super().forward(x)
        return x[..., :-1, :-1] if self.tf_same else x


class ResidualBlock(nn.Module):
    """``depth`` × [batch norm, swish, 3×3 convolution], plus a 3×3 convolution of the raw input.

    (B, channels, H, W) → (B, channels, H, W).
    """

    def __init__(self, channels: int, depth: int, momentum: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, NORM_EPS, momentum) for _ in range(depth))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.shortcut = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = norm(h)
            h = F.silu(h)
            h = conv(h)
        return h + self.shortcut(x)


class DenseBlock(nn.Module):
    """The residual block with dense layers: (B, in_features) → (B, out_features)."""

    def __init__(self, in_features: int, out_features: int, momentum: float, depth: int = 2) -> None:
        super().__init__()
        widths = [in_features] + [out_features] * depth
        self.norms = nn.ModuleList(nn.BatchNorm1d(width, NORM_EPS, momentum) for width in widths[:-1])
        self.denses = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.shortcut = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, dense in zip(self.norms, self.denses, strict=True):
            h = norm(h)
            h = F.silu(h)
            h = dense(h)
        return h + self.shortcut(x)


def scale(channels: int, scale_blocks: int, blocks_per_scale: int, depth: int, momentum: float) -> nn.Sequential:
    """Everything at one scale: ``scale_blocks`` Scale Blocks, each ``blocks_per_scale`` Residual Blocks in a row."""
    return nn.Sequential(
        *(
            nn.Sequential(*(ResidualBlock(channels, depth, momentum) for _ in range(blocks_per_scale)))
            for _ in range(scale_blocks)
        )
    )


class Encoder(nn.Module):
    """(B, C, H', W') → (B, embedding_dim).

    A stem with stride 2, then ``num_scales − 1`` times [scale, reduction that doubles the channels], the global
    average, and the dense block.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        num_scales: int,
        embedding_dim: int,
        scale_blocks: int,
        blocks_per_scale: int,
        depth_per_block: int,
        padding: Padding,
        momentum: float,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**i for i in range(num_scales)]
        self.stem = Downsample(in_channels, base_channels, padding)
        self.scales = nn.ModuleList(
            scale(width, scale_blocks, blocks_per_scale, depth_per_block, momentum) for width in widths[:-1]
        )
        self.downsamples = nn.ModuleList(Downsample(a, b, padding) for a, b in itertools.pairwise(widths))
        self.dense_block = DenseBlock(widths[-1], embedding_dim, momentum)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for blocks, downsample in zip(self.scales, self.downsamples, strict=True):
            h = blocks(h)
            h = downsample(h)

        h = h.mean(dim=(2, 3))  # (B, base_channels·2^(num_scales−1))
        return self.dense_block(h)


class Decoder(nn.Module):
    """(B, embedding_dim) → (B, out_channels, H', W') logits.

    A dense map to (H'/2ⁿ, W'/2ⁿ), then n times [up-sampling that halves the channels, scale], and a 3×3 convolution.
    """

    def __init__(
        self,
        out_channels: int,
        size: tuple[int, int],
        num_upsamplings: int,
        base_channels: int,
        embedding_dim: int,
        scale_blocks: int,
        blocks_per_scale: int,
        depth_per_block: int,
        padding: Padding,
        momentum: float,
    ) -> None:
        super().__init__()
        n = num_upsamplings
        widths = [min(base_channels * 2**i, max(MAX_CHANNELS, base_channels)) for i in reversed(range(n + 1))]
        self.start = (widths[0], size[0] // 2**n, size[1] // 2**n)
        self.dense = nn.Linear(embedding_dim, math.prod(self.start))
        self.upsamples = nn.ModuleList(Upsample(a, b, padding) for a, b in itertools.pairwise(widths))
        self.scales = nn.ModuleList(
            scale(width, scale_blocks, blocks_per_scale, depth_per_block, momentum) for width in widths[1:]
        )
        self.head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        h = self.dense(embedding)
        h = h.unflatten(1, self.start)
        for upsample, blocks in zip(self.upsamples, self.scales, strict=True):
            h = upsample(h)
            h = blocks(h)

        return self.head(h)


class SplitVAENetwork(nn.Module):
    """Images to posterior, and latents to logits; the defaults are the paper's.

    The embedding of width ``embedding_dim`` stands between convolutions and latents on both sides.

    Args:
        image_shape: (C, H', W') with sides as ``padded_size`` gives them.
        latent_dim: number of latent variables D.
        out_channels: maps of logits that ``decode`` returns.
        deterministic: without the variance of a posterior.
        base_channels: channels of the first scale; they double at each reduction.
        num_scales: number of reductions in the encoder.
        scale_blocks: Scale Blocks at each scale of the pyramid.
        blocks_per_scale: Residual Blocks inside each Scale Block.
        depth_per_block: convolutions inside each Residual Block.
        embedding_dim: width of the dense block.
        padding: "torch", or "tf-same" for weights from Keras.
        batch_norm_momentum: weight of the new batch in the running statistics (Keras writes 1 − this).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        out_channels: int,
        deterministic: bool = False,
        base_channels: int = 64,
        num_scales: int = 4,
        scale_blocks: int = 1,
        blocks_per_scale: int = 1,
        depth_per_block: int = 2,
        embedding_dim: int = 512,
        padding: Padding = "torch",
        batch_norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        if padding not in get_args(Padding):
            raise InputError(f"padding must be one of {', '.join(get_args(Padding))}, not '{padding}'.")
        C, H, W = image_shape
        blocks = (scale_blocks, blocks_per_scale, depth_per_block, padding, batch_norm_momentum)
        self.encoder = Encoder(C, base_channels, num_scales, embedding_dim, *blocks)
        self.mean = nn.Linear(embedding_dim, latent_dim)
        self.logvar = None if deterministic else nn.Linear(embedding_dim, latent_dim)
        self.embedding = nn.Linear(latent_dim, embedding_dim)
        self.decoder = Decoder(out_channels, (H, W), upsamplings(H, W), base_channels, embedding_dim, *blocks)

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """See the function of this name."""
        return padded_size(height, width)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, H', W') → mean and logvar (B, D); a deterministic encoder has no logvar."""
        embedding = self.encoder(x)
        return self.mean(embedding), None if self.logvar is None else self.logvar(embedding)

    def decode(self, z: Tensor) -> Tensor:
        """(B, D) → logits (B, out_channels, H', W')."""
        embedding = self.embedding(z)
        return self.decoder(embedding)

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of all the decoder's convolutions."""
        return [m.weight for m in self.decoder.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]

    def reset_parameters(self) -> None:
        """Keras' defaults, as the official code."""
        self.apply(keras_init)


def keras_init(module: nn.Module) -> None:
    """Keras' defaults, which the paper trained with: glorot-uniform kernels, zero biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.reset_parameters()
