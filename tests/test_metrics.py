"""The metrics agree with closed forms, with torch-fidelity, and with counting by hand."""

import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from splitvae.errors import InputError
from splitvae.evaluation import metrics
from splitvae.evaluation.metrics import (
    density_coverage,
    frechet_at_infinity,
    frechet_distance,
    frechet_from_features,
    kernel_distance,
    precision_recall,
)


def random_covariance(rng: np.random.Generator, width: int) -> np.ndarray:
    x = rng.normal(size=(3 * width, width)) * np.logspace(0, -2, width)
    return x.T @ x


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def fidelity(module: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"torch_fidelity.{module}")


def test_frechet_of_commuting_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    a, b = rng.uniform(0.01, 9, size=(2, 50))
    mean1, mean2 = rng.normal(size=(2, 50))
    expected = np.square(mean1 - mean2).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = frechet_distance(mean1, basis * a @ basis.T, mean2, basis * b @ basis.T)
    assert found == pytest.approx(expected, rel=1e-8)


def test_frechet_of_two_by_two_gaussians_is_the_closed_form():
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    assert not np.allclose(a @ b, b @ a)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))  # Cayley and Hamilton
    found = frechet_distance([1.0, 0.0], a, [0.0, 0.0], b)
    assert found == pytest.approx(1 + np.trace(a + b) - 2 * root, rel=1e-8)


def test_frechet_of_any_gaussians_agrees_with_fifty_digits():
    rng = np.random.default_rng(1)
    a, b = random_covariance(rng, 12), random_covariance(rng, 12)
    with mpmath.workdps(50):
        root = mpmath.sqrtm(mpmath.matrix(a.tolist()) * mpmath.matrix(b.tolist()))
        expected = float(np.trace(a) + np.trace(b) - 2 * mpmath.re(sum(root[i, i] for i in range(12))))
    assert frechet_distance(np.zeros(12), a, np.zeros(12), b) == pytest.approx(expected, rel=1e-8)


def test_frechet_agrees_with_torch_fidelity():
    fid, rng = fidelity("metric_fid"), np.random.default_rng(2)
    fake, real = rng.normal(size=(400, 100)) * 1.5, rng.normal(size=(300, 100)) + 0.1
    statistics = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (fake, real)]
    expected = fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert expected >= 1
    assert frechet_from_features(fake, real) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*moments(fake), *moments(real)) == pytest.approx(expected, rel=1e-6)


@st.composite
def feature_pairs(draw):
    """Two sets of one width: fewer rows than columns, repeated rows and constant columns included."""
    width = draw(st.integers(1, 12))
    values = st.floats(-1e3, 1e3, width=32)
    pair = []
    for _ in range(2):
        x = draw(hnp.arrays(np.float64, (draw(st.integers(2, 8)), width), elements=values))
        x = np.repeat(x, draw(st.integers(1, 4)), axis=0)
        x[:, : draw(st.integers(0, width))] = draw(values)
        pair.append(x)
    return pair


@given(feature_pairs())
@settings(deadline=None)
def test_frechet_is_never_negative_nor_complex_and_both_ways_agree(pair):
    fake, real = pair
    found, from_moments = frechet_from_features(fake, real), frechet_distance(*moments(fake), *moments(real))
    assert isinstance(found, float)
    assert np.isfinite(found)
    assert found >= 0
    scale = np.square(fake).mean(axis=0).sum() + np.square(real).mean(axis=0).sum()
    assert from_moments == pytest.approx(found, abs=1e-6 * scale)
    assert frechet_from_features(real, fake) == pytest.approx(found, abs=1e-6 * scale)
    assert frechet_from_features(fake, fake) == pytest.approx(0, abs=1e-6 * scale)


