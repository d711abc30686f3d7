"""Named recipes, each with its card: what it is, what it costs, what score to expect, and the command.

A preset is named after its data set, ``mnist``, ``fashion-mnist``, ``cifar10``, ``celeba``: Split-VAE as the paper has
it; with the name of another system behind it, ``mnist-rae-gp``; with ``-best``, Split-VAE by our own recipe; and with
``-small`` at the end, the same for two cores and five minutes.
"""

from pathlib import Path
from typing import Any

from splitvae.config import NEEDS, OF_MODELS, SPLITS, TrainConfig, idle, network_fields
from splitvae.errors import InputError, nearest
from splitvae.presets.best import BEST
from splitvae.presets.preset import Preset as Preset
from splitvae.presets.small import SMALL
from splitvae.presets.split_vae import SPLIT_VAE
from splitvae.presets.systems import OTHERS

PRESETS: dict[str, Preset] = SPLIT_VAE | OTHERS | SMALL | BEST


def resolve(preset: str | None = None, **changes: Any) -> TrainConfig:
    """The configuration of a preset with changes; None = ``images``.

    Raises:
        InputError: an unknown preset or option, with the nearest known name, or a value out of its bounds.
    """
    name = preset or "images"
    if name not in PRESETS:
        if Path(name).exists():
            raise InputError(f"'{name}' is no preset; to train on what lies there, pass --data {name}.")
        raise InputError(f"unknown preset '{name}'.{nearest(name, PRESETS)}")
    values = dict(PRESETS[name].values)
    if changes.get("network", values.get("network", "split-vae")) != values.get("network", "split-vae"):
        for option in network_fields():  # those of the preset's own network mean nothing to another
            values.pop(option, None)
    of_split = SPLITS.get(changes.get("split", values.get("split", "free")), {})
    config = TrainConfig().with_changes({**values, **of_split, **changes})
    for option, models in OF_MODELS.items():
        if option in changes and config.model not in models:
            raise InputError(f"{option} does not apply to the model {config.model}; leave it out.")
    for option, (other, value) in NEEDS.items():
        if option in changes and idle(option, config):
            need = f"{other}, and there are none" if value is None else f"{other} {value}, not {getattr(config, other)}"
            raise InputError(f"{option} needs {need}; leave it out.")
    if config.model != "splitvae" and changes.get("num_components", 1) != 1:
        raise InputError(f"{config.model} has one component; use --model splitvae for {config.num_components}.")
    return config
