"""What the number of components and the knobs of the split do, everything else equal.

Each variant is SplitVAE's recipe with other values, at equal parameters within 5 %: distances of x̂, of each component
and of their mix in the clean protocol, reconstruction, inactive latents, and the kind of split that was learned.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from splitvae.errors import InputError
from splitvae.evaluation.metrics import places_for
from splitvae.reports.columns import symbol
from splitvae.reports.plots import BLACK, BLUE, GREEN, VERMILLION, new_plot
from splitvae.reproduce.claims import scores_of
from splitvae.reproduce.plan import Scale, one_protocol
from splitvae.reproduce.results import Job
from splitvae.reproduce.summary import brief, origin_notes, origin_of, over_seeds, spread_of, told
from splitvae.reproduce.tables import jobs_of as jobs_of_table
from splitvae.reproduce.tables import table_about

# Name → changes to the recipe; the first is the paper's, K = 1 its vanilla counterpart, a system of the tables.
VARIANTS: dict[str, dict[str, Any]] = {
    "free": {},
    "K = 1": {},
    "K = 3": {"num_components": 3},
    "K = 4": {"num_components": 4},
    "K = 8": {"num_components": 8},
    "semantic": {"split": "semantic"},
    "syntactic": {"split": "syntactic"},
    "smooth and balanced masks": {"mask_smoothness": 0.1, "mask_balance": 0.1},
    "smooth decided balanced masks": {"mask_smoothness": 0.1, "mask_decisiveness": 0.1, "mask_balance": 0.1},
    "decided masks": {"mask_decisiveness": 0.1},
    "balanced masks": {"mask_balance": 0.1},
}
KINDS = {"semantic": GREEN, "syntactic": VERMILLION}  # others are black
COLLAPSED = 10  # times the median distance: no line of the plot


def jobs_of(
    data: str, scale: Scale = "small", only: list[str] | None = None, seeds: int = 3, n: int | None = None
) -> list[Job]:
    """What is to be trained and scored.

    Args:
        data: a data set of the tables.
        scale, seeds, n: as for a table.
        only: names of ``VARIANTS``.

    Raises:
        InputError: an unknown data set or variant, or no seeds.
    """
    table = table_about(data)
    for name in only or ():
        if name not in VARIANTS:
            raise InputError(f"'{name}' is no variant of the split: {', '.join(VARIANTS)}.")
    jobs = {system: jobs_of_table(table, scale, [system], seeds, n) for system in ("svae", "vae")}
    return [
        # K = 1 is the table's vanilla counterpart, whose runs serve.
        jobs["vae"][i] if name == "K = 1" else replace(job, changes=tuple(VARIANTS[name].items()))
        for i, job in enumerate(jobs["svae"])
        for name in (VARIANTS if only is None else only)
    ]


def summarize_splits(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines of the table, one for each variant, means over seeds.

    Returns:
        what ``origin_of`` has, and ``lines`` with ``variant``, ``parameters``, ``seeds``, ``kinds`` (of each seed; None
        for K = 1), ``components`` (names of those) and ``cells``: name → mean, sd, values, where the names are
        REC, each output's name (of mixture samples), mse, inactive, and of the masks smoothness, contours, decisiveness
        and "smallest share", of the pixels, of any component.
    """
    one_protocol(results)
    lines = []
    for variant, changes in VARIANTS.items():
        system = "vae" if variant == "K = 1" else "svae"
        own = sorted((r for r in results if (r["system"], r["changes"]) == (system, changes)), key=lambda r: r["seed"])
        if not own:
            continue
        splits = [result["split"] for result in own]
        outputs = list(dict.fromkeys(row["output"] for row in own[0]["rows"]))
        cells: dict[str, list[float]] = {"REC": scores_of(own, "x_hat", "REC")}
        cells |= {output: scores_of(own, output, "gmm") for output in outputs}
        cells["mse"] = [result["training"]["mse"] for result in own]
        cells["inactive"] = [result["latents"]["inactive_by_mean"] for result in own]
        if all(splits):
            cells["smoothness"] = [split["smoothness"] for split in splits]
            cells["contours"] = [split["contours"] for split in splits]
            cells["decisiveness"] = [split["decisiveness"] for split in splits]
            cells["smallest share"] = [min(split["usage"]) for split in splits]
        lines.append({
            "variant": variant, "parameters": own[0]["parameters"]["with_batch_norm_statistics"],
            "seeds": [result["seed"] for result in own], "kinds": [split and split["kind"] for split in splits],
            "components": [output for output in outputs if output not in ("x_hat", "mix")],
            "cells": {name: spread_of(values) for name, values in cells.items()},
        })  # fmt: skip
    return origin_of(results, paper=False) | {"lines": lines}


