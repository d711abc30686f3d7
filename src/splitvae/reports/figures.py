"""The paper's figures from a run: ``FIGURES`` says what each one shows, ``draw_figure`` draws it.

Split-VAE (arXiv 2202.02738), figures 1 to 15 without 5 and 6, which show the architecture (`splitvae info`). A figure
may be drawn from any run, whatever data it was trained on; the captions name the data set of the paper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from splitvae.data.cache import ImageCache, prepare
from splitvae.data.loader import fixed_images
from splitvae.densities.store import load_density
from splitvae.errors import InputError
from splitvae.evaluation.nearest import nearest_training
from splitvae.evaluation.outputs import output_names
from splitvae.files import write_json
from splitvae.models.autoencoder import decode_all
from splitvae.pictures import GAP, grid, mix, rows_of, save_picture, square_grid, to_uint8
from splitvae.reports.evolution import evolution, evolution_plot
from splitvae.reports.plots import mathtext, save_plot, with_text
from splitvae.run import Run, is_run

if TYPE_CHECKING:
    from splitvae.evaluation.features import Extractor

Kind = Literal["masks and components", "samples", "mean images", "reconstructions", "distances along training", "masks"]
SAMPLED = ("masks and components", "samples", "masks")  # kinds that draw latents from a density
MEAN_SIDE = 256  # pixels, about, of a mean image: it is shown large, because it is all there is to see
LABELS, NEAREST_LABELS = 44, 84  # pixels left of rows, for their symbols or words


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper.

    Attributes:
        kind: what is drawn.
        n: images (columns, tiles, or samples of a distance) unless another number is asked for; 0 = no choice.
        caption: what it shows, and of which data set in the paper.
    """

    kind: Kind
    n: int
    caption: str


APART = "Generated images taken apart; rows: masks σ, components x̂₁, x̂₂ … and their blend x̂. In the paper: "
SAMPLES = "Generated images, none left out. In the paper: "

# Which of its two kinds of masks a model finds is up to its training: what the captions say of them is of the paper.
FIGURES: dict[int, PaperFigure] = {
    1: PaperFigure(
        "masks and components", 10,
        APART + "MNIST, the syntactic kind: a fine, regular mask divides neighbouring pixels among the components.",
    ),
    2: PaperFigure(
        "masks and components", 10,
        APART + "MNIST, the semantic kind: the mask follows contours, one component is fat and the other thin.",
    ),
    3: PaperFigure(
        "masks and components", 10,
        APART + "CelebA, the syntactic kind: each component has every other pixel to itself.",
    ),
    4: PaperFigure(
        "masks and components", 10,
        APART + "CelebA, the semantic kind: the mask draws contours, and the components push them opposite ways.",
    ),
    7: PaperFigure("masks and components", 10, APART + "MNIST at the end of training, fat and thin digits."),
    8: PaperFigure("samples", 100, SAMPLES + "MNIST."),
    9: PaperFigure(
        "mean images", 0,
        "The mean of all training images: the more of it can be recognised, the more alike the images are. In the "
        "paper: CIFAR-10, which is a grey cloud, and CelebA, which is a face.",
    ),
    10: PaperFigure(
        "reconstructions", 10,
        "Test images and what the model makes of them; rows: x, mask σ, x̂₁, x̂₂, x̂. In the paper: CIFAR-10.",
    ),
    11: PaperFigure("samples", 100, SAMPLES + "CIFAR-10."),
    12: PaperFigure("masks and components", 10, APART + "CelebA; x̂ is a little soft, its components more marked."),
    13: PaperFigure(
        "distances along training", 10_000,
        "Fréchet distance from test images along training, of x̂, of each component and of their mix; samples from the "
        "prior. In the paper: CelebA, without the mix.",
    ),
    14: PaperFigure("samples", 64, SAMPLES + "CelebA."),
    15: PaperFigure("masks", 64, "Masks of generated images. In the paper: CelebA."),
}  # fmt: skip


