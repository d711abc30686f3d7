"""Any trained decoder made a split one (section 3 of arXiv 2202.02738: the split is a matter of the last layer only).

The last layer gets the maps of K images and of the K − 1 masks that blend them. All images start as the one that it
painted before, the masks are even, and a tiny difference, which sums to zero over the images, lets them part.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder, Decoded, evaluating
from splitvae.models.vae import VAE, SplitVAE

HEADS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
# What a decoder may do to its last layer's output before it is an image.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda maps: maps,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp to [0, 1]": lambda maps: maps.clamp(0, 1),
    "clamp to [-1, 1]": lambda maps: maps.clamp(-1, 1),
}
AGREES = 1e-4  # between the decoder's image and an activation of its last layer's output


def split(
    decoder: nn.Module,
    z: Tensor,
    num_components: int = 2,
    difference: float = 0.01,
    generator: torch.Generator | None = None,
) -> "SplitDecoder":
    """Make a trained decoder a split one, which paints the same x̂ at first and learns to part its components.

    Args:
        decoder: latents → images (B, C, H, W); a trained module, which is copied. Its last layer must be an
            ``nn.Conv2d``, ``nn.ConvTranspose2d`` or ``nn.Linear`` that paints the pixels, followed by a sigmoid, a
            tanh, a clamp, a reshape, or nothing. Images may come in an output object of diffusers or pythae.
        z: a few latents as the decoder takes them, on its device: it is run once to see what it does.
        num_components: K, at least 2.
        difference: standard deviation of what is added to a component's kernel, relative to that of the kernel.
        generator: of the difference; None = torch's global one.

    Returns:
        a module: latents → ``Decoded`` with x_hat, components and weights. Images keep the decoder's range.

    Raises:
        InputError: another last layer, or an output that is no image; one line that says which.

    Examples:
        >>> decoder = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
        >>> z = torch.randn(2, 4)
        >>> halves = split(decoder, z)
        >>> halves(z).components.shape
        torch.Size([2, 2, 1, 8, 8])
        >>> torch.allclose(halves(z).x_hat, decoder(z), atol=1e-2)
        True
    """
    _check(num_components, difference)
    if isinstance(decoder, Autoencoder):
        raise InputError("split takes a decoder; a whole model of splitvae is split by split_model.")
    if isinstance(decoder, SplitDecoder):
        raise InputError(f"the decoder is split already, into {decoder.num_components} components.")
    if not isinstance(decoder, nn.Module):
        raise InputError(f"split takes a decoder that is an nn.Module, not this {type(decoder).__name__}.")
    if not isinstance(z, Tensor) or z.dim() < 2 or not len(z):
        found = f"of the shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise InputError(f"z must be a tensor with a few latents (B, …), not {found}.")
    decoder = copy.deepcopy(decoder)
    path, image = _last_layer(decoder, z)
    activation = _activation(decoder, path, z)
    _widen(decoder.get_submodule(path), image.shape[1], num_components, difference, generator)
    return SplitDecoder(decoder, path, image.shape[1:], num_components, activation)


def split_model(
    model: VAE, num_components: int = 2, difference: float = 0.01, generator: torch.Generator | None = None
) -> SplitVAE:
    """Make a trained VAE of splitvae a SplitVAE with the same encoder, the same x̂ at first, and the same γ.

    Args:
        model: with one component, on a network of ours or a registered one; it is left as it is.
        num_components, difference, generator: see ``split``.

    Returns:
        a model to train on: ``train(resume=adopt(split_model(run.model), out, data), epochs=…)``.
    """
    if not isinstance(model, SplitVAE) or model.num_components != 1:
        raise InputError(f"split_model takes a VAE with one component, not this {type(model).__name__}.")
    _check(num_components, difference)
    K, network = num_components, model.network
    halves = SplitVAE(**{**model.config, "num_components": K}).to(model.device)
    if hasattr(network, "latent_shape"):  # a registered one
        z = torch.zeros(2, *network.latent_shape, device=model.device)
        halves.network.encoder = copy.deepcopy(network.encoder)
        halves.network.decoder = split(network.decoder, z, K, difference, generator)
    else:
        state = network.state_dict()
        for name, target in halves.network.state_dict().items():
            old = state[name]
            wider = [dim for dim in range(old.dim()) if old.shape[dim] != target.shape[dim]]
            if wider:  # the last layer
                kernel = (difference, generator) if old.dim() > 1 else ()
                state[name] = _wide(old, wider[0], model.image_shape[0], K, *kernel)
        halves.network.load_state_dict(state)
    halves.variance.load_state_dict(model.variance.state_dict())
    return halves.train(model.training)


class SplitDecoder(nn.Module):
    """A decoder whose last layer paints K images and the logits of K − 1 masks; made by ``split``.

    Args:
        decoder: with the wide last layer.
        path: the last layer's name in it.
        image_shape: (C, H, W).
        num_components: K.
        activation: a name of ``ACTIVATIONS``.
    """

    def __init__(
        self, decoder: nn.Module, path: str, image_shape: tuple[int, ...], num_components: int, activation: str
    ) -> None:
        super().__init__()
        self.decoder, self.image_shape, self.num_components = decoder, tuple(image_shape), num_components
        self.activation = activation
        self._maps: list[Tensor] = []
        decoder.get_submodule(path).register_forward_hook(self._catch)

    def _catch(self, layer: nn.Module, inputs: Any, maps: Tensor) -> Tensor:
        """Keep the wide output, and hand on as much as the layer gave before: what follows knows nothing of masks."""
        K, (C, H, W) = self.num_components, self.image_shape
        each = 1 if maps.dim() == 4 else H * W  # a dense layer paints all pixels in a row
        self._maps.append(maps)
        return maps.narrow(1, (K - 1) * each, C * each)

    def maps(self, z: Tensor) -> Tensor:
        """Latents → (B, K − 1 + K·C, H, W): logits of the masks, then the images before their activation."""
        self.decoder(z)
        K, (C, H, W) = self.num_components, self.image_shape
        return self._maps.pop().reshape(-1, K - 1 + K * C, H, W)

    def paint(self, maps: Tensor) -> Tensor:
        """The activation with which the decoder ended."""
        return ACTIVATIONS[self.activation](maps)

    def forward(self, z: Tensor) -> Decoded:
        """Latents → x_hat (B, C, H, W), components (B, K, C, H, W) and weights (B, K, 1, H, W)."""
        K, C = self.num_components, self.image_shape[0]
        maps = self.maps(z)
        components = self.paint(maps[:, K - 1 :]).unflatten(1, (K, C))
        weights = pad(maps[:, : K - 1], (0, 0, 0, 0, 0, 1)).softmax(dim=1).unsqueeze(2)
        return Decoded((weights * components).sum(dim=1), components, weights)


def image_of(output: Any) -> Any:
    """The image in what a decoder returns: a tensor, or an object of diffusers or pythae around one."""
    for name in ("sample", "reconstruction"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    return output[0] if isinstance(output, tuple | list) and len(output) else output


def _check(num_components: int, difference: float) -> None:
    if not isinstance(num_components, int) or num_components < 2:
        raise InputError(f"num_components must be whole and at least 2 to split a decoder, not {num_components}.")
    if not 0 < difference < 1:
        raise InputError(f"difference must lie in (0, 1), not {difference}; without one the components never part.")


@torch.no_grad()
def _last_layer(decoder: nn.Module, z: Tensor) -> tuple[str, Tensor]:
    """The name of the last layer with weights, and the decoder's images."""
    called: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda layer, inputs, output: called.append((name, output))

    layers = {name: layer for name, layer in decoder.named_modules() if isinstance(layer, HEADS)}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        with evaluating(decoder):
            image = image_of(decoder(z))
    except Exception as error:  # code of the user's
        raise InputError(
            f"the decoder does not take latents of the shape {tuple(z.shape)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(image, Tensor) or image.dim() != 4 or len(image) != len(z):
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"the decoder must paint images (B, C, H, W), not {found}.")
    if not called or called[-1][1].numel() != image.numel():
        known = ", ".join(f"nn.{kind.__name__}" for kind in HEADS.__args__)
        raise InputError(f"the decoder's last layer must paint its pixels and be one of {known}; it ends otherwise.")
    path, layer = called[-1][0], layers[called[-1][0]]
    if "weight" not in layer._parameters or getattr(layer, "groups", 1) != 1 or [p for p, _ in called].count(path) > 1:
        raise InputError(
            f"the decoder's last layer '{path}' must have a plain weight, one group, and be used once; remove its "
            "normalisation first."
        )
    return path, image


