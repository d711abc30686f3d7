"""`splitvae verify`: recompute a ``metrics.json`` from model, densities and seeds, and say what agrees."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from splitvae.errors import InputError
from splitvae.evaluation.evaluate import FORMAT_VERSION, measure, measure_features, open_setting
from splitvae.evaluation.features import Extractor
from splitvae.evaluation.protocol import Protocol, Source, card, sources_of
from splitvae.files import read_json
from splitvae.run import Run


@dataclass(frozen=True)
class Check:
    """One thing that was recomputed.

    Attributes:
        what: for people, such as "clean gmm x_hat seed 0: frechet_distance".
        written: in ``metrics.json``.
        found: now; None where it cannot be computed.
        agrees: whether they are the same, numbers within the tolerance.
    """

    what: str
    written: Any
    found: Any
    agrees: bool


def read_metrics(run: Run) -> dict[str, Any]:
    """The ``metrics.json`` of a run.

    Raises:
        InputError: there is none, or it is of another format.
    """
    path = run.path / "metrics.json"
    if not path.exists():
        raise InputError(f"{run.path} was not evaluated yet; run: splitvae evaluate {run.path}")
    metrics = read_json(path, "not an evaluation")
    if not isinstance(metrics, dict) or metrics.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path} is not of this splitvae's format version {FORMAT_VERSION}; evaluate again.")
    return metrics


def verify(
    run: "Run | str | Path",
    extractor: Extractor | None = None,
    tolerance: float = 1e-3,
    sources: list[str] | None = None,
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    say: Callable[[str], Any] | None = None,
) -> list[Check]:
    """Recompute what an evaluation wrote. Features of generated images are not taken from the cache.

    Args:
        run: a run directory with ``metrics.json``.
        extractor: where the evaluation used a network of one's own; None = the named one.
        tolerance: of numbers, relative (a hundredth of it absolute): other machines round otherwise.
        sources: only these, such as ["REC", "normal"]; None = all.
        weights: a file with the extractor's weights.
        device: None = the GPU if there is one.
        say: called with a line for each source when it is done.
    """
    run, say = Run.open(run), say or (lambda line: None)
    written = read_metrics(run)
    protocol_card, rows = written["card"], written["rows"]
    if sources and (unknown := set(sources) - {row["source"] for row in rows}):
        raise InputError(f"{run.path / 'metrics.json'} has no line of '{min(unknown)}'.")
    every = "kid" in rows[0]["metrics"]
    name = extractor or protocol_card["extractor"]
    bf16 = protocol_card["precision"] == "bf16"
    setting = open_setting(run, name, protocol_card["generated_images"], every, weights, device, fresh=True, bf16=bf16)
    found_card = card(setting, len(protocol_card["seeds"]))
    names = ("data_sha256", "model_sha256", "weights_sha256", "signature")
    checks = [_same(name, protocol_card[name], found_card[name]) for name in names]
    checks += _numbers("floor", written["floor"], measure_features(setting, setting.train.features), tolerance)
    jobs = {(row["protocol"], row["source"], row["seed"]): None for row in rows}
    for protocol, source, seed in jobs:
        if sources and source not in sources:
            continue
        before = [row for row in rows if (row["protocol"], row["source"], row["seed"]) == (protocol, source, seed)]
        try:
            now = measure(setting, _source(run, protocol, source), seed)
        except InputError as error:
            checks.append(Check(f"{protocol} {source}", "a density", str(error), False))
            continue
        own = []
        for old, new in zip(before, now, strict=True):
            own += _numbers(
                f"{protocol} {source} {old['output']} seed {seed}", old["metrics"], new["metrics"], tolerance
            )
        checks += own
        say(f"{protocol}, {source}, seed {seed}: {sum(c.agrees for c in own)} of {len(own)} numbers agree")
    return checks


def _source(run: Run, protocol: str, name: str) -> Source:
    """The source of a line, as it is in the run now."""
    densities = [] if name in ("REC", "normal") else [name]
    for source in sources_of(run, cast(Protocol, protocol), densities, lambda line: None, fit=False):
        if source.name == name:
            return source
    raise InputError(f"density '{name}' is not one of the {protocol} protocol any more.")


def _same(name: str, written: Any, found: Any) -> Check:
    return Check(name, written, found, written == found)


def _numbers(what: str, written: dict[str, float], found: dict[str, float], tolerance: float) -> list[Check]:
    """A check for each number; the gap is a difference of two that are checked."""
    return [
        Check(
            f"{what}: {name}",
            value,
            found.get(name),
            name in found and math.isclose(value, found[name], rel_tol=tolerance, abs_tol=tolerance / 100),
        )
        for name, value in written.items()
        if name != "memorisation_gap"
    ]
