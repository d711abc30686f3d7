"""Plots in one small style, and text beside pictures: matplotlib without its global state (no pyplot, no backend).

Every function returns a ``matplotlib.figure.Figure``; ``save_plot`` writes it. The colours are those of Okabe & Ito
(2008), which people with every kind of colour vision tell apart.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from splitvae.errors import InputError
from splitvae.files import replacing
from splitvae.run import Run

BLACK, BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
COLOURS = {"x_hat": BLACK, "x1": BLUE, "x2": VERMILLION, "mix": GREEN, "x3": ORANGE, "x4": PURPLE}
PALE = "#BBBBBB"  # what is there, but not the point
DPI = 150


def mathtext(output: str) -> str:
    """How the paper writes an output, as mathtext: x_hat, x1 …, mask, mask1 …, x (the original), mix."""
    if output == "x_hat":
        return r"$\hat{x}$"
    if output.startswith("mask"):
        return rf"$\sigma_{{{output[4:]}}}$" if output[4:] else r"$\sigma$"
    if output.startswith("x") and output[1:].isdigit():
        return rf"$\hat{{x}}_{{{output[1:]}}}$"
    return "$x$" if output == "x" else output


def new_plot(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """An empty plot in our style.

    Args:
        width, height: inches.
        rows, columns: of axes.
        layout: of ``Figure.subplots``.

    Returns:
        the figure and its axes, row by row.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    found = list(np.atleast_1d(figure.subplots(rows, columns, **layout)).flat)
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, found


def save_plot(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def with_text(
    picture: Image.Image,
    texts: list[tuple[float, float, str]],
    left: int = 0,
    below: int = 0,
    points: float = 11,
    math: bool = True,
) -> Image.Image:
    """A picture with white margins and text in them; its own pixels stay as they are.

    Args:
        picture: any.
        texts: (x, y, text), the centre in pixels of the result from its upper left corner.
        left, below: margins in pixels.
        points: size of the letters, at 100 dots per inch.
        math: read ``$…$`` as formulas; False for names that people gave.
    """
    width, height = picture.width + left, picture.height + below
    # Half a pixel more, because matplotlib cuts the product of inches and dots down to whole pixels.
    figure = Figure(figsize=((width + 0.5) / 100, (height + 0.5) / 100), dpi=100, facecolor="white")
    for x, y, text in texts:
        figure.text(x / width, 1 - y / height, text, ha="center", va="center", fontsize=points, parse_math=math)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that the font lacks is drawn as boxes
        canvas.draw()
    whole = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    whole.paste(picture, (left, 0))
    return whole


def titled(picture: Image.Image, titles: list[str]) -> Image.Image:
    """A grid of rows of images with a title on the left of each row."""
    left = 24 + 8 * max(map(len, titles))
    step = picture.height / len(titles)
    return with_text(picture, [(left / 2, (i + 0.5) * step, title) for i, title in enumerate(titles)], left=left)


def latent_plot(latents: dict[str, Any], variational: bool = True) -> Figure:
    """The KL of each latent variable, sorted, and which of them are inactive.

    Args:
        latents: of ``evaluation.latents.diagnose_latents``, of which ``kl_per_dimension`` (nats) and
            ``inactive_by_mean``, a count, are read. The inactive ones are taken to be those of the lowest KL.
        variational: False where that is ½z², of an autoencoder without noise.
    """
    kl = np.sort(latents["kl_per_dimension"])[::-1]
    D, inactive = len(kl), latents["inactive_by_mean"]
    active = D - inactive
    figure, (axes,) = new_plot(6.4, 3.2)
    axes.bar(np.arange(1, D + 1), kl, width=0.85, color=[BLUE] * active + [VERMILLION] * inactive)
    axes.set_xlim(0.25, D + 0.75)
    axes.set_xlabel("latent variable, sorted")
    axes.set_ylabel("KL [nats]" if variational else "mean of ½z²")
    if inactive:
        # A bar of almost no height cannot be seen: the ground under it says where it is.
        axes.axvspan(active + 0.5, D + 0.75, color=VERMILLION, alpha=0.12, linewidth=0)
        middle, place = (active + D + 1) / 2, axes.get_xaxis_transform()  # x of the data, y from 0 to 1
        axes.text(middle, 0.5, "inactive", color=VERMILLION, transform=place, rotation=90, ha="center", va="center")
    total = f"{kl.sum():.1f} nats per image" if variational else f"½‖z‖² {kl.sum():.1f}"
    title = f"{active} of {D} variables active, {inactive} inactive; {total}"
    axes.set_title(title, fontsize=10, loc="left")
    return figure


def loss_plot(run: Run) -> Figure:
    """The terms of the objective along training, from ``log.jsonl``: mse with the γ that follows it, and KL.

    Of an autoencoder without noise: mse, and ½‖z‖².

    Raises:
        InputError: the run has no line in its log yet.
    """
    log = run.log()
    if not log:
        raise InputError(f"{run.path} has no line in its log.jsonl yet; train it for longer than its --log-every.")
    seen = [line["images_seen"] / 1000 for line in log]
    figure, (error, rate) = new_plot(6.4, 4.8, rows=2, sharex=True)
    error.plot(seen, [line["mse"] for line in log], color=BLUE, linewidth=1.2, label="mse per value")
    if run.config.variational:
        error.plot(
            seen, [line["gamma"] for line in log], color=VERMILLION, linewidth=1.6, label="γ, the decoder's variance"
        )
    error.set_yscale("log")
    error.legend(frameon=False)
    rate.plot(seen, [line["kl"] for line in log], color=GREEN, linewidth=1.2)
    rate.set_ylabel("KL [nats per image]" if run.config.variational else "½‖z‖², mean over images")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("thousand images seen")
    return figure
