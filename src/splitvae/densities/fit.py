"""Fit a density on the codes of a run and keep it there, with a record of what it was fitted on."""

import inspect
import itertools
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from splitvae.codes import codes_hash, encode_rows
from splitvae.data.loader import fixed_rows
from splitvae.densities.gaussian_mixture import GaussianMixture
from splitvae.densities.store import CLASSES, save_density
from splitvae.device import pick_device
from splitvae.errors import InputError, nearest
from splitvae.run import Run

Split = Literal["train", "test"]
REFERENCE_IMAGES = 10_000  # the paper's mixture is fitted on as many test codes, those of its reference

# The names of `splitvae fit --density`, and which class each one is.
KINDS = {
    "gmm": "GaussianMixture",
    "gmm-per-class": "ClasswiseGaussianMixture",
    "second-stage": "SecondStageVAE",
    "flow": "AutoregressiveFlow",
}


def density_name(kind: str, split: Split, name: str | None = None) -> str:
    """The name under which a density is kept: ``name``, or its kind, with -test after it for the test split.

    Raises:
        InputError: a name that is no file name, or that of the prior.
    """
    name = name or kind + ("-test" if split == "test" else "")
    if name in ("normal", "REC"):
        raise InputError(f"--name '{name}' is a line of every table; choose another.")
    if not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise InputError(f"--name '{name}' must be letters, digits, dots, - and _, and begin with no dot.")
    return name


def _options_of(cls: type) -> set[str]:
    """The options of a density's class; a class-wise mixture passes on those of a mixture."""
    parameters = inspect.signature(cls).parameters
    own = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    passed_on = own if len(own) == len(parameters) else own | _options_of(GaussianMixture)
    return passed_on - {"device"}


def fit_density(
    run: Run | str | Path,
    kind: str = "gmm",
    split: Split = "train",
    name: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
    device: torch.device | str | None = None,
    test_images: int = REFERENCE_IMAGES,
    data: str | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Fit a density on the codes of a run, and write ``RUN/densities/NAME.safetensors``.

    Args:
        run: a run directory with a model.
        kind: one of ``KINDS``.
        split: whose codes. "test" is the paper's protocol: it fits on the very images that it is scored against.
        name: see ``density_name``.
        seed: of everything random in the fit.
        progress: called with epochs done and their total, where a density is trained.
        device: where to encode and to fit; None = the GPU if there is one.
        test_images: for the test split, how many of its fixed reference images.
        data: where the run's data is now; None = where it was.
        options: of the class; those that are not given are as in the run's preset, or the class's own.

    Returns:
        the density, and its record: kind, options, split, number and hash of the codes, hash of the model, seconds.

    Raises:
        InputError: an unknown kind, a wrong option, data that changed since the training, codes that cannot be fitted.
    """
    if kind not in KINDS:
        raise InputError(f"'{kind}' is no density.{nearest(kind, KINDS)}")
    name = density_name(kind, split, name)
    run = Run.open(run).at(data)
    cls = CLASSES[KINDS[kind]]
    known = _options_of(cls)
    if unknown := sorted(options.keys() - known):
        raise InputError(f"'{unknown[0]}' is no option of {kind}.{nearest(unknown[0], known)}")
    options = {**run.density_options(kind), **options}
    if kind.startswith("gmm"):
        options = {"n_components": 10 if kind == "gmm" else 1, **options}
    place = pick_device(device)
    density = cls(**options, device=place)
    cache = run.trained_data
    if kind == "gmm-per-class" and cache.labels is None:
        raise InputError(f"{cache.meta['source']} has no labels, which gmm-per-class needs; fit gmm instead.")
    rows = cache.splits["train"] if split == "train" else fixed_rows(cache, "test", test_images)
    codes = encode_rows(run.on(place).model, cache, rows)
    labels = None if cache.labels is None else cache.labels[rows]
    trained = {}
    if progress is not None and hasattr(density, "epochs"):
        epoch = itertools.count(1)
        trained["progress"] = lambda _: progress(next(epoch), density.epochs)
    start = time.perf_counter()
    density.fit(codes, labels, generator=torch.Generator().manual_seed(seed), **trained)
    record: dict[str, Any] = {
        "name": name, "kind": kind, "class": KINDS[kind], "options": options, "split": split, "seed": seed,
        "codes": len(rows),
        "codes_sha256": codes_hash(codes), "model_sha256": run.model_hash, "latent_dim": run.model.latent_dim,
        "seconds": round(time.perf_counter() - start, 1), "splitvae": version("splitvae"),
    }  # fmt: skip
    if hasattr(density, "log_prob"):
        record["converged"] = getattr(density, "converged_", None)
        # Of what it was fitted on: posterior means, or draws, which have another likelihood altogether.
        draws = getattr(density, "fits_draws", False)
        fitted = codes.sample(torch.Generator().manual_seed(seed)) if draws else codes.mean
        record["nats_per_code"] = float(density.log_prob(fitted).mean())
        record["nats_of"] = "draws" if draws else "means"
    save_density(density, run.path / "densities" / f"{name}.safetensors", record)
    return density, record
