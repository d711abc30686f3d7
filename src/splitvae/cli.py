"""The command ``splitvae``: each sub-command is a function whose docstring is its help.

Nothing heavy is imported before a command needs it. An error is one line on stderr; exit status 2 for wrong usage or
input, 1 for a failure on the way, 130 and 143 after signals; a traceback only with ``--debug``.
"""

import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter

from splitvae import __version__
from splitvae.config import TrainConfig
from splitvae.errors import InputError, Interrupted, SplitVAEError

MAIN = Group("Command", sort_key=0)
app = App(
    name="splitvae",
    help="Train, compare and score variational autoencoders; split ones first of all.",
    version=__version__,
    group_arguments=MAIN,
    group_parameters=MAIN,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue="Add --debug to any command for a traceback instead of the one-line error.",
)
_given: set[str] = set()  # fields of TrainConfig that stand on the command line


def _note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Remember which options were written, so that the others keep the preset's values."""
    names = {field.name for field in fields(TrainConfig)}
    _given.clear()
    _given.update(name for argument in arguments if argument.tokens for name in argument.keys if name in names)


Output = Literal["x_hat", "components", "mask", "mix", "all"]


@app.command(
    config=_note_given,
    help_epilogue="Example: splitvae train digits --out runs/digits\n\n"
    "Example: splitvae train --data ~/Pictures/birds --image-size 64 --out runs/birds --epochs 50",
)
def train(
    preset: str | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a model: real images in; a model, pictures of its training and a log out.

    Defaults below are those of the recipe "images"; a preset has its own (see `splitvae info PRESET`).

    Args:
        preset: digits, mnist, fashion-mnist, cifar10, celeba (the paper's recipes), or images, the default.
        out: The run directory to make.
        resume: A run to go on with, exactly where it stopped; more --epochs may be asked for.
        overwrite: Replace the run in --out.
    """
    changes = {name: getattr(config, name) for name in _given}
    if resume is None and out is None:
        raise InputError("no run directory: pass --out RUN.")
    if resume is None:
        from splitvae.presets import resolve

        resolve(preset, **changes)  # a typo is answered at once, before PyTorch is imported
    from splitvae.training.loop import train as train_run

    train_run(preset, out=out, resume=resume, overwrite=overwrite, **changes)


@app.command(help_epilogue="Example: splitvae sample runs/digits --n 64 --out samples.png")
def sample(
    run: Path,
    *,
    n: int = 64,
    out: Path,
    output: Output = "x_hat",
    density: Literal["normal"] = "normal",
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Generate images.

    Args:
        run: A run directory, or a saved model.
        n: Number of images.
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files).
        output: x_hat, the blend; components, the images that it blends; mask; mix, one random component per image;
            all, the rows of the paper's figures 1 to 4.
        density: Where latents come from: normal, the prior N(0, I).
        temperature: Scales the standard deviation of the density; below 1 samples are more typical.
        seed: The same seed gives the same images.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if not 0 < temperature < float("inf"):
        raise InputError(f"--temperature must be positive, not {temperature}.")
    import torch

    from splitvae.densities.normal import StandardNormal
    from splitvae.models.pretrained import load_model

    model = load_model(run)
    generator = torch.Generator().manual_seed(seed)
    z = StandardNormal(model.latent_dim).sample(n, generator=generator, temperature=temperature)
    _write_decoded(model, z, output, out, generator)


@app.command(help_epilogue="Example: splitvae encode runs/digits digits --out codes.npz")
def encode(run: Path, source: str, *, out: Path, split: Literal["all", "train", "test"] = "all") -> None:
    """Write the latent codes of a source: mean and logvar (N, D), in the order of the source.

    Args:
        run: A run directory, or a saved model.
        source: A folder of images, an .npz, parquet shards, "digits" or a hub name; sizes are made to fit the model.
        out: An .npz with mean, logvar, row (the number in the source), and labels and names where there are some.
        split: Which images: all, or one of the splits.
    """
    if out.suffix.lower() != ".npz":
        raise InputError(f"cannot write codes to {out.name}: use a name that ends in .npz.")
    import numpy as np
    import torch

    from splitvae.data.cache import prepare
    from splitvae.files import replacing
    from splitvae.models.pretrained import load_model

    model = load_model(run)
    cache = prepare(source, model.image_shape[1:], quiet=False)
    if cache.shape != model.image_shape:
        raise InputError(
            f"{source} has images of {cache.shape[0]} channel(s), the model in {run} was trained on "
            f"{model.image_shape[0]}."
        )
    rows = np.arange(len(cache.images)) if split == "all" else cache.splits[split]
    means, logvars = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), 500):
            x = torch.from_numpy(cache.images[rows[start : start + 500]]).float() / 255
            posterior = model.encode(x)
            means.append(posterior.mean.numpy())
            logvars.append(posterior.logvar.numpy())
    arrays: dict[str, Any] = {"mean": np.concatenate(means), "logvar": np.concatenate(logvars), "row": rows}
    if cache.labels is not None:
        arrays["labels"] = cache.labels[rows]
    if cache.names is not None:
        arrays["names"] = np.array(cache.names)[rows]
    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{out}: mean and logvar {arrays['mean'].shape}")


@app.command(help_epilogue="Example: splitvae decompose runs/birds robin.jpg wren.jpg --out grid.png")
def decompose(run: Path, image: list[Path] | None = None, *, out: Path, n: int = 10, output: Output = "all") -> None:
    """Take images apart: each image, its mask σ, the components x̂₁ and x̂₂, and their blend x̂.

    Args:
        run: A run directory, or a saved model.
        image: Image files; none = test images of the run's own data.
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files).
        n: How many of the run's own test images, where no files are named.
        output: all, or one of x_hat, components, mask, mix.
    """
    import torch

    from splitvae.models.pretrained import load_model

    model = load_model(run)
    if image:
        x = _read_images(image, model.image_shape)
    else:
        from splitvae.data.loader import ImageLoader
        from splitvae.run import Run

        x = ImageLoader(Run.open(run).data, "test", 1, 0).fixed(n)
    with torch.inference_mode():
        z = model.encode(x).mode()
    _write_decoded(model, z, output, out, torch.Generator().manual_seed(0), x)


@app.command(help_epilogue="Example: splitvae info mnist")
def info(what: str) -> None:
    """Tell what a preset or a run is: layers with shapes, parameters, FLOPs and memory per image.

    Args:
        what: A preset, or a run directory.
    """
    from splitvae.describe import describe

    describe(what)


def _read_images(paths: list[Path], shape: tuple[int, int, int]) -> Any:
    """Image files as the model's input (B, C, H, W)."""
    import numpy as np
    import torch

    from splitvae.data.decode import choose_transform, decode, read_header

    images = []
    for path in paths:
        try:
            transform = choose_transform([read_header(path)], shape[1:], "auto", "crop")
            images.append(decode(path, type(transform)(shape[0], transform.size, transform.crop, transform.pad)))
        except InputError as error:
            raise InputError(f"{path}: {error}.") from error
    return torch.from_numpy(np.stack(images)).float() / 255


def _write_decoded(model: Any, z: Any, output: Output, out: Path, generator: Any, x: Any = None) -> None:
    """Decode latents in batches and write the outputs that were asked for; ``x`` is a first row of originals."""
    import torch

    from splitvae.models.vae import Decoded
    from splitvae.pictures import mix, rows_of, save_images, to_uint8

    K = model.num_components
    if K == 1 and output in ("components", "mask", "mix"):
        raise InputError(f"this model has one component and no {output}; use --output x_hat.")
    with torch.inference_mode():
        parts = [model.decode(part) for part in z.split(500)]
    decoded = Decoded(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    rows = rows_of(decoded)
    chosen = {
        "x_hat": ["x_hat"],
        "components": [name for name in rows if name.startswith("x") and name != "x_hat"],
        "mask": [name for name in rows if name.startswith("mask")],
        "all": list(rows),
    }
    pictures = {"mix": mix(decoded, generator)} if output == "mix" else {name: rows[name] for name in chosen[output]}
    if x is not None:
        pictures = {"x": x, **pictures}
    paths = save_images({name: to_uint8(images) for name, images in pictures.items()}, out)
    print(paths[0] if len(paths) == 1 else f"{len(paths)} files in {out}")


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(arguments, print_error=False, exit_on_error=False)
        return 0
    except SplitVAEError as error:
        message, status = str(error), error.exit_status
        if debug:
            raise
    except CycloptsError as error:
        message, status = str(error), 2
        if debug:
            raise
    except KeyboardInterrupt:
        message, status = "interrupted; nothing was lost.", 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        message, status = f"{type(error).__name__}: {error} (run again with --debug for the traceback)", 1
    print("splitvae: " + " ".join(message.split()), file=sys.stderr)
    return status


def _terminate(number: int, frame: object) -> None:
    raise Interrupted("terminated; nothing was lost.", number)
