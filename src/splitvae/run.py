"""A run directory, which explains itself: what was asked for, what happened, and the model."""

import copy
import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitvae.config import TrainConfig
from splitvae.errors import InputError
from splitvae.files import read_json, write_json
from splitvae.presets import PRESETS

if TYPE_CHECKING:
    import torch

    from splitvae.data.cache import ImageCache
    from splitvae.data.masks import Masks
    from splitvae.models.autoencoder import Autoencoder

FORMAT_VERSION = 1
NO_DATA = "no data: pass --data with a folder of images, an .npz, parquet shards, or a hub name; in Python data=…"
RECORD_KEYS = {"format_version", "preset", "config", "image_shape", "data", "machine", "versions", "git_commit"}
# Where the weights of a run come from that began with trained ones; which masks it was given.
OPTIONAL_KEYS = {"origin", "masks"}


@dataclass(frozen=True)
class Run:
    """A finished or unfinished training run.

    Attributes:
        path: the directory. It holds ``config.json``, ``log.jsonl``, ``samples/`` (a picture of the training at steps
            that double, then every epoch or so), ``model/``, ``summary.json``, and, where asked for or needed,
            ``state/``, ``snapshots/``, ``densities/``.
    """

    path: Path

    @classmethod
    def open(cls, path: "str | Path | Run") -> "Run":
        """Open a run directory.

        Raises:
            InputError: it does not exist, is no run, or its ``config.json`` is damaged or has unknown keys.
        """
        run = path if isinstance(path, Run) else cls(Path(path).expanduser())
        if not run.path.is_dir():
            raise InputError(f"{run.path} is no directory; pass the --out of a `splitvae train`.")
        if not (run.path / "config.json").exists():
            raise InputError(f"{run.path} is no run: it holds no config.json.")
        _ = run.config
        return run

    @cached_property
    def record(self) -> dict[str, Any]:
        """``config.json``: preset, resolved configuration, image shape, data, machine, versions, git commit."""
        where = self.path / "config.json"
        record = read_json(where, "not a run")
        if isinstance(record, dict) and "class" in record:
            raise InputError(f"{self.path} is a saved model and no run: nobody knows its data. Pass its run.")
        if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{where} is not of this splitvae's format version {FORMAT_VERSION}.")
        if unknown := set(record) - RECORD_KEYS - OPTIONAL_KEYS:
            raise InputError(f"{where} has the unknown key '{min(unknown)}'; remove it or update splitvae.")
        if missing := RECORD_KEYS - set(record):
            raise InputError(f"{where} lacks the key '{min(missing)}'.")
        return record

    @cached_property
    def config(self) -> TrainConfig:
        """The resolved configuration."""
        return TrainConfig.from_dict(self.record["config"], str(self.path / "config.json"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.record["image_shape"])

    @cached_property
    def model(self) -> "Autoencoder":
        """The trained model in evaluation mode, on the CPU.

        Raises:
            InputError: training has not written one yet.
        """
        from splitvae.models.pretrained import load_model

        return load_model(self._model_folder())

    def _model_folder(self) -> Path:
        folder = self.path / "model"
        if not (folder / "config.json").exists():
            raise InputError(f"{self.path} has no model yet; go on with: splitvae train --resume {self.path}")
        return folder

    @cached_property
    def data(self) -> "ImageCache":
        """The prepared data of the run's source, whatever it holds by now (see ``trained_data``)."""
        return open_data(self.config)

    def at(self, data: str | None) -> "Run":
        """The same run with its data in another place, such as on another machine; None = where it was."""
        if data is None:
            return self
        run = Run(self.path)
        run.__dict__["data"] = open_data(replace(self.config, data=data))  # where cached_property keeps it
        return run

    def on(self, device: "torch.device") -> "Run":
        """The same run with its model on a device; this one's stays where it is."""
        here = self.model.device
        if here.type == device.type and device.index in (None, here.index):
            return self
        run = Run(self.path)
        run.__dict__.update(self.__dict__)  # what was read already
        run.__dict__["model"] = copy.deepcopy(self.model).to(device)
        return run

    @property
    def trained_data(self) -> "ImageCache":
        """The prepared data that the run was trained on: densities and scores are of these very images.

        A model that was trained elsewhere may not say what on: then it is the data that is named now.

        Raises:
            InputError: the source holds other images by now; training and test images may have changed sides.
        """
        before = self.record["data"]["content_hash"]
        if before is not None and self.data.meta["content_hash"] != before:
            raise InputError(
                f"{self.data.meta['source']} is not the data that {self.path} was trained on: its content differs. "
                "Restore it, or name a copy of what it was with --data."
            )
        return self.data

    @cached_property
    def model_hash(self) -> str:
        """What densities and metrics are bound to, see ``model_hash``; raises as ``model``."""
        return model_hash(self._model_folder())

    def density_options(self, kind: str) -> dict[str, Any]:
        """Options with which the authors of this run's preset fit a kind of density; none where they do not."""
        preset = PRESETS.get(self.record["preset"], PRESETS["images"])
        return preset.densities.get(kind, {})

    @property
    def finished(self) -> bool:
        """Whether model and summary are there; resuming makes them again from the last state."""
        return all((self.path / name).exists() for name in ("summary.json", "model/config.json"))

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``: steps, images seen, time, and mse, KL, γ and inactive latents at the end."""
        return read_json(self.path / "summary.json", f"{self.path} is not finished")

    @property
    def epochs(self) -> int:
        """How many epochs the model is of; more may have been asked for since."""
        return self.summary["epochs"] if self.finished else self.config.epochs

    @property
    def going_on(self) -> str | None:
        """What to know of a model whose training goes on, or was stopped, after it was written; None = nothing."""
        if self.epochs >= self.config.epochs:
            return None
        return f"the model is of epoch {self.epochs}; the training until epoch {self.config.epochs} is not finished"

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload model, densities, metrics and a card to "user/name" on the hub, see ``splitvae.hub.push_to_hub``."""
        from splitvae.hub import push_to_hub

        return push_to_hub(self, repo_id, private, token)

    def log(self) -> list[dict[str, Any]]:
        """The lines of ``log.jsonl``; one that a kill cut off is passed over."""
        where, lines = self.path / "log.jsonl", []
        for line in where.read_text(encoding="utf-8").splitlines() if where.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"step", "mse"} <= record.keys():
                lines.append(record)
        return lines


