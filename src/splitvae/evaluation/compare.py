"""`splitvae compare`: evaluated runs side by side, never across protocols, with intervals from paired seeds."""

from pathlib import Path
from typing import Any

import numpy as np

from splitvae.errors import InputError
from splitvae.evaluation.verify import read_metrics
from splitvae.run import Run

# What may differ between runs of one system that differ in luck only.
LUCK = ("seed", "data", "device", "quiet", "log_every", "checkpoint_every", "snapshot_every")
RESAMPLES = 10_000
FEWEST_PAIRS = 3  # two pairs give a bootstrap of three values


def compare(
    runs: "list[Run | str | Path]",
    metric: str = "frechet_distance",
    protocol: str = "clean",
    mixed: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare evaluated runs line by line (source and output).

    Runs that differ in their training seed only are one *system*. Two systems are paired by training seed where each
    has at least three of them in common, else by the seeds of sampling, which leaves the luck of training out. The
    interval of the mean difference is a percentile bootstrap over the pairs.

    Args:
        runs: at least two evaluated runs.
        metric: of ``metrics.json``; lower is taken as better but for precision, recall, density and coverage.
        protocol: "clean" or "paper": lines of one protocol only.
        mixed: put runs whose numbers were measured otherwise into the table too, and mark them.
        seed: of the bootstrap.

    Returns:
        ``systems``, the columns: name, runs, training seeds, ``differs`` (what was measured otherwise, empty as a
        rule); ``lines``: source, output, and for each system mean, spread, difference to the best and its interval,
        and ``verdict``: "best", "worse", "indistinguishable at these seeds" or "too few seeds".

    Raises:
        InputError: a run without ``metrics.json``, unequal protocols without ``mixed``, an unknown metric.
    """
    opened = [Run.open(run) for run in runs]
    if len(opened) < 2:
        raise InputError("compare needs at least two evaluated runs.")
    metrics = [read_metrics(run) for run in opened]
    reference = metrics[0]["card"]
    systems: dict[str, dict[str, Any]] = {}
    for run, content in zip(opened, metrics, strict=True):
        differs = [] if content["card"]["signature"] == reference["signature"] else _differences(content, metrics[0])
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
        if metric not in rows[0]["metrics"]:
            raise InputError(f"{run.path} has no {metric}; it has {', '.join(rows[0]['metrics'])}.")
        system = systems.setdefault(_system(run), {"name": run.path.name, "runs": [], "rows": [], "differs": differs})
        system["runs"].append(str(run.path))
        system["rows"].append((run.config.seed, rows))
    rng = np.random.default_rng(seed)
    lines = [_line(key, list(systems.values()), metric, rng) for key in _keys(systems)]
    columns = [
        {
            "name": s["name"], "runs": s["runs"], "training_seeds": [seed for seed, _ in s["rows"]],
            "differs": s["differs"],
        }
        for s in systems.values()
    ]  # fmt: skip
    return {
        "metric": metric, "distance": metrics[0]["distance"], "protocol": protocol, "systems": columns, "lines": lines,
    }  # fmt: skip


def _system(run: Run) -> str:
    """What makes two runs the same system: everything resolved but luck."""
    config = {k: v for k, v in run.record["config"].items() if k not in LUCK}
    return repr((run.record["preset"], sorted(config.items()), run.record["data"]["content_hash"]))


def _differences(content: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two cards do not agree on, in words."""
    mine, theirs = content["card"], other["card"]
    names = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    told = ("extractor", "resize", "real_images", "generated_images", "data_sha256", "weights_sha256", "image_shape")
    shown = [name for name in told if name in names]
    short = {name: (str(mine[name])[:24], str(theirs[name])[:24]) for name in shown}
    return [f"{name} {a} and {b}" for name, (a, b) in short.items()] or ["another protocol card"]


def _keys(systems: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(source, output) of every line that any system has, in order of appearance."""
    rows = (row for system in systems.values() for _, rows in system["rows"] for row in rows)
    return list(dict.fromkeys((row["source"], row["output"]) for row in rows))


def _line(key: tuple[str, str], systems: list[dict[str, Any]], metric: str, rng: np.random.Generator) -> dict[str, Any]:
    """One line of the table: every system against the best."""
    sign = -1 if metric in ("precision", "recall", "density", "coverage") else 1
    cells: list[dict[str, Any] | None] = []
    for system in systems:
        # training seed → sampling seed → value
        values = {
            training: {row["seed"]: row["metrics"][metric] for row in rows if (row["source"], row["output"]) == key}
            for training, rows in system["rows"]
        }
        values = {training: own for training, own in values.items() if own}
        if not values:
            cells.append(None)
            continue
        means = [float(np.mean(list(own.values()))) for own in values.values()]
        everything = [value for own in values.values() for value in own.values()]
        replicates = means if len(means) > 1 else everything
        spread = float(np.std(replicates, ddof=1)) if len(replicates) > 1 else None
        cells.append({"mean": float(np.mean(means)), "spread": spread, "values": values})
    present = [cell for cell in cells if cell is not None]
    best = min(present, key=lambda cell: sign * cell["mean"])
    for cell in present:
        cell |= {"verdict": "best"} if cell is best else _against(cell["values"], best["values"], rng)
    for cell in present:
        del cell["values"]
    return {"source": key[0], "output": key[1], "cells": cells}


def _against(values: dict[int, dict[int, float]], best: dict[int, dict[int, float]], rng: np.random.Generator) -> dict:
    """Difference to the best system over paired seeds, its 95 % bootstrap interval, and what that allows to say."""
    trainings = sorted(values.keys() & best.keys())
    if len(trainings) >= FEWEST_PAIRS:
        pairs = [float(np.mean(list(values[t].values())) - np.mean(list(best[t].values()))) for t in trainings]
        paired_by = "training"
    else:
        mine, theirs = next(iter(values.values())), next(iter(best.values()))
        pairs = [mine[s] - theirs[s] for s in sorted(mine.keys() & theirs.keys())]
        paired_by = "sampling"
    found = {"difference": float(np.mean(pairs)) if pairs else None, "pairs": len(pairs), "paired_by": paired_by}
    if len(pairs) < FEWEST_PAIRS:
        return found | {"interval": None, "verdict": "too few seeds"}
    resampled = rng.choice(np.array(pairs), size=(RESAMPLES, len(pairs))).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    verdict = "indistinguishable at these seeds" if low <= 0 <= high else "worse"
    return found | {"interval": [float(low), float(high)], "verdict": verdict}
