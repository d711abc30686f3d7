"""What tables and claims have in common: several seeds in one cell, and where their numbers come from."""

from collections import Counter
from typing import Any

import numpy as np


def spread_of(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (None for one) of some values, and the values."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": values}


def told(cell: dict[str, Any] | None, places: int) -> str:
    """ "1.13 ± 0.12"; the values where their spread exceeds their mean, because one of them then is of another kind."""
    if cell is None:
        return "–"
    if cell["sd"] is not None and cell["sd"] > cell["mean"] > 0:
        return ", ".join(f"{value:.{places}f}" for value in cell["values"])
    return f"{cell['mean']:.{places}f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.{places}f}")


def brief(value: float) -> str:
    """ "1,238", "77.5", "0.61": three figures in a picture, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def over_seeds(seeds: list[int]) -> str:
    """ "mean ± standard deviation over training seeds 0, 1, 2", or "training seed 0"."""
    if len(seeds) == 1:
        return f"training seed {seeds[0]}"
    return f"mean ± standard deviation over training seeds {', '.join(map(str, seeds))}"


def origin_of(results: list[dict[str, Any]], paper: bool = True) -> dict[str, Any]:
    """Where the numbers of some results of one protocol come from.

    Args:
        results: of jobs, at least one.
        paper: whether the paper's protocol is shown beside the clean one; its warnings are left out otherwise.

    Returns:
        ``data``, ``scale``, ``distance``, ``floor`` and ``floor_to_train`` (means), ``images``, ``source``,
        ``hardware``, ``precision`` (of training → how many runs), ``features`` and ``code`` in words, ``notes``.
    """
    first, card = results[0], results[0]["card"]
    floors = {
        name: float(np.mean([result["floor"][name] for result in results]))
        for name in ("frechet_distance", "frechet_distance_train")
    }
    trained, evaluated = (
        _short([result.get(key) for result in results]) for key in ("git_commit", "evaluation_commit")
    )
    versions = first["versions"]
    return {
        "data": first["data"], "scale": first["scale"], "distance": first["distance"],
        "floor": floors["frechet_distance"], "floor_to_train": floors["frechet_distance_train"],
        "images": card["generated_images"], "source": card["source"],
        "hardware": sorted({result["hardware"] for result in results}),
        "precision": dict(Counter(result["training"]["precision"] for result in results)),
        "features": f"{card['extractor']}, weights {card['weights_sha256'][:8] or 'unknown'}, {card['resize']}; images "
        f"{card['quantisation']}; protocol {card['signature']}",
        "code": f"splitvae {versions['splitvae']}, torch {versions['torch']}"
        + (f", trained at {trained}" if trained else "")
        + (f", evaluated at {evaluated}" if evaluated else ""),
        "notes": [note for note in first["notes"] if paper or not note.startswith("paper protocol")],
    }  # fmt: skip


def _short(commits: list[str | None]) -> str:
    """ "6ec29cb, 5478b6d-dirty": each once, in the order of their first result; of many the first five."""
    found = dict.fromkeys(commit for commit in commits if commit)
    names = [commit[:7] + "-dirty" * commit.endswith("-dirty") for commit in found]
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more commits"


def origin_notes(result: dict[str, Any]) -> list[str]:
    """The same in lines, for the end of a page."""
    return [
        "values of single seeds where their spread exceeds their mean",
        f"trained on {', '.join(result['hardware'])} in {_counted(result['precision'])}; {result['code']}",
        f"features: {result['features']}",
        *result["notes"],
    ]


def _counted(runs: dict[str, int]) -> str:
    """ "bf16", or "fp32 (9 runs), bf16 (35)"."""
    if len(runs) == 1:
        return next(iter(runs))
    (first, count), *others = runs.items()
    return ", ".join([f"{first} ({count} runs)", *(f"{name} ({n})" for name, n in others)])
