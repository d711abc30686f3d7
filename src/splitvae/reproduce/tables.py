"""Tables 1, 3 and 4 of Split-VAE (arXiv 2202.02738): every system on MNIST, CIFAR-10, CelebA, under one protocol.

The paper borrows its numbers from five publications with five protocols. Here every system is trained and scored by
the same code, several times; what was published stands beside it, and why it is no equal.
"""

from typing import Any, Literal

import numpy as np
from scipy.stats import ttest_ind

from splitvae.errors import InputError, nearest
from splitvae.presets import PRESETS
from splitvae.presets.systems import OWN, SYSTEMS, preset_name
from splitvae.reproduce.plan import IMAGES, Scale, one_protocol
from splitvae.reproduce.published import find, published_parameters
from splitvae.reproduce.results import Job
from splitvae.reproduce.summary import origin_of, spread_of

TABLES = {"table1": ("mnist", 1), "table3": ("cifar10", 3), "table4": ("celeba", 4)}


def table_about(data: str) -> str:
    """The table of a data set; InputError where none is about it."""
    known = {of: name for name, (of, _) in TABLES.items()}
    if data not in known:
        raise InputError(f"'{data}' is no data set of the tables: {', '.join(known)}.")
    return known[data]


def jobs_of(
    table: str, scale: Scale = "small", only: list[str] | None = None, seeds: int = 3, n: int | None = None
) -> list[Job]:
    """All jobs of a table, seed by seed, so that every system has its first result before any has its second.

    Args:
        table: a key of ``TABLES``.
        scale: "small" or "paper".
        only: keys of ``SYSTEMS``; None = all that have a preset, but "best", which is no row of the paper's.
        seeds: 0 … seeds − 1.
        n: images on either side; None = ``IMAGES``.

    Raises:
        InputError: an unknown table, scale or system, no seeds, or too few images.
    """
    known = systems_of(table, scale)
    if seeds < 1:
        raise InputError(f"a table needs at least 1 seed, not {seeds}.")
    if n is not None and n < 2:
        raise InputError(f"n must be at least 2, not {n}: a distance needs some images on either side.")
    data, small = TABLES[table][0], scale == "small"
    for system in only or ():
        if system not in known:
            raise InputError(f"there is no system '{system}' for {data} at scale {scale}.{nearest(system, known)}")
    usual = [system for system in known if system != "best"]
    return [
        Job(data, system, small, seed, n or IMAGES[scale])
        for seed in range(seeds)
        for system in (usual if only is None else only)
    ]


def systems_of(table: str, scale: Scale) -> list[str]:
    """The systems with a preset for a table's data set, our own recipe among them.

    Raises:
        InputError: an unknown table or scale.
    """
    for value, names in ((table, list(TABLES)), (scale, list(IMAGES))):
        if value not in names:
            raise InputError(f"'{value}' is unknown.{nearest(value, names)}")
    return [system for system in SYSTEMS if preset_name(TABLES[table][0], system, scale == "small") in PRESETS]


