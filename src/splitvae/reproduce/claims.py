"""Two claims of Split-VAE (arXiv 2202.02738), tested, and one fair tuning.

- "latents": that splitting "permits larger latents" and reduces collapse (section 5): K = 1 and K = 2 at two numbers
  of latents, everything else equal.
- "components": what the number of Gaussians in the mixture does to each system, fitted on training codes.
- "rates": three learning rates for every system, judged on the distance to *training* images, which alone the table
  shows, so that a recipe is frozen before its score on test images is looked at.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from splitvae.errors import InputError, nearest
from splitvae.presets.systems import SYSTEMS
from splitvae.reports.columns import symbol
from splitvae.reports.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, new_plot
from splitvae.reproduce.plan import Scale, one_protocol
from splitvae.reproduce.results import Job
from splitvae.reproduce.tables import TABLES
from splitvae.reproduce.tables import jobs_of as jobs_of_table

CLAIMS = ("latents", "components", "rates")
LATENTS = {"mnist": (16, 32), "fashion-mnist": (16, 32), "cifar10": (128, 200), "celeba": (64, 150)}
MIXTURES = (1, 10, 20, 50, 100)
RATES = (5e-4, 1e-3, 2e-3)


def jobs_of(
    claim: str,
    data: str,
    scale: Scale = "small",
    only: list[str] | None = None,
    seeds: int = 3,
    n: int | None = None,
) -> list[Job]:
    """What is to be measured.

    Args:
        claim: one of ``CLAIMS``.
        data: a data set of the tables.
        scale, only, seeds, n: as for a table; "latents" is about SplitVAE and its K = 1 alone.

    Raises:
        InputError: an unknown claim, data set or system, or no seeds.
    """
    table = next((name for name, (of, _) in TABLES.items() if of == data), None)
    if claim not in CLAIMS or table is None:
        wrong, known = (claim, list(CLAIMS)) if claim not in CLAIMS else (data, [of for of, _ in TABLES.values()])
        raise InputError(f"'{wrong}' is unknown.{nearest(wrong, known)}")
    if claim == "latents":
        jobs = jobs_of_table(table, scale, ["svae", "vae"], seeds, n)
        return [changed(job, "latent_dim", latent_dim) for latent_dim in LATENTS[data] for job in jobs]
    jobs = jobs_of_table(table, scale, only, seeds, n)
    if claim == "components":
        return [replace(job, mixtures=MIXTURES) for job in jobs]
    return [changed(job, "lr", rate) for rate in RATES for job in jobs]


def changed(job: Job, field: str, value: Any) -> Job:
    """The job with another value in its recipe; itself where that is the preset's, so that the table's run serves."""
    return job if getattr(job.config, field) == value else replace(job, changes=((field, value),))


def summarize_claim(claim: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines of a claim's table, means over seeds.

    Returns:
        ``claim``, ``data``, ``scale``, ``distance``, ``floor``, ``images``, ``source``, ``hardware``, and ``lines``,
        each with ``system``, ``row``, ``output`` (the nearest to training images), ``seeds`` and ``cells``: name →
        mean, sd over seeds, values. "latents" has a line for each (system, latents), "rates" for each (system, rate).
        The cells of "rates" are distances to training images.
    """
    one_protocol(results)
    groups: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for result in results:
        key = (result["system"], result["config"]["lr"], result["config"]["latent_dim"])
        groups.setdefault(key, []).append(result)
    groups = dict(sorted(groups.items(), key=lambda item: (list(SYSTEMS).index(item[0][0]), *item[0][1:])))
    to = "_train" if claim == "rates" else ""
    lines = []
    for (system, rate, latent_dim), own in groups.items():
        outputs = list(dict.fromkeys(row["output"] for row in own[0]["rows"]))
        sources = [row["source"] for row in own[0]["rows"] if row["protocol"] == "clean" and row["output"] == "x_hat"]
        fitted = [source for source in sources if source not in ("REC", "normal")]
        best = min(outputs, key=lambda output: min(np.mean(_scores(own, s, output, "_train")) for s in fitted))
        cells = {source: _spread(_scores(own, source, best, to)) for source in sources}
        if claim == "latents":
            cells["inactive"] = _spread([result["latents"]["inactive_by_mean"] for result in own])
            cells["KL"] = _spread([result["latents"]["kl"] for result in own])
            cells["mse"] = _spread([result["training"]["mse"] for result in own])
        lines.append({
            "system": system, "row": SYSTEMS[system].row, "latent_dim": latent_dim, "lr": rate, "output": best,
            "seeds": sorted(result["seed"] for result in own), "cells": cells,
        })  # fmt: skip
    first = results[0]
    return {
        "claim": claim, "data": first["data"], "scale": first["scale"], "distance": first["distance"],
        "floor": float(np.mean([result["floor"]["frechet_distance"] for result in results])),
        "images": first["card"]["generated_images"], "source": first["card"]["source"],
        "hardware": sorted({result["hardware"] for result in results}), "lines": lines, "notes": first["notes"],
    }  # fmt: skip


