"""A mixture of Gaussians on the latent space, fitted by EM on any device: scikit-learn's model, names and numbers.

Maximum likelihood by expectation maximization (Dempster, Laird and Rubin 1977), parametrized as in
``sklearn.mixture.GaussianMixture``: from one start both walk through the same log-likelihoods. It is faster because
in a high dimension nearly every responsibility is numerically nothing: the M step of a component gathers only the
codes that belong to it, and the E step leaves out the distances that are known to be too large to matter.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from splitvae.densities.checks import as_latents, check_at_least_one, check_draw
from splitvae.densities.known_distances import NEGLIGIBLE, KnownDistances
from splitvae.errors import InputError, nearest

_LEARNED = ("weights_", "means_", "covariances_", "precisions_cholesky_", "converged_", "lower_bounds_")


class GaussianMixture:
    """p(z) = Σₖ wₖ N(z; μₖ, Σₖ), fitted by EM; scikit-learn's argument names and learned attributes.

    The products over the codes are computed in the codes' own precision, everything small (means, covariances,
    Cholesky factors, log-likelihoods) in float64: float32 codes with constant or duplicated rows do not break it.

    Args:
        n_components: K, at least 1 and at most the number of codes.
        covariance_type: "full", or "diag" for diagonal Σₖ.
        tol: EM stops when the mean log-likelihood changes by less than this; nats per code, 0 = run ``max_iter``.
        reg_covar: added to the diagonal of every covariance, at least 0.
        max_iter: the most EM iterations of one start.
        n_init: starts, of which the one with the highest likelihood is kept.
        init_params: the first responsibilities: "kmeans", "k-means++", "random" or "random_from_data".
        weights_init: (K,), positive, sum 1; None = from ``init_params``.
        means_init: (K, D); None = from ``init_params``.
        precisions_init: inverse covariances, (K, D, D), or (K, D) for "diag"; None = from ``init_params``.
        random_state: seed of a fit that no generator is passed to; None = torch's global generator.
        dtype: of the products over the codes; None = the codes' own (float32 where that is half precision).
        device: where to fit; None = where the codes are.
        chunk_size: codes per product. Beyond the codes, memory is 2·N·K and a few chunk_size·D numbers.

    Attributes:
        weights_: (K,) float64 on the device of the fit, as all tensors here.
        means_: (K, D).
        covariances_: (K, D, D), or (K, D) for "diag".
        precisions_cholesky_: P with P Pᵀ = Σ⁻¹, upper triangular (K, D, D), or 1/std (K, D) for "diag".
        converged_: whether the change fell below ``tol`` within ``max_iter`` iterations (no warning otherwise).
        lower_bounds_: mean log-likelihood at the start of each iteration, nats per code.
        lower_bound_: the last of them.
        n_iter_: their number.

    Examples:
        >>> codes = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> GaussianMixture(n_components=2).fit(codes).sample(10).shape
        torch.Size([10, 3])
    """

    weights_: Tensor
    means_: Tensor
    covariances_: Tensor
    precisions_cholesky_: Tensor
    converged_: bool
    lower_bounds_: list[float]

    def __init__(
        self,
        n_components: int = 1,
        covariance_type: str = "full",
        *,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        chunk_size: int = 16384,
    ) -> None:
        check_at_least_one(n_components=n_components, max_iter=max_iter, n_init=n_init, chunk_size=chunk_size)
        for name, amount in {"tol": tol, "reg_covar": reg_covar}.items():
            if not 0 <= amount < math.inf:
                raise InputError(f"{name} must be at least 0 and finite, not {amount}.")
        choices = {
            "covariance_type": (covariance_type, ["full", "diag"]),
            "init_params": (init_params, ["kmeans", "k-means++", "random", "random_from_data"]),
        }
        for name, (word, known) in choices.items():
            if word not in known:
                raise InputError(f"{name} '{word}' is unknown.{nearest(word, known)}")
        if dtype not in (None, torch.float32, torch.float64):
            raise InputError(f"dtype must be torch.float32 or torch.float64, not {dtype}.")
        self.n_components, self.covariance_type = n_components, covariance_type
        self.tol, self.reg_covar, self.max_iter, self.n_init = tol, reg_covar, max_iter, n_init
        self.init_params = init_params
        self.weights_init, self.means_init, self.precisions_init = weights_init, means_init, precisions_init
        self.random_state, self.dtype, self.device, self.chunk_size = random_state, dtype, device, chunk_size

    @property
    def lower_bound_(self) -> float:
        """The mean log-likelihood at the start of the last iteration, nats per code."""
        return self.lower_bounds_[-1]

    @property
    def n_iter_(self) -> int:
        """The number of EM iterations of the best start."""
        return len(self.lower_bounds_)

    def fit(self, codes: Any, labels: Any = None, generator: torch.Generator | None = None) -> Self:
        """Fit to the codes.

        Args:
            codes: a posterior, of which the *means* are fitted (pass ``posterior.sample(generator)`` to fit a draw
                from it instead), or plain latents (N, D), a tensor or an array.
            labels: not used; ``ClasswiseGaussianMixture`` fits one mixture per class.
            generator: makes the start reproducible; None = one of ``random_state``.

        Returns:
            self.

        Raises:
            InputError: fewer (distinct) codes than components, codes that are not finite, starting values of another
                shape, a component that loses all its codes, a covariance that is not positive definite.
        """
        x = as_latents(codes, self.device, self.dtype)
        if len(x) < self.n_components:
            raise InputError(
                f"{len(x)} codes are fewer than n_components={self.n_components}; lower it or pass more codes."
            )
        if generator is None and self.random_state is not None:
            generator = torch.Generator().manual_seed(self.random_state)
        best: dict[str, Any] = {}
        for _ in range(self.n_init):
            self._start(x, generator)
            self._climb(x)
            if not best or self.lower_bound_ > best["lower_bounds_"][-1]:
                best = {name: getattr(self, name) for name in _LEARNED}
        vars(self).update(best)
        return self

    def sample(self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw n latents in random order (scikit-learn returns them sorted by component).

        Args:
            n: at least 1.
            generator: source of the components and of the noise; None = torch's global one.
            temperature: scales the standard deviation around each component's mean; 1 = the mixture, 0 = the means.

        Returns:
            z (n, D) float32 on the device of the fit.
        """
        self._check_fitted()
        check_draw(n, temperature)
        # Drawn where the generator lives, so that a CPU generator gives the same z on every device.
        place = self.means_.device if generator is None else generator.device
        component = torch.multinomial(self.weights_.to(place), n, replacement=True, generator=generator)
        component = component.to(self.means_.device)
        noise = torch.randn(n, self.means_.shape[1], generator=generator, device=place).to(self.means_)
        z = torch.empty_like(noise)
        for k in component.unique().tolist():
            rows, P = (component == k).nonzero().squeeze(1), self.precisions_cholesky_[k]
            factor = P.diag() if P.ndim == 1 else P
            # ε P⁻¹ has the covariance (P Pᵀ)⁻¹ = Σₖ.
            spread = torch.linalg.solve_triangular(factor, noise[rows], upper=True, left=False)
            z[rows] = self.means_[k] + temperature * spread
        return z.float()

    def log_prob(self, z: Any) -> Tensor:
        """log p(z) of latents z (N, D): (N,) float64 nats."""
        return torch.cat([joint.logsumexp(dim=1) for _, joint in self._log_joint(self._scored(z))])

    def predict(self, z: Any) -> Tensor:
        """The most probable component of each z (N, D): (N,) int64 in 0..K−1."""
        return torch.cat([joint.argmax(dim=1) for _, joint in self._log_joint(self._scored(z))])

    def bic(self, z: Any) -> float:
        """Bayesian information criterion on z (N, D), lower is better: (free parameters)·log N − 2·log-likelihood."""
        log_likelihood = self.log_prob(z)
        K, D = self.means_.shape
        parameters = K - 1 + K * D + K * (D if self.covariances_.ndim == 2 else D * (D + 1) // 2)
        return parameters * math.log(len(log_likelihood)) - 2 * float(log_likelihood.sum())

    def to_tensors(self) -> dict[str, Tensor]:
        """The learned attributes as a flat dict of tensors, to be written as safetensors."""
        self._check_fitted()
        return {name: torch.as_tensor(getattr(self, name)) for name in _LEARNED} | {
            "lower_bounds_": torch.tensor(self.lower_bounds_, dtype=torch.float64)
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str | None = None) -> Self:
        """The mixture that ``to_tensors`` wrote, on ``device`` (None = where the tensors are)."""
        if missing := set(_LEARNED) - tensors.keys():
            raise InputError(f"the tensors hold no Gaussian mixture: '{min(missing)}' is missing.")
        covariance_type = "diag" if tensors["covariances_"].ndim == 2 else "full"
        mixture = cls(len(tensors["weights_"]), covariance_type, device=device)
        for name in _LEARNED:
            setattr(mixture, name, tensors[name].to(device))
        mixture.converged_, mixture.lower_bounds_ = bool(mixture.converged_), tensors["lower_bounds_"].tolist()
        return mixture

    # EM

    def _climb(self, x: Tensor) -> None:
        """Run EM from the current parameters until the likelihood changes by less than ``tol``."""
        responsibilities = x.new_empty(self.n_components, len(x))
        self.lower_bounds_, self.converged_ = [], False
        # On a GPU the dense products take milliseconds; few or short codes do not repay the eigenvalues.
        D, known = x.shape[1], None
        if self.covariance_type == "full" and D >= 64 and len(x) >= 16 * D and x.device.type == "cpu":
            known = KnownDistances(responsibilities)
        for _ in range(self.max_iter):
            # E step.
            total = 0.0
            for rows, joint in self._log_joint(x, known):
                log_likelihood = joint.logsumexp(dim=1, keepdim=True)
                responsibilities[:, rows] = (joint - log_likelihood).exp().T.to(x.dtype)
                total += float(log_likelihood.sum())
            if not math.isfinite(total):
                raise InputError("the log-likelihood of the codes is not finite; scale the codes or raise reg_covar.")
            self.lower_bounds_.append(total / len(x))
            self._maximize(x, responsibilities)
            if len(self.lower_bounds_) > 1 and abs(self.lower_bounds_[-1] - self.lower_bounds_[-2]) < self.tol:
                self.converged_ = True
                return

    def _log_joint(self, x: Tensor, known: KnownDistances | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of the codes: which rows, and log wₖ + log N(z; μₖ, Σₖ) as (B, K) float64 nats.

        With ``known`` it is −inf where it is negligible in the sum over k.
        """
        P = self.precisions_cholesky_
        K, D = self.means_.shape
        log_det = (P if P.ndim == 2 else P.diagonal(dim1=1, dim2=2)).log().sum(dim=1)
        constant = self.weights_.log() + log_det - 0.5 * D * math.log(2 * math.pi)
        # Codes and means relative to a common centre: no cancellation where a variable is far from 0.
        centre = (self.weights_ @ self.means_).to(x.dtype)
        means = self.means_ - centre
        chunks = [slice(start, start + self.chunk_size) for start in range(0, len(x), self.chunk_size)]
        if P.ndim == 2:
            precision = P.square()
            far = (means.square() * precision).sum(dim=1)
            for rows in chunks:
                z = (x[rows] - centre).to(constant)
                distance = z.square() @ precision.T - 2 * z @ (means * precision).T + far
                yield rows, constant - 0.5 * distance
            return

        factor, offset = P.to(x.dtype), -torch.einsum("kd,kde->ke", means, P).to(x.dtype)

        def distance_to(k: int, z: Tensor) -> Tensor:
            return torch.addmm(offset[k], z, factor[k]).square().sum(dim=1)

        if known is not None:
            known.follow(self.means_, self.covariances_, P)
        for rows in chunks:
            z = x[rows] - centre
            if known is None:
                distance = torch.stack([distance_to(k, z) for k in range(K)])
            else:
                distance = known.look(rows, z, constant, distance_to)
            yield rows, (constant[:, None] - 0.5 * distance).T

    def _maximize(self, x: Tensor, responsibilities: Tensor) -> None:
        """M step: weights, means and covariances from the responsibilities (K, N), summed in float64."""
        counts = responsibilities.sum(dim=1, dtype=_precise(x))
        if (counts < NEGLIGIBLE * len(x)).any():
            raise InputError(
                f"component {int(counts.argmin())} of {self.n_components} holds no codes; lower n_components"
                " (are there fewer distinct codes?) or start nearer to the codes."
            )
        self.weights_ = counts / counts.sum()
        chunks = [slice(i, i + self.chunk_size) for i in range(0, len(x), self.chunk_size)]
        means = sum(responsibilities[:, rows].to(counts) @ x[rows].to(counts) for rows in chunks) / counts[:, None]
        self.means_ = means
        if self.covariance_type == "diag":
            centre = self.weights_ @ means
            squares = sum(responsibilities[:, rows].to(counts) @ (x[rows] - centre).square() for rows in chunks)
            # Rounding alone can make the difference negative where a variable is constant.
            covariances = (squares / counts[:, None] - (means - centre).square()).clamp(min=0)
        else:
            covariances = means.new_zeros(*means.shape, means.shape[1])
            # Fewer at a time on a CPU: their float64 copies stay in a core's cache, a quarter of the time is saved.
            at_once = min(self.chunk_size, 2048) if x.device.type == "cpu" else self.chunk_size
            for k, threshold in enumerate((NEGLIGIBLE * self.weights_).tolist()):
                for rows in (responsibilities[k] > threshold).nonzero().squeeze(1).split(at_once):
                    z = x[rows].to(counts).sub_(means[k]).mul_(responsibilities[k, rows, None].to(counts).sqrt_())
                    covariances[k].addmm_(z.T, z)
            covariances /= counts[:, None, None]
        self._set_covariances(covariances, self.reg_covar)

    def _set_covariances(self, covariances: Tensor, reg_covar: float = 0.0) -> None:
        """Keep the covariances, with ``reg_covar`` on the diagonal, and the Cholesky factors of their inverses."""
        if covariances.ndim == 2:
            self.covariances_ = covariances + reg_covar
            wrong = (self.covariances_ <= 0).any(dim=1)
            self.precisions_cholesky_ = self.covariances_.rsqrt()
        else:
            identity = torch.eye(covariances.shape[1]).to(covariances)
            self.covariances_ = covariances + reg_covar * identity
            L, wrong = torch.linalg.cholesky_ex(self.covariances_)
            self.precisions_cholesky_ = torch.linalg.solve_triangular(L, identity.expand_as(L), upper=False).mT
        if wrong.any():
            raise InputError(
                f"the covariance of component {int(wrong.nonzero()[0])} is not positive definite; "
                f"raise reg_covar above {reg_covar:g}, lower n_components or scale the codes."
            )

    # The start

    def _start(self, x: Tensor, generator: torch.Generator | None) -> None:
        """Set the first parameters: from ``init_params``, then whatever was given."""
        K, D = self.n_components, x.shape[1]
        weights = self._given("weights_init", (K,), x)
        means = self._given("means_init", (K, D), x)
        precisions = self._given("precisions_init", (K, D) if self.covariance_type == "diag" else (K, D, D), x)
        if weights is None or means is None or precisions is None:
            self._maximize(x, self._first_responsibilities(x, generator))
        if weights is not None:
            if (weights <= 0).any() or abs(float(weights.sum()) - 1) > 1e-5:
                raise InputError("weights_init must be positive and sum to 1; divide it by its sum.")
            self.weights_ = weights
        if means is not None:
            self.means_ = means
        if precisions is not None:
            if precisions.ndim == 3:
                L, wrong = torch.linalg.cholesky_ex(precisions)
            else:
                L, wrong = precisions, (precisions <= 0).any(dim=1)
            if wrong.any():
                raise InputError(
                    f"precisions_init[{int(wrong.nonzero()[0])}] is not positive definite; invert a covariance."
                )
            self._set_covariances(1 / L if L.ndim == 2 else torch.cholesky_inverse(L))

    def _given(self, name: str, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
        """A starting value as float64 beside the codes, None where it was not given."""
        if (value := getattr(self, name)) is None:
            return None
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        tensor = tensor.to(x.device, _precise(x))
        if tensor.shape != shape:
            raise InputError(
                f"{name} has the shape {tuple(tensor.shape)}, expected {shape} for {shape[0]} components"
                f" and codes with {x.shape[1]} variables."
            )
        return tensor

    def _first_responsibilities(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """(K, N): 1 where a code belongs to a cluster, or where it was drawn as a component's first mean."""
        from sklearn.cluster import KMeans, kmeans_plusplus

        K, N = self.n_components, len(x)
        place = "cpu" if generator is None else generator.device
        if self.init_params == "random":
            first = torch.rand(K, N, generator=generator, device=place).to(x)
            return first / first.sum(dim=0)
        first = torch.zeros(K, N, dtype=x.dtype)
        if self.init_params == "random_from_data":
            first[torch.arange(K), torch.randperm(N, generator=generator, device=place)[:K].cpu()] = 1
            return first.to(x.device)
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=place))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer distinct codes than components: the M step says so
            if self.init_params == "k-means++":
                _, chosen = kmeans_plusplus(x.cpu().numpy(), K, random_state=seed)
                first[torch.arange(K), torch.from_numpy(chosen)] = 1
            else:
                cluster = KMeans(K, n_init=1, random_state=seed).fit(x.cpu().numpy()).labels_
                first[torch.from_numpy(cluster).long(), torch.arange(N)] = 1
        return first.to(x.device)

    # Checks

    def _scored(self, z: Any) -> Tensor:
        """Latents beside the fitted parameters."""
        self._check_fitted()
        x, D = as_latents(z, self.means_.device, self.dtype), self.means_.shape[1]
        if x.shape[1] != D:
            raise InputError(
                f"codes have {x.shape[1]} variables, but the mixture was fitted on {D}; encode with its model."
            )
        return x

    def _check_fitted(self) -> None:
        if not hasattr(self, "weights_"):
            raise InputError("this mixture is not fitted; call fit(codes) first.")


def _precise(x: Tensor) -> torch.dtype:
    """The precision of everything small: float64, but for Apple's GPU, which has none."""
    return torch.float32 if x.device.type == "mps" else torch.float64