def summarize_table(table: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A table from the results of its jobs.

    Returns:
        what ``origin_of`` has; ``table``; ``lines``, one for each system and output: ``system``, ``row``, ``output``,
        ``chosen`` (whether its clean score is read from this output: the nearest to *training* images), ``run`` (name
        of the first seed's run directory), ``seeds``, ``inactive`` (latents, of each seed), ``parameters``, ``gflop``
        (a training step, per image), ``gaussians`` of the mixture, ``cells`` (protocol/source → mean, sd over seeds,
        values) and ``published`` (GEN and last column, with protocol and why it is not comparable); ``lead``: how far
        SplitVAE is ahead of the best other, see ``lead``.

    Raises:
        InputError: the results were measured under different protocols.
    """
    data, number = TABLES[table]
    one_protocol(results)
    lines = []
    for system in [s for s in SYSTEMS if any(result["system"] == s for result in results)]:
        own = sorted((r for r in results if r["system"] == system), key=lambda r: r["seed"])
        outputs = list(dict.fromkeys(row["output"] for row in own[0]["rows"]))
        group = [_line(data, number, system, output, own) for output in outputs]
        best = min(group, key=lambda line: headline(line, "train"))
        for line in group:
            line["chosen"] = line is best
        lines += group
    return origin_of(results) | {"table": table, "lines": lines, "lead": _lead(lines)}


def _lead(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    def values(line: dict[str, Any]) -> list[float]:
        return list(line["cells"][f"clean/{line['density']}"]["values"])

    x_hat = next((values(line) for line in lines if (line["system"], line["output"]) == ("svae", "x_hat")), None)
    found = lead({line["system"]: values(line) for line in lines if line["chosen"]}, x_hat)
    if found is None:
        return None
    mixtures = {line["system"]: line["gaussians"] for line in lines if line["density"] == "gmm"}
    return found | {"gaussians": (mixtures.get("svae"), mixtures.get(found["best_other"]))}


def _line(data: str, number: int, system: str, output: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One output of one system over its seeds."""
    cells: dict[str, dict[str, Any]] = {}
    for result in results:
        for row in result["rows"]:
            if row["output"] == output:
                cell = cells.setdefault(f"{row['protocol']}/{row['source']}", {"values": [], "train": []})
                cell["values"].append(row["metrics"]["frechet_distance"])
                cell["train"].append(row["metrics"]["frechet_distance_train"])
    for cell in cells.values():
        cell |= spread_of(cell["values"])
    counted = results[0]["parameters"]
    printed = published_parameters(number, system)
    published = {}
    for column, source in (("GEN", "normal"), ("density", SYSTEMS[system].density)):
        found = find(data, system, source, output)
        if found is not None:
            published[column] = {
                "value": found.value, "protocol": found.protocol, "source": found.source, "status": found.status,
                "note": found.note, "comparable": comparable(results[0]), "printed": found.table is not None,
            }  # fmt: skip
    return {
        "system": system, "row": SYSTEMS[system].row, "output": output, "density": SYSTEMS[system].density,
        "run": results[0]["name"],
        "seeds": [result["seed"] for result in results], "parameters": counted["with_batch_norm_statistics"],
        "published_parameters": None if printed is None else printed.value,
        "published_parameters_note": None if printed is None else printed.note,
        "gflop": results[0]["flops_per_image"]["step"] / 1e9,
        "inactive": [result["latents"]["inactive_by_mean"] for result in results],
        "gaussians": results[0]["densities"]["gmm"]["options"]["n_components"], "cells": cells, "published": published,
    }  # fmt: skip


def comparable(result: dict[str, Any]) -> str:
    """Why a published number is no equal of ours."""
    if result["distance"] != "FID":
        return f"no: another extractor ({result['card']['extractor']})"
    if result["scale"] != "paper":
        return "no: networks and training are small"
    return "in size only: Inception's weights, resize, rounding, crop and the images of the density differ by source"


def headline(line: dict[str, Any], to: Literal["values", "train"] = "values") -> float:
    """A line's score: clean, of the density in the tables' last column; to test ("values") or training images."""
    return float(np.mean(line["cells"][f"clean/{line['density']}"][to]))


def lead(scores: dict[str, list[float]], x_hat: list[float] | None, own: str = "svae") -> dict[str, Any] | None:
    """SplitVAE's fitted density against that of the best other system, in the clean protocol.

    Args:
        scores: system → distances to test images, one for each training seed, of the output nearest to training images.
        x_hat: SplitVAE's, by x̂ alone, because it has four outputs to choose from and the others one.
        own: which of SplitVAE's recipes; "svae" is the paper's, "best" is ours, and neither is the other's rival.

    Returns:
        ``own``; ``best_other``, of how many ``others``; ``difference``: its mean distance minus SplitVAE's, positive =
        SplitVAE is ahead; ``standard_error`` of the difference over training seeds, and ``interval``, Welch's of 95 %:
        both None where one of them has a single seed; ``x_hat``: the difference by x̂ alone. None where there is
        nothing to compare.
    """
    others = {system: values for system, values in scores.items() if system not in OWN}
    if own not in scores or not others:
        return None
    rival, ours = min(others, key=lambda system: float(np.mean(others[system]))), scores[own]
    theirs = others[rival]
    difference, error, interval = float(np.mean(theirs) - np.mean(ours)), None, None
    if min(len(ours), len(theirs)) > 1:
        error = float(np.sqrt(sum(np.var(values, ddof=1) / len(values) for values in (theirs, ours))))
        # The other is the best of several in these same numbers, so its mean is flattered: a lead of SplitVAE's is
        # underestimated, a lag overestimated.
        interval = [*map(float, ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95))]
    return {
        "own": own,
        "best_other": rival,
        "others": len(others),
        "difference": difference,
        "standard_error": error,
        "interval": interval,
        "x_hat": None if x_hat is None else float(np.mean(theirs) - np.mean(x_hat)),
    }
