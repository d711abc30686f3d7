"""Commands that make or take apart images, and the codes of images: sample, decompose, encode, compose."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from splitvae.commands.app import app, check_seed, existing, preparation
from splitvae.errors import InputError

Output = Literal["x_hat", "components", "mask", "mix", "all"]


def check_out(out: Path, forms: tuple[str, ...] = (".png", ".npz"), empty: bool = True) -> Path:
    """The place of output, refused before any work is done where it cannot be.

    Args:
        out: a file or a folder.
        forms: of files.
        empty: whether a folder must be: one of samples is a data set, into which nothing else may come.
    """
    out = out.expanduser()
    named = f"use a name that ends in {' or '.join(forms)}, or a folder"
    if out.suffix.lower() not in ("", *forms):
        raise InputError(f"cannot write {out.name}: {named}.")
    if not out.suffix and out.is_file():
        raise InputError(f"{out} is a file; {named}.")
    if empty and not out.suffix and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose another folder, or remove it first.")
    return out


@app.command(
    help_epilogue="Example: splitvae sample --n 16 --out samples.png\n\n"
    "Example: splitvae sample runs/digits --n 64 --density gmm --out samples.png"
)
def sample(
    run: Path | None = None,
    *,
    n: int = 64,
    out: Path,
    output: Output = "x_hat",
    density: str | None = None,
    label: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    titles: Annotated[bool, Parameter(negative=())] = False,
    device: str | None = None,
) -> None:
    """Generate images.

    Args:
        run: A run directory, or a saved model; without it the small MNIST model that comes with splitvae.
        n: Number of images.
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files; a new or an empty one).
        output: x_hat, the blend; components, the images that it blends; mask; mix, one random component per image;
            all, the rows of the paper's figures 1 to 4.
        density: Where latents come from: normal, the prior N(0, I), or the name of one made by `splitvae fit`. Without
            it normal, for the packaged model its gmm-per-class.
        label: The class to draw, from a class-wise density.
        temperature: Scales the standard deviation of the density; below 1 samples are more typical.
        seed: The same seed gives the same images.
        titles: Write beside each row of a .png what it is.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if not 0 < temperature < float("inf"):
        raise InputError(f"--temperature must be positive, not {temperature}.")
    check_seed(seed)
    out = check_out(out)
    import torch

    from splitvae.densities.store import load_density
    from splitvae.device import pick_device
    from splitvae.models.pretrained import load_model
    from splitvae.packaged import packaged_density, packaged_run

    if run is None:
        path, density = packaged_run().path, packaged_density(density)
        print("from the small MNIST model that comes with splitvae:")
    else:
        path, density = existing(run), density or "normal"
    model = load_model(path).to(pick_device(device))
    generator = torch.Generator().manual_seed(seed)
    source, record = load_density(density, path, model.latent_dim)
    if label is not None and record["class"] != "ClasswiseGaussianMixture":
        remedy = "--density gmm-per-class" if run is None else f"splitvae fit {run} --density gmm-per-class"
        raise InputError(f"--label needs a class-wise density: {remedy}")
    chosen = {} if label is None else {"label": label}
    z = source.sample(n, generator=generator, temperature=temperature, **chosen)
    write_decoded(model, z, output, out, generator, titles=titles)


@app.command(help_epilogue="Example: splitvae decompose runs/birds robin.jpg wren.jpg --out grid.png")
def decompose(
    run: Path,
    image: list[Path] | None = None,
    *,
    out: Path,
    n: int = 10,
    output: Output = "all",
    titles: Annotated[bool, Parameter(negative=())] = False,
    data: str | None = None,
    device: str | None = None,
) -> None:
    """Take images apart: each image, its mask σ, the components x̂₁ and x̂₂, and their blend x̂.

    Args:
        run: A run directory, or a saved model.
        image: Image files; none = test images of the run's own data.
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files; a new or an empty one).
        n: How many of the run's own test images, where no files are named.
        output: all, or one of x_hat, components, mask, mix.
        titles: Write beside each row of a .png what it is.
        data: Where the run's data is now, if not where it was.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    out = check_out(out)
    import torch

    from splitvae.device import pick_device
    from splitvae.models.pretrained import load_model

    run = existing(run)
    model = load_model(run).to(pick_device(device))
    if image:
        x = read_images(image, model.image_shape, *preparation(run))
    else:
        from splitvae.data.loader import fixed_images
        from splitvae.run import Run

        x = fixed_images(Run.open(run).at(data).trained_data, "test", n)
    with torch.inference_mode():
        z = model.encode(x.to(model.device)).mode()
    write_decoded(model, z, output, out, torch.Generator().manual_seed(0), x, titles)


@app.command(help_epilogue="Example: splitvae encode runs/digits digits --out codes.npz")
def encode(
    run: Path,
    source: str,
    *,
    out: Path,
    split: Literal["all", "train", "test"] = "all",
    device: str | None = None,
) -> None:
    """Write the latent codes of a source: mean and logvar (N, D), in the order of the source.

    Args:
        run: A run directory, or a saved model.
        source: A folder of images, an .npz, parquet shards, "digits" or a hub name; sizes are made to fit the model.
        out: An .npz with mean, logvar, row (the number in the source), and labels and names where there are some.
        split: Which images: all, or one of the splits.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    if out.suffix.lower() != ".npz":
        raise InputError(f"cannot write codes to {out.name}: use a name that ends in .npz.")
    import numpy as np

    from splitvae.codes import encode_rows
    from splitvae.data.cache import prepare
    from splitvae.device import pick_device
    from splitvae.files import replacing
    from splitvae.models.pretrained import load_model

    run = existing(run)
    model = load_model(run).to(pick_device(device))
    crop, fit = preparation(run)
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


