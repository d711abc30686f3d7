"""SplitVAE with scikit-learn's methods: codes, images from codes, and how usual an image is; for pipelines."""

import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from splitvae.data.loader import first_of_shuffled, seeded
from splitvae.device import pick_device
from splitvae.errors import InputError, SplitVAEError
from splitvae.models.vae import SplitVAE
from splitvae.training.calibrate import calibrate

PREDICTED = 64  # rows at once
LEAST_VARIANCE = 1e-6  # of the decoder, in units where the data spans [0, 1]: constant data has none


class SplitVAEEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A split variational autoencoder whose images are rows of a table, as scikit-learn has them.

    Values may have any range: they are scaled so that those of ``fit`` span [0, 1]. Images on disk, runs that can be
    resumed, densities and scores are the business of ``splitvae.train``.

    Args:
        latent_dim: number of latent variables.
        num_components: number of images that are blended; 1 = a plain VAE.
        image_shape: (C, H, W) of a row; None = grey, the smallest square from 8×8 that holds it, the rest left empty.
        base_channels, num_scales, embedding_dim: of the paper's network; see ``SplitVAENetwork``.
        beta: weight of the KL term.
        epochs: passes over the rows.
        batch_size: rows per step; more than there are = all of them.
        lr: Adam's learning rate at the start; it falls to zero on a cosine.
        random_state: int, RandomState or None: decides weights, order and noise.
        device: None = a GPU where there is one.

    Attributes:
        model_: the ``SplitVAE``, in evaluation mode.
        image_shape_: (C, H, W).
        offset_, scale_: x ↦ (x − offset_) / scale_ is what the model sees.
        noise_variance_: γ, the mean squared error of reconstructed training rows, in the model's units.
        n_features_in_: length F of a row.

    Examples:
        >>> X = np.random.default_rng(0).random((20, 64))
        >>> vae = SplitVAEEstimator(latent_dim=3, base_channels=4, epochs=1, random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.inverse_transform(vae.transform(X)).shape, vae.score_samples(X).shape
        ((20, 3), (20, 64), (20,))
    """

    def __init__(
        self,
        latent_dim: int = 16,
        num_components: int = 2,
        image_shape: tuple[int, int, int] | None = None,
        base_channels: int = 16,
        num_scales: int = 3,
        embedding_dim: int = 128,
        beta: float = 1.0,
        epochs: int = 50,
        batch_size: int = 100,
        lr: float = 1e-3,
        random_state: Any = None,
        device: str | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.num_components = num_components
        self.image_shape = image_shape
        self.base_channels = base_channels
        self.num_scales = num_scales
        self.embedding_dim = embedding_dim
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X (N, F), N ≥ 2; y is ignored.

        Raises:
            InputError: rows that are no images of ``image_shape``, or an argument out of its bounds.
            SplitVAEError: the loss became NaN or infinite.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        self._check()
        self.image_shape_ = self._shape(X.shape[1])
        self.offset_ = float(X.min())
        self.scale_ = float(X.max()) - self.offset_ or 1.0
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = pick_device(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = SplitVAE(
                self.image_shape_, int(self.latent_dim), int(self.num_components), self.beta,
                base_channels=int(self.base_channels), num_scales=int(self.num_scales),
                embedding_dim=int(self.embedding_dim), batch_norm_momentum=0.05,
            )  # fmt: skip
        self.model_ = model.to(device)
        x = self._images(X)
        self._train(x, seed)
        calibrate(self.model_, _Rows(x))  # type: ignore[arg-type]
        errors = np.square(self._reconstructed(X) - self._scaled(X))
        self.noise_variance_ = max(float(errors.mean()), LEAST_VARIANCE)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The posterior means of rows X (N, F): (N, latent_dim) float32."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return np.concatenate([mean for mean, _ in self._encoded(X)])

    @torch.inference_mode()
    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rows x̂ that codes X (N, latent_dim) stand for: (N, F) float64, in the units of ``fit``."""
        check_is_fitted(self)
        z = torch.as_tensor(np.asarray(X, dtype=np.float32), device=self.model_.device)
        rows = [self._rows(self.model_.decode(part).x_hat)[:n] for part, n in _whole_batches(z)]
        return np.concatenate(rows).astype(np.float64) * self.scale_ + self.offset_

    def score_samples(self, X: Any) -> np.ndarray:
        """How usual rows X (N, F) are; low values are anomalies, as in scikit-learn's detectors.

        The terms of the evidence lower bound at the posterior mean: −SSE/(2γ) − (F/2)·log 2πγ − KL. That is no bound:
        the error that a draw of z adds is not in it, so that it lies above the bound, by nats.

        Returns:
            (N,) float32, nats, for densities in the units of ``fit``.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        kl = np.concatenate([kl for _, kl in self._encoded(X)])
        sse = np.square(self._reconstructed(X) - self._scaled(X)).sum(axis=1)
        gamma, F = self.noise_variance_, X.shape[1]
        constant = 0.5 * F * math.log(2 * math.pi * gamma) + F * math.log(self.scale_)
        return (-sse / (2 * gamma) - constant - kl).astype(np.float32)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``, for searches over arguments."""
        return float(self.score_samples(X).mean())

    def _check(self) -> None:
        """Raise InputError for an argument of the wrong type or out of its bounds; numpy's numbers are as good."""
        least = {"latent_dim": 1, "num_components": 1, "base_channels": 1, "num_scales": 1, "embedding_dim": 1}
        for name, bound in (least | {"epochs": 1, "batch_size": 2}).items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < bound:
                raise InputError(f"{name} must be whole and at least {bound}, not {value!r}.")
        if not isinstance(self.lr, Real) or not 0 < self.lr < math.inf:
            raise InputError(f"lr must be a positive number, not {self.lr!r}.")
        shape = self.image_shape
        if shape is not None and not (
            isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(side, Integral) for side in shape)
        ):
            raise InputError(f"image_shape must be three whole numbers (C, H, W), or None, not {shape!r}.")

    def _shape(self, F: int) -> tuple[int, int, int]:
        """``image_shape``, or the smallest grey square that holds F values."""
        if self.image_shape is None:
            side = max(8, math.isqrt(F - 1) + 1)
            return 1, side, side
        if math.prod(self.image_shape) != F:
            shape = "×".join(map(str, self.image_shape))
            raise InputError(f"a row of {F} values is no image of {shape}; pass another image_shape, or None.")
        C, H, W = map(int, self.image_shape)
        return C, H, W

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Rows in the model's units, float32; the offset goes first, or far data would lose its digits."""
        return ((X - self.offset_) / self.scale_).astype(np.float32)

    def _images(self, X: np.ndarray) -> Tensor:
        """Rows (N, F) → what the model sees, (N, C, H, W)."""
        empty = math.prod(self.image_shape_) - X.shape[1]
        x = torch.from_numpy(np.pad(self._scaled(X), ((0, 0), (0, empty))))
        return x.reshape(-1, *self.image_shape_).to(self.model_.device)

    def _rows(self, x: Tensor) -> np.ndarray:
        return x.flatten(1)[:, : self.n_features_in_].cpu().numpy()

    @torch.inference_mode()
    def _encoded(self, X: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Posterior means (n, D) and KL (n,) of rows, batch by batch."""
        for x, n in _whole_batches(self._images(X)):
            posterior = self.model_.encode(x)
            yield posterior.mean[:n].cpu().numpy(), posterior.kl()[:n].cpu().numpy()

    @torch.inference_mode()
    def _reconstructed(self, X: np.ndarray) -> np.ndarray:
        """x̂ of the posterior means of rows, in the model's units."""
        rows = [self._rows(self.model_.reconstruct(x))[:n] for x, n in _whole_batches(self._images(X))]
        return np.concatenate(rows)

    def _train(self, x: Tensor, seed: int) -> None:
        """The loop of ``splitvae.training.loop`` in short: rows are in memory, and nothing is written."""
        model = self.model_.train()
        N, epochs = len(x), int(self.epochs)
        size = min(int(self.batch_size), N)
        steps = N // size
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, betas=(0.9, 0.999), eps=1e-7)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs)
        for step in range(steps * epochs):
            epoch, index = divmod(step, steps)
            if index == 0:
                order = torch.randperm(N, generator=seeded(seed, "order", epoch))
            noise = torch.randn(size, int(self.latent_dim), generator=seeded(seed, "noise", step)).to(x.device)
            batch = x[order[index * size : (index + 1) * size].to(x.device)]
            if step == 0:
                with torch.no_grad():
                    model.variance.start_from(model(batch, noise)["mse"].clamp(min=LEAST_VARIANCE))
            terms = model(batch, noise)
            if not terms["loss"].isfinite():
                raise SplitVAEError(f"the loss diverged at step {step}; fit with a smaller lr than {self.lr:g}.")
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            optimizer.step()
            schedule.step()
            model.variance.update(terms["mse"].detach().clamp(min=LEAST_VARIANCE))

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _whole_batches(rows: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows in batches of ``PREDICTED``, the last filled up with zeros, and how many of each are rows.

    Batches of other sizes take other kernels, whose rounding would make a row's result depend on who is beside it.
    """
    for part in rows.split(PREDICTED):
        yield torch.cat([part, part.new_zeros(PREDICTED - len(part), *part.shape[1:])]), len(part)


class _Rows:
    """Rows in memory as the batches that ``calibrate`` takes."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def fixed_batches(self, n: int, size: int = 100) -> Iterator[Tensor]:
        """As those of ``ImageLoader``: over all rows, which are often sorted by class."""
        for part in first_of_shuffled(len(self.x), n).split(size):
            yield self.x[part.to(self.x.device)]
