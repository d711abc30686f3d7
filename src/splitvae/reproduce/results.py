"""One finished (system, data set, scale, seed): trained, its densities fitted, evaluated, and written as a small JSON.

The JSON says everything that a table needs and nothing of where it was made but the hardware, which stands in its
name. What is there is not run again, unless its recipe is no longer that of the preset.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitvae.config import TrainConfig
from splitvae.densities.fit import fit_density
from splitvae.densities.store import density_names, load_density
from splitvae.errors import InputError
from splitvae.files import read_json, write_json
from splitvae.presets import PRESETS, resolve
from splitvae.presets.systems import preset_name
from splitvae.run import Run

if TYPE_CHECKING:
    import torch

    from splitvae.evaluation.extractors import Extractor

FORMAT_VERSION = 1
# Fields of a configuration that decide where and how it runs, and not what comes out but for its last digits.
ELSEWHERE = {
    "data", "device", "precision", "compile", "accumulate", "sync_batch_norm", "quiet", "seed", "checkpoint_minutes",
    "checkpoint_every", "snapshot_every", "log_every", "tracker",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is to be made, or was.

    Attributes:
        data: name of the data set's preset.
        system: a key of ``SYSTEMS``.
        small: at the small scale.
        seed: of training; samples have the same seed.
        n: images on either side of a distance.
        changes: fields of the recipe that are not the preset's, for a claim of the paper.
        mixtures: numbers of Gaussians; where given, these mixtures are fitted instead of the preset's densities, and
            the clean protocol alone is measured.
    """

    data: str
    system: str
    small: bool
    seed: int
    n: int
    changes: tuple[tuple[str, Any], ...] = ()
    mixtures: tuple[int, ...] = ()

    @property
    def preset(self) -> str:
        """The recipe's name."""
        return preset_name(self.data, self.system, self.small)

    @property
    def run_name(self) -> str:
        """Of its run directory."""
        changed = "".join(f"-{name.replace('_', '-')}-{value}" for name, value in self.changes)
        return f"{self.preset}{changed}-seed{self.seed}"

    @property
    def name(self) -> str:
        """How its result's name begins."""
        return self.run_name + "-mixtures" * bool(self.mixtures)

    @property
    def config(self) -> TrainConfig:
        """The recipe, resolved; its data is that of the preset."""
        return resolve(self.preset, seed=self.seed, **dict(self.changes))

    @property
    def densities(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name → (kind, options) of what is fitted on the training codes: the preset's, and for autoencoders without
        noise one Gaussian, because N(0, I) is nothing that they were trained for."""
        if self.mixtures:
            return {f"gmm-{k}": ("gmm", {"n_components": k}) for k in self.mixtures}
        found = {kind: (kind, options) for kind, options in PRESETS[self.preset].densities.items()}
        return found if self.config.variational else {"gaussian": ("gmm", {"n_components": 1}), **found}

    @property
    def recipe(self) -> str:
        """A hash of everything that decides the result but the seed and the data's content."""
        config = {name: value for name, value in self.config.to_dict().items() if name not in ELSEWHERE}
        text = json.dumps([config, self.densities, self.n], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def hardware() -> str:
    """The machine's class in words: the GPU, or the number and kind of CPU cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = re.findall(r"model name\s*:\s*(.+)", file.read())
        cpu = names[0].strip() if names else cpu
    except OSError:  # no Linux
        pass
    return f"{os.cpu_count()} cores {cpu}"


def slug(text: str) -> str:
    """For a file's name: letters and digits in lower case, the rest as single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def find_result(job: Job, results: Path, extractor: str) -> tuple[Path | None, dict[str, Any] | None]:
    """The job's result on whatever hardware, if it is there.

    Returns:
        (its file, its content); (its file, None) if the recipe has changed since; (None, None) if there is none.
    """
    stale = None
    for path in sorted(results.glob(f"{job.name}-{slug(extractor)}-*.json")):
        result = read_json(path, "not a result")
        if result.get("format_version") == FORMAT_VERSION and result.get("recipe") == job.recipe:
            return path, result
        stale = path
    return stale, None


def make_result(
    job: Job,
    data: str | None,
    runs: Path,
    results: Path,
    extractor: "Extractor",
    say: Callable[[str], Any] = lambda line: None,
    progress: Callable[[int, int], Any] | None = None,
    device: "torch.device | str | None" = None,
) -> dict[str, Any]:
    """Train what is missing, go on with what was interrupted, fit, evaluate in both protocols, and write the JSON.

    Args:
        job: what.
        data: where the data is; None = the preset's source.
        runs: the folder of run directories.
        results: the folder of JSONs.
        extractor: of the features.
        say: called with lines for people.
        progress: called with the images whose features are done, and their total.
        device: of densities and features; None = the GPU if there is one.

    Raises:
        InputError: the run directory holds another recipe.
        SplitVAEError: training diverged, or something could not be written.
    """
    from splitvae.evaluation.evaluate import evaluate

    run = train_job(job, data, runs, say).at(data)
    for name, (kind, options) in job.densities.items():
        if not _is_current(run, name):
            say(f"{job.name}: fitting {name}")
            fit_density(run, kind, name=name, seed=job.seed, device=device, **options)
    metrics = evaluate(
        run, extractor, "clean" if job.mixtures else "both", list(job.densities), job.n, metrics="frechet",
        device=device, say=say, progress=progress,
    )  # fmt: skip
    result = _record(job, run, metrics)
    write_json(results / f"{job.name}-{slug(extractor.name)}-{slug(result['hardware'])}.json", result)
    return result


def train_job(job: Job, data: str | None, runs: Path, say: Callable[[str], Any]) -> Run:
    """The job's run, trained to its end."""
    from splitvae.training.loop import train

    path = runs / job.run_name
    source: dict[str, Any] = {} if data is None else {"data": data}
    if not (path / "config.json").exists():
        say(f"{job.run_name}: training")
        return train(job.preset, out=path, seed=job.seed, quiet=True, **dict(job.changes), **source)
    run = Run.open(path)
    own, asked = run.config.to_dict(), job.config.to_dict()
    differing = [name for name in asked if name not in ELSEWHERE - {"seed"} and own[name] != asked[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"{path} was trained with {name} {own[name]}, {job.preset} has {asked[name]}; remove it or choose another "
            "--out."
        )
    if not (path / "summary.json").exists():
        say(f"{job.run_name}: training goes on")
        return train(resume=path, quiet=True, **source)
    return run


def _is_current(run: Run, name: str) -> bool:
    """Whether a density is there, and was fitted on codes of this very model."""
    if name not in density_names(run.path):
        return False
    _, record = load_density(name, run.path, run.model.latent_dim, current=False)
    return record["model_sha256"] == run.model_hash


def _record(job: Job, run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run and its evaluation."""
    from splitvae.describe import count_flops, count_parameters

    trainable, total = count_parameters(run.model)
    config = run.config.to_dict() | {"data": metrics["card"]["source"]}
    latents = {name: value for name, value in metrics["latents"].items() if not isinstance(value, list)}
    kept = ("options", "seed", "codes", "seconds", "nats_per_code", "split")
    return {
        "format_version": FORMAT_VERSION,
        "name": job.name,
        "data": job.data,
        "system": job.system,
        "scale": "small" if job.small else "paper",
        "seed": job.seed,
        "changes": dict(job.changes),
        "recipe": job.recipe,
        "hardware": hardware(),
        "parameters": {"trainable": trainable, "with_batch_norm_statistics": total},
        "flops_per_image": count_flops(run.model),
        "config": config,
        "training": {k: v for k, v in run.record["machine"].items() if k != "system"} | run.summary,
        "versions": run.record["versions"],
        "git_commit": run.record["git_commit"],
        "latents": latents,
        "densities": {
            name: {key: card[key] for key in kept if key in card} for name, card in metrics["card"]["densities"].items()
        },
        "distance": metrics["distance"],
        "rows": metrics["rows"],
        "floor": metrics["floor"],
        "copies": metrics["copies"],
        "diagnosis": metrics["diagnosis"],
        "notes": metrics["notes"],
        "card": {k: v for k, v in metrics["card"].items() if k not in ("densities", "machine", "sources", "protocols")},
    }
