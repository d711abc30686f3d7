"""Commands that make a model or tell what it is: train, info, doctor."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import App, ArgumentCollection, Parameter

from splitvae.commands.app import app
from splitvae.config import KNOBS, TrainConfig
from splitvae.errors import InputError

_given: set[str] = set()  # fields of TrainConfig that stand on the command line


@dataclass(frozen=True)
class _Options(TrainConfig):
    """The options as they were written: they are checked with the values of the preset or of the run, not alone."""

    def __post_init__(self) -> None:
        """Check nothing; ``resolve`` and a resumed run do."""


def _note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Remember which options were written, so that the others keep the preset's values."""
    names = {field.name for field in fields(TrainConfig)}
    _given.clear()
    _given.update(name for argument in arguments if argument.tokens for name in argument.keys if name in names)


@app.command(
    config=_note_given,
    help_epilogue="Example: splitvae train digits --out runs/digits\n\n"
    "Example: splitvae train --data ~/Pictures/birds --image-size 64 --out runs/birds --epochs 50\n\n"
    "Example: splitvae train mnist-small --print-config > mine.yaml; splitvae train --config mine.yaml --out runs/mine",
)
def train(
    preset: str | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    print_config: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[_Options, Parameter(name="*")] = _Options(),
) -> None:
    """Train a model: real images in; a model, pictures of its training and a log out.

    Defaults below are those of the recipe "images"; a preset has its own (see `splitvae info PRESET`).

    Args:
        preset: digits, mnist, fashion-mnist, cifar10, celeba (the paper's recipes), or images, the default.
        out: The run directory to make.
        resume: A run to go on with, exactly where it stopped; more --epochs may be asked for.
        overwrite: Replace the run in --out.
        config_file: A YAML file with a preset and options, as --print-config writes it, or the config.json of a run;
            options on the command line go before those in it.
        print_config: Print the recipe with everything resolved, and do nothing else.
    """
    changes = {name: getattr(config, name) for name in _given}
    if resume is not None and (config_file is not None or print_config):
        raise InputError("--resume goes on with a run as it was begun: leave out --config and --print-config.")
    if resume is None:
        from splitvae.presets import resolve

        if config_file is not None:
            from splitvae.presets.recipe_file import read_recipe

            named, values = read_recipe(config_file)
            if preset is not None and named not in (None, preset):
                raise InputError(f"{config_file} is of the preset {named}, not {preset}; leave one of them out.")
            if "split" in changes:  # the kind that is asked for here goes before the file's knobs
                values = {name: value for name, value in values.items() if name not in KNOBS}
            preset, changes = preset or named, values | changes
        resolved = resolve(preset, **changes)  # a typo is answered at once, before PyTorch is imported
        if print_config:
            from splitvae.presets.recipe_file import write_recipe

            print(write_recipe(preset or "images", resolved), end="")
            return
        if out is None:
            raise InputError("no run directory: pass --out RUN.")
    from splitvae.training.loop import train as train_run

    train_run(preset, out=out, resume=resume, overwrite=overwrite, **changes)


@app.command(help_epilogue="Example: splitvae info\n\nExample: splitvae info mnist-rae-l2-small")
def info(what: str | None = None) -> None:
    """Tell what presets there are, or what one or a run is: layers with shapes, parameters, FLOPs, memory per image.

    Args:
        what: A preset, or a run directory; none = a list of the presets.
    """
    from splitvae.describe import describe, list_presets

    if what is None:
        list_presets()
    else:
        describe(what)


@app.command(
    help_epilogue="Example: splitvae doctor ~/Pictures/birds --image-size 64\n\nExample: splitvae doctor runs/birds"
)
def doctor(what: str, *, image_size: int | str | None = None) -> None:
    """Examine images before training, or a run after it: what goes wrong most often, and what to do about it.

    Findings are advice: whatever is found, the exit status is 0; it is 2 for what is neither a run nor a source.

    Args:
        what: A run directory; or a folder of images, an .npz, parquet shards, a hub name, as for `train --data`.
        image_size: The size that a source will be trained at; a run has its own.
    """
    from splitvae.doctor import doctor as examine

    examine(what, image_size)
