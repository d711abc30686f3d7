"""`splitvae evaluate`: reconstructions, the prior and every fitted density, each output, under named protocols.

``protocol.py`` says what the protocols are; here they are run, and what they found is put into ``metrics.json``.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from splitvae.data.loader import fixed_rows
from splitvae.densities.fit import REFERENCE_IMAGES
from splitvae.errors import InputError
from splitvae.evaluation.features import Extractor, choose_bf16, get_extractor, metric_name
from splitvae.evaluation.latents import diagnose_latents, diagnosis, prior_gap
from splitvae.evaluation.metrics import every_metric, frechet_from_features
from splitvae.evaluation.outputs import mixed, output_names
from splitvae.evaluation.protocol import Protocol, Setting, Source, card, sources_of
from splitvae.files import write_json
from splitvae.run import Run

FORMAT_VERSION = 1
PROBED = 1_000  # test images on which bf16 is tried


def evaluate(
    run: "Run | str | Path",
    extractor: "str | Extractor" = "inception-v3-compat",
    protocol: Literal["clean", "paper", "both"] = "clean",
    densities: list[str] | None = None,
    n: int = REFERENCE_IMAGES,
    seeds: int = 1,
    metrics: Literal["all", "frechet"] = "all",
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    say: Callable[[str], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Score a run and write its ``metrics.json``.

    Args:
        run: a run directory with a model.
        extractor: a name of ``EXTRACTORS``, or an ``Extractor`` around a network of one's own.
        protocol: "clean", "paper" or "both", see ``protocol.py``.
        densities: names of fitted densities; None = all that the run has. The paper's protocol takes those fitted on
            test codes, and fits the twin of each mixture where there is none.
        n: images on either side; all of the test split where it has fewer.
        seeds: of the sampling: 0 … seeds − 1.
        metrics: "all", or "frechet" for the Fréchet distances only, which takes half the time on a CPU.
        weights: a file with the extractor's weights.
        device: where networks run; None = the GPU if there is one.
        precision: "bf16" = features are computed in bf16, provided that it moves the distance by less than 0.5 %.
        say: called with lines for people: the estimated cost, then each result as it comes.
        progress: called with the images whose features are done, and their total.

    Returns:
        the content of ``metrics.json``: ``rows``, each with protocol, source, output, seed and a flat dict of floats
        ``metrics``; ``floor``, the same for real training images; ``latents``; ``diagnosis`` in one line; ``card``,
        the protocol of every number; ``notes``.
    """
    if protocol not in (*get_args(Protocol), "both"):
        raise InputError(f"the protocol must be clean, paper or both, not '{protocol}'.")
    if seeds < 1 or n < 2:
        raise InputError(f"an evaluation needs seeds ≥ 1 and n ≥ 2, not {seeds} and {n}.")
    say, report = say or (lambda line: None), progress or (lambda done, total: None)
    images = _Count(report)
    setting = open_setting(run, extractor, n, metrics == "all", weights, device, images.advance)
    if precision == "bf16":
        probed = fixed_rows(setting.run.data, "test", PROBED)
        bf16, reason = choose_bf16(setting.extractor, setting.run.data.images[probed])
        say(reason if bf16 else f"{reason}: features stay in float32")
        setting = replace(setting, bf16=bf16)
    protocols = get_args(Protocol) if protocol == "both" else (protocol,)
    sources = [source for name in protocols for source in sources_of(setting.run, name, densities, say)]
    jobs = [(source, seed) for source in sources for seed in range(seeds if source.seeded else 1)]
    each = setting.n * len(output_names(setting.run.model))
    images.total = 2 * setting.n + each * len(jobs)
    start = time.perf_counter()
    floor = measure_features(setting, setting.train.features)
    seconds = (time.perf_counter() - start) / max(1, images.done) * images.total
    say(f"floor, {len(setting.train.features):,} training images: {floor['frechet_distance']:.2f}")
    if images.done:
        say(f"{len(jobs)} sources × {each:,} images: about {seconds / 60:.0f} min, less where features are kept")
    rows: list[dict[str, Any]] = []
    for number, (source, seed) in enumerate(jobs):
        images.reach(2 * setting.n + number * each)
        measured = measure(setting, source, seed)
        rows += measured
        values = ", ".join(f"{row['output']} {row['metrics']['frechet_distance']:.2f}" for row in measured)
        say(f"{source.protocol}, {source.name}, seed {seed}: {values}")
    result = {
        "format_version": FORMAT_VERSION,
        "distance": metric_name(setting.extractor),
        "diagnosis": "",
        "rows": rows,
        "floor": floor,
        "latents": _latents(setting, sources),
        "card": card(setting, seeds),
        "notes": _notes(setting, sources),
    }
    result["diagnosis"] = _diagnosis(result)
    write_json(setting.run.path / "metrics.json", result)
    return result


class _Count:
    """How many images of how many are done; those whose features were kept count when their turn is over."""

    def __init__(self, report: Callable[[int, int], Any]) -> None:
        self.report, self.done, self.total = report, 0, 0

    def advance(self, count: int) -> None:
        self.done += count
        self.report(self.done, self.total)

    def reach(self, done: int) -> None:
        self.advance(done - self.done)


