"""A model as page and commands show it: what it draws, takes apart, edits and joins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from splitvae.codes import encode_rows
from splitvae.data.loader import fixed_rows
from splitvae.data.sources import EMBEDDED
from splitvae.densities.classwise import ClasswiseGaussianMixture
from splitvae.densities.store import density_names, load_density
from splitvae.device import pick_device
from splitvae.editing import Route, interpolate
from splitvae.errors import InputError, SplitVAEError, nearest
from splitvae.evaluation.evaluate import best_density
from splitvae.evaluation.latents import diagnose_latents
from splitvae.evaluation.verify import read_metrics
from splitvae.models.autoencoder import Autoencoder, Decoded, decode_all
from splitvae.models.distributions import DiagonalGaussian
from splitvae.models.pretrained import load_model
from splitvae.models.rae import RAE
from splitvae.run import Run, is_run

MOST_IMAGES, MOST_FRAMES = 100, 60
TEMPERATURES = (0.1, 1.5)
EXAMPLES = 20
AXES = 8  # latents with a slider
DIAGNOSED = 256  # images whose codes say which latents those are, where no evaluation said it
BATCH = 100


@dataclass(frozen=True)
class Axis:
    """A latent variable and what is known of it.

    Attributes:
        index: of the variable, from 0.
        carried: how much it carries, in ``unit``: the mean KL over images in nats, or, of an encoder without noise,
            the standard deviation over images.
        low, high: where 99 % of the density's samples lie.
    """

    index: int
    carried: float
    unit: Literal["nats", "sd"]
    low: float
    high: float

    @property
    def slider(self) -> tuple[float, float]:
        """The range rounded outwards to tenths, so that a slider ends on a tick."""
        return math.floor(10 * self.low) / 10, math.ceil(10 * self.high) / 10

    @property
    def words(self) -> str:
        """How much it carries, for people."""
        return f"{self.carried:.2g} nats" if self.unit == "nats" else f"sd {self.carried:.2g}"


class Explorer:
    """A trained model and what belongs to it.

    Args:
        path: a run, or a saved model without one.
        data: where the run's data is now; None = where it was, unless that is on the hub.
        device: None = the GPU if there is one.
        title: what people call it; None = the name of the directory.
        fetch: whether data that lies on the hub may be fetched.

    Attributes:
        run: None for a saved model.
        name: for people; never a path.
        left_out: why densities of the run are not among them, in lines for people.
        density: the one to begin with: nearest to the training images, else the last that was fitted, else the prior.
    """

    def __init__(
        self,
        path: Path,
        data: str | None = None,
        device: str | None = None,
        title: str | None = None,
        fetch: bool = False,
    ) -> None:
        self.path = path.expanduser().resolve()
        self.run = Run.open(self.path).at(data) if is_run(self.path) else None
        self._data_named, self._fetch = data is not None, fetch
        self.model: Autoencoder = load_model(self.path).to(pick_device(device))
        self.name = self.path.name if title is None else title
        self._densities = {"normal": load_density("normal", self.path, self.model.latent_dim)[0]}
        self.left_out = list[str]()
        for density in density_names(self.path) if self.run else []:
            try:  # one that is of the model before a resumed training must not keep the others from being seen
                self._densities[density] = load_density(density, self.path, self.model.latent_dim)[0]
            except InputError as error:
                self.left_out.append(f"left out: {error}")
        self.density = self._first_choice()

    @property
    def densities(self) -> list[str]:
        """Their names; "normal" is the prior."""
        return list(self._densities)

    @property
    def K(self) -> int:
        """The number of components."""
        return self.model.num_components

    def sample(
        self, n: int, density: str, seed: int, temperature: float = 1.0, label: int | None = None
    ) -> tuple[Tensor, Decoded]:
        """n latents (n, D) and what they decode to; the same numbers give the same images.

        Args:
            n: 1 … 100.
            density: one of ``densities``.
            seed: at least 0.
            temperature: 0.1 … 1.5.
            label: the class, for densities that know classes; None = any.
        """
        if not 1 <= n <= MOST_IMAGES:
            raise InputError(f"The number of images must lie in 1 … {MOST_IMAGES}, not {n}.")
        if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
            raise InputError(f"The temperature must lie in {TEMPERATURES[0]} … {TEMPERATURES[1]}, not {temperature}.")
        if not 0 <= seed < 2**63:
            raise InputError(f"The seed must be a whole number of at least 0, not {seed}.")
        source = self._density(density)
        chosen = {} if label is None else {"label": label}
        if chosen and not self.classes(density):
            raise InputError(f"The density {density} knows no classes; choose gmm-per-class.")
        generator = torch.Generator().manual_seed(int(seed))
        z = source.sample(int(n), generator=generator, temperature=temperature, **chosen).cpu()
        return z, self.decode(z)

    def classes(self, density: str) -> list[int]:
        """The classes that a density can be asked for; none for most."""
        source = self._density(density)
        return source.classes_.tolist() if isinstance(source, ClasswiseGaussianMixture) else []

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Decoded:
        """Latents (N, D) → the blend, components and weights, on the CPU."""
        if not z.isfinite().all():
            raise InputError("The latents must be finite numbers.")
        return decode_all(self.model, z, BATCH)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] → posterior means (N, D), on the CPU."""
        return torch.cat([self.model.encode(part.to(self.model.device)).mode().cpu() for part in x.split(BATCH)])

    def between(self, first: Tensor, second: Tensor, frames: int, route: Route) -> Decoded:
        """Decoded latents on the way between two images (C, H, W)."""
        if not 2 <= frames <= MOST_FRAMES:
            raise InputError(f"The number of frames must lie in 2 … {MOST_FRAMES}, not {frames}.")
        start, end = self.encode(torch.stack([first, second]))
        return self.decode(interpolate(start, end, int(frames), route))

    def along_axes(self, z: Tensor, steps: int, axes: Sequence[Axis] | None = None) -> Tensor:
        """Latents along each axis's range, all others as in z (D,): (axes, steps, D).

        Args:
            axes: None = those with a slider.
        """
        axes = self.axes if axes is None else axes
        moved = z.repeat(len(axes), steps, 1)
        for row, axis in enumerate(axes):
            moved[row, :, axis.index] = torch.linspace(axis.low, axis.high, steps)
        return moved

    @cached_property
    def axes(self) -> list[Axis]:
        """The latents with a slider: those that carry most."""
        return self.ranked_axes()[:AXES]

    def ranked_axes(self, density: str | None = None) -> list[Axis]:
        """All latents, that first which carries most.

        Args:
            density: whose samples give the ranges; None = the one to begin with. Of an encoder without noise N(0, I)
                says nothing of where codes are, so that its range is that of codes.
        """
        density = density or self.density
        variational = not isinstance(self.model, RAE)
        latents = self._latents()
        carried = latents["kl_per_dimension"] if variational else [value**0.5 for value in latents["variance_law"]]
        if density == "normal" and not variational:
            drawn = self._some_codes.mean
        else:
            drawn = self._density(density).sample(2000, generator=torch.Generator().manual_seed(0)).cpu()
        low, high = drawn.quantile(torch.tensor([0.005, 0.995]), dim=0)
        return [
            Axis(i, carried[i], "nats" if variational else "sd", float(low[i]), float(high[i]))
            for i in sorted(range(len(carried)), key=lambda i: -carried[i])
        ]

    @property
    def own_samples_only(self) -> bool:
        """Whether what latents carry is known from the model's own samples alone, which says less than images do."""
        return self._measured_latents() is None and self._data() is None

    @cached_property
    def examples(self) -> Tensor:
        """Images to pick from, (N, C, H, W) in [0, 1]: the run's test images, or samples where it has none at hand.

        Data on the hub is not fetched for this.
        """
        data = self._data()
        if data is not None:
            rows = fixed_rows(data, "test", EXAMPLES)
            return torch.from_numpy(data.images[rows]).float() / 255
        return self.sample(EXAMPLES, self.density, seed=0)[1].x_hat

    @property
    def examples_kind(self) -> str:
        """What ``examples`` are, in words."""
        return "the model's own samples" if self._data() is None else "test images"

    @property
    def preparation(self) -> tuple[Any, Any]:
        """How the run prepared its pictures: (crop, fit)."""
        return ("auto", "crop") if self.run is None else (self.run.config.crop, self.run.config.fit)

    def _density(self, name: str) -> Any:
        """A density by its name."""
        if name not in self._densities:
            raise InputError(f"'{name}' is no density of this run.{nearest(name, self.densities)}")
        return self._densities[name]

    def _first_choice(self) -> str:
        """See ``density``."""
        if self.run is None:
            return "normal"
        try:
            best = best_density(self.run, read_metrics(self.run))
        except InputError:  # not evaluated
            best = ""
        return best if best in self._densities else self.densities[-1]

    def _latents(self) -> dict[str, Any]:
        """``diagnose_latents`` of the evaluation, else of ``_some_codes``."""
        return self._measured_latents() or diagnose_latents(self._some_codes)

    def _measured_latents(self) -> dict[str, Any] | None:
        """What the evaluation found; None = there is none of this model."""
        try:
            return None if self.run is None else read_metrics(self.run)["latents"]
        except InputError:
            return None

    @cached_property
    def _some_codes(self) -> DiagonalGaussian:
        """Codes of test images, or of the model's own samples where it has no data at hand."""
        data = self._data()
        if data is not None:
            return encode_rows(self.model, data, fixed_rows(data, "test", DIAGNOSED))
        with torch.inference_mode():
            x = self.sample(MOST_IMAGES, self.density, seed=0)[1].x_hat
            found = self.model.encode(x.to(self.model.device))
            return DiagonalGaussian(found.mean.cpu(), found.logvar.cpu())

    def _data(self) -> Any:
        """The run's data if it is on this machine and still the same, else None."""
        if self.run is None:
            return None
        source = str(self.run.config.data)
        if not (self._data_named or self._fetch or source == EMBEDDED or Path(source).expanduser().exists()):
            return None
        try:
            return self.run.trained_data
        except SplitVAEError:
            if self._data_named:
                raise
            return None