def _scores(results: list[dict[str, Any]], source: str, output: str, to: str = "") -> list[float]:
    """Clean Fréchet distances of one source and output, one for each seed; ``to`` "_train" = to training images."""
    return [
        row["metrics"][f"frechet_distance{to}"]
        for result in results
        for row in result["rows"]
        if (row["protocol"], row["source"], row["output"]) == ("clean", source, output)
    ]


def _spread(values: list[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": values}


def claim_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of a claim's table."""
    names = list(dict.fromkeys(name for line in result["lines"] for name in line["cells"]))
    titles = {"normal": "N(0, I)", **{f"gmm-{k}": f"{k} Gaussian{'s' * (k > 1)}" for k in MIXTURES}, "gmm": "GMM"}
    titles |= {"gaussian": "1 Gaussian", "second-stage": "2nd stage"}
    second = "lr" if result["claim"] == "rates" else "latent_dim"
    headings = [
        "system",
        {"lr": "rate", "latent_dim": "latents"}[second],
        "output",
        *(titles.get(name, name) for name in names),
    ]
    digits = {"mse": 4, "inactive": 1, "KL": 1}
    usual = 2 if result["floor"] < 1 else 1
    rows = []
    for line in result["lines"]:
        cells = []
        for name in names:
            cell, places = line["cells"].get(name), digits.get(name, usual)
            told = "–" if cell is None else f"{cell['mean']:.{places}f}"
            cells.append(told + (f" ± {cell['sd']:.{places}f}" if cell and cell["sd"] is not None else ""))
        rows.append([line["row"], f"{line[second]:g}", symbol(line["output"]), *cells])
    return headings, rows


def claim_notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know."""
    seeds = sorted({seed for line in result["lines"] for seed in line["seeds"]})
    against = "to as many TRAINING images" if result["claim"] == "rates" else "to test images"
    return [
        f"mean ± standard deviation over training seeds {', '.join(map(str, seeds))}; {result['distance']} {against}, "
        f"{result['images']:,} images on either side, {result['source']}; densities on training codes; "
        f"floor {result['floor']:.1f}",
        "output: the nearest to training images",
        f"on {', '.join(result['hardware'])}",
        *result["notes"],
    ]


def claim_plot(result: dict[str, Any]) -> Figure:
    """The distance over the number of Gaussians, or over the number of latents with those that are inactive."""
    colours = [GREEN, BLUE, VERMILLION, ORANGE, PURPLE, BLACK]
    if result["claim"] == "components":
        figure, (axes,) = new_plot(6.4, 4.0)
        for i, line in enumerate(result["lines"]):
            cells = [line["cells"][f"gmm-{k}"] for k in MIXTURES]
            style: dict[str, Any] = {"color": colours[i % 6], "linestyle": ["-", "--"][i // 6 % 2], "marker": "o"}
            means, spread = [cell["mean"] for cell in cells], [cell["sd"] or 0.0 for cell in cells]
            axes.errorbar(MIXTURES, means, spread, label=line["row"], capsize=2, linewidth=1.2, markersize=4, **style)
        axes.set_xscale("log")
        axes.set_xticks(MIXTURES, [str(k) for k in MIXTURES])
        axes.minorticks_off()
        axes.set_xlabel("Gaussians in the mixture")
        axes.set_ylabel(result["distance"])
        axes.legend(fontsize=7, frameon=False)
        return figure
    if result["claim"] == "rates":
        figure, (axes,) = new_plot(6.4, 4.0)
        for i, system in enumerate(dict.fromkeys(line["system"] for line in result["lines"])):
            own = [line for line in result["lines"] if line["system"] == system]
            means = [line["cells"][SYSTEMS[system].density]["mean"] for line in own]
            style = {"color": colours[i % 6], "linestyle": ["-", "--"][i // 6 % 2], "marker": "o"}
            axes.plot([line["lr"] for line in own], means, label=own[0]["row"], **style)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel(f"{result['distance']} to training images")
        axes.legend(fontsize=7, frameon=False)
        return figure
    figure, (inactive, distance) = new_plot(8.0, 3.6, columns=2)
    for i, system in enumerate(dict.fromkeys(line["system"] for line in result["lines"])):
        own = [line for line in result["lines"] if line["system"] == system]
        latents = [line["latent_dim"] for line in own]
        for axes, name in ((inactive, "inactive"), (distance, "gmm")):
            cells = [line["cells"][name] for line in own]
            means, spread = [cell["mean"] for cell in cells], [cell["sd"] or 0.0 for cell in cells]
            axes.errorbar(latents, means, spread, color=colours[i], marker="o", capsize=3, label=own[0]["row"])
            axes.set_xticks(latents)
            axes.set_xlabel("latents")
            axes.set_ylim(bottom=0)
    inactive.set_title("inactive latents", fontsize=10, loc="left")
    distance.set_title(f"{result['distance']}, mixture on training codes", fontsize=10, loc="left")
    inactive.legend(fontsize=8, frameon=False)
    return figure
