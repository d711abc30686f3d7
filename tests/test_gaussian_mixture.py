"""The mixture of Gaussians: scikit-learn's numbers, at any precision, and one line for whatever cannot be fitted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as SklearnMixture

from splitvae.densities import known_distances
from splitvae.densities.classwise import ClasswiseGaussianMixture
from splitvae.densities.gaussian_mixture import GaussianMixture
from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int, dim: int, k: int, distance: float = 2.0) -> torch.Tensor:
    """n float64 codes around k means, in random order."""
    g = seeded()
    means = distance * torch.randn(k, dim, generator=g, dtype=torch.float64)
    spread = torch.rand(k, dim, generator=g, dtype=torch.float64) + 0.5
    component = torch.randint(k, (n,), generator=g)
    return means[component] + spread[component] * torch.randn(n, dim, generator=g, dtype=torch.float64)


def start(x: torch.Tensor, k: int, covariance_type: str) -> dict:
    """Starting values that both implementations accept."""
    dim = x.shape[1]
    precision = np.ones(dim) if covariance_type == "diag" else np.eye(dim)
    return {
        "means_init": x[:k].numpy(),
        "weights_init": np.arange(1, k + 1) / np.arange(1, k + 1).sum(),
        "precisions_init": np.stack([precision * (0.5 + i / k) for i in range(k)]),
    }


# With 1,100 codes of 64 variables the E step leaves out distances that cannot matter, with 300 of 6 it does not.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize(("n", "dim", "k", "distance"), [(300, 6, 4, 0.5), (1100, 64, 5, 0.1), (1100, 64, 5, 1.0)])
def test_every_iteration_agrees_with_scikit_learn(covariance_type, n, dim, k, distance):
    x = clusters(n, dim, k, distance)
    options = {"n_components": k, "covariance_type": covariance_type, "max_iter": 6, "tol": 1e-9}
    theirs = SklearnMixture(**options, **start(x, k, covariance_type)).fit(x.numpy())
    ours = GaussianMixture(**options, **start(x, k, covariance_type), chunk_size=257).fit(x)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.lower_bound_ == ours.lower_bounds_[-1]
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, atol=1e-6)
    np.testing.assert_allclose(ours.log_prob(x), theirs.score_samples(x.numpy()), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x.numpy()))
    assert ours.bic(x) == pytest.approx(theirs.bic(x.numpy()), abs=1e-6 * n)


def test_known_distances_leave_out_only_what_is_negligible():
    x, K = clusters(1100, 64, 6, 0.6), 6
    mixture = GaussianMixture(K, max_iter=1).fit(x, generator=seeded())
    known = known_distances.KnownDistances(torch.zeros(K, len(x), dtype=torch.float64))
    for _ in range(5):
        lazy = torch.cat([joint for _, joint in mixture._log_joint(x, known)])
        dense = torch.cat([joint for _, joint in mixture._log_joint(x)])
        computed, shares = lazy.isfinite(), dense.softmax(dim=1)
        torch.testing.assert_close(lazy[computed], dense[computed], rtol=0, atol=1e-9)
        assert shares[~computed].sum() <= (~computed).sum() * known_distances.NEGLIGIBLE
        mixture._maximize(x, shares.T)
    assert computed.double().mean() < 0.5


def test_float32_ends_where_float64_ends():
    x = clusters(800, 8, 4)
    high = GaussianMixture(4, tol=1e-6).fit(x, generator=seeded())
    low = GaussianMixture(4, tol=1e-6).fit(x.float(), generator=seeded())
    assert low.log_prob(x).mean() == pytest.approx(float(high.log_prob(x).mean()), abs=1e-3)


@pytest.mark.parametrize("distance", [0.1, 0.6, 1.0])
def test_float32_codes_that_leave_distances_out_walk_the_same_way(distance: float):
    x = clusters(1100, 64, 5, distance)
    high, low = (GaussianMixture(5, max_iter=6, tol=1e-9, **start(x, 5, "full")).fit(y) for y in (x, x.float()))
    np.testing.assert_allclose(low.lower_bounds_, high.lower_bounds_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(low.means_, high.means_, rtol=0, atol=1e-4)


def test_a_random_state_is_the_seed_of_a_fit():
    x = clusters(200, 3, 2)
    one, two = (GaussianMixture(3, random_state=0).fit(x) for _ in range(2))
    assert torch.equal(one.means_, two.means_)
    assert torch.equal(one.means_, GaussianMixture(3, random_state=1).fit(x, generator=seeded()).means_)
    assert not torch.equal(one.means_, GaussianMixture(3, random_state=1).fit(x).means_)


def test_starts_are_what_they_are_called():
    from sklearn.cluster import KMeans

    x, firsts = clusters(200, 3, 4), dict[str, np.ndarray]()
    for init_params in ("kmeans", "k-means++", "random_from_data", "random"):
        firsts[init_params] = GaussianMixture(4, init_params=init_params)._first_responsibilities(x, seeded()).numpy()
    drawn = int(torch.randint(2**31 - 1, (), generator=seeded()))
    labels = KMeans(4, n_init=1, random_state=drawn).fit(x.numpy()).labels_
    np.testing.assert_array_equal(firsts["kmeans"], np.eye(4)[labels].T)
    for name in ("k-means++", "random_from_data"):  # one code each
        assert (firsts[name].sum(axis=1) == 1).all()
        assert (firsts[name].max(axis=0).sum(), np.unique(firsts[name]).tolist()) == (4, [0, 1])
    np.testing.assert_allclose(firsts["random"].sum(axis=0), 1, rtol=1e-6)
    assert 0 < firsts["random"].min() < firsts["random"].max() < 1


def test_means_of_a_posterior_are_what_is_fitted():
    x = clusters(200, 3, 2).float()
    of_posterior = GaussianMixture(2).fit(DiagonalGaussian(x, torch.zeros_like(x)), generator=seeded())
    assert torch.equal(of_posterior.means_, GaussianMixture(2).fit(x.numpy(), generator=seeded()).means_)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_samples_are_shuffled_and_follow_the_mixture(covariance_type):
    x = clusters(2000, 3, 3, distance=20.0)
    mixture = GaussianMixture(3, covariance_type).fit(x, generator=seeded())
    z = mixture.sample(20_000, seeded())
    assert z.shape == (20_000, 3)
    assert z.dtype == torch.float32
    component = mixture.predict(z)
    # Neighbours are from different components as often as independent draws are.
    different = (component[1:] != component[:-1]).double().mean()
    assert different == pytest.approx(1 - float(mixture.weights_.square().sum()), abs=0.02)
    for k in range(3):
        own = z[component == k].double()
        assert len(own) / len(z) == pytest.approx(float(mixture.weights_[k]), abs=0.02)
        covariance = mixture.covariances_[k] if covariance_type == "full" else mixture.covariances_[k].diag()
        torch.testing.assert_close(own.mean(dim=0), mixture.means_[k], rtol=0, atol=0.1)
        torch.testing.assert_close(own.T.cov(), covariance, rtol=0, atol=0.15)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_temperature_scales_the_distance_from_the_means(covariance_type):
    mixture = GaussianMixture(3, covariance_type).fit(clusters(500, 4, 3), generator=seeded())
    means, half, whole = (mixture.sample(50, seeded(1), temperature=t).double() for t in (0.0, 0.5, 1.0))
    assert torch.cdist(means, mixture.means_).amin(dim=1).max() < 1e-5
    torch.testing.assert_close(half, (means + whole) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_fit_and_samples_are_functions_of_the_generator(init_params):
    x = clusters(200, 3, 3)
    first, second = (
        GaussianMixture(3, init_params=init_params, n_init=2).fit(x, generator=seeded(5)) for _ in range(2)
    )
    assert torch.equal(first.means_, second.means_)
    assert torch.equal(first.sample(9, seeded(1)), second.sample(9, seeded(1)))
    assert not torch.equal(first.sample(9, seeded(1)), first.sample(9, seeded(2)))


def test_best_of_several_starts_is_kept():
    x = clusters(300, 2, 6, distance=6.0)
    g = seeded()
    single = [GaussianMixture(6, init_params="random_from_data").fit(x, generator=g).lower_bound_ for _ in range(4)]
    best = GaussianMixture(6, init_params="random_from_data", n_init=4).fit(x, generator=seeded())
    assert best.lower_bound_ == max(single)
    assert min(single) < max(single)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_tensors_round_trip_bit_for_bit(covariance_type):
    x = clusters(300, 3, 2)
    mixture = GaussianMixture(2, covariance_type).fit(x, generator=seeded())
    again = GaussianMixture.from_tensors(mixture.to_tensors())
    assert (again.n_components, again.covariance_type, again.n_iter_) == (2, covariance_type, mixture.n_iter_)
    assert again.lower_bounds_ == mixture.lower_bounds_
    assert again.converged_ is mixture.converged_ is True
    assert torch.equal(again.log_prob(x), mixture.log_prob(x))
    assert torch.equal(again.sample(7, seeded()), mixture.sample(7, seeded()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_duplicates_constants_and_few_codes_survive(covariance_type, dtype):
    x = clusters(90, 5, 3).to(dtype)
    constant = torch.cat([x, torch.full((90, 2), 1000.1, dtype=dtype)], dim=1)
    fewer_than_variables = torch.randn(12, 40, generator=seeded(), dtype=dtype)
    for codes in (torch.cat([x[:10]] * 9), constant, fewer_than_variables):
        mixture = GaussianMixture(3, covariance_type).fit(codes, generator=seeded())
        assert mixture.log_prob(codes).isfinite().all()
        assert mixture.sample(20, seeded()).isfinite().all()
        assert np.all(np.diff(mixture.lower_bounds_) > -1e-2)  # EM never goes down, up to rounding


@settings(max_examples=20, deadline=None)
@given(n=st.integers(8, 60), dim=st.integers(1, 5), k=st.integers(1, 4), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_any_codes_give_a_density_that_rises(n, dim, k, scale):
    x = scale * clusters(n, dim, k)
    mixture = GaussianMixture(k, max_iter=20, reg_covar=1e-6 * scale**2).fit(x, generator=seeded())
    assert float(mixture.weights_.sum()) == pytest.approx(1)
    assert np.all(np.diff(mixture.lower_bounds_) > -1e-3)
    precision = mixture.precisions_cholesky_ @ mixture.precisions_cholesky_.mT
    torch.testing.assert_close(precision @ mixture.covariances_, torch.eye(dim).double().expand(k, dim, dim))


@pytest.mark.parametrize(
    ("options", "codes", "message"),
    [
        ({"n_components": 0}, torch.zeros(3, 2), "n_components must be at least 1"),
        ({"tol": float("nan")}, torch.zeros(3, 2), "tol must be at least 0 and finite"),
        ({"covariance_type": "ful"}, torch.zeros(3, 2), "Did you mean 'full'"),
        ({"init_params": "random-data"}, torch.zeros(3, 2), "init_params 'random-data' is unknown"),
        ({"dtype": torch.float16}, torch.zeros(3, 2), "dtype must be"),
        ({}, torch.zeros(6), r"shape \(N, D\), not \(6,\)"),
        ({}, torch.tensor([[0.0], [float("nan")]]), "code 1 is not finite"),
        ({"n_components": 4}, torch.randn(3, 2), "3 codes are fewer than n_components=4"),
        ({"n_components": 3}, torch.tensor([[0.0], [1.0], [1.0]]), "holds no codes; lower n_components"),
        ({"means_init": np.zeros((1, 3))}, torch.randn(5, 2), r"shape \(1, 3\), expected \(1, 2\)"),
        ({"weights_init": [0.5]}, torch.randn(5, 2), "sum to 1"),
        ({"precisions_init": -np.eye(2)[None]}, torch.randn(5, 2), "not positive definite"),
        ({"reg_covar": 0.0}, torch.zeros(5, 2), "raise reg_covar above 0"),
        ({"reg_covar": 0.0, "covariance_type": "diag"}, torch.zeros(5, 2), "raise reg_covar above 0"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, codes, message):
    with pytest.raises(InputError, match=message) as told:
        GaussianMixture(**options).fit(codes, generator=seeded())
    assert "\n" not in str(told.value)


def test_use_before_fit_and_other_dimensions_are_refused():
    with pytest.raises(InputError, match="not fitted"):
        GaussianMixture().sample(3)
    with pytest.raises(InputError, match="not fitted"):
        GaussianMixture().log_prob(torch.zeros(3, 2))
    with pytest.raises(InputError, match="'converged_' is missing"):
        GaussianMixture.from_tensors({})
    mixture = GaussianMixture().fit(torch.randn(9, 2, generator=seeded()))
    with pytest.raises(InputError, match="have 3 variables, but the mixture was fitted on 2"):
        mixture.predict(torch.zeros(1, 3))
    with pytest.raises(InputError, match="number of samples"):
        mixture.sample(0)
    with pytest.raises(InputError, match="temperature"):
        mixture.sample(1, temperature=-1.0)


def test_memory_stays_far_below_codes_times_components_times_variables():
    x = torch.randn(4000, 30, generator=seeded())
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))])
            return out

    for covariance_type in ("full", "diag"):
        with Watch():
            GaussianMixture(20, covariance_type, max_iter=2, chunk_size=512).fit(x, generator=seeded())
    assert largest <= len(x) * max(30, 20)


# Class-wise


def test_classwise_samples_the_class_that_was_asked_for():
    labels = torch.arange(600) % 3
    x = clusters(600, 2, 1) + 100.0 * labels[:, None]
    density = ClasswiseGaussianMixture(2).fit(x[labels != 1], labels[labels != 1].numpy(), generator=seeded())
    assert density.classes_.tolist() == [0, 2]
    assert density.sample(50, seeded(), label=2).mean() == pytest.approx(200, abs=10)
    z = density.sample(4000, seeded())
    of_two = (z[:, 0] > 100).double()
    assert of_two.mean() == pytest.approx(0.5, abs=0.05)
    assert (of_two[1:] != of_two[:-1]).double().mean() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(
        density.log_prob(z[:9]).exp().sum(), 0.5 * sum(density.log_prob(z[:9], label).exp().sum() for label in (0, 2))
    )
    again = ClasswiseGaussianMixture.from_tensors(density.to_tensors())
    assert torch.equal(again.sample(20, seeded(3)), density.sample(20, seeded(3)))


def test_classwise_names_the_class_that_cannot_be_fitted():
    x, labels = torch.randn(20, 2, generator=seeded()), torch.tensor([0] * 18 + [7] * 2)
    with pytest.raises(InputError, match="class 7: 2 codes are fewer than n_components=3"):
        ClasswiseGaussianMixture(3).fit(x, labels)
    with pytest.raises(InputError, match="needs labels"):
        ClasswiseGaussianMixture().fit(x)
    with pytest.raises(InputError, match="labels must be 20 integers"):
        ClasswiseGaussianMixture().fit(x, labels[:5])
    with pytest.raises(InputError, match="label 3 does not occur; choose from 0, 7"):
        ClasswiseGaussianMixture().fit(x, labels).sample(1, label=3)
    with pytest.raises(InputError, match="not fitted"):
        ClasswiseGaussianMixture().sample(1)