def open_setting(
    run: "Run | str | Path",
    extractor: "str | Extractor",
    n: int = REFERENCE_IMAGES,
    every: bool = True,
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    advance: Callable[[int], Any] | None = None,
    fresh: bool = False,
    bf16: bool = False,
) -> Setting:
    """What all lines of an evaluation share; the arguments are those of ``evaluate``.

    Raises:
        InputError: fewer than 2 test images.
    """
    run = Run.open(run)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = get_extractor(extractor, weights, place) if isinstance(extractor, str) else extractor
    run.model.to(place)
    found = len(run.data.splits["test"])
    if found < 2:
        raise InputError(f"{run.path} has {found} test images; an evaluation needs at least 2.")
    return Setting(run, network, min(n, found), every, advance, fresh, bf16)


def measure(setting: Setting, source: Source, seed: int) -> list[dict[str, Any]]:
    """The table's lines of one source and seed: one for each output."""
    z, labels = setting.sample(source, seed)
    features = setting.features(z)
    rows = []
    for i, output in enumerate(setting.outputs):
        own = mixed(features, seed) if output == "mix" else features[:, i]
        row = {"protocol": source.protocol, "source": source.name, "output": output, "seed": seed}
        rows.append(row | {"metrics": measure_features(setting, own, seed)} | _classes(setting, own, labels))
    return rows


def measure_features(setting: Setting, features: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Metrics of features (n, F) against the test reference, and the Fréchet distance to the training images."""
    if setting.every:
        metrics = every_metric(features, setting.test, seed)
    else:
        metrics = {"frechet_distance": frechet_from_features(features, setting.test)}
    to_train = frechet_from_features(features, setting.train)
    # Positive where samples are nearer to the images that were trained on than to new ones.
    gap = metrics["frechet_distance"] - to_train
    return metrics | {"frechet_distance_train": to_train, "memorisation_gap": gap}


def _classes(setting: Setting, features: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Where the extractor knows classes: their shares, and how many samples are of the class that was asked for."""
    if setting.extractor.head is None:
        return {}
    found = setting.extractor.classify(features)
    count = len(setting.extractor.head[1])
    classes: dict[str, Any] = {"shares": (np.bincount(found, minlength=count) / len(found)).tolist()}
    if labels is not None:
        classes["accuracy"] = float((found == labels).mean())
    return {"classes": classes}


def _latents(setting: Setting, sources: list[Source]) -> dict[str, Any]:
    """Diagnostics of the reference's codes, and what each density knows about them that the prior does not."""
    gaps = {s.name: prior_gap(s.density, setting.posterior) for s in sources if hasattr(s.density, "log_prob")}
    return diagnose_latents(setting.posterior) | {"prior_gap": {k: v for k, v in gaps.items() if k != "normal"}}


def _notes(setting: Setting, sources: list[Source]) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    if setting.n <= setting.extractor.dim:
        notes.append(
            f"rank-deficient: {setting.n:,} images for {setting.extractor.dim:,} features; distances are biased "
            "upwards, compare equal counts only"
        )
    if not setting.extractor.published:
        notes.append(f"the weights of {setting.extractor.name} are not the published ones")
    if all(source.density is None or source.name == "normal" for source in sources):
        notes.append(f"no density was fitted; the paper samples from a mixture: splitvae fit {setting.run.path}")
    if len(setting.train.features) != setting.n:
        notes.append(
            f"{len(setting.train.features):,} training images stand against {setting.n:,}: the distances to train and "
            "test differ in bias"
        )
    if any(source.protocol == "paper" for source in sources):
        notes.append("paper protocol: the mixture has seen the images that it is scored against; do not compare")
    return notes


def _diagnosis(result: dict[str, Any]) -> str:
    """The one-line diagnosis, from the clean lines where there are any."""
    table = summarize(result["rows"])
    protocol = table[0]["protocol"]
    x_hat = {
        line["source"]: line["mean"]["frechet_distance"]
        for line in table
        if line["protocol"] == protocol and line["output"] == "x_hat"
    }
    fitted = [value for source, value in x_hat.items() if source not in ("REC", "normal")]
    floor = result["floor"]["frechet_distance"]
    best = min(fitted) if fitted else None
    return diagnosis(result["latents"], floor, x_hat["REC"], x_hat["normal"], best)


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a table: rows of ``metrics.json`` joined over their seeds.

    Returns:
        for each (protocol, source, output), in order of appearance: these three, ``seeds``, and ``mean`` and
        ``spread`` (standard deviation over seeds, divisor n − 1; absent for one seed) of each metric.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["protocol"], row["source"], row["output"]), []).append(row)
    lines = []
    for (protocol, source, output), group in groups.items():
        values = {name: [row["metrics"][name] for row in group] for name in group[0]["metrics"]}
        line: dict[str, Any] = {
            "protocol": protocol,
            "source": source,
            "output": output,
            "seeds": [row["seed"] for row in group],
        }
        line["mean"] = {name: float(np.mean(numbers)) for name, numbers in values.items()}
        if len(group) > 1:
            line["spread"] = {name: float(np.std(numbers, ddof=1)) for name, numbers in values.items()}
        lines.append(line)
    return lines


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The line with the lowest distance to the *training* images: the output and density to be used.

    The test split is not looked at; only clean lines that sample count.
    """
    lines = [line for line in summarize(rows) if line["protocol"] == "clean" and line["source"] != "REC"]
    if not lines:
        raise InputError("there is no line of the clean protocol to choose from; evaluate with --protocol clean.")
    return min(lines, key=lambda line: line["mean"]["frechet_distance_train"])
