"""`splitvae evaluate`: reconstructions, the prior and every fitted density, each output, under named protocols.

``protocol.py`` says what the protocols are; here they are run, and what they found is put into ``metrics.json``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from splitvae.data.loader import fixed_rows
from splitvae.densities.fit import REFERENCE_IMAGES
from splitvae.densities.store import density_names
from splitvae.device import pick_device
from splitvae.errors import InputError
from splitvae.evaluation.crew import Crew, own_device
from splitvae.evaluation.features import Extractor, choose_bf16, get_extractor, metric_name
from splitvae.evaluation.latents import diagnose_latents, diagnosis
from splitvae.evaluation.mask_iou import iou_of_run
from splitvae.evaluation.metrics import class_histogram, every_metric, frechet_from_features, total_variation
from splitvae.evaluation.nearest import nearest_training
from splitvae.evaluation.outputs import decode_outputs, mixed
from splitvae.evaluation.protocol import Protocol, Setting, Source, card, sources_of
from splitvae.evaluation.split_kind import split_of_model
from splitvae.files import read_json, write_json
from splitvae.run import Run

FORMAT_VERSION = 1
PROBED = 1_000  # test images on which bf16 is tried
COMPARED = 1_000  # samples whose nearest training image is looked for


def evaluate(
    run: "Run | str | Path",
    extractor: "str | Extractor" = "inception-v3-compat",
    protocol: Literal["clean", "paper", "both"] = "clean",
    densities: list[str] | None = None,
    n: int = REFERENCE_IMAGES,
    seeds: int | Sequence[int] = 1,
    metrics: Literal["all", "frechet"] = "all",
    weights: "str | Path | None" = None,
    device: "torch.device | str | None" = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    data: str | None = None,
    say: Callable[[str], Any] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    crew: Crew | None = None,
    masks: str | Path | None = None,
    outputs: Literal["all", "x_hat"] = "all",
) -> dict[str, Any]:
    """Score a run and write its ``metrics.json``.

    Args:
        run: a run directory with a model.
        extractor: a name of ``EXTRACTORS``, or an ``Extractor`` around a network of one's own.
        protocol: "clean", "paper" or "both", see ``protocol.py``.
        densities: names of fitted densities; None = all that the run has. The paper's protocol takes those fitted on
            test codes, and fits the twin of each mixture where there is none.
        n: images on either side; all of the test split where it has fewer.
        seeds: of the sampling: as many from 0 on, or the seeds themselves.
        metrics: "all", or "frechet" for the Fréchet distances only, which takes half the time on a CPU.
        weights: a file with the extractor's weights.
        device: where networks run; None = the GPU if there is one.
        precision: "bf16" = features are computed in bf16, provided that it moves the distance by less than 0.5 %.
        data: where the run's data is now; None = where it was.
        say: called with lines for people: the estimated cost, then each result as it comes.
        progress: called with the images whose features are done, and their total.
        crew: the processes that share the features, all of which call this; None = this one alone.
        masks: given masks to compare the model's with, see ``read_masks``; None = those that it was trained with.
        outputs: what is scored: "all" = x̂, each of the K components and their mix, or "x_hat", which takes 1 / (1 + K)
            of the time.

    Returns:
        the content of ``metrics.json``: ``rows``, each with protocol, source, output, seed and a flat dict of floats
        ``metrics``; ``floor``, the same for real training images; ``copies``, how near samples come to training
        images; ``latents``; ``split``, see ``split_kind`` (None = one component); ``masks``, see ``iou_of_model``
        (None = none are given, or of no test image); ``diagnosis`` in one line; ``card``, the protocol of every number;
        ``notes``. An earlier file that this one would not replace line by line is kept beside it.

    Raises:
        InputError: an unknown name, data that changed since the training, densities of another model.
        SplitVAEError: the extractor is out of reach, or the model has diverged.
        Dismissed: on all processes of a crew but the first, when that needs them no more.
    """
    for value, known in ((metrics, ("all", "frechet")), (outputs, ("all", "x_hat")), (precision, ("fp32", "bf16"))):
        if value not in known:
            raise InputError(f"'{value}' is not one of {' and '.join(known)}.")
    if protocol not in (*get_args(Protocol), "both"):
        raise InputError(f"the protocol must be clean, paper or both, not '{protocol}'.")
    chosen_seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen_seeds or n < 2:
        raise InputError(f"an evaluation needs seeds ≥ 1 and n ≥ 2, not {seeds} and {n}.")
    say, report = say or (lambda line: None), progress or (lambda done, total: None)
    images = _Count(report)
    crew = crew or Crew()
    options = n, metrics == "all", weights, own_device(crew, device), images.advance
    parts = outputs == "all"
    setting = crew.prepare(
        lambda: replace(open_setting(run, extractor, *options, data=data), crew=crew, components=parts)
    )
    if crew.rank:
        setting.serve()
    given_masks, lost_masks = _compared_masks(setting.run, masks, say)
    if precision == "bf16":
        probed = fixed_rows(setting.run.data, "test", PROBED)
        bf16, reason = choose_bf16(setting.extractor, setting.run.data.images[probed])
        say(reason if bf16 else f"{reason}: features stay in float32")
        setting = replace(setting, bf16=bf16)
    protocols = get_args(Protocol) if protocol == "both" else (protocol,)
    sources = [source for name in protocols for source in sources_of(setting, name, densities, say)]
    shown = {source.name for source in sources}
    if left_out := [name for name in densities or [] if not {name, f"{name}-test"} & shown]:
        raise InputError(
            f"the {protocol} protocol has no line for {', '.join(left_out)}: the clean one shows what was fitted on "
            "training codes, the paper's what was fitted on test codes. Pass another --protocol."
        )
    jobs = [(source, seed) for source in sources for seed in (chosen_seeds if source.seeded else [0])]
    each, real = setting.n * sum(name != "mix" for name in setting.outputs), 3 * setting.n
    images.total = real + each * len(jobs)
    floor = measure_floor(setting)
    say(f"floor, {len(setting.floor):,} other training images: {floor['frechet_distance']:.2f}")
    rows: list[dict[str, Any]] = []
    told = False
    prior: dict[int, list[dict[str, Any]]] = {}  # by seed; the prior's samples are the same under both protocols
    for number, (source, seed) in enumerate(jobs):
        images.reach(real + number * each)
        start = time.perf_counter()
        if source.name == "normal" and seed in prior:
            measured = [row | {"protocol": source.protocol} for row in prior[seed]]
        else:
            measured = measure(setting, source, seed)
        if source.name == "normal":
            prior[seed] = measured
        rows += measured
        values = ", ".join(f"{row['output']} {row['metrics']['frechet_distance']:.2f}" for row in measured)
        say(f"{source.protocol}, {source.name}, seed {seed}: {values}")
        left = len(jobs) - number - 1
        # Told once, by the first source whose features had to be made.
        if not told and left and images.done >= real + (number + 1) * each:
            told, minutes = True, (time.perf_counter() - start) * left / 60
            say(f"{left} more of {each:,} images each: about {minutes:.0f} min, less where features are kept")
    result = {
        "format_version": FORMAT_VERSION,
        "distance": metric_name(setting.extractor),
        "diagnosis": "",
        "rows": rows,
        "floor": floor,
        "copies": _copies(setting, sources, rows),
        "latents": diagnose_latents(setting.posterior),
        "split": split_of_model(setting.run.model, setting.posterior.mode()),
        "masks": given_masks,
        "card": card(setting, sources, chosen_seeds),
        "notes": _notes(setting, sources) + lost_masks,
    }
    result["diagnosis"] = diagnose(result)
    _write(setting.run.path / "metrics.json", result, say)
    return result


def _compared_masks(
    run: Run, masks: str | Path | None, say: Callable[[str], Any]
) -> tuple[dict[str, Any] | None, list[str]]:
    """``iou_of_run``, and a note where the run's own masks are not to be had: the other numbers do not need them."""
    try:
        found = iou_of_run(run, masks)
        if found is None and (masks is not None or run.config.masks is not None):
            say("no test image has a mask, so there is nothing to compare the model's with")
            return None, ["no test image has a mask"]
        return found, []
    except InputError as error:
        if masks is not None:
            raise
        say(f"not compared with the run's masks: {error} Name them with --masks.")
        # Of the reason, which names folders, nothing stays in files that are passed on.
        return None, ["not compared with the run's masks, which were not to be had"]


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
    data: str | None = None,
) -> Setting:
    """What all lines of an evaluation share; the arguments are those of ``evaluate``.

    Raises:
        InputError: fewer than 2 test images, or data that changed since the training.
    """
    place = pick_device(device)
    run = Run.open(run).at(data).on(place)
    network = get_extractor(extractor, weights, place) if isinstance(extractor, str) else extractor
    found = len(run.trained_data.splits["test"])
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
        rows.append(row | {"metrics": _measure(setting, own, seed, labels)})
    return rows


