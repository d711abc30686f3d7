"""What a number of an evaluation depends on: images, sources of latents, extractor, counts; and the card that says so.

- **clean**, the headline: densities fitted on *training* codes, samples against the test split, reconstructions from
  the posterior mean.
- **paper**: the mixture is fitted on the codes of the very test images that are the reference, and reconstructions
  come from a sampled z, as in the official code. It bridges to the paper and never shares a row with the clean one.

Both sides have n = min(10,000, test images), rounded to uint8. The same distance to n fixed *training* images stands
beside each number: whatever is chosen (output, density, number of components) is to be chosen on that one.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from splitvae.codes import encode_rows
from splitvae.data.cache import cache_root
from splitvae.data.loader import fixed_rows, seeded
from splitvae.densities.classwise import ClasswiseGaussianMixture
from splitvae.densities.fit import fit_density
from splitvae.densities.normal import StandardNormal
from splitvae.densities.store import density_names, load_density
from splitvae.errors import InputError
from splitvae.evaluation.feature_cache import keep
from splitvae.evaluation.features import Extractor, extract, metric_name
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
    """

    run: Run
    extractor: Extractor
    n: int
    every: bool = True
    advance: Callable[[int], Any] | None = None
    fresh: bool = False
    bf16: bool = False

    @property
    def outputs(self) -> list[str]:
        """What is scored of each source: x_hat, x1 … xK, mix."""
        names = output_names(self.run.model)
        return names + (["mix"] if len(names) > 1 else [])

    @cached_property
    def posterior(self) -> DiagonalGaussian:
        """Codes of the reference's test images, (n, D)."""
        return encode_rows(self.run.model, self.run.data, fixed_rows(self.run.data, "test", self.n))

    @cached_property
    def test(self) -> Reference:
        """Features of the reference: n test images."""
        return Reference(self._real("test"))

    @cached_property
    def train(self) -> Reference:
        """Features of (up to) n fixed training images."""
        return Reference(self._real("train"))

    def _real(self, split: str) -> np.ndarray:
        cache, rows = self.run.data, fixed_rows(self.run.data, split, self.n)
        key = [cache.meta["content_hash"], _digest(rows)]
        make = partial(extract, cache.images[rows], self.extractor, progress=self.advance, bf16=self.bf16)
        return self._kept("real", key, len(rows), make)

    def sample(self, source: Source, seed: int) -> tuple[Tensor, np.ndarray | None]:
        """n latents of a source (n, D), a function of (source, seed), and their labels (n,) where it has some."""
        if source.density is None:
            noise = seeded(seed, "reconstruct", 0)
            return (self.posterior.mode() if source.protocol == "clean" else self.posterior.sample(noise)), None
        generator = seeded(seed, "sample", 0)
        if isinstance(source.density, ClasswiseGaussianMixture):
            z, labels = source.density.sample_labelled(self.n, generator)
            return z, labels.numpy()
        return source.density.sample(self.n, generator=generator), None

    def features(self, z: Tensor) -> np.ndarray:
        """(n, outputs, F) features of what the model makes of latents; kept under everything that decides them."""
        make = partial(output_features, self.run.model, z, self.extractor, self.advance, bf16=self.bf16)
        if self.fresh:
            return make()
        return self._kept("generated", [self.run.model_hash, _digest(z.numpy())], len(z), make)

    def _kept(self, what: str, key: list[Any], rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Features from the cache, or made and put there; not kept where the extractor does not state its weights."""
        if not self.extractor.weights_sha256:
            return make()
        key = [*key, self.extractor.name, self.extractor.weights_sha256, self.extractor.resize, self.bf16]
        return keep(cache_root() / "features", f"{what}-{self.extractor.name}", key, rows, make)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def sources_of(
    run: Run, protocol: Protocol, densities: list[str] | None, say: Callable[[str], Any], fit: bool = True
) -> list[Source]:
    """The lines of a protocol's table; fits the mixtures on test codes that the paper's protocol lacks.

    Args:
        run: with its densities.
        protocol: one of the two.
        densities: names; None = all that the run has. The paper's protocol takes the twins, named …-test.
        say: called with lines for people.
        fit: whether to fit those twins that are missing.

    Raises:
        InputError: a density that the run does not have, or that was fitted on codes of another model.
    """
    D = run.model.latent_dim
    names = density_names(run.path) if densities is None else [name for name in densities if name != "normal"]
    loaded = {name: load_density(name, run.path, D) for name in names}
    for name, (_, record) in loaded.items():
        if record.get("model_sha256", run.model_hash) != run.model_hash:
            raise InputError(
                f"density '{name}' was fitted on the codes of another model; fit it again: splitvae fit {run.path} …"
            )
    sources = [Source(protocol, "REC"), Source(protocol, "normal", StandardNormal(D))]
    split = "train" if protocol == "clean" else "test"
    sources += [Source(protocol, name, *pair) for name, pair in loaded.items() if pair[1]["split"] == split]
    if protocol == "paper" and fit:
        mixtures = {name: record for name, (_, record) in loaded.items() if record["class"] == "GaussianMixture"}
        clean = {name: record for name, record in mixtures.items() if record["split"] == "train"}
        for name, record in clean.items() or ([] if mixtures else [("gmm", {})]):
            twin = f"{name}-test"
            if twin in mixtures:
                continue
            if twin not in density_names(run.path):
                say(f"fitting {twin} on the codes of the test images, as the paper does")
                fit_density(run, "gmm", "test", twin, record.get("seed", 0), **record.get("options", {}))
            sources.append(Source(protocol, twin, *load_density(twin, run.path, D)))
    return sources


def card(setting: Setting, seeds: int) -> dict[str, Any]:
    """The protocol of every number of an evaluation. ``signature`` is equal where numbers may stand in one table."""
    cache, extractor = setting.run.data, setting.extractor
    decides = {
        "distance": metric_name(extractor),
        "extractor": extractor.name,
        "features": extractor.dim,
        "weights_sha256": extractor.weights_sha256,
        "weights_published": extractor.published,
        "resize": extractor.resize,
        "precision": "bf16" if setting.bf16 else "float32",
        "quantisation": "uint8 by rounding, real and generated alike",
        "covariance": "divisor n − 1, float64, symmetric eigenvalues",
        "image_shape": list(setting.run.image_shape),
        "data_sha256": cache.meta["content_hash"],
        "transform": cache.meta["transform"],
        "reference": "test split, fixed choice where it has more than n",
        "real_images": len(setting.test.features),
        "generated_images": setting.n,
        "temperature": 1.0,
    }
    return {
        **decides,
        "signature": hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16],
        "training_images": len(setting.train.features),
        "rank_deficient": setting.n <= extractor.dim,
        "source": Path(cache.meta["source"]).name,
        "seeds": list(range(seeds)),
        "mix": "one component per image, chosen uniformly, own z",
        "protocols": {
            "clean": "densities fitted on training codes; REC decodes the posterior mean",
            "paper": "mixture fitted on the codes of the reference's test images; REC decodes a sampled z",
        },
        "model_sha256": setting.run.model_hash,
        "device": str(setting.run.model.mean.weight.device.type),
        "machine": platform.platform(),
        "versions": {name: version(name) for name in ("splitvae", "torch", "numpy", "torch-fidelity")},
    }
