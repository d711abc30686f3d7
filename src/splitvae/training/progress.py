"""What a person sees while a model trains, and ``log.jsonl``, which is always written."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from splitvae.config import TrainConfig
from splitvae.errors import SplitVAEError
from splitvae.files import replacing
from splitvae.training.watch import Reading

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal


class Reporter:
    """A live bar on a terminal, a line now and then elsewhere, nothing when quiet.

    Args:
        log: path of ``log.jsonl``; lines after ``start`` are dropped, so that a resumed run tells each step once.
        config: of the run.
        terms: what the model's forward returns, in this order.
        start, total: optimiser steps done and in all.
        quiet: print nothing.
        writes: whether this is the main process, which alone writes the log.

    Attributes:
        inactive: number of inactive latents at the last picture; None = not known yet.
        also: called with (record, step=step) for each line of the log: a tracker.
    """

    def __init__(
        self,
        log: Path,
        config: TrainConfig,
        terms: tuple[str, ...],
        start: int,
        total: int,
        quiet: bool,
        writes: bool,
    ) -> None:
        self.log, self.config, self.terms, self.total, self.writes = log, config, terms, total, writes
        self.steps_per_epoch = total // config.epochs
        self.inactive: int | None = None
        self.also: Callable[..., Any] | None = None
        if writes:
            _drop_lines_after(log, start)
        self.console = Console(quiet=quiet, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[terms]}"),
            console=self.console, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=total, completed=start, terms="")
        self._started_at, self._started_step = time.monotonic(), start
        self._logged_at, self._logged_step = time.monotonic(), start
        self._printed_at = time.monotonic()

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, *lines: str) -> None:
        """Print lines, above the bar if there is one."""
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def note(self, reading: Reading) -> None:
        """Append a line to the log: means since the last one, and γ, the rate and speeds as they are.

        The values are the terms, the gradient's norm, and the decoder's negative log-likelihood.
        """
        if not self.writes:
            return
        step, means = reading.step, dict(zip((*self.terms, "grad_norm", "nll"), reading.means.tolist(), strict=False))
        gamma = means["gamma"] = float(reading.last[self.terms.index("gamma")])
        record = {
            "step": step,
            "epoch": (step - 1) // self.steps_per_epoch,
            "images_seen": step * self.config.batch_size,
            **means,
            # The KL's weight against SSE/2: what shrinks as training goes on.
            "beta_gamma": self.config.beta * gamma if self.config.variational else None,
            "lr": reading.lr,
            "sec_per_step": (reading.taken_at - self._logged_at) / (step - self._logged_step),
            "inactive": self.inactive,
        }
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.also is not None:
            try:
                self.also({k: v for k, v in record.items() if v is not None}, step=step)
            except Exception as error:  # each tracker has its own
                self.also = None
                _lost(error)
        self._logged_at, self._logged_step = reading.taken_at, step

    def show(self, step: int, values: Tensor) -> None:
        """Move the bar, or print a line if the last is some time ago.

        Args:
            step: steps done.
            values: the terms of the step; reading them waits for a device.
        """
        now = time.monotonic()
        if self._bar.disable and now - self._printed_at < PLAIN_EVERY:
            return
        per_step = (now - self._started_at) / (step - self._started_step)
        mse, kl, gamma = (float(values[self.terms.index(name)]) for name in ("mse", "kl", "gamma"))
        inactive = "" if self.inactive is None else f"  inactive {self.inactive}/{self.config.latent_dim}"
        balance = f"KL {kl:.1f}  γ {gamma:.4f}" if self.config.variational else f"½‖z‖² {kl:.1f}"
        terms = f"{self.config.batch_size / per_step:,.0f} img/s  mse {mse:.4f}  {balance}{inactive}"
        epoch = f"epoch {(step - 1) // self.steps_per_epoch + 1}/{self.config.epochs}"
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, description=epoch, terms=terms)
        else:
            self._printed_at = now
            self.say(f"{epoch}  {terms}  {(self.total - step) * per_step / 60:.1f} min left")


def _drop_lines_after(log: Path, start: int) -> None:
    """Keep the lines of steps up to ``start``; a line that a kill cut off goes too."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    if len(kept) < len(lines):
        with replacing(log) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _lost(error: Exception) -> None:
    """Tell that a tracker is gone; a training does not end for that."""
    print(f"splitvae: the tracker is lost, log.jsonl goes on without it: {_first_line(error)}", file=sys.stderr)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def start_tracker(accelerator: Accelerator, config: TrainConfig, name: str) -> None:
    """Open the tracker's project "splitvae" with a run of this name.

    Raises:
        SplitVAEError: it has no account, no server, or no place to write to.
    """
    names = {"wandb": {"wandb": {"name": name}}, "mlflow": {"mlflow": {"run_name": name}}}
    values = {field: value for field, value in config.to_dict().items() if value is not None}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 wait for minutes
    if config.quiet:
        os.environ.setdefault("WANDB_SILENT", "true")
    try:
        accelerator.init_trackers("splitvae", values, names.get(config.tracker, {}))
    except Exception as error:  # each tracker has its own
        accelerator.trackers.clear()  # what has not started cannot be finished
        raise SplitVAEError(
            f"the tracker {config.tracker} does not start: {_first_line(error)}. Set it up by its own variables, "
            "such as WANDB_MODE=offline or MLFLOW_TRACKING_URI, or leave --tracker out."
        ) from error


def finish_trackers(accelerator: Accelerator) -> None:
    """Close what ``start_tracker`` has opened; one that is gone by now is told."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:  # each tracker has its own
            _lost(error)
    accelerator.trackers.clear()
