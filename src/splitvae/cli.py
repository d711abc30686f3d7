"""The command ``splitvae``: each sub-command is a function whose docstring is its help.

Nothing heavy is imported before a command needs it. An error is one line on stderr; exit status 2 for wrong usage or
input, 1 for a failure on the way, 130 and 143 after signals; a traceback only with ``--debug``.
"""

import os
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter

from splitvae import __version__
from splitvae.config import TrainConfig
from splitvae.errors import InputError, Interrupted, SplitVAEError, nearest

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


def check_out(out: Path) -> None:
    """Refuse a form of output that nobody writes, before any work is done."""
    if out.suffix.lower() not in ("", ".png", ".npz"):
        raise InputError(f"cannot write {out.name}: use a name that ends in .png or .npz, or a folder.")


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
    if resume is None:
        if out is None:
            raise InputError("no run directory: pass --out RUN.")
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
    density: str = "normal",
    label: int | None = None,
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
        density: Where latents come from: normal, the prior N(0, I), or the name of one made by `splitvae fit`.
        label: The class to draw, from a class-wise density.
        temperature: Scales the standard deviation of the density; below 1 samples are more typical.
        seed: The same seed gives the same images.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if not 0 < temperature < float("inf"):
        raise InputError(f"--temperature must be positive, not {temperature}.")
    check_out(out)
    import torch

    from splitvae.densities.store import load_density
    from splitvae.models.pretrained import load_model

    model = load_model(_existing(run))
    generator = torch.Generator().manual_seed(seed)
    source, record = load_density(density, run, model.latent_dim)
    if label is not None and record["class"] != "ClasswiseGaussianMixture":
        raise InputError(f"--label needs a class-wise density: splitvae fit {run} --density gmm-per-class")
    chosen = {} if label is None else {"label": label}
    z = source.sample(n, generator=generator, temperature=temperature, **chosen)
    _write_decoded(model, z, output, out, generator)


@app.command(help_epilogue="Example: splitvae fit runs/digits --density gmm --n-components 20")
def fit(
    run: Path,
    *,
    density: Literal["gmm", "gmm-per-class"] = "gmm",
    n_components: int = 10,
    covariance: Literal["full", "diag"] = "full",
    split: Literal["train", "test"] = "train",
    name: str | None = None,
    seed: int = 0,
) -> None:
    """Fit a density on the run's codes, from which `splitvae sample --density` then draws.

    Args:
        run: A run directory.
        density: gmm, a mixture of Gaussians; gmm-per-class, one mixture per label, for samples of a class.
        n_components: Gaussians in the mixture, or in each class's.
        covariance: full, or diag for diagonal covariances.
        split: Whose codes. "test" is the paper's protocol, which fits on the images that it is scored against.
        name: Under which it is kept in densities/; the default is the value of --density, with -test after it for the
            test split.
        seed: Of the mixture's start.
    """
    name = name or density + ("-test" if split == "test" else "")
    if name == "normal" or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise InputError(f"--name '{name}' must be letters, digits, - and _, and not normal, which is the prior.")
    import torch

    from splitvae.codes import codes_hash, encode_rows
    from splitvae.densities.classwise import ClasswiseGaussianMixture
    from splitvae.densities.gaussian_mixture import GaussianMixture
    from splitvae.densities.store import save_density
    from splitvae.run import Run

    opened = Run.open(run)
    cls = GaussianMixture if density == "gmm" else ClasswiseGaussianMixture
    mixture = cls(n_components, covariance)
    rows, labels = opened.data.splits[split], opened.data.labels
    codes = encode_rows(opened.model, opened.data, rows)
    own_labels = None if labels is None else labels[rows]
    mixture.fit(codes, own_labels, generator=torch.Generator().manual_seed(seed))
    record = {
        "latent_dim": opened.model.latent_dim, "codes_sha256": codes_hash(codes), "codes": len(rows), "split": split,
        "n_components": n_components, "covariance": covariance, "seed": seed,
    }  # fmt: skip
    save_density(mixture, opened.path / "densities" / f"{name}.safetensors", record)
    bound = float(mixture.log_prob(codes).mean())
    print(f"{name}: {n_components} components on {len(rows):,} {split} codes, {bound:.2f} nats per code")


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

    from splitvae.codes import encode_rows
    from splitvae.data.cache import prepare
    from splitvae.files import replacing
    from splitvae.models.pretrained import load_model

    model = load_model(_existing(run))
    crop, fit = _preparation(run)
    cache = prepare(source, model.image_shape[1:], crop, fit, channels=model.image_shape[0], quiet=False)
    rows = np.arange(len(cache.images)) if split == "all" else cache.splits[split]
    posterior = encode_rows(model, cache, rows)
    arrays: dict[str, Any] = {"mean": posterior.mean.numpy(), "logvar": posterior.logvar.numpy(), "row": rows}
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
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    check_out(out)
    import torch

    from splitvae.models.pretrained import load_model

    model = load_model(_existing(run))
    if image:
        x = _read_images(image, model.image_shape, *_preparation(run))
    else:
        from splitvae.data.loader import ImageLoader
        from splitvae.run import Run

        x = ImageLoader(Run.open(run).data, "test", 1, 0).fixed(n)
    with torch.inference_mode():
        z = model.encode(x).mode()
    _write_decoded(model, z, output, out, torch.Generator().manual_seed(0), x)


