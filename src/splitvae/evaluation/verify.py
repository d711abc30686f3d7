"""`splitvae verify`: recompute a ``metrics.json`` from model, densities and seeds, and say what agrees."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from splitvae.errors import InputError
from splitvae.evaluation.evaluate import FORMAT_VERSION, diagnose, measure, measure_floor, open_setting
from splitvae.evaluation.features import Extractor
from splitvae.evaluation.latents import diagnose_latents
from splitvae.evaluation.mask_iou import iou_of_run
from splitvae.evaluation.protocol import Protocol, Setting, Source, card, sources_of
from splitvae.evaluation.split_kind import split_of_model
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


def read_metrics(run: Run, current: bool = True) -> dict[str, Any]:
    """The ``metrics.json`` of a run.

    Args:
        run: evaluated.
        current: whether it must be of the model as it is now, and not of one before a resumed training. Nobody knows
            where the model has been removed.

    Raises:
        InputError: there is none, or it is of another format or of an earlier model.
    """
    path = run.path / "metrics.json"
    if not path.exists():
        raise InputError(f"{run.path} was not evaluated yet; run: splitvae evaluate {run.path}")
    metrics = read_json(path, "not an evaluation")
    if not isinstance(metrics, dict) or metrics.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path} is not of this splitvae's format version {FORMAT_VERSION}; evaluate again.")
    if current and (run.path / "model").is_dir() and metrics["card"]["model_sha256"] != run.model_hash:
        raise InputError(f"{path} is of an earlier model; evaluate again: splitvae evaluate {run.path}")
    return metrics


def is_evaluated(run: Run) -> bool:
    """Whether a run has a ``metrics.json`` of the model as it is now."""
    try:
        read_metrics(run)
    except InputError:
        return False
    return True


def verify(
    run: "Run | str | Path",
    extractor: Extractor | None = None,
    tolerance: float = 1e-3,
    sources: list[str] | None = None,
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    data: str | None = None,
    say: Callable[[str], Any] | None = None,
) -> list[Check]:
    """Recompute what an evaluation wrote. Features of generated images are not taken from the cache.

    Args:
        run: a run directory with ``metrics.json``.
        extractor: where the evaluation used a network of one's own; None = the named one.
        tolerance: of numbers, relative (a hundredth of it absolute): other machines round otherwise.
        sources: only these, such as ["REC", "normal"]; None = all that the card names.
        weights: a file with the extractor's weights.
        device: None = the GPU if there is one.
        data: where the run's data is now; None = where it was.
        say: called with a line for each source when it is done.
    """
    run, say = Run.open(run), say or (lambda line: None)
    written = read_metrics(run, current=False)  # of an earlier model: a check of its own
    old = written["card"]
    if sources and (unknown := set(sources) - {name for _, name in old["sources"]}):
        raise InputError(f"{run.path / 'metrics.json'} has no line of '{min(unknown)}'.")
    every = any("kid" in row["metrics"] for row in written["rows"])
    setting = open_setting(
        run, extractor or old["extractor"], old["generated_images"], every, weights, device, None, True,
        old["precision"] == "bf16", data,
    )  # fmt: skip
    setting = replace(setting, components=any(row["output"] != "x_hat" for row in written["rows"]))
    found: list[Source] = []
    checks = []
    for protocol, name in old["sources"]:
        try:
            found.append(_source(setting, protocol, name))
        except InputError as error:
            checks.append(Check(f"{protocol} {name}", "a density", str(error), False))
    new = card(setting, found, old["seeds"])
    # Where and when it was computed may differ; what decides the numbers may not.
    free = ("device", "machine", "threads", "versions", "densities", "sources")
    checks += [_same(f"card: {key}", old[key], new.get(key)) for key in old if key not in free]
    for name, density in old["densities"].items():
        checks.append(
            _same(f"file of {name}", density["file_sha256"], new["densities"].get(name, {}).get("file_sha256"))
        )
    checks.append(_same("distance", written["distance"], new["distance"]))
    checks += _numbers("floor", written["floor"], measure_floor(setting), tolerance)
    latents = diagnose_latents(setting.posterior)  # older files have less
    latents = {name: value for name, value in latents.items() if name in written["latents"]}
    checks += _numbers("latents", written["latents"], latents, tolerance)
    if written.get("split") is not None:  # there is none in older files, nor of one component
        before, now = dict(written["split"]), split_of_model(setting.run.model, setting.posterior.mode()) or {}
        checks.append(_same("split: kind", before.pop("kind", None), now.pop("kind", None)))
        checks += _numbers("split", before, now, tolerance)
    checks += _masks(setting.run, written.get("masks"), tolerance)
    checks.append(_same("diagnosis", written["diagnosis"], diagnose(written)))
    rows = {_key(row): row["metrics"] for row in written["rows"]}
    for source in found:
        if sources and source.name not in sources:
            continue
        for seed in old["seeds"] if source.seeded else [0]:
            own = []
            for row in measure(setting, source, seed):
                what = f"{source.protocol} {source.name} {row['output']} seed {seed}"
                if _key(row) in rows:
                    own += _numbers(what, rows[_key(row)], row["metrics"], tolerance)
                else:
                    own.append(Check(what, None, row["metrics"], False))
            checks += own
            agree = sum(check.agrees for check in own)
            say(f"{source.protocol}, {source.name}, seed {seed}: {agree} of {len(own)} numbers agree")
    return checks


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["protocol"], row["source"], row["output"], row["seed"]


def _source(setting: Setting, protocol: str, name: str) -> Source:
    """The source of a line, as it is in the run now."""
    densities = [] if name in ("REC", "normal") else [name]
    for source in sources_of(setting, cast(Protocol, protocol), densities, fit=False):
        if source.name == name:
            return source
    raise InputError(f"density '{name}' is not one of the {protocol} protocol any more.")


def _same(what: str, written: Any, found: Any) -> Check:
    return Check(what, written, found, written == found)


def _masks(run: Run, written: dict[str, Any] | None, tolerance: float) -> list[Check]:
    """The agreement with given masks, if it was with those that the run was trained with and they are at hand."""
    if written is None:
        return []
    with suppress(InputError):
        found = iou_of_run(run)
        if found is not None and found["digest"] == written.get("digest"):
            kept = [[value for value in side["components"] if value is not None] for side in (written, found)]
            return _numbers("masks", {"components": kept[0]}, {"components": kept[1]}, tolerance)
    return []


def _numbers(what: str, written: dict[str, Any], found: dict[str, Any], tolerance: float) -> list[Check]:
    """A check for each number or list of numbers; the gap is a difference of two that are checked."""

    def near(a: Any, b: Any) -> bool:
        if isinstance(a, list):
            return isinstance(b, list) and len(a) == len(b) and all(map(near, a, b))
        return b is not None and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 100)

    checks = []
    for name in {**written, **found}:
        if name != "memorisation_gap":
            pair = written.get(name), found.get(name)
            alike = pair == (None, None) or (pair[0] is not None and near(*pair))
            checks.append(Check(f"{what}: {name}", *pair, alike))
    return checks
