"""`splitvae score`: how far apart two sets of images are, by every metric, with the protocol beside the numbers."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from splitvae.data.cache import ImageCache, prepare
from splitvae.errors import InputError
from splitvae.evaluation.features import Extractor, metric_name, real_features
from splitvae.evaluation.metrics import (
    Reference,
    class_histogram,
    every_metric,
    frechet_from_features,
    total_variation,
)

Split = Literal["all", "train", "test"]


def score(
    real: str,
    fake: str,
    extractor: Extractor,
    n: int | None = None,
    split: Split = "all",
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Metrics of two image sets, and the card that says how they were measured.

    Args:
        real: a source (folder, parquet, .npz, hub name): the reference.
        fake: a source: what is judged.
        extractor: see ``get_extractor``.
        n: images of each set, chosen by ``seed``; None = all of each.
        split: which images of a source that has splits.
        image_size: (H, W) to which both are resized first; None = they are taken as they are, and must agree.
        seed: of the choice of images and of the subsets inside the metrics.
        progress: called with the number of images after each batch.

    Returns:
        ``metrics``: flat dict of floats, see ``every_metric``; ``distance``: what the Fréchet distance is called, FID
        or FD; ``floor``: the same distance between two halves of the real set;
        ``classes``, for an extractor that tells them: their shares and the distance of these, see ``_classes``;
        ``protocol``: extractor and weights, resize, counts, hashes, versions; ``notes``: what a reader must know.
    """
    sets = {name: _open(source, image_size) for name, source in (("real", real), ("fake", fake))}
    shapes = {name: cache.shape[1:] for name, cache in sets.items()}
    if shapes["real"] != shapes["fake"]:
        sides = {name: "×".join(map(str, shape)) for name, shape in shapes.items()}
        raise InputError(
            f"{real} has images of {sides['real']}, {fake} of {sides['fake']}; pass --image-size to resize both."
        )
    features, rows = {}, {}
    for name, cache in sets.items():
        rows[name] = _rows(cache, n, split, seed)
        features[name] = real_features(cache, rows[name], extractor, progress=progress)
    generated, reference = features["fake"], features["real"]
    metrics = every_metric(generated, Reference(reference), seed)
    notes = []
    if "precision" not in metrics:
        notes.append("too few images for precision, recall, density and coverage")
    notes += extractor.rank_notes(min(len(generated), len(reference)))
    halves = np.array_split(np.random.default_rng(seed).permutation(len(reference)), 2)
    floor = frechet_from_features(reference[halves[0]], reference[halves[1]]) if len(reference) >= 4 else None
    return {
        "metrics": metrics,
        "distance": metric_name(extractor),
        "floor": {"frechet_distance": floor, "images_of_each_half": len(halves[0])},
        **({} if extractor.head is None else {"classes": _classes(extractor, generated, reference, halves)}),
        "protocol": {
            **extractor.card,
            "quantisation": "uint8 as stored",
            "covariance": "divisor n − 1, float64, symmetric eigenvalues",
            "image_size": list(shapes["real"]),
            "split": split,
            "seed": seed,
            **{
                name: {
                    "source": Path(source).name or source,
                    "images": len(rows[name]),
                    "channels": cache.shape[0],
                    "content_hash": cache.meta["content_hash"],
                    "transform": cache.meta["transform"],
                }
                for (name, cache), source in zip(sets.items(), (real, fake), strict=True)
            },
            "versions": {name: version(name) for name in ("splitvae", "torch", "numpy", "pillow")},
        },
        "notes": notes,
    }


def _classes(
    extractor: Extractor, generated: np.ndarray, reference: np.ndarray, halves: list[np.ndarray]
) -> dict[str, Any]:
    """Which classes the images hold, as the extractor's head sees them.

    Args:
        extractor: with a head.
        generated, reference: features (n, F) and (m, F).
        halves: two sets of rows of ``reference``.

    Returns:
        ``real``, ``fake``: the share of each class; ``total_variation`` of the two; ``total_variation_floor``, that of
        the two halves of the real set: what chance alone does at that count.
    """
    assert extractor.head is not None
    count = len(extractor.head[1])
    found = extractor.classify(reference)
    real, fake = class_histogram(found, count), class_histogram(extractor.classify(generated), count)
    return {
        "real": real,
        "fake": fake,
        "total_variation": total_variation(fake, real),
        "total_variation_floor": total_variation(*(class_histogram(found[half], count) for half in halves)),
    }


def _open(source: str, image_size: tuple[int, int] | None) -> ImageCache:
    """A source as it is, with no crop and no resize but the one that was asked for."""
    return prepare(source, image_size or "native", crop="none", quiet=False)


def _rows(cache: ImageCache, n: int | None, split: Split, seed: int) -> np.ndarray:
    rows = np.arange(len(cache.images)) if split == "all" else cache.splits[split]
    if n is None:
        return rows
    if not 2 <= n <= len(rows):
        raise InputError(f"--n {n} must be from 2 to {len(rows):,}, the images of {cache.meta['source']} ({split}).")
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
