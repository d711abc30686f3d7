"""The residual encoder and decoder of the Split-VAE paper (section 3.1, figure 6).

The decoder knows nothing of masks: it returns ``out_channels`` maps of logits, and ``vae.py`` says what they mean.
After Dai & Wipf (2019), as in the official code of Asperti, Bugo & Filippini (arXiv 2202.02738), ``split_vae.py``:
swish for the non-linearity, a stem with stride 2, batch norm in the dense block, no block after the last reduction.
"""

import itertools
import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["torch", "tf-same"]
NORM_EPS = 1e-5
MAX_CHANNELS = 1024  # as Dai & Wipf: channels double towards the 4×4 start of the decoder, up to this


def upsamplings(height: int, width: int) -> int:
    """Number of ×2 up-samplings: n = ⌊log₂(min(H, W)/4)⌋, so that the decoder starts near 4×4."""
    return int(math.log2(min(height, width) / 4))


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(H', W'): the sides rounded up to multiples of 2ⁿ, on which the networks work."""
    unit = 2 ** upsamplings(height, width)
    return -(-height // unit) * unit, -(-width // unit) * unit


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


def keras_init(module: nn.Module) -> None:
    """Keras' defaults, which the paper trained with: glorot-uniform kernels, zero biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
