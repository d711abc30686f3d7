"""What a number of an evaluation depends on: images, sources of latents, extractor, counts; and the card that says so.

- **clean**, the headline: densities fitted on *training* codes, samples against the test split, reconstructions from
  the posterior mean.
- **paper**: the mixture is fitted on the codes of the very test images that are the reference, and reconstructions
  come from a sampled z, as in the official code. It bridges to the paper and never shares a row with the clean one.

Both sides have n = min(10,000, test images) as a rule, rounded to uint8. The same distance to n fixed *training*
images stands beside each number: whatever is chosen (output, density, components) is to be chosen on that one.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from splitvae.codes import encode_rows
from splitvae.data.loader import fixed_rows, seeded
from splitvae.densities.classwise import ClasswiseGaussianMixture
from splitvae.densities.fit import fit_density
from splitvae.densities.normal import StandardNormal
from splitvae.densities.store import density_names, load_density
from splitvae.errors import InputError
from splitvae.evaluation.crew import Crew
from splitvae.evaluation.feature_cache import digest, kept_features
from splitvae.evaluation.features import Extractor, features_of_rows, metric_name, real_features
from splitvae.evaluation.metrics import Reference
from splitvae.evaluation.outputs import output_features, output_names
from splitvae.models.distributions import DiagonalGaussian
from splitvae.run import Run

Protocol = Literal["clean", "paper"]


@dataclass(frozen=True)
class Source:
    """Where latents come from: a line of the table.

    Attributes:
        protocol: "clean" or "paper".
        name: "REC" for reconstructions, "normal" for the prior, or the name of a density of the run.
        density: what is sampled; None for REC.
        record: of the density's file.
    """

    protocol: Protocol
    name: str
    density: Any = None
    record: dict[str, Any] | None = None

    @property
    def seeded(self) -> bool:
        """Whether its latents depend on a seed: all but those of the posterior mean."""
        return self.density is not None or self.protocol == "paper"


@dataclass(frozen=True)
class Setting:
    """What all lines of an evaluation share.

    Attributes:
        run: with a model, on the device where it decodes, and its data.
        extractor: of the features.
        n: images on either side.
        every: all metrics, or the Fréchet distances only.
        advance: called with the number of images whose features are done.
        fresh: features of generated images are computed again even where they are kept.
        bf16: features are computed in bf16.
        components: they are scored too, and their mix, or x̂ alone.
        crew: the processes that share the work.
    """

    run: Run
    extractor: Extractor
    n: int
    every: bool = True
    advance: Callable[[int], Any] | None = None
    fresh: bool = False
    bf16: bool = False
    components: bool = True
    crew: Crew = field(default_factory=Crew)

    @property
    def outputs(self) -> list[str]:
        """What is scored of each source: x_hat, x1 … xK, mix."""
        names = output_names(self.run.model) if self.components else ["x_hat"]
        return names + (["mix"] if len(names) > 1 else [])

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Row numbers of the real images: "test", the reference; "train"; and "floor", as many other training images.

        A training split of less than 2n images has fewer others; where it has none, "train" stands in.
        """
        data = self.run.trained_data
        train = fixed_rows(data, "train", 2 * self.n)
        others = train[self.n :] if len(train) >= self.n + 2 else train
        return {"test": fixed_rows(data, "test", self.n), "train": train[: self.n], "floor": others}

    @cached_property
    def posterior(self) -> DiagonalGaussian:
        """Codes of the reference's test images, (n, D)."""
        return encode_rows(self.run.model, self.run.trained_data, self.rows["test"])

    @cached_property
    def test(self) -> Reference:
        """Features of the reference: n test images."""
        return Reference(self._real("test"))

    @cached_property
    def train(self) -> Reference:
        """Features of (up to) n fixed training images."""
        return Reference(self._real("train"))

    @cached_property
    def floor(self) -> np.ndarray:
        """Features of other training images, in the place of generated ones: real against real."""
        return self._real("floor")

    @cached_property
    def test_labels(self) -> np.ndarray | None:
        """Labels of the reference's images, (n,)."""
        labels = self.run.data.labels
        return None if labels is None else labels[self.rows["test"]]

    def _real(self, which: str) -> np.ndarray:
        data = self.run.trained_data
        return real_features(data, self.rows[which], self.extractor, False, self.bf16, self._progress, self.crew)

    def sample(self, source: Source, seed: int) -> tuple[Tensor, np.ndarray | None]:
        """n latents of a source (n, D), a function of (source, seed), and their labels (n,) where it has some."""
        if source.density is None:
            noise = seeded(seed, "reconstruct", 0)
            return (self.posterior.mode() if source.protocol == "clean" else self.posterior.sample(noise)), None
        generator = seeded(seed, "sample", 0)
        if isinstance(source.density, ClasswiseGaussianMixture):
            z, labels = source.density.sample_labelled(self.n, generator)
            return z.cpu(), labels.numpy()
        return source.density.sample(self.n, generator=generator).cpu(), None

    def features(self, z: Tensor) -> np.ndarray:
        """(n, outputs, F) features of what the model makes of latents; kept under everything that decides them."""
        make = partial(self.crew.share, "generated", z, self._generated, self.bf16)
        if self.fresh:
            return make()
        alone = not self.components and self.run.model.num_components > 1
        content = [self.run.model_hash, digest(z.numpy()), *(["x_hat"] if alone else [])]
        return kept_features("generated", self.extractor, content, len(z), make, self.bf16)

    def serve(self) -> NoReturn:
        """On all processes of the crew but the first: extract features until the first needs no more, see ``Crew``."""
        real = partial(features_of_rows, self.run.trained_data, self.extractor, None)
        self.crew.serve({"real": real, "generated": self._generated})

    def _generated(self, z: Tensor, bf16: bool) -> np.ndarray:
        return output_features(self.run.model, z, self.extractor, self._progress, self.components, bf16=bf16)

    def _progress(self, images: int) -> None:
        if self.advance is not None:
            self.advance(images * self.crew.size)  # the others are as far


