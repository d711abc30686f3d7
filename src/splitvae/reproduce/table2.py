"""Table 2: how far the images of one class are from all images, and how the distance falls as classes are joined.

Split-VAE (arXiv 2202.02738), section 5.2: of each class of CIFAR-10 the 5,000 training images and their left-right
mirror images against the test split. The paper's point: a single class is very far from the whole, a random mix of
all classes is not (5.3), and the distance falls slowly as labels are added. No model takes part.
"""

import hashlib
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from splitvae.data.cache import ImageCache, prepare
from splitvae.data.decode import open_picture
from splitvae.data.loader import fixed_rows
from splitvae.data.sources import find_source
from splitvae.device import pick_device
from splitvae.errors import InputError, SplitVAEError
from splitvae.evaluation.features import Extractor, get_extractor, metric_name, real_features
from splitvae.evaluation.metrics import Reference, frechet_from_features
from splitvae.files import write_json
from splitvae.presets import PRESETS
from splitvae.reports.plots import BLACK, BLUE, GREEN, new_plot
from splitvae.reproduce.published import find

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
CHUNK = 500  # images read at once
SIZES = 10  # points of the curve, from one label to all
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Choice:
    """Images that one distance is measured on.

    Attributes:
        labels: the classes that they come from.
        rows: (n,) numbers below 2N: of training images, and N higher of their mirror images.
    """

    labels: tuple[int, ...]
    rows: np.ndarray