def read_images(paths: list[Path], shape: tuple[int, int, int], crop: Any, fit: Any) -> Any:
    """Image files as the model's input (B, C, H, W)."""
    import numpy as np
    import torch

    from splitvae.data.decode import decode_for

    images = []
    for path in paths:
        try:
            images.append(decode_for(path, shape, crop, fit))
        except InputError as error:
            raise InputError(f"{path}: {error}.") from error
    return torch.from_numpy(np.stack(images)).float() / 255


TITLES = {
    "x": "image", "foreground": "A", "background": "B", "layer": "of A", "rest": "rest of B",
    "recombined": "together",
}  # fmt: skip


def write_rows(rows: dict[str, Any], out: Path, titles: bool = False) -> None:
    """Write rows of images (N, C, H, W) in the form that ``out`` asks for, and say where; see ``save_images``."""
    from splitvae.pictures import grid, save_images, save_picture, to_uint8

    arrays = {name: to_uint8(images) for name, images in rows.items()}
    if titles:
        if out.suffix.lower() != ".png":
            raise InputError(f"--titles stand beside the rows of a .png, which {out.name} is not; leave --titles out.")
        if len(rows) < 2:
            raise InputError("--titles tell rows apart, and there is one only; leave --titles out.")
        from splitvae.reports.columns import symbol
        from splitvae.reports.plots import titled

        save_picture(titled(grid(list(arrays.values())), [TITLES.get(name, symbol(name)) for name in arrays]), out)
        paths = [out]
    else:
        paths = save_images(arrays, out)
    print(paths[0] if len(paths) == 1 else f"{len(paths)} files in {out}")


def write_decoded(
    model: Any, z: Any, output: Output, out: Path, generator: Any, x: Any = None, titles: bool = False
) -> None:
    """Decode latents and write the outputs that were asked for; ``x`` is a first row of originals."""
    from splitvae.models.autoencoder import decode_all
    from splitvae.pictures import mix, rows_of

    K = model.num_components
    if K == 1 and output in ("components", "mask", "mix"):
        raise InputError(f"this model has one component and no {output}; use --output x_hat.")
    decoded = decode_all(model, z)
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
    write_rows(pictures, out, titles)


@app.command(help_epilogue="Example: splitvae compose --digits ylecun/mnist --textures uoft-cs/cifar10 --out bed.npz")
def compose(
    *, digits: str, textures: str, out: Path, n: int | None = None, image_size: str = "32", seed: int = 0
) -> None:
    """Make a data set whose parts are known: digits in random colours over textures, with the exact masks.

    A test bed for masks and layers. The .npz holds what `train --data` reads (train, test, their labels), train_masks
    and test_masks (1 = digit, 0 = background), and what the images were made of: train_alpha (0 to 255) and
    train_background, the same for test.

    Args:
        digits: A source of grey images.
        textures: A source of colour images.
        out: An .npz that does not exist yet.
        n: Training images; without it as many as there are digits and textures of. All test images are made.
        image_size: Side in pixels, or height and width (48x80).
        seed: Decides textures and colours.
    """
    if out.suffix.lower() != ".npz":
        raise InputError(f"cannot write {out.name}: use a name that ends in .npz.")
    out = out.expanduser()
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out.")
    import numpy as np

    from splitvae.config import parse_size
    from splitvae.data.cache import prepare
    from splitvae.data.compose import compose as composed
    from splitvae.files import replacing

    size, arrays = parse_size(image_size), dict[str, Any]()
    grey, colour = prepare(digits, size, channels=1, quiet=False), prepare(textures, size, channels=3, quiet=False)
    for split in ("train", "test"):
        made = composed(grey, colour, split, n if split == "train" else None, seed)
        arrays |= {
            split: made.images.transpose(0, 2, 3, 1),
            f"{split}_masks": (made.alpha >= 128).astype(np.uint8),
            f"{split}_alpha": made.alpha,
            f"{split}_background": made.background.transpose(0, 2, 3, 1),
        }
        if made.labels is not None:
            arrays[f"{split}_labels"] = made.labels
    H, W = arrays["train"].shape[1:3]
    with replacing(out) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"{out}: {len(arrays['train']):,} training and {len(arrays['test']):,} test images of {H}×{W}")
