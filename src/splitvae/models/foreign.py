"""A network of one's own: any pair of modules, a pythae model, a diffusers ``AutoencoderKL``, by a name of its own.

    splitvae.register_network("mine", (encoder, decoder))
    run = splitvae.train(data="photos", out="runs/mine", network="mine", model="vae", latent_dim=16)

From then on it is a network like those of ``registry.py``: for VAE, SplitVAE (which splits the decoder) and RAE; for
training, densities and scores. A saved model holds its weights and its name, never code: to load it in another
process, register the modules there first.
"""

import copy
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from splitvae.config import REGISTERED, Network
from splitvae.errors import InputError, nearest
from splitvae.models import registry
from splitvae.models.autoencoder import evaluating
from splitvae.models.split import image_of, split

Images = Literal["unit", "signed", "logits"]


def register_network(name: str, model: "nn.Module | tuple[nn.Module, nn.Module]", images: Images | None = None) -> None:
    """Make a network of one's own known by a name: ``VAE(…, network=name)``, ``train(…, network=name)``.

    Args:
        name: any but those of ``splitvae.models.registry.NETWORKS``; an earlier one of this name is replaced.
        model: (encoder, decoder); or a module that has both, such as a model of pythae or diffusers' ``AutoencoderKL``.
            The encoder takes images (B, C, H, W) to (mean, logvar), or to a mean alone, for RAE and "ae". Latents may
            have any shape; ``latent_dim`` is their number. The modules are copied at each use, with their weights:
            training starts from them.
        images: the range of the images that go into the encoder and come out of the decoder: "unit" = [0, 1], the
            default; "signed" = [-1, 1], the default for ``AutoencoderKL``; "logits" = in [0, 1] on the way in, the
            decoder's output without its sigmoid.

    Raises:
        InputError: a name of ours, or no encoder and decoder. Shapes are checked when a model is built.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"a network's name must be a text, not {name!r}.")
    if name in get_args(Network):
        raise InputError(f"'{name}' is a network of splitvae; choose another name.")
    pair: Any = (
        model if isinstance(model, tuple) else (getattr(model, "encoder", None), getattr(model, "decoder", None))
    )
    if len(pair) != 2 or not all(isinstance(module, nn.Module) for module in pair):
        raise InputError("model must be (encoder, decoder), two nn.Module, or a module that has both as attributes.")
    if not any(len(list(module.parameters())) for module in pair):
        raise InputError("model has no parameters, so there is nothing to train.")
    if hasattr(model, "post_quant_conv"):  # diffusers
        pair, images = _latent_diffusion(model), images or "signed"
    images = images or "unit"
    if images not in get_args(Images):
        raise InputError(f"images is '{images}'.{nearest(images, get_args(Images))}")
    registry.OTHERS[name] = type("RegisteredNetwork", (ForeignNetwork,), {"pair": pair, "images": images, "name": name})
    REGISTERED.add(name)


class ForeignNetwork(nn.Module):
    """A registered pair with the methods of ``SplitVAENetwork``; its weights are those that it was registered with.

    Args:
        image_shape, latent_dim, out_channels, deterministic: see ``SplitVAENetwork``. More channels than those of an
            image are masks and components, for which the decoder is split.

    Raises:
        InputError: the modules do not fit these shapes.
    """

    name: ClassVar[str]
    pair: ClassVar[tuple[nn.Module, nn.Module]]
    images: ClassVar[Images]

    def __init__(
        self, image_shape: tuple[int, int, int], latent_dim: int, out_channels: int, deterministic: bool = False
    ) -> None:
        super().__init__()
        self.deterministic = deterministic
        self.encoder: Any
        self.decoder: Any
        self.encoder, self.decoder = copy.deepcopy(self.pair)
        self.latent_shape = self._probe(image_shape, latent_dim)
        C = image_shape[0]
        self.split = out_channels != C
        if self.split:
            place = next(self.parameters())
            z = torch.randn(2, *self.latent_shape).to(place)
            self.decoder = split(self.decoder, z, num_components=(out_channels + 1) // (C + 1))

    @torch.no_grad()
    def _probe(self, image_shape: tuple[int, int, int], latent_dim: int) -> tuple[int, ...]:
        """Check what the modules take and give; returns the shape of an image's latents."""
        place = next(self.parameters())
        x = torch.rand(2, *image_shape).to(place)
        try:
            with evaluating(self.encoder):
                output = self.encoder(self._in(x))
                mean, logvar = posterior_of(output)
        except Exception as error:  # code of the user's
            raise InputError(
                f"the encoder of '{self.name}' does not take images of {image_shape}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(mean, Tensor) or len(mean) != 2 or mean.dim() < 2:
            raise InputError(f"the encoder of '{self.name}' must give (mean, logvar), (B, …) each.")
        shapes = [getattr(part, "shape", None) for part in output] if isinstance(output, tuple | list) else []
        if not self.deterministic and len(shapes) > 2 and len(set(shapes[:3])) == 1:
            raise InputError(
                f"the encoder of '{self.name}' gives {len(shapes)} tensors like (z, mean, logvar), of which two are "
                "needed; wrap it in a module that returns (mean, logvar)."
            )
        if not self.deterministic and (not isinstance(logvar, Tensor) or logvar.shape != mean.shape):
            raise InputError(
                f"the encoder of '{self.name}' gives no logvar of the mean's shape; wrap it in a module "
                "that returns (mean, logvar), such as the halves of its output (.chunk(2, dim=1)), use RAE, or train "
                "with model='ae'."
            )
        if mean[0].numel() != latent_dim:
            raise InputError(
                f"the encoder of '{self.name}' gives {mean[0].numel()} latents, not {latent_dim}; pass "
                f"latent_dim={mean[0].numel()}."
            )
        try:
            with evaluating(self.decoder):
                image = image_of(self.decoder(torch.randn_like(mean)))
        except Exception as error:  # code of the user's
            raise InputError(
                f"the decoder of '{self.name}' does not take latents of {tuple(mean.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        found = tuple(image.shape[1:]) if isinstance(image, Tensor) else type(image).__name__
        if found != tuple(image_shape):
            raise InputError(f"the decoder of '{self.name}' paints {found}, not images of {tuple(image_shape)}.")
        lowest, highest = float(image.min()), float(image.max())
        if self.images == "unit" and not -0.01 <= lowest <= highest <= 1.01:
            raise InputError(
                f"the decoder of '{self.name}' paints values from {lowest:.2g} to {highest:.2g}, not in [0, 1]; "
                "register it with images='signed' for [-1, 1], or 'logits' before a sigmoid."
            )
        return tuple(mean.shape[1:])

    @staticmethod
    def padded_size(height: int, width: int) -> tuple[int, int]:
        """The sides as they are."""
        return height, width

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, H, W) in [0, 1] → mean and logvar (B, D)."""
        mean, logvar = posterior_of(self.encoder(self._in(x)))
        return mean.flatten(1), None if self.deterministic else logvar.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """(B, D) → maps (B, out_channels, H, W): logits of masks, and what ``paint`` makes images of."""
        z = z.unflatten(1, self.latent_shape)
        return self.decoder.maps(z) if self.split else image_of(self.decoder(z))

    def paint(self, maps: Tensor) -> Tensor:
        """Maps → images; those of a decoder without a bounded last layer may leave [0, 1] a little."""
        images = self.decoder.paint(maps) if self.split else maps
        if self.images == "logits":
            return torch.sigmoid(images)
        return (images + 1) / 2 if self.images == "signed" else images

    def decoder_kernels(self) -> list[Tensor]:
        """Kernels that RAE-L2 penalises: of all the decoder's convolutions."""
        return [m.weight for m in self.decoder.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]

    def reset_parameters(self) -> None:
        """Leave the weights as they were registered."""

    def _in(self, x: Tensor) -> Tensor:
        return 2 * x - 1 if self.images == "signed" else x


def posterior_of(output: Any) -> tuple[Any, Any]:
    """Mean and logvar in what an encoder returns: a pair, a mean alone, or an object of pythae around them."""
    if isinstance(getattr(output, "embedding", None), Tensor):
        return output.embedding, getattr(output, "log_covariance", None)
    if isinstance(output, tuple | list):
        return output[0], output[1] if len(output) > 1 else None
    return output, None


def _latent_diffusion(model: Any) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of an ``AutoencoderKL`` with the 1×1 convolutions between them and the latents."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.quant_conv = model.encoder, model.quant_conv

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            h = self.encoder(x)
            h = h if self.quant_conv is None else self.quant_conv(h)
            mean, logvar = h.chunk(2, dim=1)
            return mean, logvar.clamp(-30, 20)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder

        def forward(self, z: Tensor) -> Tensor:
            return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    return Encoder(), Decoder()