def table2(
    source: str | Path | None = None,
    extractor: str | Extractor = "inception-v3-compat",
    out: str | Path | None = None,
    n: int = 10_000,
    seeds: int = 5,
    subsets: int = 10,
    weights: str | Path | None = None,
    device: "torch.device | str | None" = None,
    advance: Callable[[int], Any] | None = None,
    measured: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Measure table 2 on a labelled source.

    Every distance has the same number of images on the generated side, because the Fréchet distance depends on it:
    n, or twice the smallest class where that is less. Features are extracted once per image and kept in the cache.

    Args:
        source: with labels; None = the CIFAR-10 preset's.
        extractor: a name of ``EXTRACTORS``, or an ``Extractor``.
        out: a folder for ``table2.json``; None = nothing is written.
        n: images of each choice, and the most of the test split.
        seeds: random mixes of all classes: 0 … seeds − 1.
        subsets: random choices of k labels for each k between one and all.
        weights: a file with the extractor's weights.
        device: where the extractor runs; None = the GPU if there is one.
        advance: called with the number of images whose features are done.
        measured: called with (distances done, in all) after each distance.

    Returns:
        ``classes``: label, name, training images and distance of each; ``mix``: distances, mean, sd (divisor n − 1);
        ``curve``: the same for k labels, with the subsets; ``floor``: of training images from other training images,
        what so few images alone bring about; ``published``; ``card``, the protocol; ``notes``.

    Raises:
        InputError: the source has no labels, or fewer than two classes, or the counts are out of bounds.
    """
    source = str(source or PRESETS["cifar10"].values["data"])
    if n < 2 or seeds < 1 or subsets < 1:
        raise InputError(f"table 2 needs n ≥ 2, seeds ≥ 1 and subsets ≥ 1, not {n}, {seeds} and {subsets}.")
    cache, labels = open_labelled(source)
    network = get_extractor(extractor, weights, pick_device(device)) if isinstance(extractor, str) else extractor
    train = cache.splits["train"]
    classes, counts = np.unique(labels, return_counts=True)
    size = min(n, 2 * int(counts.min()))

    # Features, once per image: training images, their mirror images, the reference.
    test = fixed_rows(cache, "test", n)
    features = np.concatenate([
        real_features(cache, train, network, mirrored, progress=advance) for mirrored in (False, True)
    ])  # fmt: skip
    reference = Reference(real_features(cache, test, network, progress=advance))
    # The costly product of a distance, done once for all rows: (2N, rank), 1 GB for CIFAR-10 and 1,280 features.
    projected = np.empty((len(features), reference.root.shape[1]))
    for start in range(0, len(features), 5_000):
        projected[start : start + 5_000] = reference.project(features[start : start + 5_000])

    # Everything else is a selection of rows.
    choices = choose(labels, size, seeds, subsets)
    distances: dict[int | str, list[float]] = {key: [] for key in choices}
    every = [(key, choice.rows) for key, group in choices.items() for choice in group]
    for done, (key, rows) in enumerate(every, 1):
        distances[key].append(reference.distance(features[rows].astype(np.float64), projected[rows]))
        if measured is not None:
            measured(done, len(every))

    names, mix = class_names(cache, classes), find("cifar10", "data", "mix")
    assert mix is not None  # the registry has it
    result = {
        "format_version": FORMAT_VERSION,
        "table": 2,
        "distance": metric_name(network),
        "classes": [
            {"label": int(label), "name": name, "training_images": int(count), "distance": distance}
            for label, name, count, distance in zip(classes, names, counts, distances[1], strict=True)
        ],
        "mix": _spread(distances["mix"]),
        "curve": [
            {"labels": k, **_spread(distances[k]), "subsets": [list(choice.labels) for choice in group]}
            for k, group in choices.items()
            if k != "mix"
        ],
        "floor": _floor(features[: len(train)], size),
        "published": {"mix": mix.value, "protocol": mix.protocol, "source": mix.source},
    }
    result |= _card(source, cache, network, counts.tolist(), size, len(test), seeds, subsets)
    if out is not None:
        write_json(Path(out).expanduser() / "table2.json", result)
    return result


def open_labelled(source: str | Path) -> tuple[ImageCache, np.ndarray]:
    """Prepare a source that has at least two classes; with it the labels of its training images (N,)."""
    cache = prepare(source, quiet=True)
    if cache.labels is None:
        raise InputError(
            f"{source} has no labels, which table 2 is about; use sub-folders as classes, train_labels in an .npz, or "
            "a data set with a column label."
        )
    labels = cache.labels[cache.splits["train"]]
    if len(np.unique(labels)) < 2:
        raise InputError(f"{source} has one class only; table 2 compares classes and needs at least 2.")
    if len(cache.splits["test"]) < 2:
        raise InputError(f"{source} has {len(cache.splits['test'])} test images; a distance needs at least 2.")
    return cache, labels


def images_in_all(cache: ImageCache, n: int = 10_000) -> int:
    """How many images' features ``table2`` needs: training images twice, and the reference."""
    return 2 * len(cache.splits["train"]) + min(n, len(cache.splits["test"]))


def choose(labels: np.ndarray, n: int, seeds: int, subsets: int) -> dict[int | str, list[Choice]]:
    """Which images each distance is measured on, a function of its arguments and of nothing else.

    Args:
        labels: (N,) of the training images.
        n: images of each choice, at most twice the smallest class.
        seeds: mixes of all classes.
        subsets: choices of k labels, where there are so many.

    Returns:
        k → choices from the union of k labels: every single label for k = 1, all for the last k, else random
        subsets, all different; and "mix" → choices from everything.
    """
    classes, doubled = np.unique(labels), np.concatenate([labels, labels])
    K = len(classes)

    def draw(chosen: np.ndarray, *seed: int) -> Choice:
        pool = np.flatnonzero(np.isin(doubled, chosen))
        rows = np.sort(np.random.default_rng(seed).choice(pool, n, replace=False))
        return Choice(tuple(int(label) for label in chosen), rows)

    choices: dict[int | str, list[Choice]] = {}
    for k in np.unique(np.linspace(1, K, min(SIZES, K)).round().astype(int)).tolist():
        groups = classes[:, None] if k == 1 else classes[_subsets(K, k, subsets)]
        choices[k] = [draw(group, 1, k, i) for i, group in enumerate(groups)]
    choices["mix"] = [draw(classes, 2, seed) for seed in range(seeds)]
    return choices


def _subsets(K: int, k: int, wanted: int) -> np.ndarray:
    """Different subsets of k of the numbers below K, (as many as wanted or as there are, k), each sorted."""
    rng, found = np.random.default_rng([0, k]), dict[tuple[int, ...], None]()
    while len(found) < min(wanted, math.comb(K, k)):
        found[tuple(sorted(rng.choice(K, k, replace=False).tolist()))] = None
    return np.array(list(found))


def class_names(cache: ImageCache, classes: np.ndarray) -> list[str]:
    """The names of CIFAR-10's classes, else their numbers; the cache keeps no names of classes."""
    source = "".join(c for c in Path(cache.meta["source"]).name.lower() if c.isalnum())
    known = (
        source.startswith("cifar10")
        and not source.startswith("cifar100")
        and classes.tolist() == list(range(len(CIFAR10)))
    )
    return [CIFAR10[label] if known else str(label) for label in classes.tolist()]


def table2_plot(result: dict[str, Any]) -> Figure:
    """Bars for each class and the mix, and beside them the curve over the number of labels (mean ± sd)."""
    figure, (bars, curve) = new_plot(9.6, 3.8, columns=2, sharey=True, width_ratios=(3, 2))
    names = [entry["name"] for entry in result["classes"]] + ["mix"]
    heights = [entry["distance"] for entry in result["classes"]] + [result["mix"]["mean"]]
    drawn = bars.bar(range(len(names)), heights, width=0.75, color=[BLUE] * (len(names) - 1) + [GREEN])
    if len(names) <= 21:
        bars.bar_label(drawn, fmt="%.1f" if max(heights) < 1000 else "%.0f", fontsize=8, padding=2)
        bars.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    bars.tick_params(axis="x", length=0)
    bars.grid(visible=False)
    bars.set_ylabel(result["distance"])
    bars.set_title("one class against the test images of all", fontsize=10, loc="left")

    counts = [entry["labels"] for entry in result["curve"]]
    means = [entry["mean"] for entry in result["curve"]]
    spread = [entry["sd"] or 0.0 for entry in result["curve"]]
    curve.errorbar(counts, means, spread, color=BLACK, marker="o", markersize=4, linewidth=1.2, capsize=3)
    curve.set_xlabel("number of classes joined")
    curve.set_ylim(bottom=0)
    if len(counts) <= SIZES:
        curve.set_xticks(counts)
    curve.set_title("random subsets of classes, mean ± sd", fontsize=10, loc="left")
    return figure


def _floor(features: np.ndarray, n: int) -> dict[str, Any]:
    """The distance of two disjoint random choices of n training images, of half of them where there are fewer."""
    n = min(n, len(features) // 2)
    rows = np.random.default_rng(3).permutation(len(features))
    return {"images_of_each": n, "distance": frechet_from_features(features[rows[:n]], features[rows[n : 2 * n]])}


def _spread(distances: list[float]) -> dict[str, Any]:
    """Distances, their mean, and their standard deviation, which one alone does not have."""
    sd = float(np.std(distances, ddof=1)) if len(distances) > 1 else None
    return {"distances": distances, "mean": float(np.mean(distances)), "sd": sd}


def _encoding(source: str) -> str:
    """The file format of the source's first training image, "arrays", or "unknown" where it cannot be read again."""
    try:
        item = find_source(source).load()["train"].items[0]
        if isinstance(item, np.ndarray):
            return "arrays"
        with open_picture(item) as picture:
            return picture.format or "unknown"
    except (SplitVAEError, OSError):  # prepared before, and out of reach now
        return "unknown"


def _card(
    source: str,
    cache: ImageCache,
    extractor: Extractor,
    counts: list[int],
    size: int,
    reference: int,
    seeds: int,
    subsets: int,
) -> dict[str, Any]:
    """The protocol of every number, and what a reader must know."""
    encoding = _encoding(source)
    decides = {
        **extractor.card,
        "quantisation": "uint8 as stored",
        "covariance": "divisor n − 1, float64, symmetric eigenvalues",
        "data_sha256": cache.meta["content_hash"],
        "transform": cache.meta["transform"],
        "images_of_each_choice": size,
        "test_images": reference,
        "choice": "without replacement from the training images of its classes and their left-right mirror images",
        "seeds": {"mix": list(range(seeds)), "subsets_of_labels": subsets},
    }
    card = decides | {
        "signature": hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16],
        "source": Path(cache.meta["source"]).name,
        "source_files": encoding,
        "machine": platform.platform(),
        "versions": {name: version(name) for name in ("splitvae", "torch", "numpy", "pillow")},
    }
    notes = ["the paper took Inception's weights from Keras and its own resize: compare the shape, not the numbers"]
    if encoding == "JPEG":
        notes.append(
            "these images come from JPEG files; where the original is lossless, as CIFAR-10 is, distances to published "
            "figures shift"
        )
    if size < 10_000:
        notes.append(f"{size:,} images of each choice, twice the smallest class, where the paper has 10,000")
    if len(set(counts)) > 1:
        notes.append("the classes differ in size; a mix holds them in the training split's proportions")
    return {"card": card, "notes": notes + extractor.rank_notes(min(size, reference))}
