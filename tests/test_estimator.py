"""The estimator keeps scikit-learn's promises, and tells the unusual from the usual."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from splitvae import InputError, SplitVAEEstimator
from splitvae.estimator import _Rows
from splitvae.training.calibrate import calibrate

TINY = {"latent_dim": 3, "base_channels": 4, "num_scales": 2, "embedding_dim": 8, "epochs": 2}


@parametrize_with_checks([SplitVAEEstimator(**TINY)])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def test_codes_and_images_keep_the_units_and_shapes_of_the_rows():
    rng = np.random.default_rng(0)
    X = 100 + 50 * rng.random((40, 3 * 8 * 10))
    vae = SplitVAEEstimator(**(TINY | {"image_shape": (3, 8, 10), "random_state": 0})).fit(X)
    z = vae.transform(X)
    back = vae.inverse_transform(z)
    assert (z.shape, back.shape) == ((40, 3), X.shape)
    assert 100 <= back.min() <= back.max() <= 150
    assert vae.model_.decode(vae.model_.encode(vae._images(X)).mean).components.shape[1] == 2
    again = SplitVAEEstimator(**(TINY | {"image_shape": (3, 8, 10), "random_state": 0})).fit(X)
    assert np.array_equal(z, again.transform(X))
    assert list(vae.get_feature_names_out()) == [f"splitvaeestimator{i}" for i in range(3)]


def test_a_row_gives_the_same_alone_and_among_others():
    X = np.random.default_rng(0).random((150, 64))
    vae = SplitVAEEstimator(**TINY, random_state=0).fit(X)
    for method, rows in ((vae.transform, X), (vae.score_samples, X), (vae.inverse_transform, vae.transform(X))):
        alone = np.concatenate([method(row[None]) for row in rows])
        assert np.array_equal(alone, method(rows))


def test_rows_of_any_length_become_squares_whose_empty_part_does_not_count():
    X = np.random.default_rng(0).random((30, 70))
    vae = SplitVAEEstimator(**TINY, random_state=0).fit(X)
    assert vae.image_shape_ == (1, 9, 9)
    x_hat = vae.inverse_transform(vae.transform(X))
    scaled = (X - vae.offset_) / vae.scale_
    gamma = np.mean(((x_hat - vae.offset_) / vae.scale_ - scaled) ** 2)
    assert vae.noise_variance_ == pytest.approx(gamma, rel=1e-4)
    posterior = vae.model_.encode(vae._images(X))
    kl = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar).sum(1).detach().numpy()
    sse = (((x_hat - vae.offset_) / vae.scale_ - scaled) ** 2).sum(1)
    expected = -sse / (2 * gamma) - 35 * np.log(2 * np.pi * gamma) - kl - 70 * np.log(vae.scale_)
    np.testing.assert_allclose(vae.score_samples(X), expected, rtol=1e-3)
    # The evidence lower bound in the units of X: of 10·X it is F·log 10 less.
    ten = SplitVAEEstimator(**TINY, random_state=0).fit(10 * X)
    np.testing.assert_allclose(vae.score_samples(X) - ten.score_samples(10 * X), 70 * np.log(10), rtol=1e-2)


@pytest.mark.slow
def test_anomalies_score_low_and_codes_carry_the_class():
    X, y = load_digits(return_X_y=True)
    usual, unusual = X[y < 5], X[y >= 5]
    vae = SplitVAEEstimator(latent_dim=8, epochs=30, random_state=0).fit(usual[:700])
    scores = np.concatenate([vae.score_samples(usual[700:]), vae.score_samples(unusual)])
    inside = np.repeat([1, 0], [len(usual) - 700, len(unusual)])
    assert roc_auc_score(inside, scores) > 0.8
    classes = make_pipeline(
        SplitVAEEstimator(latent_dim=16, epochs=30, random_state=0), LogisticRegression(max_iter=999)
    )
    assert classes.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.75
    search = GridSearchCV(SplitVAEEstimator(**TINY, random_state=0), {"latent_dim": [2, 4]}, cv=2).fit(X[:200])
    assert search.best_params_["latent_dim"] in (2, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_shape": (1, 9, 9)}, "a row of 64 values is no image of 1×9×9"),
        ({"epochs": 0}, "epochs must be whole and at least 1, not 0"),
        ({"latent_dim": 0}, "latent_dim must be whole and at least 1, not 0"),
        ({"batch_size": 10.5}, "batch_size must be whole and at least 2"),
        ({"lr": "fast"}, "lr must be a positive number, not 'fast'"),
        ({"image_shape": "8x8"}, "image_shape must be three whole numbers"),
        ({"image_shape": (8, 8)}, "image_shape must be three whole numbers"),
        ({"num_components": 0}, "num_components must be whole and at least 1"),
    ],
)
def test_arguments_out_of_bounds_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        SplitVAEEstimator(**(TINY | changes)).fit(np.zeros((4, 64)))


def test_numbers_of_numpy_are_as_good():  # as in np.arange for a search
    vae = SplitVAEEstimator(**(TINY | {"latent_dim": np.int64(2), "epochs": np.int32(1), "lr": np.float32(1e-3)}))
    assert vae.fit_transform(np.eye(8, 64)).shape == (8, 2)


def test_batch_norm_does_not_depend_on_how_rows_are_sorted():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(mean, 0.1, (100, 64)) for mean in (0.0, 1.0, 0.3)])
    vae = SplitVAEEstimator(**TINY, random_state=0).fit(X)
    ready = [buffer.clone() for name, buffer in vae.model_.named_buffers() if name.endswith("running_var")]
    calibrate(vae.model_, _Rows(vae._images(X[rng.permutation(len(X))])))
    again = [buffer for name, buffer in vae.model_.named_buffers() if name.endswith("running_var")]
    ratios = torch.cat([a / b for a, b in zip(ready, again, strict=True)])
    assert ratios.median() == pytest.approx(1, abs=0.1)


def test_values_far_from_zero_keep_their_digits():
    X = np.random.default_rng(0).random((50, 64))
    near, far = (SplitVAEEstimator(**TINY, random_state=0).fit(X + offset) for offset in (0, 1e7))
    np.testing.assert_allclose(near.transform(X), far.transform(X + 1e7), atol=1e-3)
    images = far.inverse_transform(far.transform(X + 1e7)) - 1e7
    np.testing.assert_allclose(images, near.inverse_transform(near.transform(X)), atol=1e-3)
