"""Metrics on features (N, F): pure functions in float64 that return floats or flat dicts of floats.

Everywhere the first argument is GENERATED and the second is REAL; the Fréchet and kernel distances are symmetric,
precision and recall, density and coverage are not.

Sources: Fréchet distance (FID) Heusel et al. 2017, arXiv 1706.08500; its limit n → ∞ Chong & Forsyth 2019,
arXiv 1911.07023; kernel distance (KID) Bińkowski et al. 2018, arXiv 1801.01401; precision and recall Kynkäänniemi
et al. 2019, arXiv 1904.06991; density and coverage Naeem et al. 2020, arXiv 2002.09797.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from splitvae.errors import InputError

ROWS = 1024  # rows of a distance matrix held at once: 80 MB against 10,000 points


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """The squared 2-Wasserstein distance of two Gaussians, |μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½).

    C₁C₂ has the eigenvalues of RᵀC₂R for every R with RRᵀ = C₁. That matrix is symmetric, so that the root of its
    eigenvalues is real whatever the rank, where the root of the product itself may come out complex or not at all.

    Args:
        mean1, mean2: (F,).
        cov1, cov2: (F, F), symmetric.

    Returns:
        The distance, at least 0; it is symmetric in the two Gaussians.
    """
    mean1, mean2, cov1, cov2 = (np.asarray(value, dtype=np.float64) for value in (mean1, mean2, cov1, cov2))
    width = len(mean1)
    if mean2.shape != (width,) or cov1.shape != (width, width) or cov2.shape != (width, width):
        raise InputError(
            f"the moments have the shapes {mean1.shape}, {cov1.shape} and {mean2.shape}, {cov2.shape}; "
            "they must be (F,), (F, F) with one F: use one extractor for both."
        )
    if not all(np.isfinite(value).all() for value in (mean1, cov1, mean2, cov2)):
        raise InputError("the moments are not finite; look for NaN in the features that they were made of.")
    root = _root(cov1)
    return _frechet(mean1 - mean2, np.trace(cov1) + np.trace(cov2), root.T @ cov2 @ root)


class Reference:
    """REAL features (m, F), with what several metrics need of them computed once.

    Args:
        real: (m, F), m ≥ 2, finite.

    Examples:
        >>> reference = Reference(np.eye(4))
        >>> frechet_from_features(np.eye(4), reference) < 1e-9, precision_recall(np.eye(4), reference)["recall"]
        (True, 1.0)
    """

    def __init__(self, real: Any) -> None:
        self.features = _rows(real, "real features")
        self.mean = self.features.mean(axis=0)
        self._radii: dict[int, np.ndarray] = {}

    @cached_property
    def root(self) -> np.ndarray:
        """(F, r) with root·rootᵀ = the covariance."""
        m, width = self.features.shape
        centred = (self.features - self.mean) / np.sqrt(m - 1)
        return centred.T if m < width else _root(_gram(centred.T))

    @cached_property
    def _trace(self) -> float:
        return float(np.square(self.features - self.mean).sum() / (len(self.features) - 1))

    def project(self, fake: np.ndarray) -> np.ndarray:
        """(n, F) → (n, r): (fake − mean)·root; centred first, so that a far mean costs no digits."""
        return (fake - self.mean) @ self.root

    def distance(self, fake: np.ndarray, projected: np.ndarray | None = None) -> float:
        """The Fréchet distance to GENERATED features (n, F); ``projected`` is ``project(fake)`` where it is at hand."""
        mean = fake.mean(axis=0)
        projected = self.project(fake) if projected is None else projected
        n, r = projected.shape
        # (n, r), with centredᵀ·centred = rootᵀ·C·root.
        centred = (projected - projected.mean(axis=0)) / np.sqrt(n - 1)
        # The two Gram matrices of a matrix share their non-zero eigenvalues: take the smaller.
        product = _gram(centred) if n < r else _gram(centred.T)
        return _frechet(mean - self.mean, np.square(fake - mean).sum() / (n - 1) + self._trace, product)

    def radii(self, k: int) -> np.ndarray:
        """(m,) squared distance of each point to its k-th neighbour."""
        if k not in self._radii:
            self._radii[k] = _radii(self.features, k)
        return self._radii[k]


def frechet_from_features(fake: Any, real: Any) -> float:
    """``frechet_distance`` of the sample means and covariances (divisor n − 1) of two feature sets.

    Fewer rows than columns are allowed and cost less: no (F, F) matrix is then made. But the value is biased upwards
    by about 1/n, so that sets of different sizes cannot be compared (``frechet_at_infinity``).

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
    """
    fake, reference = _pair(fake, real)
    return reference.distance(fake)


def frechet_at_infinity(
    fake: Any, real: Any, points: int = 15, smallest: int | None = None, seed: int = 0
) -> dict[str, float]:
    """The Fréchet distance extrapolated to infinitely many generated images (Chong & Forsyth 2019, section 4).

    The distance of n generated features is about a + b/n. It is measured on random subsets of growing size, and the
    least-squares line in 1/n is read at 0. The real features stay whole: their own bias remains.

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
        points: number of subset sizes, equally spaced up to n; at least 2.
        smallest: the smallest subset; None = n/2. The paper takes n/10 with n = 50,000; below F rows the distance
            is no longer a line in 1/n.
        seed: of the subsets.

    Returns:
        ``frechet_at_infinity`` = a, which may be slightly negative (clipping would bias it);
        ``frechet_at_infinity_slope`` = b; ``frechet_at_infinity_residual``, the rms distance to the line.
    """
    fake, reference = _pair(fake, real)
    n = len(fake)
    smallest = max(2, n // 2) if smallest is None else smallest
    if points < 2 or not 2 <= smallest < n:
        raise InputError(
            f"the extrapolation needs points ≥ 2 and 2 ≤ smallest < {n} (the generated rows), "
            f"not points = {points} and smallest = {smallest}; score more images."
        )
    rng, projected = np.random.default_rng(seed), reference.project(fake)
    sizes = np.unique(np.linspace(smallest, n, points).round().astype(int))
    subsets = [rng.permutation(n)[:size] for size in sizes]
    distances = [reference.distance(fake[rows], projected[rows]) for rows in subsets]
    design = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(design, np.array(distances), rcond=None)
    residual = np.sqrt(np.mean((design @ [intercept, slope] - distances) ** 2))
    return {
        "frechet_at_infinity": float(intercept),
        "frechet_at_infinity_slope": float(slope),
        "frechet_at_infinity_residual": float(residual),
    }


def kernel_distance(
    fake: Any, real: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """KID: the unbiased MMD² under k(x, y) = (x·y/F + 1)³, averaged over random subsets (Bińkowski et al. 2018).

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
        subsets: how many pairs of subsets; at least 1.
        subset_size: rows of a subset, drawn without replacement; the smaller set's size where that is less.
        seed: of the subsets.

    Returns:
        ``kid``, the mean (slightly negative for sets that agree); ``kid_std``, the standard deviation over subsets;
        ``kid_subset_size``, the rows used.
    """
    fake, reference = _pair(fake, real)
    real = reference.features
    if subsets < 1 or subset_size < 2:
        raise InputError(f"KID needs subsets ≥ 1 and subset_size ≥ 2, not {subsets} and {subset_size}.")
    size = min(subset_size, len(fake), len(real))
    rng = np.random.default_rng(seed)
    values = [
        _mmd2(fake[rng.choice(len(fake), size, replace=False)], real[rng.choice(len(real), size, replace=False)])
        for _ in range(subsets)
    ]
    return {"kid": float(np.mean(values)), "kid_std": float(np.std(values)), "kid_subset_size": float(size)}


def precision_recall(fake: Any, real: Any, k: int = 3) -> dict[str, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2).

    A set's manifold is the union of closed balls around its points that reach to their k-th neighbour in the set.

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
        k: which neighbour sets the radius, the point itself not counted.

    Returns:
        ``precision``, the share of GENERATED points on the manifold of the real ones (quality);
        ``recall``, the share of REAL points on the manifold of the generated ones (variety).
    """
    fake, reference = _pair(fake, real)
    real, fake_radii, real_radii = reference.features, _radii(fake, k), reference.radii(k)
    precise, recalled = np.zeros(len(fake), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, squared in _distances(fake, real):  # rows are GENERATED, columns REAL
        precise[rows] = (squared <= real_radii).any(axis=1)
        recalled |= (squared <= fake_radii[rows, None]).any(axis=0)
    return {"precision": float(precise.mean()), "recall": float(recalled.mean())}


def density_coverage(fake: Any, real: Any, k: int = 5) -> dict[str, float]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4); only the REAL points have balls.

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
        k: which neighbour sets the radius, the point itself not counted.

    Returns:
        ``density``, how many REAL balls hold a generated point, over k, on average (1 in expectation where the sets
        agree, unbounded); ``coverage``, the share of REAL balls that hold at least one GENERATED point.
    """
    fake, reference = _pair(fake, real)
    real, radii = reference.features, reference.radii(k)
    held, covered = 0, np.zeros(len(real), dtype=bool)
    for _, squared in _distances(fake, real):  # rows are GENERATED, columns REAL
        inside = squared <= radii
        held += int(inside.sum())
        covered |= inside.any(axis=0)
    return {"density": held / (k * len(fake)), "coverage": float(covered.mean())}


def class_histogram(labels: Any, classes: int) -> list[float]:
    """The share of each class among labels (N,) in 0 … classes − 1, N ≥ 1: a list that sums to 1."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels must be (N,) with N ≥ 1 and values from 0 to {classes - 1}.")
    return (np.bincount(labels, minlength=classes) / len(labels)).tolist()