def measure_floor(setting: Setting) -> dict[str, float]:
    """Real training images in the place of generated ones; ``class_accuracy`` is that of the real test images."""
    floor = _measure(setting, setting.floor)
    if setting.extractor.head is not None and setting.test_labels is not None:
        found = setting.extractor.classify(setting.test.features)
        floor["class_accuracy"] = float((found == setting.test_labels).mean())
    return floor


def _measure(
    setting: Setting, features: np.ndarray, seed: int = 0, labels: np.ndarray | None = None
) -> dict[str, float]:
    """Metrics of features (n, F) against the test reference, and the Fréchet distance to the training images.

    Where the extractor knows classes: how far their shares are from those of the reference, and how many samples are
    of the class that they were drawn for.
    """
    if setting.every:
        metrics = every_metric(features, setting.test, seed)
    else:
        metrics = {"frechet_distance": frechet_from_features(features, setting.test)}
    to_train = frechet_from_features(features, setting.train)
    # Positive where samples are nearer to the images that were trained on than to new ones.
    gap = metrics["frechet_distance"] - to_train
    metrics |= {"frechet_distance_train": to_train, "memorisation_gap": gap}
    if (head := setting.extractor.head) is not None:
        found, real = (setting.extractor.classify(f) for f in (features, setting.test.features))
        shares = [class_histogram(classes, len(head[1])) for classes in (found, real)]
        metrics["class_total_variation"] = total_variation(*shares)
        if labels is not None:
            metrics["class_accuracy"] = float((found == labels).mean())
    return metrics


