"""The convolutional network that Dai & Wipf share with the Wasserstein autoencoder on CelebA.

Dai & Wipf, *Diagnosing and Enhancing VAE Models* (ICLR 2019, arXiv 1903.05789), class ``Wae`` of their
``network/two_stage_vae_model.py``, there for 64×64 only; after Tolstikhin et al., *Wasserstein Auto-Encoders*
(ICLR 2018, arXiv 1711.01558).
"""

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.models.networks import keras_init

NORM_EPS = 1e-5
REDUCTIONS = 3  # 64 → 32 → 16 → 8


class WAENetwork(nn.Module):
    """5×5 convolutions to an eighth of the sides and back.

    With b = ``base_channels``::

        encode  Conv b, s1, then Conv 2b, 4b, 8b, s2, each with BN, ReLU → (8b, H'/8, W'/8) → Dense D
        decode  Dense, ReLU → (8b, H'/8, W'/8) → ConvT 4b, 2b, b, s2, each with BN, ReLU, ConvT out_channels, s1

    Args:
        image_shape: (C, H', W') with sides as ``padded_size`` gives them.
        latent_dim: number of latent variables D.
        out_channels: maps of logits that ``decode`` returns.
        deterministic: without the variance of a posterior.
        base_channels: channels of the first convolution; they double at each reduction.
        batch_norm_momentum: weight of the new batch in the running statistics (TensorFlow's decay is 1 − this).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        out_channels: int,
        deterministic: bool = False,
        base_channels: int = 128,
        batch_norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        C, H, W = image_shape
        momentum = batch_norm_momentum
        widths = [base_channels * 2**i for i in range(REDUCTIONS + 1)]
        self.start = (widths[-1], H // 2**REDUCTIONS, W // 2**REDUCTIONS)
        features = math.prod(self.start)

        self.encoder_stem = nn.Conv2d(C, base_channels, 5, padding=2)
        self.encoder_stem_norm = nn.BatchNorm2d(base_channels, NORM_EPS, momentum)
        self.encoder_convs = nn.ModuleList(
            nn.Conv2d(a, b, 5, stride=2, padding=2) for a, b in itertools.pairwise(widths)
        )
        self.encoder_norms = nn.ModuleList(nn.BatchNorm2d(width, NORM_EPS, momentum) for width in widths[1:])
        self.mean = nn.Linear(features, latent_dim)
        self.log_std = None if deterministic else nn.Linear(features, latent_dim)

        widths.reverse()
        self.decoder_dense = nn.Linear(latent_dim, features)
        self.decoder_upsamples = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 5, stride=2, padding=2, output_padding=1) for a, b in itertools.pairwise(widths)
        )
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(width, NORM_EPS, momentum) for width in widths[1:])
        self.decoder_head = nn.ConvTranspose2d(base_channels, out_channels, 5, padding=2)

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """(H', W'): the sides rounded up to multiples of 8."""
        return -(-height // 8) * 8, -(-width // 8) * 8

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H', W') in [0, 1] → mean and logvar (B, D); a deterministic encoder has no logvar."""
        h = self.encoder_stem(x)
        h = self.encoder_stem_norm(h)
        h = F.relu(h)

        for conv, norm in zip(self.encoder_convs, self.encoder_norms, strict=True):
            h = conv(h)
            h = norm(h)
            h = F.relu(h)

        h = h.flatten(1)
        return self.mean(h), None if self.log_std is None else 2 * self.log_std(h)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, D) → logits (B, out_channels, H', W')."""
        h = self.decoder_dense(z)
        h = F.relu(h)
        h = h.unflatten(1, self.start)

        for upsample, norm in zip(self.decoder_upsamples, self.decoder_norms, strict=True):
            h = upsample(h)
            h = norm(h)
            h = F.relu(h)

        return self.decoder_head(h)

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of the transposed convolutions."""
        return [layer.weight for layer in self.modules() if isinstance(layer, nn.ConvTranspose2d)]

    def reset_parameters(self) -> None:
        """The defaults of ``tf.layers``, as the authors: glorot-uniform kernels, zero biases."""
        self.apply(keras_init)
