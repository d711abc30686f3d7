"""`splitvae compare`: evaluated runs side by side, never across protocols, with intervals from paired seeds."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from splitvae.config import ELSEWHERE
from splitvae.errors import InputError
from splitvae.evaluation.verify import read_metrics
from splitvae.run import Run

# What may differ between runs of one system; bf16 is no luck, and of masks their content counts.
LUCK = ELSEWHERE - {"precision", "compile"} | {"seed", "masks"}
RESAMPLES = 10_000
FEWEST_PAIRS = 3
# A bootstrap of few pairs is too narrow: it calls equal systems different in 27 % of cases at 3 pairs and 11 % at 10,
# where 5 % are meant.
FEWEST_RESAMPLED = 20
HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage", "class_accuracy")

# training seed → sampling seed → value
Values = dict[int, dict[int, float]]


def compare(
    runs: "list[Run | str | Path]",
    metric: str = "frechet_distance",
    protocol: str = "clean",
    mixed: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare evaluated runs line by line (source and output).

    Runs that differ in their training seed only are one *system*. Two systems are paired by training seed where they
    have at least three in common, else by the seeds of sampling, which leaves the luck of training out. The interval
    of the mean difference is a paired bootstrap from twenty pairs on, and Student's t for fewer.

    Args:
        runs: at least two evaluated runs.
        metric: of ``metrics.json``; lower is better but for those of ``HIGHER_IS_BETTER``.
        protocol: "clean" or "paper": lines of one protocol only.
        mixed: put runs whose numbers were measured otherwise into the table too, and mark them.
        seed: of the bootstrap.

    Returns:
        ``systems``, the columns: name, runs, training seeds, ``differs`` (what was measured otherwise, empty as a
        rule); ``lines``: source, output, and for each system mean, spread, and against the best: difference, 95 %
        ``interval``, ``pairs``, ``paired_by`` and ``verdict``, which is "best" (by its mean over all its seeds),
        "worse", "better at common seeds", "indistinguishable at these seeds" or "too few seeds"; ``notes``, such as
        densities of one name that are not alike.

    Raises:
        InputError: a run without ``metrics.json``, with one of an earlier model, or given twice; unequal protocols
            without ``mixed``; an unknown metric.
    """
    opened = [Run.open(run) for run in runs]
    if len({run.path.resolve() for run in opened}) < max(2, len(opened)):
        raise InputError("compare needs at least two evaluated runs, each named once.")
    metrics = [read_metrics(run) for run in opened]
    systems: dict[str, dict[str, Any]] = {}
    for run, content in zip(opened, metrics, strict=True):
        differs = _differences(content["card"], metrics[0]["card"])
        if differs and not mixed:
            raise InputError(
                f"{run.path} and {opened[0].path} were measured otherwise ({'; '.join(differs)}); evaluate both the "
                "same way, or pass --mixed to have such columns marked."
            )
        rows = [row for row in content["rows"] if row["protocol"] == protocol]
        if not rows:
            raise InputError(
                f"{run.path} has no line of the {protocol} protocol; evaluate it with --protocol {protocol}."
            )
        if not any(metric in row["metrics"] for row in rows):
            raise InputError(f"{run.path} has no {metric}; it has {', '.join(rows[0]['metrics'])}.")
        key = _system(run) + content["card"]["signature"]
        system = systems.setdefault(
            key, {"name": run.path.resolve().name, "runs": [], "differs": differs, "rows": {}, "densities": {}}
        )
        if run.config.seed in system["rows"]:
            raise InputError(
                f"{run.path} and {system['runs'][0]} are the same recipe with the same seed; leave one out."
            )
        system["runs"].append(run.path.resolve().name)
        system["rows"][run.config.seed] = rows
        system["densities"] |= content["card"]["densities"]
    if len(systems) < 2:
        raise InputError("all these runs are one system with several seeds; name a run of another one beside them.")
    rng = np.random.default_rng(seed)
    columns = list(systems.values())
    return {
        "metric": metric,
        "distance": metrics[0]["distance"],
        "protocol": protocol,
        "systems": [
            {"name": s["name"], "runs": s["runs"], "training_seeds": sorted(s["rows"]), "differs": s["differs"]}
            for s in columns
        ],
        "lines": [line for key in _keys(columns) if (line := _line(key, columns, metric, rng))],
        "notes": _unlike_densities(columns),
    }


