"""The InfoGAN network in which Dai & Wipf compare all variational autoencoders on MNIST, CIFAR-10 and CelebA.

Dai & Wipf, *Diagnosing and Enhancing VAE Models* (ICLR 2019, arXiv 1903.05789), class ``Infogan`` of their
``network/two_stage_vae_model.py``. The layers go back to Chen et al., *InfoGAN* (2016, arXiv 1606.03657).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

NORM_EPS = 1e-5
SLOPE = 0.2  # of the leaky ReLU
STD_MIN = 1e-6
INIT_STD = 0.02


class InfoGANNetwork(nn.Module):
    """Two strided convolutions and two dense layers, mirrored; the encoder's four layers are spectrally normalised.

    With b = ``base_channels`` and E = ``embedding_dim``::

        encode  Conv b, LReLU, Conv 2b, BN, LReLU → (2b, H'/4, W'/4) → Dense E, BN, LReLU, Dense 2D
        decode  Dense E, BN, ReLU, Dense, BN, ReLU → (2b, H'/4, W'/4) → ConvT b, BN, ReLU, ConvT out_channels

    The spectral norm is PyTorch's: one power iteration for each forward pass in training, without a gradient through
    it, and none in evaluation, where equal images give equal latents. The authors iterate at test time, too.

    Args:
        image_shape: (C, H', W') with sides as ``padded_size`` gives them.
        latent_dim: number of latent variables D.
        out_channels: maps of logits that ``decode`` returns.
        deterministic: without the variance of a posterior: the encoder's last layer has D outputs.
        base_channels: channels of the first convolution.
        embedding_dim: width of the dense layers.
        batch_norm_momentum: weight of the new batch in the running statistics (TensorFlow's decay is 1 − this).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        out_channels: int,
        deterministic: bool = False,
        base_channels: int = 64,
        embedding_dim: int = 1024,
        batch_norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        C, H, W = image_shape
        b, momentum = base_channels, batch_norm_momentum
        self.deterministic = deterministic
        self.start = (2 * b, H // 4, W // 4)
        features = 2 * b * (H // 4) * (W // 4)

        self.encoder_conv1 = spectral_norm(nn.Conv2d(C, b, 4, stride=2, padding=1))
        self.encoder_conv2 = spectral_norm(nn.Conv2d(b, 2 * b, 4, stride=2, padding=1))
        self.encoder_norm2 = nn.BatchNorm2d(2 * b, NORM_EPS, momentum)
        self.encoder_dense = spectral_norm(nn.Linear(features, embedding_dim))
        self.encoder_dense_norm = nn.BatchNorm1d(embedding_dim, NORM_EPS, momentum)
        self.encoder_head = spectral_norm(nn.Linear(embedding_dim, latent_dim if deterministic else 2 * latent_dim))

        self.decoder_dense1 = nn.Linear(latent_dim, embedding_dim)
        self.decoder_norm1 = nn.BatchNorm1d(embedding_dim, NORM_EPS, momentum)
        self.decoder_dense2 = nn.Linear(embedding_dim, features)
        self.decoder_norm2 = nn.BatchNorm1d(features, NORM_EPS, momentum)
        self.decoder_upsample = nn.ConvTranspose2d(2 * b, b, 4, stride=2, padding=1)
        self.decoder_norm3 = nn.BatchNorm2d(b, NORM_EPS, momentum)
        self.decoder_head = nn.ConvTranspose2d(b, out_channels, 4, stride=2, padding=1)

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """(H', W'): the sides rounded up to multiples of 4."""
        return -(-height // 4) * 4, -(-width // 4) * 4

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H', W') in [0, 1] → mean and logvar (B, D); a deterministic encoder has no logvar."""
        h = self.encoder_conv1(x)
        h = F.leaky_relu(h, SLOPE)

        h = self.encoder_conv2(h)
        h = self.encoder_norm2(h)
        h = F.leaky_relu(h, SLOPE)

        h = self.encoder_dense(h.flatten(1))
        h = self.encoder_dense_norm(h)
        h = F.leaky_relu(h, SLOPE)

        h = self.encoder_head(h)
        if self.deterministic:
            return h, None
        mean, h = h.chunk(2, dim=1)
        std = STD_MIN + F.softplus(h)
        return mean, 2 * torch.log(std)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, D) → logits (B, out_channels, H', W')."""
        h = self.decoder_dense1(z)
        h = self.decoder_norm1(h)
        h = F.relu(h)

        h = self.decoder_dense2(h)
        h = self.decoder_norm2(h)
        h = F.relu(h)

        h = self.decoder_upsample(h.unflatten(1, self.start))
        h = self.decoder_norm3(h)
        h = F.relu(h)

        return self.decoder_head(h)

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of the transposed convolutions."""
        return [self.decoder_upsample.weight, self.decoder_head.weight]

    def reset_parameters(self) -> None:
        """The authors' normal kernels of standard deviation 0.02, cut at 2σ in convolutions, and zero biases."""
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                normalised = is_parametrized(layer)
                if normalised:
                    remove_parametrizations(layer, "weight", leave_parametrized=False)
                if isinstance(layer, nn.Conv2d):
                    nn.init.trunc_normal_(layer.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
                else:
                    nn.init.normal_(layer.weight, std=INIT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                if normalised:
                    spectral_norm(layer)  # afterwards, so that its singular vectors are those of the new kernel
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.reset_parameters()
