"""The claims and the tuning in words and as pictures."""

from typing import Any

import numpy as np
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from splitvae.evaluation.metrics import places_for
from splitvae.presets.systems import OWN, SYSTEMS
from splitvae.reports.columns import symbol
from splitvae.reports.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILLION, new_plot
from splitvae.reproduce.claims import MIXTURES
from splitvae.reproduce.render import lead_notes
from splitvae.reproduce.summary import brief, origin_notes, over_seeds, told

COLOURS = [GREEN, BLUE, VERMILLION, ORANGE, PURPLE, BLACK]
TITLES = {
    "normal": "N(0, I)", "gaussian": "1 Gaussian", "gmm": "GMM", "second-stage": "2nd stage",
    **{f"gmm-{k}": f"{k} Gaussian{'s' * (k > 1)}" for k in MIXTURES},
}  # fmt: skip
STARS = {
    "tuning": "* the system's best trial, with what its latents were drawn from",
    "tuned": "* what was nearest to training images in the tuning, N(0, I) or a fitted density",
    "best": "* what is nearest to training images, N(0, I) or a fitted density",
}


def claim_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of a claim's table; of a tuning each system's best trial is marked."""
    names = list(dict.fromkeys(name for line in result["lines"] for name in line["cells"]))
    shows_recipe = result["claim"] in STARS
    digits = {"mse": 4, "inactive": 1, "KL": 1}
    usual = places_for(result["floor"])
    rows = []
    for line in result["lines"]:
        cells = []
        for name in names:
            text = told(line["cells"].get(name), digits.get(name, usual))
            cells.append(text + " *" * (shows_recipe and line["chosen"] and name == line["density"]))
        rows.append(
            [line["row"], trial(line) if shows_recipe else str(line["latent_dim"]), symbol(line["output"]), *cells]
        )
    return [
        "system",
        "recipe" if shows_recipe else "latents",
        "output",
        *(TITLES.get(name, name) for name in names),
    ], rows


def trial(line: dict[str, Any]) -> str:
    """What was changed in the recipe."""
    changes = {name: value if isinstance(value, str) else f"{value:g}" for name, value in line["changes"].items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changes.items()) or "as it is"


def claim_notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know."""
    seeds = sorted({seed for line in result["lines"] for seed in line["seeds"]})
    tuning = result["claim"] == "tuning"
    against = "to as many TRAINING images" if tuning else "to test images"
    return [
        f"{over_seeds(seeds)}; {result['distance']} {against}, "
        f"{result['images']:,} images on either side, {result['source']}; densities on training codes; "
        f"floor {result['floor_to_train' if tuning else 'floor']:.{places_for(result['floor'])}f}",
        *([_choice(result)] if tuning or result["claim"] == "best" else []),
        *([STARS[result["claim"]]] if result["claim"] in STARS else []),
        *_lost_seeds(result["lines"], seeds),
        *lead_notes(result["lead"], result["distance"]),
        *lead_notes(result["lead_of_split"], result["distance"]),
        *origin_notes(result),
    ]


def _choice(result: dict[str, Any]) -> str:
    """How many candidates each system's best was chosen from: whoever has more is luckier."""
    counts: dict[str, int] = {}
    for line in result["lines"]:
        counts[line["row"]] = counts.get(line["row"], 0) + line["candidates"]
    rows: dict[int, list[str]] = {}
    for row, count in counts.items():
        rows.setdefault(count, []).append(row)
    numbers = "; ".join(f"{count} for {', '.join(names)}" for count, names in sorted(rows.items()))
    return f"recipe, output and density: the nearest to training images, of so many candidates: {numbers}"


def _lost_seeds(lines: list[dict[str, Any]], seeds: list[int]) -> list[str]:
    """Lines that lack a seed: those that failed are in no mean, and who survived need not be like them."""
    return [
        f"{line['row']}, {trial(line)}: only the seeds {', '.join(map(str, line['seeds']))}"
        for line in lines
        if line["seeds"] != seeds
    ]


def claim_plot(result: dict[str, Any]) -> Figure:
    """The distance over the number of Gaussians, the trials, or the latents with those that are inactive."""
    plots = {"components": _components, "latents": _latents, "tuning": _tuning, "tuned": _tuned, "best": _tuned}
    return plots[result["claim"]](result)


