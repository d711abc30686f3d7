"""One finished (system, data set, scale, seed): trained, its densities fitted, evaluated, and written as a small JSON.

The JSON says everything that a table needs and nothing of where it was made but the hardware, which stands in its
name. What is there is not run again, unless its recipe is no longer that of the preset.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitvae.config import ELSEWHERE, NEEDS, TrainConfig, idle
from splitvae.densities.fit import fit_density
from splitvae.densities.store import density_names, load_density
from splitvae.device import hardware
from splitvae.errors import InputError
from splitvae.evaluation.extractors import canonical_name
from splitvae.files import read_json, write_json
from splitvae.presets import PRESETS, resolve
from splitvae.presets.systems import preset_name
from splitvae.run import Run, git_commit

if TYPE_CHECKING:
    import torch

    from splitvae.evaluation.extractors import Extractor

FORMAT_VERSION = 1
# What tables and claims read.
RESULT_KEYS = {
    "name", "system", "scale", "data", "seed", "config", "parameters", "flops_per_image", "training", "latents",
    "densities", "distance", "rows", "floor", "notes", "hardware", "versions", "git_commit", "changes", "split", "card",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is to be made, or was.

    Attributes:
        data: name of the data set's preset.
        system: a key of ``SYSTEMS``.
        small: at the small scale.
        seed: of training, densities and samples.
        n: images on either side of a distance.
        changes: fields of the recipe that are not the preset's, for a claim of the paper.
        mixtures: numbers of Gaussians; where given, these mixtures are fitted instead of the preset's.
    """

    data: str
    system: str
    small: bool
    seed: int
    n: int
    changes: tuple[tuple[str, Any], ...] = ()
    mixtures: tuple[int, ...] = ()

    @property
    def for_claim(self) -> bool:
        """Whether it is in no table, so that the clean protocol alone is measured."""
        return bool(self.mixtures or self.changes)

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
        found = {kind: (kind, options) for kind, options in PRESETS[self.preset].densities.items()}
        if self.mixtures:
            mixtures = {f"gmm-{k}": ("gmm", {"n_components": k}) for k in self.mixtures}
            return mixtures | {name: density for name, density in found.items() if name != "gmm"}
        return found if self.config.variational else {"gaussian": ("gmm", {"n_components": 1}), **found}

    @property
    def recipe(self) -> str:
        """A hash of what decides the result but seed, data, extractor and code (for that there is FORMAT_VERSION).

        Fields at their defaults are left out, so that a new one does not make old results stale.
        """
        defaults = TrainConfig().to_dict()
        config = {
            name: value
            for name, value in self.config.to_dict().items()
            if name not in ELSEWHERE | {"seed"} and value != defaults[name]
        }
        text = json.dumps([config, self.densities, self.n], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def slug(text: str) -> str:
    """For a file's name: letters and digits in lower case, the rest as single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def find_result(job: Job, results: Path, extractor: str) -> dict[str, Any] | None:
    """The job's result on whatever hardware, be it a table's; None = there is none of this recipe and extractor.

    Raises:
        InputError: a damaged or foreign file under its name; what it held may have cost hours, so nothing is guessed.
    """
    for path in sorted(results.glob(f"{job.name}-*.json")):
        result = read_json(path, "a damaged result, which you may restore or remove")
        if not isinstance(result, dict) or not isinstance(result.get("card"), dict):
            raise InputError(f"{path} holds no result; move it elsewhere, or restore it if it was one.")
        asked = (FORMAT_VERSION, job.name, job.recipe, canonical_name(extractor))
        found = [result.get(key) for key in ("format_version", "name", "recipe")]
        if (*found, result["card"].get("extractor")) == asked:
            if missing := RESULT_KEYS - set(result):
                raise InputError(f"{path} lacks the key '{min(missing)}'; restore it, or remove it to measure again.")
            # The hash leaves defaults out, so that it does not see when one has changed since.
            images = result["training"]["images_seen"] // result["training"]["epochs"]
            if _difference(job, result["config"], images) is None:
                return result
    own = PRESETS[job.preset].densities["gmm"]["n_components"]
    # A table's has the same mixture, under another name.
    of_table = find_result(replace(job, mixtures=()), results, extractor) if job.mixtures == (own,) else None
    if of_table is None:
        return None
    named = [row | {"source": f"gmm-{own}"} if row["source"] == "gmm" else row for row in of_table["rows"]]
    sources = {"REC", "normal", *job.densities}  # of an autoencoder the table has one Gaussian too
    rows = [row for row in named if row["protocol"] == "clean" and row["source"] in sources]
    return of_table | {"name": job.name, "rows": rows}


def make_result(
    job: Job,
    data: str | None,
    runs: Path,
    results: Path,
    extractor: "Extractor",
    say: Callable[[str], Any] = lambda line: None,
    progress: Callable[[int, int], Any] | None = None,
    device: "torch.device | str | None" = None,
    quiet: bool = True,
    precision: str = "auto",
) -> dict[str, Any]:
    """Train what is missing, go on with what was interrupted, fit, evaluate, and write the JSON.

    Args:
        job: what.
        data: where the data is; None = the preset's source.
        runs: the folder of run directories.
        results: the folder of JSONs.
        extractor: of the features.
        say: called with lines for people.
        progress: called with the images whose features are done, and their total.
        device: of densities and features; None = the GPU if there is one.
        quiet: whether training prints nothing.
        precision: of training, see ``TrainConfig``.

    Raises:
        InputError: the run directory holds another recipe.
        SplitVAEError: training diverged, or something could not be written.
    """
    from splitvae.evaluation.evaluate import evaluate

    run = train_job(job, data, runs, say, quiet, precision).at(data)
    for name, (kind, options) in job.densities.items():
        if not _is_current(run, name, kind, options, job.seed):
            say(f"{job.name}: fitting {name}")
            fit_density(run, kind, name=name, seed=job.seed, device=device, **options)
            # The mixture on test codes is this one's twin, which the evaluation fits.
            (run.path / "densities" / f"{name}-test.safetensors").unlink(missing_ok=True)
    metrics = evaluate(
        run, extractor, "clean" if job.for_claim else "both", list(job.densities), job.n, seeds=[job.seed],
        metrics="frechet", device=device, say=_silent if job.for_claim else say, progress=progress,
        outputs="x_hat" if job.for_claim and job.system == "best" else "all",  # by which our recipe was chosen
    )  # fmt: skip
    result = _record(job, run, metrics)
    # With the recipe in its name, and a number where that is taken: a result of another n, of an older recipe or of an
    # older default stays what it is.
    name = f"{job.name}-{slug(extractor.name)}-{job.recipe[:8]}-{slug(result['hardware'])}"
    paths = (results / f"{name}{suffix}.json" for suffix in chain([""], (f"-{i}" for i in count(2))))
    write_json(next(path for path in paths if not path.exists()), result)
    return result


def _silent(line: str) -> None:
    """Of a claim's evaluation nothing is told: its table says it all, and who tunes shall not see distances to test
    images on the way."""


def train_job(
    job: Job, data: str | None, runs: Path, say: Callable[[str], Any], quiet: bool = True, precision: str = "auto"
) -> Run:
    """The job's run, trained to its end."""
    from splitvae.training.loop import train

    path = runs / job.run_name
    source: dict[str, Any] = {} if data is None else {"data": data}
    if not (path / "config.json").exists():
        say(f"{job.run_name}: training")
        if precision != "auto":
            source["precision"] = precision
        return train(job.preset, out=path, seed=job.seed, quiet=quiet, **dict(job.changes), **source)
    run = own_run(job, runs)
    if not run.finished:
        say(f"{job.run_name}: training goes on")
        return train(resume=path, quiet=quiet, **source)
    return run


def own_run(job: Job, runs: Path) -> Run:
    """The run directory of a job.

    Raises:
        InputError: there is none, or it holds another recipe.
    """
    run = Run.open(runs / job.run_name)
    if (name := other_recipe(job, run)) is not None:
        own, asked = getattr(run.config, name), getattr(job.config, name)
        raise InputError(
            f"{run.path} was trained with {name} {own}, {job.preset} has {asked}; remove it or choose another --out."
        )
    return run


def other_recipe(job: Job, run: Run) -> str | None:
    """A field in which a run is not what the job asks for; None = it is the job's own."""
    return _difference(job, run.config.to_dict(), run.record["data"]["counts"]["train"])


def _difference(job: Job, own: dict[str, Any], images: int) -> str | None:
    """A field that differs between a job and a recipe of that many training images, of those that both know."""
    asked = job.config.to_dict()
    unused = {name for name in NEEDS if idle(name, job.config)}
    for name in sorted(asked.keys() & own.keys() - ELSEWHERE - unused):
        few = name == "batch_size" and images < asked[name]  # then a batch is all of them
        if own[name] != asked[name] and not few:
            return name
    return None


def _is_current(run: Run, name: str, kind: str, options: dict[str, Any], seed: int) -> bool:
    """Whether a density is there, fitted as asked for on the training codes of this very model."""
    if name not in density_names(run.path):
        return False
    try:
        _, record = load_density(name, run.path, run.model.latent_dim, current=False)
    except InputError:  # damaged: it is fitted again
        return False
    found = [record[key] for key in ("model_sha256", "kind", "split", "seed", "options")]
    return found == [run.model_hash, kind, "train", seed, {**run.density_options(kind), **options}]


def _record(job: Job, run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run and its evaluation."""
    from splitvae.describe import count_flops, count_parameters

    trainable, total = count_parameters(run.model)
    config = run.config.to_dict() | {"data": metrics["card"]["source"]}
    latents = {name: value for name, value in metrics["latents"].items() if not isinstance(value, list)}
    kept = ("options", "seed", "codes", "seconds", "nats_per_code", "nats_of", "split")
    return {
        "format_version": FORMAT_VERSION,
        "name": job.name,
        "data": job.data,
        "system": job.system,
        "scale": "small" if job.small else "paper",
        "seed": job.seed,
        "changes": dict(job.changes),
        "recipe": job.recipe,
        "hardware": run.record["machine"].get("hardware") or hardware(),
        "parameters": {"trainable": trainable, "with_batch_norm_statistics": total},
        "flops_per_image": count_flops(run.model),
        "config": config,
        "training": {k: v for k, v in run.record["machine"].items() if k != "system"} | run.summary,
        "versions": run.record["versions"],
        "git_commit": run.record["git_commit"],
        "evaluation_commit": git_commit(),
        "latents": latents,
        "densities": {
            name: {key: card[key] for key in kept if key in card} for name, card in metrics["card"]["densities"].items()
        },
        "distance": metrics["distance"],
        "rows": metrics["rows"],
        "floor": metrics["floor"],
        "copies": metrics["copies"],
        "split": metrics["split"],
        "diagnosis": metrics["diagnosis"],
        "notes": metrics["notes"],
        "card": {k: v for k, v in metrics["card"].items() if k not in ("densities", "machine", "sources", "protocols")},
    }