def _system(run: Run) -> str:
    """What makes two runs the same system: everything resolved but luck."""
    config = {k: v for k, v in run.config.to_dict().items() if k not in LUCK}
    contents = (run.record["data"]["content_hash"], run.record.get("masks", {}).get("digest"))
    return repr((run.record["preset"], sorted(config.items()), contents))


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What two cards do not agree on and that decides numbers, in words."""
    if mine["signature"] == theirs["signature"]:
        return []
    told = ("extractor", "resize", "precision", "real_images", "generated_images", "data_sha256", "weights_sha256")
    found = [f"{k} {str(mine[k])[:24]} and {str(theirs[k])[:24]}" for k in told if mine[k] != theirs[k]]
    return found or ["another protocol card"]


def _unlike_densities(systems: list[dict[str, Any]]) -> list[str]:
    """Densities of one name that were not made alike."""
    notes = []
    for name in dict.fromkeys(name for system in systems for name in system["densities"]):
        made = {
            system["name"]: f"{system['densities'][name]['class']} {system['densities'][name].get('options', {})}"
            for system in systems
            if name in system["densities"]
        }
        if len(set(made.values())) > 1:
            notes.append(f"'{name}' is not the same: " + "; ".join(f"{text} in {run}" for run, text in made.items()))
    return notes


def _keys(systems: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(source, output) of every line that any system has, in order of appearance."""
    rows = (row for system in systems for rows in system["rows"].values() for row in rows)
    return list(dict.fromkeys((row["source"], row["output"]) for row in rows))


def _line(
    key: tuple[str, str], systems: list[dict[str, Any]], metric: str, rng: np.random.Generator
) -> dict[str, Any] | None:
    """One line of the table, every system against the best; None where none has the metric."""
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    values = [_values(key, system["rows"], metric) for system in systems]
    means = [float(np.mean([np.mean(list(own.values())) for own in v.values()])) if v else None for v in values]
    present = [mean for mean in means if mean is not None]
    if not present:
        return None
    best = means.index(min(present, key=lambda mean: sign * mean))
    cells: list[dict[str, Any] | None] = []
    for i, (mean, own) in enumerate(zip(means, values, strict=True)):
        if mean is None:
            cells.append(None)
            continue
        verdict = {"verdict": "best"} if i == best else _against(own, values[best], sign, rng)
        cells.append({"mean": mean, "spread": _spread(own)} | verdict)
    return {"source": key[0], "output": key[1], "cells": cells}


def _values(key: tuple[str, str], runs: dict[int, list[dict[str, Any]]], metric: str) -> Values:
    """The values of a line by training seed and sampling seed."""
    found = {
        training: {
            row["seed"]: row["metrics"][metric]
            for row in rows
            if (row["source"], row["output"]) == key and metric in row["metrics"]
        }
        for training, rows in runs.items()
    }
    return {training: own for training, own in found.items() if own}


def _spread(values: Values) -> float | None:
    """Standard deviation over trainings where there are several, else over samplings; None for a single value."""
    means = [float(np.mean(list(own.values()))) for own in values.values()]
    replicates = means if len(means) > 1 else list(next(iter(values.values())).values())
    return float(np.std(replicates, ddof=1)) if len(replicates) > 1 else None


def _against(values: Values, best: Values, sign: int, rng: np.random.Generator) -> dict[str, Any]:
    """Difference to the best system over paired seeds, its 95 % interval, and what that allows to say."""
    trainings = sorted(values.keys() & best.keys())
    paired_by, pairs = "training seeds", []
    for t in trainings:
        samplings = values[t].keys() & best[t].keys()
        pairs += [float(np.mean([values[t][s] - best[t][s] for s in samplings]))] if samplings else []
    if len(pairs) < FEWEST_PAIRS:
        # Sampling seeds that every training of both has: the luck of training is then not in the interval.
        samplings = set.intersection(*(set(own) for own in (*values.values(), *best.values())))
        paired_by = "sampling seeds"
        pairs = [
            float(np.mean([own[s] for own in values.values()]) - np.mean([own[s] for own in best.values()]))
            for s in sorted(samplings)
        ]
    found = {"difference": float(np.mean(pairs)) if pairs else None, "pairs": len(pairs), "paired_by": paired_by}
    if len(pairs) < FEWEST_PAIRS:
        return found | {"interval": None, "verdict": "too few seeds"}
    low, high = interval(np.array(pairs), rng)
    worse, better = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    verdict = "worse" if worse else "better at common seeds" if better else "indistinguishable at these seeds"
    return found | {"interval": [low, high], "verdict": verdict}


def interval(pairs: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences (n,): bootstrap from 20 pairs on, else Student's t."""
    if len(pairs) >= FEWEST_RESAMPLED:
        resampled = rng.choice(pairs, size=(RESAMPLES, len(pairs))).mean(axis=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
    else:
        half = stats.t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs))
        low, high = pairs.mean() - half, pairs.mean() + half
    return float(low), float(high)