def _components(result: dict[str, Any]) -> Figure:
    figure, (axes,) = new_plot(7.6, 4.0)
    counts = [int(name.removeprefix("gmm-")) for name in result["lines"][0]["cells"] if name.startswith("gmm-")]
    for i, line in enumerate(result["lines"]):
        cells = [line["cells"][f"gmm-{k}"] for k in counts]
        style: dict[str, Any] = {"color": COLOURS[i % 6], "linestyle": ["-", "--"][i // 6 % 2], "marker": "o"}
        means, spread = [cell["mean"] for cell in cells], [cell["sd"] or 0.0 for cell in cells]
        axes.errorbar(counts, means, spread, label=line["row"], capsize=2, linewidth=1.2, markersize=4, **style)
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(k) for k in counts])
    axes.minorticks_off()
    _log_where_wide(axes.yaxis, [line["cells"][f"gmm-{k}"]["mean"] for line in result["lines"] for k in counts])
    axes.set_xlabel("Gaussians in the mixture")
    axes.set_ylabel(result["distance"])
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))  # beside: lines go everywhere
    return figure


def _tuning(result: dict[str, Any]) -> Figure:
    """One row for each system, one point for each of its trials, the best one filled."""
    systems = list(dict.fromkeys(line["system"] for line in result["lines"]))
    figure, (axes,) = new_plot(7.0, 0.42 * len(systems) + 1.2)
    for line in result["lines"]:
        row, fill = systems.index(line["system"]), BLUE if line["chosen"] else "none"
        axes.plot(line["to_train"], row, "o", color=BLUE, markersize=7, markerfacecolor=fill)
        if line["chosen"]:
            place = (line["to_train"], row)
            axes.annotate(trial(line), place, (0, 6), textcoords="offset points", fontsize=7, ha="center")
    axes.axvline(result["floor_to_train"], color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(systems)), [SYSTEMS[system].row for system in systems])
    axes.set_ylim(len(systems) - 0.5, -0.7)
    _log_where_wide(axes.xaxis, [line["to_train"] for line in result["lines"]])
    axes.margins(x=0.07)
    axes.set_xlabel(f"{result['distance']} to training images, best density; dotted: floor")
    return figure


def _tuned(result: dict[str, Any]) -> Figure:
    """One row for each system, nearest first."""
    lines = sorted(result["lines"], key=lambda line: float(np.mean(line["score"])))
    figure, (axes,) = new_plot(7.0, 0.42 * len(lines) + 1.2)
    for row, line in enumerate(lines):
        cell = line["cells"][line["density"]]
        colour = GREEN if line["system"] in OWN else BLUE
        axes.errorbar(cell["mean"], row, xerr=cell["sd"], color=colour, marker="o", markersize=6, capsize=3)
        axes.annotate(brief(cell["mean"]), (cell["mean"], row), (0, 7), textcoords="offset points", fontsize=7)
    axes.axvline(result["floor"], color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(lines)), [line["row"] for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.7)
    axes.set_xlabel(f"{result['distance']}, mean ± sd; dotted: floor")
    return figure


def _latents(result: dict[str, Any]) -> Figure:
    """Every seed a point, the line through the medians: one that got stuck would drag a mean out of sight."""
    figure, (inactive, distance) = new_plot(8.0, 3.6, columns=2)
    for axes, name in ((inactive, "inactive"), (distance, "gmm")):
        for i, system in enumerate(dict.fromkeys(line["system"] for line in result["lines"])):
            own = [line for line in result["lines"] if line["system"] == system]
            latents, values = [line["latent_dim"] for line in own], [line["cells"][name]["values"] for line in own]
            axes.plot(latents, [np.median(each) for each in values], color=COLOURS[i], label=own[0]["row"])
            for latent_dim, each in zip(latents, values, strict=True):
                axes.plot([latent_dim] * len(each), each, "o", color=COLOURS[i], markerfacecolor="none")
        axes.set_xticks(sorted({line["latent_dim"] for line in result["lines"]}))
        axes.set_xlabel("latents; circles: seeds, line: their median")
        axes.margins(x=0.2)
    inactive.set_ylim(0, 1.05 * max(1, *(max(line["cells"]["inactive"]["values"]) for line in result["lines"])))
    distances = [value for line in result["lines"] for value in line["cells"]["gmm"]["values"]]
    if not _log_where_wide(distance.yaxis, distances):
        distance.set_ylim(0, 1.05 * max(distances))
    inactive.set_title("inactive latents", fontsize=10, loc="left")
    distance.set_title(f"{result['distance']}, mixture on training codes", fontsize=10, loc="left")
    inactive.legend(fontsize=8, frameon=False)
    return figure


def _log_where_wide(axis: XAxis | YAxis, distances: list[float]) -> bool:
    """Makes an axis logarithmic where distances differ more than tenfold, as when a run got stuck; whether it did."""
    wide = max(distances) > 10 * min(distances)
    if wide:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    return wide