def is_run(path: Path) -> bool:
    """Whether a directory holds a run: images may lie beside somebody else's ``config.json``."""
    try:
        record = read_json(path / "config.json", "not a run")
    except InputError:
        return False
    return isinstance(record, dict) and "format_version" in record and "preset" in record


def model_hash(folder: Path) -> str:
    """SHA-256 of a saved model: of its ``config.json``, which decides how the weights are used, and of the weights."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()


def open_data(config: TrainConfig) -> "ImageCache":
    """Prepare the data of a configuration, or find it prepared."""
    from splitvae.data.cache import prepare

    if config.data is None:
        raise InputError(NO_DATA)
    return prepare(config.data, config.parsed_size(), config.crop, config.fit, config.skip_damaged, quiet=config.quiet)


def open_masks(config: TrainConfig, cache: "ImageCache", before: dict[str, Any] | None = None) -> "Masks | None":
    """The given masks of a configuration, for the training images that shall have them; None = none are given.

    Args:
        before: the record of the session before, see ``Masks``; None = there was none.

    Raises:
        InputError: they cannot be read, or are not those of the session before.
    """
    from splitvae.data.masks import read_masks

    if config.masks is None:
        return None
    values = None if before is None else before["values"]
    masks = read_masks(config.masks, cache, config.num_components, values)
    if not len(masks.rows(cache, "train")):
        raise InputError(f"masks: {config.masks} has none for any training image.")
    if len(masks.values) < 2:
        raise InputError(f"masks: {config.masks} holds the number {masks.values[0]} alone, which tells nothing apart.")
    if before is not None and masks.digest != before["digest"]:
        raise InputError(f"masks: {config.masks} holds other masks than those that the run was trained with.")
    return masks.sparse(cache, config.mask_share, config.seed)


def unknown_data(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What stands in for the record of the data where nobody knows what a model was trained on."""
    counts = {"total": 0, "train": 0, "test": 0}
    return {"source": "data that is not known", "shape": list(image_shape), "counts": counts, "content_hash": None}


def write_record(
    run: Run,
    preset: str,
    config: TrainConfig,
    data: dict[str, Any],
    machine: dict[str, Any],
    origin: dict[str, Any] | None = None,
    masks: "Masks | None" = None,
) -> None:
    """Write ``config.json``.

    Args:
        data: the ``meta`` of its prepared data.
        origin: where its first weights come from; None = they were drawn.
        masks: which it is given.
    """
    names = ("splitvae", "torch", "accelerate", "numpy", "pillow", "datasets")
    record = {
        "format_version": FORMAT_VERSION,
        "preset": preset,
        "config": config.to_dict(),
        "image_shape": data["shape"],
        "data": data,
        "machine": {"python": sys.version.split()[0], "system": platform.platform(), **machine},
        "versions": {name: version(name) for name in names},
        "git_commit": git_commit(),
    }
    if origin is not None:
        record["origin"] = origin
    if masks is not None:
        record["masks"] = {"digest": masks.digest, "values": masks.values}
    write_json(run.path / "config.json", record)


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with "-dirty" for changed files; None = no checkout."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        if tracked.returncode:  # installed inside somebody else's checkout
            return None
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