def _copies(setting: Setting, sources: list[Source], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How near samples and test images come to the whole training split, by pixels: what copying would change.

    The samples are those of the density that is nearest to the training images.
    """
    clean = [row for row in rows if row["protocol"] == "clean"]
    name = chosen(clean)["source"] if clean else "normal"
    source = next(source for source in sources if source.name == name)
    z, _ = setting.sample(source, 0)
    samples = np.concatenate([batch[:, 0] for batch in decode_outputs(setting.run.model, z[:COMPARED])])
    cache = setting.run.data
    test = cache.images[fixed_rows(cache, "test", len(samples))]
    to_train = {what: nearest_training(images, cache, 1)[1] for what, images in (("of", samples), ("test", test))}
    close = np.quantile(to_train["test"], 0.01)
    return {
        "source": name,
        "images": len(samples),
        "median_distance": float(np.median(to_train["of"])),
        "median_distance_of_test_images": float(np.median(to_train["test"])),
        "share_nearer_than_99_percent_of_test_images": float((to_train["of"] < close).mean()),
    }


def _notes(setting: Setting, sources: list[Source]) -> list[str]:
    """What a reader of the table must know."""
    notes, run = setting.extractor.rank_notes(setting.n), setting.run
    if not setting.extractor.published:
        notes.append(f"the weights of {setting.extractor.name} are not the published ones")
    if not density_names(run.path):
        notes.append("no density was fitted; the paper samples from a mixture: splitvae fit RUN --density gmm")
    if run.going_on is not None:
        notes.append(run.going_on)
    for what in ("train", "floor"):
        if (count := len(setting.rows[what])) != setting.n:
            notes.append(f"{what}: {count:,} images stand in for {setting.n:,}; its distances differ in bias")
    if any(source.protocol == "paper" for source in sources):
        notes.append("paper protocol: the mixture has seen the images that it is scored against; do not compare")
    return notes


def diagnose(result: dict[str, Any]) -> str:
    """The one-line diagnosis, from the clean lines; the density is chosen on the distance to the training images."""
    clean = [line for line in summarize(result["rows"]) if line["protocol"] == "clean" and line["output"] == "x_hat"]
    if not clean:
        return "no line of the clean protocol; evaluate with --protocol clean or both for a diagnosis."
    x_hat = {line["source"]: line["mean"] for line in clean}
    fitted = [mean for source, mean in x_hat.items() if source not in ("REC", "normal")]
    best = min(fitted, key=lambda mean: mean["frechet_distance_train"], default=None)
    return diagnosis(
        result["latents"],
        result["floor"]["frechet_distance"],
        x_hat["REC"]["frechet_distance"],
        x_hat["normal"]["frechet_distance"],
        None if best is None else best["frechet_distance"],
    )


def _write(path: Path, result: dict[str, Any], say: Callable[[str], Any]) -> None:
    """Write ``metrics.json``; an earlier one is kept under another name unless every line of it is replaced."""

    def lines(metrics: dict[str, Any]) -> set[tuple]:
        signature = metrics["card"]["signature"]
        return {(signature, row["protocol"], row["source"], row["output"], row["seed"]) for row in metrics["rows"]}

    if path.exists():
        try:
            replaced = lines(read_json(path, "an evaluation")) <= lines(result)
        except (InputError, KeyError, TypeError):
            replaced = False
        if not replaced:
            number = 1
            while (kept := path.with_name(f"metrics-{number}.json")).exists():
                number += 1
            path.rename(kept)
            say(f"the earlier evaluation, which has other lines, is kept as {kept.name}")
    write_json(path, result)


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


def best_density(run: Run, metrics: dict[str, Any]) -> str:
    """The density to draw pictures from: nearest to the training images, among those that are still there."""
    if all(row["protocol"] != "clean" for row in metrics["rows"]):
        return "normal"
    name = str(chosen(metrics["rows"])["source"])
    return name if name in density_names(run.path) else "normal"
