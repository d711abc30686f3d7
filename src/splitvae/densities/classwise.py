"""One mixture of Gaussians per class, to sample latents of a chosen class."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from splitvae.densities.checks import as_latents, check_draw
from splitvae.densities.gaussian_mixture import GaussianMixture
from splitvae.errors import InputError


class ClasswiseGaussianMixture:
    """p(z) = Σ_c p(c) p(z | c): the frequency of each class times a ``GaussianMixture`` of its codes.

    Args:
        n_components: components *per class*.
        covariance_type: "full" or "diag".
        **options: the other arguments of ``GaussianMixture``.

    Attributes:
        classes_: (C,) int64, the labels that occur, ascending.
        class_weights_: (C,) float64, their frequencies.
        mixtures_: one ``GaussianMixture`` per class.

    Examples:
        >>> codes, labels = torch.randn(100, 3), torch.arange(100) % 2
        >>> ClasswiseGaussianMixture().fit(codes, labels).sample(10, label=1).shape
        torch.Size([10, 3])
    """

    classes_: Tensor
    class_weights_: Tensor
    mixtures_: list[GaussianMixture]

    def __init__(self, n_components: int = 1, covariance_type: str = "full", **options: Any) -> None:
        self.options = {"n_components": n_components, "covariance_type": covariance_type, **options}
        GaussianMixture(**self.options)  # wrong arguments are told now, not at the first class

    def fit(self, codes: Any, labels: Any = None, generator: torch.Generator | None = None) -> Self:
        """Fit one mixture per class.

        Args:
            codes: as for ``GaussianMixture.fit``, (N, D).
            labels: (N,) integers.
            generator: makes the starts reproducible; None = torch's global one.

        Raises:
            InputError: no labels, another number of labels than codes, or a class that cannot be fitted.
        """
        if labels is None:
            raise InputError("a class-wise mixture needs labels; pass them, or use GaussianMixture.")
        z = as_latents(codes)
        y = labels if isinstance(labels, Tensor) else torch.as_tensor(np.array(labels))
        if y.shape != z.shape[:1] or y.is_floating_point():
            raise InputError(f"labels must be {len(z)} integers, one per code, not {tuple(y.shape)} of {y.dtype}.")
        self.classes_, counts = y.cpu().long().unique(return_counts=True)
        self.class_weights_, self.mixtures_ = counts / counts.sum(dtype=torch.float64), []
        for label in self.classes_.tolist():
            try:
                mixture = GaussianMixture(**self.options).fit(z[(y == label).to(z.device)], generator=generator)
            except InputError as error:
                raise InputError(f"class {label}: {error}") from error
            self.mixtures_.append(mixture)
        return self

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        label: int | None = None,
    ) -> Tensor:
        """Draw n latents in random order, (n, D) float32.

        Args:
            n: at least 1.
            generator: source of the classes, components and noise; None = torch's global one.
            temperature: scales the standard deviation around each component's mean.
            label: the class to draw from; None = classes by their frequency.
        """
        if label is None:
            return self.sample_labelled(n, generator, temperature)[0]
        self._check_fitted()
        return self.mixtures_[self._index(label)].sample(n, generator, temperature)

    def sample_labelled(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As ``sample`` from all classes, with the class of each latent: (n, D) float32 and (n,) int64."""
        self._check_fitted()
        check_draw(n, temperature)
        place = "cpu" if generator is None else generator.device
        drawn = torch.multinomial(self.class_weights_.to(place), n, replacement=True, generator=generator)
        means = self.mixtures_[0].means_
        z = torch.empty(n, means.shape[1], device=means.device)
        for index in drawn.unique().tolist():
            rows = (drawn == index).nonzero().squeeze(1).to(z.device)
            z[rows] = self.mixtures_[index].sample(len(rows), generator, temperature)
        return z, self.classes_[drawn.cpu()]

    def log_prob(self, z: Any, label: int | None = None) -> Tensor:
        """log p(z) of z (N, D), or log p(z | label): (N,) float64 nats."""
        self._check_fitted()
        if label is not None:
            return self.mixtures_[self._index(label)].log_prob(z)
        joint = [w.log() + m.log_prob(z) for w, m in zip(self.class_weights_, self.mixtures_, strict=True)]
        return torch.stack(joint).logsumexp(dim=0)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything learned as a flat dict of tensors, to be written as safetensors."""
        self._check_fitted()
        tensors = {"classes_": self.classes_, "class_weights_": self.class_weights_}
        for label, mixture in zip(self.classes_.tolist(), self.mixtures_, strict=True):
            tensors |= {f"{label}.{name}": value for name, value in mixture.to_tensors().items()}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str | None = None) -> Self:
        """The density that ``to_tensors`` wrote, its mixtures on ``device`` (None = where the tensors are)."""
        if missing := {"classes_", "class_weights_"} - tensors.keys():
            raise InputError(f"the tensors hold no class-wise Gaussian mixture: '{min(missing)}' is missing.")
        mixtures = []
        for label in tensors["classes_"].tolist():
            own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{label}.")}
            mixtures.append(GaussianMixture.from_tensors(own, device))
        density = cls(mixtures[0].n_components, mixtures[0].covariance_type, device=device)
        density.classes_, density.class_weights_ = tensors["classes_"].cpu(), tensors["class_weights_"].cpu()
        density.mixtures_ = mixtures
        return density

    def _index(self, label: int) -> int:
        """The place of a label among the classes."""
        known = self.classes_.tolist()
        if label not in known:
            raise InputError(f"label {label} does not occur; choose from {', '.join(map(str, known))}.")
        return known.index(label)

    def _check_fitted(self) -> None:
        if not hasattr(self, "mixtures_"):
            raise InputError("this density is not fitted; call fit(codes, labels) first.")
