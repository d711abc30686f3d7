"""Networks by name: Split-VAE's own, and those of the papers that it compares with."""

import inspect
from importlib import import_module
from typing import Any

from torch import nn

from splitvae.errors import InputError, nearest

# name → (module, class, options that make the variant). "-normed" has the batch norm in or after dense layers that the
# paper's parameter counts contain and the authors' code lacks; see the classes.
_NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "split-vae": ("networks", "SplitVAENetwork", {}),
    "rae": ("baselines.rae", "RAENetwork", {}),
    "rae-normed": ("baselines.rae", "RAENetwork", {"dense_norm": True}),
    "rae-normed-4x4": ("baselines.rae", "RAENetwork", {"dense_norm": True, "decoder_start": 4}),
    "infogan": ("baselines.infogan", "InfoGANNetwork", {}),
    "wae": ("baselines.wae", "WAENetwork", {}),
    "resnet": ("baselines.resnet", "TwoStageResNet", {}),
    "resnet-normed": ("baselines.resnet", "TwoStageResNet", {"dense_norm": True}),
    "resnet-light": (
        "baselines.resnet", "TwoStageResNet",
        {"dense_norm": True, "stem_stride": 2, "decoder_start": 4, "last_scale_block": False},
    ),
}  # fmt: skip
NETWORKS = tuple(_NETWORKS)
OTHERS: dict[str, Any] = {}  # classes of networks of one's own, by name; see ``foreign.py``


def network_class(name: str) -> Any:
    """The class behind a name of ``NETWORKS``."""
    if name in OTHERS:
        return OTHERS[name]
    if name not in _NETWORKS:
        raise InputError(
            f"unknown network '{name}'.{nearest(name, NETWORKS)} One of your own is registered first, with "
            "splitvae.register_network."
        )
    module, cls, _ = _NETWORKS[name]
    return getattr(import_module(f"splitvae.models.{module}"), cls)


def network_options(name: str) -> set[str]:
    """Names of the options that a network takes, beside those of its variant."""
    parameters = set(inspect.signature(network_class(name)).parameters)
    given = {"image_shape", "latent_dim", "out_channels", "deterministic"}
    return parameters - given - set(_variant(name))


def _variant(name: str) -> dict[str, Any]:
    """The options that make a variant of a class."""
    return {} if name in OTHERS else _NETWORKS[name][2]


def build_network(
    name: str,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    out_channels: int,
    deterministic: bool,
    options: dict[str, Any],
) -> nn.Module:
    """A network with its authors' initial weights.

    Args:
        name: of ``NETWORKS``.
        image_shape: (C, H', W') with sides as its ``padded_size`` gives them.
        latent_dim, out_channels, deterministic: see the classes.
        options: see ``network_options``.

    Raises:
        InputError: an unknown name or option, or a value out of its bounds.
    """
    known, parameters = network_options(name), inspect.signature(network_class(name)).parameters
    for option, value in options.items():
        if option not in known:
            raise InputError(f"the network {name} has no option '{option}'.{nearest(option, known)}")
        default = parameters[option].default
        a_size = not isinstance(default, bool | float | str) and value != default
        if a_size and not (type(value) is int and value >= 1):
            raise InputError(f"{option} must be at least 1 and whole, not {value!r}.")
    momentum = options.get("batch_norm_momentum", 1)
    if not 0 < momentum <= 1:
        raise InputError(f"batch_norm_momentum must lie in (0, 1], not {momentum}.")
    network = network_class(name)(image_shape, latent_dim, out_channels, deterministic, **_variant(name), **options)
    network.reset_parameters()
    return network