def draw_figure(
    number: int,
    run_or_sources: "Run | str | Path | Sequence[Run | str | Path]",
    density: str = "normal",
    output: str = "x_hat",
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    extractor: "str | Extractor" = "inception-v3-compat",
    weights: str | Path | None = None,
    device: "torch.device | str | None" = None,
    data: str | None = None,
    advance: Callable[[int], Any] | None = None,
) -> Path:
    """Draw a figure of the paper and write it as a PNG; figure 13 leaves its numbers beside it as JSON.

    Args:
        number: one of ``FIGURES``.
        run_or_sources: a run; for figure 9 one or several runs or sources of images.
        density: what latents are drawn from: "normal", the prior, or a density of the run.
        output: what figures 8, 11 and 14 show: "x_hat", "x1" … "xK", or "mix", a random component of each sample.
        n: number of images (figure 13: of samples for each snapshot); None = the figure's own.
        seed: of the latents; `splitvae sample` draws the same ones with the same seed.
        out: the file; None = ``RUN/figures/figure-N.png``, without a run ``figure-N.png`` in the current folder.
        extractor, weights, device, advance: for figure 13, as in ``evaluate``.
        data: where the run's data is now; None = where it was.

    Returns:
        the file written.

    Raises:
        InputError: there is no such figure, or the run does not have what it takes, with the remedy.
    """
    figure = _figure(number)
    single = isinstance(run_or_sources, (Run, str, Path))
    places: list[Run | str | Path] = [run_or_sources] if single else list(run_or_sources)  # type: ignore[list-item, arg-type]
    _check(number, figure, places, density, output, n)
    run = _run_of(places[0]) if figure.kind == "mean images" else Run.open(places[0]).at(data)
    folder = Path() if run is None else run.path / "figures"
    path = folder / f"figure-{number}.png" if out is None else Path(out).expanduser()
    if path.suffix.lower() != ".png":
        raise InputError(f"cannot write the figure to {path.name}: use a name that ends in .png.")
    if figure.kind == "mean images":
        save_picture(mean_picture(places), path)
        return path
    assert run is not None
    n = n or figure.n
    if figure.kind == "distances along training":
        result = evolution(run, n, seed, extractor, weights, device, advance)
        write_json(path.with_suffix(".json"), result)
        save_plot(evolution_plot(result), path)
        return path
    if run.model.num_components == 1 and figure.kind != "samples":
        samples = ", ".join(str(other) for other, entry in FIGURES.items() if entry.kind == "samples")
        raise InputError(
            f"figure {number} shows masks and components, and the model of {run.path} has one component; what it "
            f"generates is drawn by the figures {samples}."
        )
    if figure.kind == "reconstructions":
        picture = reconstructed_picture(run, n)
    else:
        picture = generated_picture(run, figure.kind, density, output, n, seed)
    save_picture(picture, path)
    return path


def generated_picture(run: Run, kind: Kind, density: str, output: str, n: int, seed: int) -> Image.Image:
    """Figures of generated images: rows of masks and components, a grid of samples, or one of masks."""
    generator = torch.Generator().manual_seed(seed)
    z = load_density(density, run.path, run.model.latent_dim)[0].sample(n, generator=generator)
    decoded = decode_all(run.model, z)
    rows = {name: to_uint8(images) for name, images in rows_of(decoded).items()}
    if kind == "masks and components":
        return _labelled(rows)
    if kind == "masks":
        masks = {name: images for name, images in rows.items() if name.startswith("mask")}
        return square_grid(masks["mask"]) if "mask" in masks else _labelled(masks)
    choices = output_names(run.model) + ["mix"] * (run.model.num_components > 1)
    if output not in choices:
        raise InputError(f"the model of {run.path} has no output '{output}'; choose from: {', '.join(choices)}.")
    return square_grid(to_uint8(mix(decoded, generator)) if output == "mix" else rows[output])


def reconstructed_picture(run: Run, n: int) -> Image.Image:
    """Figure 10: n fixed test images, with masks, components and x̂ decoded from their posterior mean."""
    x = fixed_images(run.trained_data, "test", n, run.model.device)
    with torch.inference_mode():
        z = run.model.encode(x).mode()
    rows = {"x": x} | rows_of(decode_all(run.model, z))
    return _labelled({name: to_uint8(images) for name, images in rows.items()})