def sources_of(
    setting: Setting,
    protocol: Protocol,
    densities: list[str] | None = None,
    say: Callable[[str], Any] = lambda line: None,
    fit: bool = True,
) -> list[Source]:
    """The lines of a protocol's table; fits the mixtures on test codes that the paper's protocol lacks.

    Args:
        setting: with the run.
        protocol: one of the two.
        densities: names; None = all that the run has. The paper's protocol takes those fitted on test codes, and for
            each mixture on training codes, of more than one Gaussian, its twin, named …-test.
        say: called with lines for people.
        fit: whether to fit those twins that are missing.

    Raises:
        InputError: a density that the run does not have, that was fitted on codes of another model, or that is in the
            way of a twin.
    """
    run = setting.run
    names = density_names(run.path) if densities is None else [name for name in densities if name != "normal"]
    place = run.model.device
    loaded = {name: load_density(name, run.path, run.model.latent_dim, device=place) for name in names}
    split = "train" if protocol == "clean" else "test"
    chosen = {name: pair for name, pair in loaded.items() if pair[1]["split"] == split}
    if protocol == "paper" and fit:
        mixtures = {
            name: record
            for name, (density, record) in loaded.items()
            if record["class"] == "GaussianMixture" and record["split"] == "train" and len(density.weights_) > 1
        }
        if not mixtures and not chosen and densities is None:
            mixtures = {"gmm": {}}
        for name, record in mixtures.items():
            chosen[f"{name}-test"] = _twin(setting, name, record, say)
    own = [Source(protocol, name, *pair) for name, pair in chosen.items()]
    return [Source(protocol, "REC"), Source(protocol, "normal", StandardNormal(run.model.latent_dim)), *own]


def _twin(setting: Setting, name: str, record: dict[str, Any], say: Callable[[str], Any]) -> tuple[Any, dict[str, Any]]:
    """The mixture ``name``-test: as the one on training codes, but fitted on the codes of the reference.

    One that was fitted for another n or an earlier model is fitted again.
    """
    run, twin, options = setting.run, f"{name}-test", record.get("options", {})
    if twin in density_names(run.path):
        density, found = load_density(twin, run.path, run.model.latent_dim, False, run.model.device)
        if found["split"] != "test" or (options and found.get("options") != options):
            raise InputError(
                f"density '{twin}' is not '{name}' on test codes; rename {run.path / 'densities' / twin}.safetensors, "
                "and that one is fitted."
            )
        if (found["codes"], found["model_sha256"]) == (setting.n, run.model_hash):
            return density, found
    say(f"fitting {twin} on the codes of the {setting.n:,} test images of the reference, as the paper does")
    seed, device = record.get("seed", 0), run.model.device
    return fit_density(run, "gmm", "test", twin, seed, device=device, test_images=setting.n, **options)


def card(setting: Setting, sources: list[Source], seeds: list[int]) -> dict[str, Any]:
    """The protocol of every number of an evaluation. ``signature`` is equal where numbers may stand in one table."""
    cache, extractor = setting.run.trained_data, setting.extractor
    decides = {
        "distance": metric_name(extractor),
        **extractor.card,
        "precision": "bf16" if setting.bf16 else "float32",
        "quantisation": "uint8 by rounding, real and generated alike",
        "covariance": "divisor n − 1, float64, symmetric eigenvalues",
        "kid": f"cubic kernel, 100 subsets of {min(1000, setting.n)}",
        "neighbours": "3 for precision and recall, 5 for density and coverage",
        "extrapolation": "15 sizes from n/2 to n",
        "image_shape": list(setting.run.image_shape),
        "data_sha256": cache.meta["content_hash"],
        "transform": cache.meta["transform"],
        "reference": "test split, fixed choice where it has more than n",
        "real_images": len(setting.rows["test"]),
        "generated_images": setting.n,
        "temperature": 1.0,
    }
    device = setting.run.model.device
    return {
        **decides,
        "signature": hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16],
        "training_images": len(setting.rows["train"]),
        "floor_images": len(setting.rows["floor"]),
        "rank_deficient": setting.n <= extractor.dim,
        "source": Path(cache.meta["source"]).name,
        "seeds": seeds,
        "sources": [[source.protocol, source.name] for source in sources],
        "densities": {source.name: _density_card(setting.run, source) for source in sources if source.record},
        "mix": "one component per image, chosen uniformly, own z",
        "protocols": {
            "clean": "densities fitted on training codes; REC decodes the posterior mean",
            "paper": "mixtures fitted on codes of the test images that are the reference; REC decodes a sampled z",
        },
        "model_sha256": setting.run.model_hash,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("splitvae", "torch", "numpy", "scikit-learn", "torch-fidelity")},
    }


def _density_card(run: Run, source: Source) -> dict[str, Any]:
    """What a density is and was fitted on, with the hash of its file."""
    path = run.path / "densities" / f"{source.name}.safetensors"
    return {**(source.record or {}), "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
