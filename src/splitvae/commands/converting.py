"""Commands between this and other programs: convert, export, push."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from splitvae.commands.app import app, existing

convert = App(name="convert", help="Make a run of weights that another program has trained.")
app.command(convert)


@convert.command(
    help_epilogue="Example: splitvae convert keras svae_mnist.h5 --out runs/official --beta 8 --data photos/mnist"
)
def keras(
    file: Path,
    *,
    out: Path,
    data: str | None = None,
    beta: float = 3.0,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Make a run of weights of the official TensorFlow code: it samples, decomposes, is scored and trained on.

    Sizes, channels, latents and components are told by the weights.

    Args:
        file: An .h5 file, or a checkpoint's name with or without its .index, for which TensorFlow must be installed.
        out: The run directory to make.
        data: What it was trained on, for densities and scores; without it `fit` and `evaluate` take --data themselves.
        beta: Weight of the KL term, for training on; the paper's is 8 for MNIST, 3 for CIFAR-10 and CelebA.
        overwrite: Replace the run in --out.
    """
    from splitvae.convert.adopt import adopt
    from splitvae.convert.keras import convert_keras

    model = convert_keras(file, beta)
    digest = f", SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else ""
    run = adopt(model, out, data, f"Keras, {file.name}{digest}", overwrite)
    C, H, W = model.image_shape
    print(
        f"{run.path}: {type(model).__name__} of {C}×{H}×{W}, {model.latent_dim} latents, {model.num_components} "
        f"components, {sum(p.numel() for p in model.parameters()):,} parameters\n"
        f"next: splitvae sample {run.path} --out samples.png"
    )


@app.command(help_epilogue="Example: splitvae push runs/mnist me/mnist-split-vae --private")
def push(run: Path, name: str, *, private: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Upload a run's model to the Hugging Face hub: with a card, its densities, metrics and a picture of samples.

    The token is that of HF_TOKEN, or of `hf auth login`. `evaluate` the run first: the card shows what was measured,
    and how. In Python, load_model("user/name") has it back.

    Args:
        run: A run directory.
        name: user/name; files of a repository that is there already are replaced.
        private: Make the repository a private one.
    """
    from splitvae.hub import push_to_hub

    print(push_to_hub(run, name, private))


@app.command(help_epilogue="Example: splitvae export runs/digits --format onnx")
def export(run: Path, *, format: Literal["onnx", "torch"] = "onnx", out: Path | None = None) -> None:
    """Write encode (images to posterior means) and decode as files that run without this library.

    Batches may have any size. Each file is run against the model before it is kept; export.json names what goes in and
    what comes out.

    Args:
        run: A run directory, or a saved model.
        format: onnx, for onnxruntime and others; torch, for torch.export.load.
        out: The folder; without it, export in the run.
    """
    from splitvae.convert.export import export as export_model
    from splitvae.models.pretrained import load_model

    folder = run / "export" if out is None else out.expanduser()
    record = export_model(load_model(existing(run)), folder, format)
    for name, file in record["files"].items():
        given, made = (_shapes(file[side]) for side in ("input", "outputs"))
        print(f"{folder / name}: {given} → {made}; differs from the model by {file['largest_difference']:.0e}")


def _shapes(named: dict[str, list[int | str]]) -> str:
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in named.items())
