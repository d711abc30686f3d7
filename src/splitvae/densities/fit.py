"""Fit a density on the codes of a run and keep it there, with a record of what it was fitted on."""

import itertools
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import torch

from splitvae.codes import codes_hash, encode_rows
from splitvae.data.loader import fixed_rows
from splitvae.densities.store import save_density
from splitvae.errors import InputError, nearest
from splitvae.run import Run

Split = Literal["train", "test"]
REFERENCE_IMAGES = 10_000  # the paper's mixture is fitted on as many test codes, those of its reference

# Kind: home of its class. The names are those of `splitvae fit --density`.
KINDS = {
    "gmm": "splitvae.densities.gaussian_mixture:GaussianMixture",
    "gmm-per-class": "splitvae.densities.classwise:ClasswiseGaussianMixture",
    "second-stage": "splitvae.densities.second_stage:SecondStageVAE",
    "flow": "splitvae.densities.flow:AutoregressiveFlow",
}


def density_name(kind: str, split: Split, name: str | None = None) -> str:
    """The name under which a density is kept: ``name``, or its kind, with -test after it for the test split.

    Raises:
        InputError: a name that is no file name, or that of the prior.
    """
    name = name or kind + ("-test" if split == "test" else "")
    if name in ("normal", "REC") or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise InputError(f"--name '{name}' must be letters, digits, - and _, and not normal, which is the prior.")
    return name


def fit_density(
    run: Run,
    kind: str = "gmm",
    split: Split = "train",
    name: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Fit a density on the codes of a run, and write ``RUN/densities/NAME.safetensors``.

    Args:
        run: with a model.
        kind: one of ``KINDS``.
        split: whose codes. "test" is the paper's protocol: it fits on the very images that it is scored against.
        name: see ``density_name``.
        seed: of everything random in the fit.
        progress: called with epochs done and their total, where a density is trained.
        device: where to fit; None = the CPU.
        options: of the class; a mixture without ``n_components`` takes the paper's number for the run's preset.

    Returns:
        the density, and its record: kind, options, split, number and hash of the codes, hash of the model, seconds.
    """
    if kind not in KINDS:
        raise InputError(f"'{kind}' is no density.{nearest(kind, KINDS)}")
    name = density_name(kind, split, name)
    module, _, cls = KINDS[kind].partition(":")
    if kind.startswith("gmm"):
        options = {"n_components": run.mixture_components if kind == "gmm" else 1, **options}
    density = getattr(import_module(module), cls)(**options, device=device)
    rows = run.data.splits["train"] if split == "train" else fixed_rows(run.data, "test", REFERENCE_IMAGES)
    codes = encode_rows(run.model, run.data, rows)
    labels = None if run.data.labels is None else run.data.labels[rows]
    trained = {}
    if progress is not None and hasattr(density, "epochs"):
        epoch = itertools.count(1)
        trained["progress"] = lambda _: progress(next(epoch), density.epochs)
    start = time.perf_counter()
    density.fit(codes, labels, generator=torch.Generator().manual_seed(seed), **trained)
    record: dict[str, Any] = {
        "name": name, "kind": kind, "class": cls, "options": options, "split": split, "seed": seed, "codes": len(rows),
        "codes_sha256": codes_hash(codes), "model_sha256": run.model_hash, "latent_dim": run.model.latent_dim,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    if hasattr(density, "log_prob"):
        record["nats_per_code"] = float(density.log_prob(codes.mean).mean())
    save_density(density, run.path / "densities" / f"{name}.safetensors", record)
    return density, record