def total_variation(p: Any, q: Any) -> float:
    """½ Σ |pᵢ − qᵢ| of two histograms (classes,): the share that would have to change class; 0 to 1."""
    return float(np.abs(np.subtract(p, q)).sum() / 2)


def every_metric(fake: Any, real: Any, seed: int = 0) -> dict[str, float]:
    """All metrics of this file that the number of images allows.

    Args:
        fake: GENERATED features (n, F).
        real: REAL features (m, F), or a ``Reference``.
        seed: of the subsets inside the metrics.

    Returns:
        ``frechet_distance``; from 20 and 2F generated rows on ``frechet_at_infinity``; ``kid``, ``kid_std``; from 6 on
        ``precision``, ``recall``, ``density``, ``coverage``.
    """
    fake, reference = _pair(fake, real)
    metrics = {"frechet_distance": frechet_from_features(fake, reference)}
    if len(fake) // 2 >= max(10, fake.shape[1]):  # with fewer rows than columns it is no line in 1/n
        metrics["frechet_at_infinity"] = frechet_at_infinity(fake, reference, seed=seed)["frechet_at_infinity"]
    kid = kernel_distance(fake, reference, seed=seed)
    metrics |= {"kid": kid["kid"], "kid_std": kid["kid_std"]}
    if min(len(fake), len(reference.features)) > 5:
        metrics |= precision_recall(fake, reference) | density_coverage(fake, reference)
    return metrics


