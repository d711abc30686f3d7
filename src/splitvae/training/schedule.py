"""The learning rate of each step: warm-up, then one of four schedules.

- ``constant``: Split-VAE (2202.02738).
- ``cosine``: half a cosine to zero at the end of the last epoch (Loshchilov & Hutter 2017, without restarts).
- ``halving``: Dai & Wipf (2019), and Asperti & Trentin (2020): lr · ½^⌊epoch / lr_halve_every⌋, epochs from 0.
- ``plateau``: Ghosh et al. (2020), whose code takes Keras' ReduceLROnPlateau: see ``Plateau``.

All but ``plateau`` are functions of the step; ``Plateau`` has a state, which is saved with the training state.
"""

import math
import sys

import torch
from torch import Tensor

from splitvae.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int, factor: float = 1.0) -> float:
    """The rate of a step.

    Args:
        config: its ``lr``, ``lr_schedule``, ``lr_halve_every``, ``warmup_steps`` and ``epochs``.
        step: 0-based.
        steps_per_epoch: optimiser steps in one epoch.
        factor: multiplies the rate: ``Plateau.factor``; 1 = no plateau schedule.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay = factor
    if config.lr_schedule == "cosine":
        decay *= 0.5 * (1 + math.cos(math.pi * step / (config.epochs * steps_per_epoch)))
    elif config.lr_schedule == "halving":
        decay *= 0.5 ** (step // steps_per_epoch // config.lr_halve_every)
    return config.lr * warmup * decay


class Plateau:
    """Keras' ReduceLROnPlateau (mode min, no cooldown, no least rate), as the authors of RAE use it.

    An epoch is better if its loss is below ``best − min_delta``; after ``patience`` epochs in a row that are not, the
    rate is multiplied by ``shrink``. torch.optim's scheduler of that name waits one epoch longer for the same patience.

    Deviation: the authors watch the loss of "validation" images in evaluation mode after each epoch; 80 % of those
    images are training images (their code keeps [10000:] for validation and [:-10000] for training). Here it is the
    mean of the training losses of the epoch's steps. Their loss is MSE + β·mean z², means over pixels and latents, and
    ``min_delta`` is meant for that; a loss in sums is brought to it by ``scale``.

    Args:
        steps_per_epoch: optimiser steps in one epoch.
        scale: the loss is divided by it: D/(2γ) for SSE/(2γ) + … with a fixed γ, so D values per image for SSE + …;
            1 = the loss is a mean already.
        shrink: in (0, 1).
        patience: epochs, at least 1.
        min_delta: smallest fall of loss/scale that counts.

    Attributes:
        factor: what to multiply the rate by: 1, ½, ¼, …
        best: lowest loss/scale of an epoch that counted; the largest float before any.
        wait: epochs since then, or since the last reduction.
    """

    def __init__(
        self,
        steps_per_epoch: int,
        scale: float = 1.0,
        *,
        shrink: float = 0.5,
        patience: int = 5,
        min_delta: float = 1e-4,
    ) -> None:
        self.steps_per_epoch, self.scale = steps_per_epoch, scale
        self.shrink, self.patience, self.min_delta = shrink, patience, min_delta
        self.factor, self.best, self.wait = 1.0, sys.float_info.max, 0
        self._sum: float | Tensor = 0.0  # a float at an epoch's start and after ``load``, then on the loss's device
        self._count = 0

    def update(self, loss: Tensor, step: int) -> None:
        """Take note of the loss of one optimiser step, and apply the rule if it was an epoch's last.

        Args:
            loss: 0-dim, over all processes and micro-batches, so that all processes decide alike.
            step: steps done, this one included.
        """
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self._sum = self._sum + loss.detach().to(dtype)
        self._count += 1
        if step % self.steps_per_epoch:
            return
        mean = float(self._sum) / self._count / self.scale  # note: once an epoch, this waits for a GPU
        self._sum, self._count = 0.0, 0
        self.wait += 1
        if mean < self.best - self.min_delta:
            self.best, self.wait = mean, 0
        elif self.wait >= self.patience:
            self.factor, self.wait = self.factor * self.shrink, 0

    def state(self) -> dict[str, float | int]:
        """What ``load`` needs to go on bit for bit, also in the middle of an epoch; finite, for JSON. Waits for a GPU.

        ``sum`` and ``count`` are of the epoch's losses so far.
        """
        return {
            "factor": self.factor, "best": self.best, "wait": self.wait,
            "sum": float(self._sum), "count": self._count,
        }  # fmt: skip

    def load(self, state: dict[str, float | int]) -> None:
        """Take over what ``state`` returned."""
        self.factor, self.best, self.wait = float(state["factor"]), float(state["best"]), int(state["wait"])
        self._sum, self._count = float(state["sum"]), int(state["count"])