@torch.no_grad()
def _activation(decoder: nn.Module, path: str, z: Tensor) -> str:
    """Which of ``ACTIVATIONS`` follows the last layer: seen by putting −3 to 3 in the place of its output."""
    put: list[Tensor] = []

    def spread(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        put.append(torch.linspace(-3, 3, output.numel()).to(output).reshape(output.shape))
        return put[-1]

    hook = decoder.get_submodule(path).register_forward_hook(spread)
    with evaluating(decoder):
        image = image_of(decoder(z))
    hook.remove()
    maps = put[0].reshape(image.shape)
    for name, activation in ACTIVATIONS.items():
        if torch.allclose(activation(maps), image, atol=AGREES, rtol=0):
            return name
    raise InputError(
        f"the decoder's last layer '{path}' is followed by something else than {', '.join(ACTIVATIONS)}; end the "
        "decoder there, and do the rest outside of it."
    )


@torch.no_grad()
def _widen(layer: nn.Module, C: int, K: int, difference: float, generator: torch.Generator | None) -> None:
    """Give a layer that paints C maps the maps of K − 1 masks and of K images, in place."""
    assert isinstance(layer, HEADS)
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    bias = layer.weight.new_zeros(layer.weight.shape[dim]) if layer.bias is None else layer.bias
    layer.weight = nn.Parameter(_wide(layer.weight, dim, C, K, difference, generator))
    layer.bias = nn.Parameter(_wide(bias, 0, C, K))
    if isinstance(layer, nn.Linear):
        layer.out_features = len(layer.bias)
    else:
        layer.out_channels = len(layer.bias)


def _wide(
    old: Tensor, dim: int, C: int, K: int, difference: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Weights or biases of C maps, along ``dim`` → zeros for K − 1 masks, then K copies that differ a little."""
    place = None if generator is None else generator.device
    noise = torch.randn((K, *old.shape), generator=generator, device=place).to(old)
    noise *= difference * old.std() if difference else 0
    # K = 2: +δ and −δ. Taking the mean away leaves √((K − 1)/K) of the spread.
    copies = old + (noise - noise.mean(dim=0)) * (K / max(K - 1, 1)) ** 0.5
    masks = torch.zeros_like(old).narrow(dim, 0, old.shape[dim] // C)
    return torch.cat([masks] * (K - 1) + list(copies), dim=dim)
