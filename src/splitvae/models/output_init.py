"""Where a decoder's images begin: at the mean of the data, instead of at the grey that random weights paint."""

from typing import Any

import torch
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder, evaluating

LEAST = 0.01  # a mean of 0 or 1 would begin where a sigmoid passes no gradient


@torch.no_grad()
def begin_at_mean(model: Autoencoder, mean: Tensor) -> None:
    """Set the biases of the layer that paints, in place, so that every component begins at the data's mean.

    Where most pixels are black, as in MNIST, the first steps push all weights of that layer the same way, towards
    black; Adam makes those steps as large as any, and some seeds end with a sigmoid that is 0 everywhere and passes no
    gradient. From the mean there is no such common way. The masks' biases stay.

    Args:
        model: untrained.
        mean: (C,) of the training images, in [0, 1].

    Raises:
        InputError: the network does not end in a layer with a bias for each map, and a sigmoid.
    """
    layer, maps = _painting_layer(model), model.num_components * len(mean)
    bias = getattr(layer, "bias", None)
    if bias is None or len(bias) != model.num_components - 1 + maps or hasattr(model.network, "paint"):
        raise InputError(
            "output_init data-mean needs a network that ends in a layer with a bias for each map; leave it out."
        )
    bias[-maps:] = mean.clamp(LEAST, 1 - LEAST).logit().repeat(model.num_components).to(bias)


def _painting_layer(model: Autoencoder) -> nn.Module | None:
    """The last layer with weights that decoding goes through."""
    called: list[nn.Module] = []

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        called.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in model.network.modules() if hasattr(layer, "weight")]
    with evaluating(model):
        model.decode(torch.zeros(2, model.latent_dim, device=model.device))
    for hook in hooks:
        hook.remove()
    return called[-1] if called else None
