"""Loader, forward, backward, optimiser, step and sampling of the paper's network, beside Keras and pythae."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.environments import Unavailable, Worker, environment
from benchmarks.timing import seconds, summary, take_turns
from splitvae.config import TrainConfig
from splitvae.data.cache import ImageCache
from splitvae.data.loader import ImageLoader
from splitvae.describe import count_flops
from splitvae.device import keep_freed_memory
from splitvae.models.build import build_model
from splitvae.training.batches import Batches
from splitvae.training.precision import choose_precision

LATENTS = {32: 32, 64: 150}  # the paper's MNIST and CelebA
CHANNELS = {32: 1, 64: 3}


class Ours:
    """The parts of a training step, as ``splitvae.training.loop`` puts them together.

    Args:
        side: 32 or 64: the paper's network for MNIST or CelebA.
        base_channels, batch: 64 and 100 in the paper.
        precision: "float32" or "bf16".
        device: where.
        compiled: with torch.compile, as ``--compile`` does.
    """

    def __init__(
        self, side: int, base_channels: int, batch: int, precision: str, device: torch.device, compiled: bool = False
    ) -> None:
        from splitvae.training.loop import _compiled

        config = TrainConfig(
            latent_dim=LATENTS[side], base_channels=base_channels, batch_size=batch, batch_norm_momentum=0.001
        )
        if device.type == "cpu":
            keep_freed_memory()
        self.shape, self.device, self.batch = (CHANNELS[side], side, side), device, batch
        self.model = build_model(config, self.shape).to(device, memory_format=torch.channels_last)
        self.forward_of = _compiled(self.model, device, accumulate=1) if compiled else self.model
        fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3, eps=1e-7, fused=fused)
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (10 * batch, *self.shape), dtype=np.uint8)
        sizes = np.full((len(images), 2), images.shape[-1])
        cache = ImageCache(Path(), images, {"train": np.arange(len(images))}, None, None, {}, sizes)
        self.loader = ImageLoader(cache, "train", batch, 0, device)
        self.batches = Batches(self.loader, config, self.model.noise_shape, 1, 0)
        self.number = 0
        self.load()

    def load(self) -> None:
        """Images and noise of the next step."""
        [(self.x, self.noise)] = self.batches(self.number)
        self.number += 1

    def forward(self) -> None:
        with self.autocast():
            self.terms = self.forward_of(self.x, self.noise)

    def backward(self) -> None:
        self.terms["loss"].backward()

    def optimiser(self) -> None:
        """The gradient's norm, Adam, and γ."""
        nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.variance.update(self.terms["mse"].detach())

    def step(self) -> dict[str, float]:
        """Seconds of each part of a step, and of the whole of it as ``step``."""
        parts: list[Callable[[], None]] = [self.load, self.forward, self.backward, self.optimiser]
        taken = {part.__name__: seconds(part) for part in parts}
        return taken | {"step": sum(taken.values())}

    def run(self, steps: int) -> None:
        """Steps in a row, with nothing between them that waits for the device."""
        for _ in range(steps):
            for part in (self.load, self.forward, self.backward, self.optimiser):
                part()

    @torch.no_grad()
    def sample(self) -> None:
        with self.autocast():
            self.model.sample(self.batch)

    def step_flops(self) -> int:
        """Floating-point operations of a step."""
        return self.batch * count_flops(self.model)["step"]


def compare(
    side: int,
    base_channels: int,
    batch: int,
    rounds: int,
    threads: int,
    environments: Path | None,
    others: tuple[str, ...] = ("keras", "pythae"),
) -> dict[str, Any]:
    """Everybody's seconds at one size, in turns.

    Args:
        side, base_channels, batch: see ``Ours``.
        rounds, threads, environments: measured steps of each; cores for everybody; where the others live.
        others: who is measured beside us.

    Returns:
        ``ours-float32`` (and ``ours-bf16`` where training would choose it), ``keras``, ``pythae``: each a dict of
        parts, each part a ``summary``; ``skipped``: who could not be had, and why; ``ratios`` of steps.
    """
    torch.manual_seed(0)
    device = torch.device("cpu")
    precisions = ["float32"] + (["bf16"] if choose_precision("auto", device)[0] == "bf16" else [])
    ours = {f"ours-{precision}": Ours(side, base_channels, batch, precision, device) for precision in precisions}
    any_of_ours = next(iter(ours.values()))
    network = {"image_shape": any_of_ours.shape, "latent_dim": LATENTS[side], "base_channels": base_channels}
    workers: dict[str, Worker] = {}
    skipped: dict[str, str] = {}
    versions: dict[str, str] = {}
    parts: dict[str, dict[str, list[float]]] = {name: {} for name in ours}
    with tempfile.TemporaryDirectory() as folder:
        for name in others:
            options = {"folder": folder} if name == "pythae" else {}
            try:
                workers[name] = Worker(environment(name, environments), f"{name}_worker", threads)
                built = workers[name]("build", batch=batch, **network, **options)
                assert built["trainable"] == sum(p.numel() for p in any_of_ours.model.parameters()), built
                versions |= {key: value for key, value in built.items() if isinstance(value, str)}
            except Unavailable as why:
                skipped[name] = str(why)
                workers.pop(name, None)

        def step_of_ours(name: str) -> float:
            taken = ours[name].step()
            for part, value in taken.items():
                parts[name].setdefault(part, []).append(value)
            return taken["step"]

        turns: dict[str, Callable[[], float]] = {}
        for name in ours:
            turns[f"{name} step"] = partial(step_of_ours, name)
            turns[f"{name} sampling"] = partial(seconds, ours[name].sample)
        for name, worker in workers.items():
            turns[f"{name} step"] = partial(worker, "timed", what="step")
            if name == "keras":
                turns[f"{name} forward"] = partial(worker, "timed", what="forward")
                turns[f"{name} sampling"] = partial(worker, "timed", what="sample")
        taken = take_turns(turns, rounds)
        for worker in workers.values():
            worker.close()

    result: dict[str, Any] = {"batch": batch, "side": side, **network, "skipped": skipped, "versions": versions}
    result["parameters"] = sum(p.numel() for p in any_of_ours.model.parameters())
    result["step_gflop"] = any_of_ours.step_flops() / 1e9
    for name, times in taken.items():
        who, part = name.split(" ")
        result.setdefault(who, {})[part] = summary(times)
    for who, own in parts.items():  # the parts of those steps, without the dropped round
        result[who] |= {part: summary(times[-rounds:]) for part, times in own.items() if part != "step"}
    best = min(ours, key=lambda name: result[name]["step"]["median_s"])
    result["fastest"] = best
    result["ratios"] = {who: result[who]["step"]["median_s"] / result[best]["step"]["median_s"] for who in workers} | {
        "loader_share": result[best]["load"]["median_s"] / result[best]["step"]["median_s"]
    }
    return result