def mean_picture(places: Sequence[Run | str | Path]) -> Image.Image:
    """Figure 9: the mean training image of each run's data or source, side by side, with its name below."""
    tiles, names = [], []
    for place in places:
        run = _run_of(place)
        cache = run.trained_data if run is not None else prepare(str(place), quiet=True)
        image = np.rint(mean_image(cache)).astype(np.uint8)
        zoom = max(1, round(MEAN_SIDE / image.shape[1]))
        large = image.repeat(zoom, axis=1).repeat(zoom, axis=2)
        tiles.append(Image.fromarray(np.broadcast_to(large, (3, *large.shape[1:])).transpose(1, 2, 0)))
        name = Path(cache.meta["source"]).name
        name = name if len(name) < 30 else f"{name[:28]}…"  # as wide as a tile
        names.append(f"{name}\nmean of {len(cache.splits['train']):,} images")
    gap = 8 * GAP
    height = max(tile.height for tile in tiles)
    picture = Image.new("RGB", (sum(tile.width + gap for tile in tiles) + gap, height + gap), "white")
    texts, x = [], gap
    for tile, name in zip(tiles, names, strict=True):
        picture.paste(tile, (x, gap + height - tile.height))
        texts.append((x + tile.width / 2, height + gap + 24.0, name))
        x += tile.width + gap
    return with_text(picture, texts, below=48, math=False)


def mean_image(cache: ImageCache) -> np.ndarray:
    """The mean of a training split, (C, H, W) float64 in 0 … 255; a part of the images is in memory at a time."""
    rows, chunk = cache.splits["train"], 2_000
    total = np.zeros(cache.shape, np.uint64)
    for start in range(0, len(rows), chunk):
        total += cache.images[rows[start : start + chunk]].sum(axis=0, dtype=np.uint64)
    return total / len(rows)


def nearest_picture(run: Run, images: np.ndarray, k: int = 3) -> Image.Image:
    """Samples in the first row, below each the k training images nearest to it (see ``nearest_training``).

    Args:
        run: whose training images are searched.
        images: (N, C, H, W) uint8 of the run's shape.
        k: neighbours; fewer where there are fewer training images.
    """
    if images.shape[1:] != run.image_shape:
        raise InputError(f"images must be of the run's shape {run.image_shape}, not {images.shape[1:]}.")
    found, _ = nearest_training(images, run.trained_data, k)
    rows = {"sample": images}
    for i, column in enumerate(found.T):
        rows["nearest" if i == 0 else f"nearest {i + 1}"] = run.trained_data.images[column]
    return _labelled(rows, left=NEAREST_LABELS, points=10)


def _figure(number: int) -> PaperFigure:
    if number in FIGURES:
        return FIGURES[number]
    drawn = "; ".join(
        f"{', '.join(str(key) for key, figure in FIGURES.items() if figure.kind == kind)} ({kind})"
        for kind in get_args(Kind)
    )
    why = "it shows the architecture, which `splitvae info` tells" if number in (5, 6) else "the paper has no such one"
    raise InputError(f"figure {number} cannot be drawn: {why}. Choose from: {drawn}.")


def _check(number: int, figure: PaperFigure, places: Sequence[Any], density: str, output: str, n: int | None) -> None:
    """Refuse what a figure has no use for, before any work is done."""
    if not places:
        what = "runs or sources of images" if figure.kind == "mean images" else "a run"
        raise InputError(f"figure {number} is drawn from {what}: splitvae figure {number} RUN")
    if len(places) > 1 and figure.kind != "mean images":
        raise InputError(f"figure {number} is drawn from one run, not from {len(places)}.")
    if n is not None and (n < 1 or not figure.n):
        bound = "at least 1" if figure.n else "left out, because all training images are averaged"
        raise InputError(f"the n of figure {number} must be {bound}, not {n}.")
    if density != "normal" and figure.kind not in SAMPLED:
        why = "a density fits the codes of the last model" if number == 13 else "nothing is sampled for it"
        raise InputError(f"figure {number} takes no density, because {why}; leave out {density}.")
    if output != "x_hat" and figure.kind != "samples":
        raise InputError(f"figure {number} shows {figure.kind} and takes no output; leave out {output}.")


def _run_of(place: Run | str | Path) -> Run | None:
    """The run in a place, or None where it is a source of images."""
    return Run.open(place) if isinstance(place, Run) or is_run(Path(place).expanduser()) else None


def _labelled(rows: dict[str, np.ndarray], left: int = LABELS, points: float = 14) -> Image.Image:
    """Rows of images (N, C, H, W) uint8 with their symbols on the left."""
    picture = grid(list(rows.values()))
    step = picture.height / len(rows)
    texts = [(left / 2, (i + 0.5) * step, mathtext(name)) for i, name in enumerate(rows)]
    return with_text(picture, texts, left=left, points=points)