def places_for(floor: float) -> int:
    """Digits behind the point of distances that are to be read beside this floor."""
    return 2 if floor < 1 else 1


def _frechet(difference: np.ndarray, traces: float, product: np.ndarray) -> float:
    """|difference|² + traces − 2 Tr(product^½), where product is symmetric and has the eigenvalues of C₁C₂."""
    # Rounding leaves eigenvalues a little below 0 where the true ones vanish.
    root = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
    return max(0.0, float(difference @ difference + traces - 2 * root))


def _root(cov: np.ndarray) -> np.ndarray:
    """R (F, rank) with RRᵀ = cov, which is symmetric and positive semi-definite."""
    values, vectors = np.linalg.eigh(cov)
    # Eigenvalues that are nothing but rounding are dropped, as in numpy's matrix_rank: √ would magnify them.
    keep = values > len(values) * np.finfo(np.float64).eps * values.max()
    return vectors[:, keep] * np.sqrt(values[keep])


def _gram(x: np.ndarray) -> np.ndarray:
    return x @ x.T


def _mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of MMD² (Gretton et al. 2012, lemma 6) for two sets of n rows."""
    n, width = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / width + 1) ** 3

    def off_diagonal(k: np.ndarray) -> float:
        return float(k.sum() - np.trace(k))

    within = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y))
    return within / (n * (n - 1)) - 2 * float(kernel(x, y).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of a, their squared distances to all of b) piece by piece, so that memory stays bounded."""
    b_squares = np.square(b).sum(axis=1)
    for start in range(0, len(a), ROWS):
        rows = slice(start, min(start + ROWS, len(a)))
        squares = np.square(a[rows]).sum(axis=1)[:, None] + b_squares
        squared = squares - 2 * (a[rows] @ b.T)
        # Equal points come out as rounding of either sign; without this a copy could lie outside a ball of radius 0.
        squared[squared < 1e-12 * squares] = 0
        yield rows, squared


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """(N,) squared distance of each point to its k-th neighbour in the same set."""
    if not 1 <= k < len(points):
        raise InputError(
            f"k = {k} neighbours need at least {max(k, 1) + 1} rows and k ≥ 1; there are {len(points)} rows."
        )
    # Every point is its own 0-th neighbour.
    return np.concatenate([np.partition(squared, k, axis=1)[:, k] for _, squared in _distances(points, points)])


def _pair(fake: Any, real: Any) -> tuple[np.ndarray, Reference]:
    """The generated features as a float64 array and the real ones as a ``Reference``, of one width."""
    fake = _rows(fake, "generated features")
    reference = real if isinstance(real, Reference) else Reference(real)
    if fake.shape[1] != len(reference.mean):
        raise InputError(
            f"the generated features have {fake.shape[1]} columns and the real ones {len(reference.mean)}; "
            "use one extractor for both."
        )
    return fake, reference


def _rows(features: Any, what: str, at_least: int = 2) -> np.ndarray:
    """Features as a finite float64 array (N, F) with N ≥ at_least."""
    if isinstance(features, Tensor):
        features = features.detach().cpu().double().numpy()
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] < 1:
        raise InputError(f"the {what} have the shape {features.shape}; they must be (N, F).")
    if len(features) < at_least:
        raise InputError(f"the {what} have {len(features)} rows and need at least {at_least}; score more images.")
    if broken := int((~np.isfinite(features)).any(axis=1).sum()):
        raise InputError(
            f"{broken} of {len(features)} rows of the {what} are not finite; look for NaN in the images or weights."
        )
    return features
