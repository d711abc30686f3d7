"""Whether speed costs anything: losses of our loop in float32 and bf16, and of Keras from the same weights.

All see the same images and noise in the same order. The network is the paper's at a part of its width, on
scikit-learn's digits at 32×32.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environments import Unavailable, Worker, environment
from splitvae import train
from splitvae.config import TrainConfig
from splitvae.data.loader import ImageLoader
from splitvae.models.build import build_model
from splitvae.training.batches import Batches


def curves(
    steps: int, base_channels: int, batch: int, bf16: bool, threads: int, environments: Path | None
) -> dict[str, Any]:
    """Losses step by step.

    Args:
        steps: how many; whole epochs are trained, and cut.
        base_channels: width of the network; 64 = the paper's.
        batch: images per step.
        bf16: train in bf16 too, which is slow where the machine lacks the instructions.
        threads: cores for Keras.
        environments: where Keras' is.

    Returns:
        ``losses``: by name; ``skipped``: who could not be had; ``largest_relative_difference`` of each to float32.
    """
    recipe = {
        "image_size": 32, "latent_dim": 32, "base_channels": base_channels, "padding": "tf-same", "batch_size": batch,
        "batch_norm_momentum": 0.001, "gamma_init": 1.0, "lr_schedule": "constant", "beta": 8.0, "device": "cpu",
        "log_every": 1, "checkpoint_minutes": 1e6, "quiet": True,
    }  # fmt: skip
    losses: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = None
        for precision in ("fp32", "bf16") if bf16 else ("fp32",):
            epochs = 1
            run = train("digits", out=folder / precision, epochs=epochs, precision=precision, **recipe)
            while len(run.log()) < steps:
                epochs += -(-(steps - len(run.log())) // run.summary["steps"] * epochs) or 1
                run = train(resume=run.path, epochs=epochs)
            losses["ours, bf16" if precision == "bf16" else "ours, float32"] = [x["loss"] for x in run.log()[:steps]]
        assert run is not None
        config, cache = run.config, run.data
        initial = build_model(config, cache.shape)
        np.savez(folder / "weights.npz", **{k: v.numpy() for k, v in initial.state_dict().items()})
        _write_batches(folder / "batches.npz", config, cache, initial.noise_shape, steps)
        try:
            keras = Worker(environment("keras", environments), "keras_worker", threads)
            options = {"image_shape": cache.shape, "latent_dim": 32, "base_channels": base_channels, "batch": 2}
            keras("build", weights=str(folder / "weights.npz"), beta=config.beta, **options)
            losses["Keras, float32"] = keras("train", batches=str(folder / "batches.npz"))
            keras.close()
        except Unavailable as why:
            skipped["keras"] = str(why)
    reference = np.array(losses["ours, float32"])
    return {
        "steps": steps, "base_channels": base_channels, "batch": batch, "losses": losses, "skipped": skipped,
        "largest_relative_difference": {
            name: float(np.abs(np.array(values) / reference - 1).max()) for name, values in losses.items()
        },
    }  # fmt: skip


def _write_batches(path: Path, config: TrainConfig, cache: Any, noise_shape: tuple[int, ...], steps: int) -> None:
    """What the loop sees, for others to train on."""
    loader = ImageLoader(cache, "train", config.batch_size, config.seed)
    batches = Batches(loader, config, noise_shape, 1, 0)
    pairs = [batches(step)[0] for step in range(steps)]
    x, noise = (torch.stack([pair[i] for pair in pairs]).numpy() for i in (0, 1))
    np.savez(path, x=x, noise=noise)
