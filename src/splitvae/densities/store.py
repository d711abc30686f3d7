"""Fitted densities on disk: safetensors inside the run, with a record of what they were fitted on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from splitvae.densities.classwise import ClasswiseGaussianMixture
from splitvae.densities.flow import AutoregressiveFlow
from splitvae.densities.gaussian_mixture import GaussianMixture
from splitvae.densities.normal import StandardNormal
from splitvae.densities.second_stage import SecondStageVAE
from splitvae.errors import InputError
from splitvae.models.pretrained import read_tensors, write_tensors
from splitvae.run import model_hash

if TYPE_CHECKING:
    import torch

CLASSES: dict[str, Any] = {
    cls.__name__: cls for cls in (GaussianMixture, ClasswiseGaussianMixture, SecondStageVAE, AutoregressiveFlow)
}
FORMAT_VERSION = 1


def save_density(density: Any, path: Path, record: dict[str, Any]) -> None:
    """Write a fitted density atomically.

    Args:
        density: one of ``CLASSES``.
        path: ``RUN/densities/NAME.safetensors``.
        record: JSON values: the hash of the codes, their split, the settings.
    """
    header = {"class": type(density).__name__, "format_version": FORMAT_VERSION, **record}
    write_tensors(path, density.to_tensors(), {"density": json.dumps(header)})


def density_names(run: Path) -> list[str]:
    """The names of the densities that were fitted for a run."""
    files = (run / "densities").glob("*.safetensors")
    return sorted(path.stem for path in files if not path.name.startswith("."))  # those are half written


def load_density(
    name: str, run: Path, latent_dim: int, current: bool = True, device: "torch.device | str | None" = None
) -> tuple[Any, dict[str, Any]]:
    """Load a run's density and its record, to draw latents from.

    Args:
        name: "normal" for the prior, or the name of a file in ``run/densities``.
        run: the run directory.
        latent_dim: D of the run's model.
        current: whether it must be of the model as it is now; one of an earlier model draws codes that mean nothing.
        device: where it draws; None = the CPU.

    Raises:
        InputError: it was not fitted, is damaged, or belongs to another latent size or an earlier model.
    """
    if name == "normal":
        return StandardNormal(latent_dim), {"class": "StandardNormal"}
    path = run / "densities" / f"{name}.safetensors"
    if not path.exists():
        fitted = density_names(run)
        has = f"it has normal, {', '.join(fitted)}" if fitted else "it has normal only"
        raise InputError(
            f"{run} has no density '{name}': {has}. Fit it: splitvae fit {run} --density gmm --name {name}"
        )
    tensors = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {})["density"])
        cls = CLASSES[record["class"]]
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} holds no density that this splitvae knows; fit it again.") from error
    if record["latent_dim"] != latent_dim:
        raise InputError(
            f"{path} was fitted on codes of {record['latent_dim']} variables, the model has {latent_dim}; fit it again."
        )
    if current and (run / "model").is_dir() and record.get("model_sha256") != model_hash(run / "model"):
        split = " --split test" if record.get("split") == "test" else ""
        raise InputError(
            f"density '{name}' was fitted on the codes of another model; fit it again: "
            f"splitvae fit {run} --density {record['kind']} --name {name}{split}"
        )
    return cls.from_tensors(tensors, device), record


def is_usable(name: str, run: Path, latent_dim: int) -> bool:
    """Whether ``load_density`` would load it."""
    try:
        load_density(name, run, latent_dim)
    except InputError:
        return False
    return True
