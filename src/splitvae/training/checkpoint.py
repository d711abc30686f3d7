"""Training states to resume from: safetensors and JSON, written beside and renamed, the last two kept."""

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitvae.errors import InputError, SplitVAEError
from splitvae.files import read_json, write_json
from splitvae.models.pretrained import load_strictly, read_tensors, write_tensors
from splitvae.training.schedule import Plateau
from splitvae.training.watch import Watch

KEPT = 2


@dataclass
class TrainingState:
    """Everything that changes while training; order and noise are functions of (seed, step).

    Attributes:
        model: the bare module: weights, batch-norm statistics, γ and its running mse.
        optimizer: Adam.
        average: running average of the weights; None = not asked for.
        plateau: what a rate that follows the loss remembers; None = the rate is a function of the step.
        watch: the sums of the log's next line; None = they begin anew.
        step: optimiser steps done.
        seconds: time spent training, over all sessions.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    plateau: Plateau | None = None
    watch: Watch | None = None
    step: int = 0
    seconds: float = 0.0

    def save(self, directory: Path) -> None:
        """Write ``directory/step-…`` and remove all but the last two.

        Raises:
            SplitVAEError: it cannot be written; the states that were there stay.
        """
        target = directory / f"step-{self.step:09d}"
        temporary = directory / f".{uuid.uuid4().hex[:8]}"
        try:
            write_tensors(temporary / "state.safetensors", self._tensors())
            record: dict[str, Any] = {"step": self.step, "seconds": self.seconds}
            if self.plateau is not None:
                record["plateau"] = self.plateau.state()
            if self.watch is not None:
                record["watch"] = self.watch.state()
            write_json(temporary / "state.json", record)
            if target.exists():  # a damaged one, which was passed over
                os.replace(target, directory / f".{uuid.uuid4().hex[:8]}")
            os.replace(temporary, target)
        except OSError as error:
            raise SplitVAEError(
                f"cannot save the training state in {directory}: {error.strerror or error}. Free some space; the state "
                "before it is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in [*saved_states(directory)[:-KEPT], *directory.glob(".*")]:  # and what a kill left behind
            shutil.rmtree(old, ignore_errors=True)

    def load(self, path: Path) -> None:
        """Take over the state in ``path``, in place and bit for bit."""
        where = path / "state.safetensors"
        record = read_json(path / "state.json", "not a training state")
        if not isinstance(record, dict) or not {"step", "seconds"} <= record.keys():
            raise InputError(f"{path / 'state.json'} is damaged; remove {path} to resume from the state before it.")
        tensors = read_tensors(where)
        load_strictly(self.model, _below("model.", tensors), where)
        if self.average is not None:
            load_strictly(self.average, _below("average.", tensors), where)
        named = dict(self.model.named_parameters())
        for name, value in _below("optimizer.", tensors).items():
            key, _, parameter = name.partition(".")
            p = named[parameter]
            # Like the parameter in memory layout: Adam's fused step walks both in storage order.
            like = torch.empty_like(p) if value.shape == p.shape else torch.empty_like(value, device=p.device)
            self.optimizer.state[p][key] = like.detach().copy_(value)
        self.step, self.seconds = record["step"], record["seconds"]
        if self.plateau is not None and "plateau" in record:  # a resumed run may change its schedule
            self.plateau.load(record["plateau"])
        if self.watch is not None and "watch" in record:  # states of before 2026-11-29 have none
            self.watch.load(record["watch"])

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, p in self.model.named_parameters():
            tensors |= {f"optimizer.{key}.{name}": value for key, value in self.optimizer.state.get(p, {}).items()}
        return tensors


def saved_states(directory: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / "state.json").exists())


def load_latest(state: TrainingState, directory: Path) -> Path | None:
    """Load the newest readable state; None = there is none, and training starts afresh."""
    failures: list[Exception] = []
    for path in reversed(saved_states(directory)):
        try:
            state.load(path)
            return path
        except SplitVAEError as error:  # damaged, as by a machine that lost power: the one before it is whole
            failures.append(error)
    if failures:
        raise failures[0]
    return None


def _below(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