@pytest.mark.parametrize("n", [20, 500])
def test_frechet_of_a_set_with_itself_is_zero(n):
    x = np.random.default_rng(3).normal(size=(n, 60)) + 5
    assert frechet_from_features(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(*moments(x), *moments(x)) == pytest.approx(0, abs=1e-6)


def test_extrapolation_takes_the_bias_of_few_images_away():
    rng = np.random.default_rng(5)
    scale = np.arange(1, 65) ** -0.5
    fake, real = rng.normal(size=(640, 64)) * scale * 1.2, rng.normal(size=(20_000, 64)) * scale
    truth = np.square(0.2 * scale).sum()
    found = frechet_at_infinity(fake, real)
    assert abs(found["frechet_at_infinity"] - truth) < 0.2 * abs(frechet_from_features(fake, real) - truth)
    assert found["frechet_at_infinity_slope"] > 0
    assert found == frechet_at_infinity(fake, real)
    assert found != frechet_at_infinity(fake, real, seed=1)


def test_kernel_distance_agrees_with_torch_fidelity():
    import torch

    kid, rng = fidelity("metric_kid"), np.random.default_rng(6)
    fake, real = rng.normal(size=(80, 30)), rng.normal(size=(80, 30)) + 0.2
    expected = kid.kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), kid_subsets=1, kid_subset_size=80, verbose=False
    )
    found = kernel_distance(fake, real, subsets=2)
    assert found["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert found["kid_std"] == pytest.approx(0, abs=1e-12)  # both subsets are the whole set
    assert found["kid_subset_size"] == 80
    assert kernel_distance(fake, real, subset_size=20)["kid_std"] > 0


def test_the_distance_at_infinity_is_where_the_line_in_one_over_n_ends():
    rng = np.random.default_rng(7)
    fake, real = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.3
    found = frechet_at_infinity(fake, real, points=5)
    sizes = np.linspace(150, 300, 5).round().astype(int)
    order = np.random.default_rng(0)
    distances = [frechet_from_features(fake[order.permutation(300)[:size]], real) for size in sizes]
    slope, at_zero = np.polyfit(1 / sizes, distances, 1)
    assert found["frechet_at_infinity"] == pytest.approx(at_zero, rel=1e-9)
    assert found["frechet_at_infinity_slope"] == pytest.approx(slope, rel=1e-9)


def test_precision_recall_density_and_coverage_by_hand():
    real = np.array([[0.0], [1], [2], [10]])  # with k = 1 the balls are [-1, 1], [0, 2], [1, 3], [2, 18]
    fake = np.array([[0.5], [30], [31], [18]])  # and these are [-17, 18], [29, 31], [30, 32], [6, 30]
    assert precision_recall(fake, real, k=1) == {"precision": 0.5, "recall": 1.0}
    assert precision_recall(real, fake, k=1) == {"precision": 1.0, "recall": 0.5}
    assert density_coverage(fake, real, k=1) == {"density": 3 / 4, "coverage": 3 / 4}


def test_copies_of_the_real_set_are_all_precise_and_cover_it():
    rows = np.random.default_rng(7).normal(size=(9, 40)) + 3
    copies = np.repeat(rows, 7, axis=0)  # every ball has radius 0
    assert precision_recall(copies[::-1], copies) == {"precision": 1.0, "recall": 1.0}
    assert density_coverage(rows, copies) == {"density": pytest.approx(7 / 5), "coverage": 1.0}
    assert precision_recall(rows + 100, rows) == {"precision": 0.0, "recall": 0.0}
    assert density_coverage(rows + 100, rows) == {"density": 0.0, "coverage": 0.0}


@pytest.mark.parametrize("rows", [64, 10_000])
def test_manifold_metrics_agree_with_whole_distance_matrices(monkeypatch, rows):
    import torch

    monkeypatch.setattr(metrics, "ROWS", rows)
    rng = np.random.default_rng(8)
    fake, real = rng.normal(size=(150, 5)) * 0.8 + 0.3, rng.normal(size=(210, 5))
    prc = fidelity("metric_prc")
    expected = prc.calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real))
    found = precision_recall(fake, real)
    assert (found["precision"], found["recall"]) == pytest.approx(expected, rel=1e-6)
    inside = cdist(real, fake) <= np.sort(cdist(real, real), axis=1)[:, [5]]  # rows are REAL
    assert density_coverage(fake, real) == pytest.approx(
        {"density": inside.sum() / (5 * 150), "coverage": inside.any(axis=1).mean()}
    )


GOOD = np.random.default_rng(9).normal(size=(10, 4))
BROKEN = np.where(np.arange(10)[:, None] == 3, np.nan, GOOD)


@pytest.mark.parametrize(
    "metric", [frechet_from_features, frechet_at_infinity, kernel_distance, precision_recall, density_coverage]
)
@pytest.mark.parametrize(
    ("fake", "real", "said"),
    [
        (BROKEN, GOOD, "1 of 10 rows of the generated features are not finite"),
        (GOOD, BROKEN, "1 of 10 rows of the real features are not finite"),
        (GOOD[:1], GOOD, "have 1 rows and need at least 2"),
        (GOOD[:, :3], GOOD, "have 3 columns and the real ones 4"),
        (GOOD[0], GOOD, r"must be \(N, F\)"),
    ],
)
def test_bad_features_are_refused_in_one_line(metric, fake, real, said):
    with pytest.raises(InputError, match=said) as caught:
        metric(fake, real)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="k = 10 neighbours need at least 11 rows"):
        precision_recall(GOOD, GOOD, k=10)
    with pytest.raises(InputError, match="smallest = 10"):
        frechet_at_infinity(GOOD, GOOD, smallest=10)
    with pytest.raises(InputError, match="subsets ≥ 1"):
        kernel_distance(GOOD, GOOD, subsets=0)
    with pytest.raises(InputError, match="one F"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(np.zeros(3), np.eye(3) * np.nan, np.zeros(3), np.eye(3))