@app.command(help_epilogue="Example: splitvae score photos/ samples/ --extractor efficientnet-lite0 --out score.json")
def score(
    real: str,
    fake: str,
    *,
    extractor: str = "inception-v3-compat",
    extractor_weights: Path | None = None,
    n: int | None = None,
    split: Literal["all", "train", "test"] = "all",
    image_size: int | str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Score one set of images against another: FID or FD, KID, precision, recall, density, coverage, with the protocol.

    Args:
        real: The reference: a folder of images, an .npz, parquet shards, or a hub name.
        fake: What is judged: likewise.
        extractor: inception-v3-compat (its distance is the FID), efficientnet-lite0 (works offline), clip-…, dinov2-….
        extractor_weights: A file with the extractor's weights, for machines without a network.
        n: Images of each set, chosen by --seed; all without it.
        split: Which images of a source that has splits.
        image_size: Resize both sets to this first; without it they are taken as they are, and must agree.
        seed: Of the choice of images and of the subsets inside the metrics.
        out: A .json for the numbers and their protocol.
    """
    from splitvae.config import parse_size

    size = parse_size(image_size)
    from splitvae.evaluation.features import EXTRACTORS

    if extractor not in EXTRACTORS:
        raise InputError(f"'{extractor}' is not a known extractor.{nearest(extractor, EXTRACTORS)}")
    if out is not None and out.suffix != ".json":
        raise InputError(f"cannot write the score to {out.name}: use a name that ends in .json.")
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from splitvae.evaluation.features import get_extractor
    from splitvae.evaluation.score import score as score_sets
    from splitvae.files import write_json

    network = get_extractor(extractor, extractor_weights, "cuda" if torch.cuda.is_available() else "cpu")
    console = Console(highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("features", total=None)
        result = score_sets(real, fake, network, n, split, size, seed, lambda count: bar.advance(task, count))
    protocol = result["protocol"]
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in result["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    for name, value in list(result["floor"].items())[:1]:
        table.add_row(f"floor: {name} of two halves of REAL", f"{value:.4f}")
    console.print(table)
    console.print(
        f"{protocol['fake']['images']:,} generated ({fake}) against {protocol['real']['images']:,} real ({real}) "
        f"images; {protocol['extractor']}, {protocol['resize']}, weights {protocol['weights_sha256'][:8]}",
        soft_wrap=True,
    )
    for note in result["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    if out is not None:
        write_json(out, result)


@app.command(help_epilogue="Example: splitvae info mnist")
def info(what: str) -> None:
    """Tell what a preset or a run is: layers with shapes, parameters, FLOPs and memory per image.

    Args:
        what: A preset, or a run directory.
    """
    from splitvae.describe import describe

    describe(what)


def _existing(run: Path) -> Path:
    """A path on this machine; a mistyped run must not be looked for on the hub."""
    if not run.expanduser().exists():
        raise InputError(f"{run} does not exist; pass a run directory or a saved model.")
    return run


def _preparation(run: Path) -> tuple[Any, Any]:
    """How the run prepared its pictures, (crop, fit); the defaults for a model without its run."""
    from splitvae.run import Run

    if not (run / "model").is_dir():
        return "auto", "crop"
    config = Run.open(run).config
    return config.crop, config.fit


def _read_images(paths: list[Path], shape: tuple[int, int, int], crop: Any, fit: Any) -> Any:
    """Image files as the model's input (B, C, H, W)."""
    import numpy as np
    import torch

    from splitvae.data.decode import choose_transform, decode, read_header

    images = []
    for path in paths:
        try:
            transform = replace(choose_transform([read_header(path)], shape[1:], crop, fit), channels=shape[0])
            images.append(decode(path, transform))
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
        if os.environ.get("RANK", "0") != "0" and isinstance(error, InputError):
            return error.exit_status  # the first of several processes tells it
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
