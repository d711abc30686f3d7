"""`report.html`: one self-contained file about a run: its pictures, its numbers, and how they were measured."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure
from PIL import Image

from splitvae import __version__
from splitvae.densities.store import density_names, is_usable, load_density
from splitvae.evaluation.evaluate import best_density, chosen, summarize
from splitvae.evaluation.mask_iou import iou_words
from splitvae.evaluation.outputs import decode_outputs
from splitvae.evaluation.split_kind import SEMANTIC_FROM, split_words
from splitvae.evaluation.verify import read_metrics
from splitvae.files import replacing
from splitvae.pictures import square_grid
from splitvae.reports.columns import columns_of, component_words, symbol, value
from splitvae.reports.figures import generated_picture, nearest_picture, reconstructed_picture
from splitvae.reports.plots import latent_plot, loss_plot
from splitvae.run import Run

SAMPLES, TAKEN_APART = 64, 10
TRAINING = "The training."


def write_report(run: "Run | str | Path", out: Path | None = None) -> Path:
    """Write the report of an evaluated run.

    Args:
        run: with ``metrics.json``.
        out: the file; None = ``RUN/report.html``.

    Returns:
        the file written.
    """
    run = Run.open(run)
    html = render_report(run)
    path = out or run.path / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def render_report(run: Run, with_data: bool = True) -> str:
    """The report of an evaluated run, with ``metrics.json``, as HTML that needs no network and no other file.

    Args:
        run: evaluated.
        with_data: False leaves out the pictures that are made from the run's data.
    """
    metrics = read_metrics(run)
    best = best_density(run, metrics)
    page = Environment(loader=PackageLoader("splitvae", "reports"), autoescape=select_autoescape(["jinja"]))
    page.filters |= {"symbol": symbol, "split_words": split_words, "iou_words": iou_words}
    return page.get_template("report.html.jinja").render(
        run=run,
        name=run.path.resolve().name,
        parameters=sum(p.numel() for p in run.model.parameters()),
        metrics=metrics,
        matrices=[matrix(metrics, protocol) for protocol in _protocols(metrics)],
        lines=summarize(metrics["rows"]),
        columns=columns_of([row["metrics"] for row in metrics["rows"]], metrics["distance"]),
        best=best,
        pictures=pictures(run, metrics, best, with_data),
        value=value,
        semantic_from=SEMANTIC_FROM,
        components=component_line(metrics),
        config=shown_config(run),
        version=__version__,
    )


def render_record(run: Run) -> str:
    """What there is to tell of a run that was not evaluated, as HTML: its summary, samples, training, configuration."""
    page = Environment(loader=PackageLoader("splitvae", "reports"), autoescape=select_autoescape(["jinja"]))
    names, latents = ["normal", *density_names(run.path)], run.model.latent_dim
    density = [name for name in names if is_usable(name, run.path, latents)][-1]
    return page.get_template("record.html.jinja").render(
        run=run,
        name=run.path.resolve().name,
        parameters=sum(p.numel() for p in run.model.parameters()),
        summary=run.summary if run.finished else None,
        earlier=(run.path / "metrics.json").exists(),
        pictures=_urls(_own_pictures(run, density, SAMPLES)),
        config=shown_config(run),
        version=__version__,
    )


def component_line(metrics: dict[str, Any]) -> str | None:
    """``component_words`` of the source that would be chosen, for the content of ``metrics.json``; None = no split, no
    clean line, or no component was scored."""
    scored = {row["output"] for row in metrics["rows"]} > {"x_hat"}
    if metrics.get("split") is None or "clean" not in _protocols(metrics) or not scored:
        return None
    return component_words(metrics["rows"], chosen(metrics["rows"])["source"])


def matrix(metrics: dict[str, Any], protocol: str) -> dict[str, Any]:
    """The table in short: sources × outputs, mean and spread of the Fréchet distance to the test images."""
    lines = [line for line in summarize(metrics["rows"]) if line["protocol"] == protocol]
    outputs = list(dict.fromkeys(line["output"] for line in lines))
    cells: dict[str, dict[str, str]] = {}
    for line in lines:
        cells.setdefault(line["source"], {})[line["output"]] = value(line, "frechet_distance", 2)
    return {"protocol": protocol, "outputs": outputs, "cells": cells}


def shown_config(run: Run) -> dict[str, Any]:
    """The configuration for people to whom the report is passed on: whose folders these were is not their business."""
    config = run.record["config"]
    names = {name: Path(str(config[name])).name for name in ("data", "masks") if config.get(name) is not None}
    return {**config, **names, "num_components": run.model.num_components}


def pictures(run: Run, metrics: dict[str, Any], density: str, with_data: bool = True) -> list[dict[str, str]]:
    """The report's pictures as data URLs, each with a caption."""
    found: dict[str, Image.Image | Figure] = {}
    if run.model.num_components > 1 and with_data:
        found["Test images taken apart: the image, its mask σ, the components, their blend x̂."] = reconstructed_picture(
            run, TAKEN_APART
        )
    own = _own_pictures(run, density, SAMPLES)
    training = {caption: picture for caption, picture in own.items() if caption == TRAINING}
    found |= {caption: picture for caption, picture in own.items() if caption != TRAINING}
    if with_data:
        neighbours = nearest_picture(run, _samples(run, density, TAKEN_APART))
        found["Samples (top) and the training images nearest to each, by pixels: copies would show here."] = neighbours
    found["What each latent variable carries."] = latent_plot(metrics["latents"], run.config.variational)
    return _urls(found | training)


def _own_pictures(run: Run, density: str, n: int) -> "dict[str, Image.Image | Figure]":
    """Pictures for which the run's data is not needed, by caption."""
    source = "the prior N(0, I)" if density == "normal" else f"the density {density}"
    found: dict[str, Image.Image | Figure] = {}
    if run.model.num_components > 1:
        found[f"Samples from {source}: mask σ, the components, their blend x̂."] = generated_picture(
            run, "masks and components", density, "x_hat", TAKEN_APART, 0
        )
    found[f"{n} samples from {source}, not chosen."] = square_grid(_samples(run, density, n))
    if run.log():
        found[TRAINING] = loss_plot(run)
    return found


def _samples(run: Run, density: str, n: int) -> np.ndarray:
    """The first n of the report's samples, (n, C, H, W) uint8."""
    z = load_density(density, run.path, run.model.latent_dim)[0].sample(
        SAMPLES, generator=torch.Generator().manual_seed(0)
    )
    return np.concatenate([batch[:, 0] for batch in decode_outputs(run.model, z[:n])])


def _urls(found: "dict[str, Image.Image | Figure]") -> list[dict[str, str]]:
    return [{"caption": caption, "url": _data_url(picture)} for caption, picture in found.items()]


def _protocols(metrics: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["protocol"] for row in metrics["rows"]))


def _data_url(picture: "Image.Image | Figure") -> str:
    """A picture inside the page."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=150, facecolor="white")
    else:
        picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
