"""Commands that use a split: layers for other programs, and one image's component over the rest of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from splitvae.commands.app import app, check_seed, existing, preparation
from splitvae.commands.images import check_out, read_images, write_rows
from splitvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from splitvae.models.autoencoder import Autoencoder


@app.command(help_epilogue="Example: splitvae layers runs/birds robin.jpg wren.jpg --out layers")
def layers(
    run: Path,
    image: list[Path] | None = None,
    *,
    out: Path,
    top: int = 1,
    n: int = 10,
    density: str | None = None,
    seed: int = 0,
    data: str | None = None,
    device: str | None = None,
) -> None:
    """Write the components of images as layers with transparency, for programs that know layers.

    One RGBA PNG for each component and image, such as robin-layer1-x2.png: layer 1 is the lowest and opaque, and all
    layers of an image over each other are its x̂.

    Args:
        run: A run directory, or a saved model; of at least two components.
        image: Image files; none = test images of the run's own data (of a saved model samples).
        out: A folder (single PNG files), or an .npz (arrays).
        top: The component of the highest layer, whose α is its whole weight; with 1, x̂₁ lies on top and its α is σ.
        n: How many images, where no files are named.
        density: Take samples from this density instead of test images: normal, or the name of one made by
            `splitvae fit`.
        seed: The same seed gives the same samples.
        data: Where the run's data is now, if not where it was.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = check_out(out, (".npz",), empty=False)  # layers are named after their images
    from splitvae.compositing import layers as rgba
    from splitvae.compositing import with_on_top
    from splitvae.models.autoencoder import decode_all
    from splitvae.pictures import save_images

    run = existing(run)
    model = _split_model(run, device)
    K = model.num_components
    order = with_on_top(component_index("--top", top, K), K)
    decoded = decode_all(model, latents_of(model, run, image, n, density, seed, data))
    arrays = rgba(decoded, order)
    rows = {f"layer{place + 1}-x{k + 1}": arrays[:, place] for place, k in enumerate(order)}
    paths = save_images(rows, out, _names(image) if image else None)
    print(paths[0] if len(paths) == 1 else f"{len(paths)} layers in {out}")


@app.command(help_epilogue="Example: splitvae recombine runs/birds robin.jpg forest.jpg --component 1 --out both.png")
def recombine(
    run: Path,
    foreground: Path | None = None,
    background: Path | None = None,
    *,
    component: int,
    out: Path,
    output: Literal["all", "recombined"] = "all",
    titles: Annotated[bool, Parameter(negative=())] = False,
    n: int = 10,
    density: str | None = None,
    seed: int = 0,
    data: str | None = None,
    device: str | None = None,
) -> None:
    """Put one component of an image over what the other components paint in another image.

    Args:
        run: A run directory, or a saved model; of at least two components.
        foreground: The image file that gives the component and its weight; none = pairs of test images of the run's own
            data (of a saved model pairs of samples).
        background: The image file that gives the rest.
        component: Which, 1 = x̂₁. Look at all of them first: splitvae decompose.
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files; a new or an empty one).
        output: all: both images, the weight, the component, the other's rest, and what they make; or recombined, the
            last alone.
        titles: Write beside each row of a .png what it is.
        n: How many pairs, where no files are named.
        density: Take samples from this density instead of test images: normal, or the name of one made by
            `splitvae fit`.
        seed: The same seed gives the same samples.
        data: Where the run's data is now, if not where it was.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = check_out(out)
    files = [path for path in (foreground, background) if path is not None]
    if len(files) == 1:
        raise InputError("a foreground needs a background: name two image files, or none.")
    from splitvae import compositing
    from splitvae.models.autoencoder import Decoded, decode_all

    run = existing(run)
    model = _split_model(run, device)
    k = component_index("--component", component, model.num_components)
    z = latents_of(model, run, files, n, density, seed, data, images_each=2)
    decoded, half = decode_all(model, z), len(z) // 2
    front, back = Decoded(*(part[:half] for part in decoded)), Decoded(*(part[half : 2 * half] for part in decoded))
    rows = compositing.recombination(front, back, k)
    if output == "recombined":
        rows = {"recombined": rows["recombined"]}
    write_rows(rows, out, titles)


def _split_model(run: Path, device: str | None) -> "Autoencoder":
    """A model of at least two components."""
    from splitvae.device import pick_device
    from splitvae.models.pretrained import load_model

    model = load_model(run).to(pick_device(device))
    if model.num_components == 1:
        raise InputError(f"the model of {run} has one component, so no layers; train one with --num-components 2.")
    return model


def component_index(option: str, value: int, count: int) -> int:
    """Of a component's number as people count, from 1, the one from 0."""
    if not 1 <= value <= count:
        raise InputError(f"{option} must lie in 1 … {count}, not {value}.")
    return value - 1


def latents_of(
    model: "Autoencoder",
    run: Path,
    files: list[Path] | None,
    n: int,
    density: str | None,
    seed: int,
    data: str | None,
    images_each: int = 1,
) -> "Tensor":
    """Latents (N, D): of files, of samples, or of the run's test images.

    Args:
        n: how many, where no files are named.
        images_each: how many images make one of those n.
    """
    import torch

    from splitvae.data.loader import fixed_images
    from splitvae.densities.store import load_density
    from splitvae.run import Run

    if files and density:
        raise InputError("name image files, or a --density to draw samples from, not both.")
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    check_seed(seed)
    count = n * images_each
    saved_model = not (run / "model").is_dir()  # which has no data
    if saved_model and data is not None:
        raise InputError(f"{run} is a saved model and no run, whose data --data could be; name image files instead.")
    if not files and (density or saved_model):
        generator = torch.Generator().manual_seed(seed)
        return load_density(density or "normal", run, model.latent_dim)[0].sample(count, generator=generator)
    if files:
        x = read_images(files, model.image_shape, *preparation(run))
    else:
        x = fixed_images(Run.open(run).at(data).trained_data, "test", count)
        if len(x) < images_each:
            raise InputError(f"the data has {len(x)} test image; name image files, or draw samples: --density normal.")
    with torch.inference_mode():
        return torch.cat([model.encode(part.to(model.device)).mode() for part in x.split(500)])


def _names(files: list[Path]) -> list[str]:
    """What files are called without folder and ending; numbered where two are called the same."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [f"{i:05d}-{stem}" for i, stem in enumerate(stems)]