def split_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the table."""
    usual = places_for(result["floor"])
    digits = {"mse": 4, "inactive": 1, "smoothness": 2, "contours": 2, "decisiveness": 2, "smallest share": 2}
    rows = []
    for line in result["lines"]:
        cells = line["cells"]
        texts = {name: told(cell, digits.get(name, usual)) for name, cell in cells.items()}
        best = min(line["components"], key=lambda name: cells[name]["mean"], default=None)
        rows.append([
            line["variant"], f"{line['parameters'] / 1e6:.2f} M", str(len(line["seeds"])), texts["REC"], texts["x_hat"],
            "–" if best is None else f"{texts[best]} ({symbol(best)})",
            *(texts.get(name, "–") for name in ("mix", *digits)),
            ", ".join(kind or "–" for kind in dict.fromkeys(line["kinds"])),
        ])  # fmt: skip
    return [
        "variant", "params", "seeds", "REC", "x̂", "best component", "mix", *digits, "kinds learned",
    ], rows  # fmt: skip


def split_notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know."""
    seeds = sorted({seed for line in result["lines"] for seed in line["seeds"]})
    return [
        f"{over_seeds(seeds)}; {result['distance']}, clean "
        f"protocol, mixture on training codes but for REC; {result['images']:,} images on either side, "
        f"{result['source']}; floor {result['floor']:.{places_for(result['floor'])}f}",
        "best component: of the mean over seeds, to test images: an optimistic choice, which x̂ and mix are not",
        *origin_notes(result),
    ]


def split_plot(result: dict[str, Any]) -> Figure:
    """The distance of x̂ by variant; and what components gain or lose against x̂, over the smoothness of the masks
    (the paper's figures 3 and 4), each seed a point."""
    lines = result["lines"]
    figure, (score, gain) = new_plot(10.4, 0.3 * len(lines) + 1.6, columns=2)
    scores = [value for line in lines for value in line["cells"]["x_hat"]["values"]]
    # A seed that collapsed is named at the edge: on a scale that holds it nothing else could be told apart.
    edge = 1.05 * max(value for value in scores if value <= COLLAPSED * np.median(scores))
    for row, line in enumerate(lines):
        cell = line["cells"]["x_hat"]
        beyond = [value for value in cell["values"] if value > edge]
        inside = [value for value in cell["values"] if value <= edge]
        score.plot(inside, [row] * len(inside), "o", color=BLUE, markersize=5, alpha=0.5, markeredgewidth=0)
        if beyond:
            score.plot(edge, row, ">", color=BLUE, markersize=6, clip_on=False)
            named = ", ".join(brief(value) for value in beyond)
            score.annotate(named, (edge, row), (-7, 0), textcoords="offset points", fontsize=8, ha="right", va="center")
        else:
            score.plot(cell["mean"], row, "|", color=BLUE, markersize=12, markeredgewidth=2)
        for i, kind in enumerate(line["kinds"] if line["components"] else ()):
            best = min(line["cells"][name]["values"][i] for name in line["components"])
            difference = best - line["cells"]["x_hat"]["values"][i]
            smoothness = line["cells"]["smoothness"]["values"][i]
            gain.plot(smoothness, difference, "o", color=KINDS.get(kind, BLACK), markersize=5, alpha=0.7)
    score.set_yticks(range(len(lines)), [line["variant"] for line in lines])
    score.set_ylim(len(lines) - 0.5, -0.7)
    score.set_xlim(right=edge)
    score.set_xlabel(f"{result['distance']} of x̂, mixture")
    gain.axhline(0, color=BLACK, linewidth=0.8, linestyle=":")
    gain.set_xlabel("smoothness of the masks")
    for kind, colour in (*KINDS.items(), ("none", BLACK)):
        gain.plot([], [], "o", color=colour, markersize=5, alpha=0.7, label=kind)
    gain.legend(fontsize=8, frameon=False, title="kind of split", title_fontsize=8)
    gain.set_ylabel("best component − x̂")
    return figure
