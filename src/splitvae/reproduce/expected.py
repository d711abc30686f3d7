"""What score to expect of a small preset: what its runs in ``docs/results/runs`` have, for ``splitvae info``.

``expected.json`` is made from those runs, which do not come with the package, by
``python -m splitvae.reproduce.expected docs/results/runs``; a test compares the two.
"""

import json
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from splitvae.evaluation.extractors import MNIST_CLASSIFIER
from splitvae.files import write_json
from splitvae.presets.systems import SYSTEMS
from splitvae.reproduce.claims import jobs_of as jobs_of_claim
from splitvae.reproduce.claims import scores_of
from splitvae.reproduce.results import Job, find_result
from splitvae.reproduce.summary import spread_of, told
from splitvae.reproduce.tables import TABLES, jobs_of

FILE = "expected.json"
SEEDS = 3


def expected_scores(results: Path) -> dict[str, dict[str, Any]]:
    """Preset → what its seeds have in the clean protocol, x̂ against test images, as far as there are results.

    Each has ``distance``, ``images`` on either side, ``density`` (of the tables' last column),
    training ``seeds`` with their ``scores`` and ``reconstructions``, and ``command``.
    """
    jobs: dict[str, list[tuple[str, Job]]] = {}
    for table, (data, _) in TABLES.items():
        best = jobs_of_claim("best", data, only=["best"], seeds=SEEDS)
        found = [(f"reproduce {table}", job) for job in jobs_of(table, seeds=SEEDS)]
        found += [(f"reproduce best --on {data}", job) for job in best]
        for command, job in found:
            jobs.setdefault(job.preset, []).append((command, job))
    return {preset: score for preset, own in jobs.items() if (score := _score(own, results)) is not None}


def _score(jobs: list[tuple[str, Job]], results: Path) -> dict[str, Any] | None:
    (command, first), extractor = jobs[0], MNIST_CLASSIFIER if jobs[0][1].data == "mnist" else "efficientnet-lite0"
    own = [result for _, job in jobs if (result := find_result(job, results, extractor)) is not None]
    if not own:
        return None
    density = SYSTEMS[first.system].density
    source = f"gmm-{first.mixtures[0]}" if first.mixtures else density
    if density == "gmm":
        density = f"mixture of {first.densities[source][1]['n_components']}"
    return {
        "distance": own[0]["distance"], "images": own[0]["card"]["generated_images"],
        "density": density, "seeds": [result["seed"] for result in own],
        "scores": [_short(value) for value in scores_of(own, "x_hat", source)],
        "reconstructions": [_short(value) for value in scores_of(own, "x_hat", "REC")], "command": command,
    }  # fmt: skip


def _short(value: float) -> float:
    """Four figures, which is more than seeds agree on."""
    return float(f"{value:.4g}")


@cache
def _kept() -> dict[str, dict[str, Any]]:
    return json.loads(files("splitvae.reproduce").joinpath(FILE).read_text(encoding="utf-8"))


def expected_line(preset: str) -> str | None:
    """The score to expect of a preset in one line; None = it was not measured."""
    score = _kept().get(preset)
    if score is None:
        return None
    own, reconstructions = (_told(score[name]) for name in ("scores", "reconstructions"))
    density = score["density"].replace("-", " ")
    seeds = "seed" if len(score["seeds"]) == 1 else "seeds"
    return (
        f"expected: {score['distance']} {own} of x̂ from a {density} on training codes, {reconstructions} of "
        f"reconstructions ({score['images']:,} against as many test images; training {seeds} "
        f"{', '.join(map(str, score['seeds']))}; splitvae {score['command']})"
    )


def _told(values: list[float]) -> str:
    return told(spread_of(values), 0 if min(values) >= 100 else 2)


if __name__ == "__main__":
    write_json(Path(__file__).with_name(FILE), expected_scores(Path(sys.argv[1])))
