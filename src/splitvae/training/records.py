"""What a run leaves for people: opening lines, pictures of the whole state, the summary at the end."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from splitvae.config import TrainConfig
from splitvae.data.cache import ImageCache
from splitvae.data.loader import ImageLoader, fixed_images, seeded
from splitvae.data.masks import Masks
from splitvae.files import write_json
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.distributions import DiagonalGaussian, inactive_latents
from splitvae.pictures import grid, rows_of, save_picture, to_uint8
from splitvae.run import Run
from splitvae.training.checkpoint import TrainingState, saved_states

PICTURED = 10  # columns of a picture
PROBED = 1_000  # images that say how many latents are inactive


def opening_lines(
    run: Run,
    config: TrainConfig,
    model: Autoencoder,
    cache: ImageCache,
    masks: Masks | None,
    accelerator: Accelerator,
    bf16: bool,
    found: Path | None,
) -> list[str]:
    """What is about to happen, in two or three lines."""
    C, H, W = cache.shape
    counts, processes = cache.meta["counts"], accelerator.num_processes
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        f"{config.data}: {counts['train']:,} training and {counts['test']:,} test images of {C}×{H}×{W}",
        f"{type(model).__name__} with {parameters:,} parameters on {accelerator.device.type}"
        f"{f' × {processes}' if processes > 1 else ''} in {'bf16' if bf16 else 'float32'}, run {run.path}",
    ]
    if masks is not None:
        guided, numbers = len(masks.rows(cache, "train")), ", ".join(map(str, masks.values))
        often = f", each {config.mask_repeat} times an epoch" if config.mask_repeat > 1 else ""
        lines.append(
            f"masks of {guided:,} training images{often}; components 1 … {len(masks.values)} are their {numbers}"
        )
        if len(masks.values) < config.num_components:
            lines.append(f"the other {config.num_components - len(masks.values)} of the components have no masks")
    if count := cache.meta["not_images"]["count"]:
        lines.append(f"skipped {count} files that are no images, such as {cache.meta['not_images']['first'][0]}")
    if count := cache.meta["damaged"]["count"]:
        lines.append(f"skipped {count} damaged images, such as {cache.meta['damaged']['first'][0]}")
    if processes == 1 and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        lines.append(
            "note: `accelerate launch --cpu` starts one process unless it is given --mpirun_hostfile; for two, use: "
            "torchrun --nproc-per-node 2 -m splitvae train … --device cpu"
        )
    if found is not None:
        lines.append(f"resumed from {found.name}")
    return lines


def divergence(terms: tuple[str, ...], values: Tensor, step: int, run: Run, config: TrainConfig) -> str:
    """The message for a loss that is not finite at a step: which of its terms, and what there is to go on from."""
    names = [*terms[1:], "gradient norm", "likelihood"]
    found = [
        f"{name} {value}" for name, value in zip(names, values[1:].tolist(), strict=False) if not math.isfinite(value)
    ]
    smaller = f"--lr {config.lr / 10:g}"
    *before, newest = [None, *saved_states(run.path / "state")]
    useless = newest is not None and int(newest.name.removeprefix("step-")) == step  # whatever the rate, it ends here
    good = before[-1] if useless else newest
    if good is None:
        helps = f"No state was saved before; train anew with a smaller rate, such as {smaller}."
    else:
        first = f"Remove {newest}, which no rate mends; then go on" if useless else "Go on"
        step_of_good = int(good.name.removeprefix("step-"))
        helps = f"{first} from step {step_of_good} with a smaller rate: splitvae train --resume {run.path} {smaller}"
    return f"the loss diverged at step {step}: {', '.join(found) or 'loss'}. {helps}"


def wants_picture(step: int, steps_per_epoch: int, total: int) -> bool:
    """Early at steps that double (1, 2, 4, 8 …), then at the end of every epoch, and at the very end.

    Epochs of a few steps, as of a folder of 200 pictures, count together, so that pictures cost less than training.
    """
    period = steps_per_epoch * -(-20 // steps_per_epoch)
    doubling = step & (step - 1) == 0
    return step == total or step % period == 0 or (doubling and step < period)


@torch.no_grad()
def save_picture_of(model: Autoencoder, cache: ImageCache, run: Run, step: int) -> None:
    """Write ``samples/step-….png``: test images; masks, components and x̂ of their reconstructions, then of samples."""
    device = model.device
    x = fixed_images(cache, "test", PICTURED, device)
    z = torch.randn(PICTURED, model.latent_dim, generator=seeded(0, "picture", 0)).to(device)
    rows = [x, *rows_of(model.decode(model.encode(x).mode())).values(), *rows_of(model.decode(z)).values()]
    save_picture(grid([to_uint8(row) for row in rows]), run.path / "samples" / f"step-{step:07d}.png")


@torch.no_grad()
def count_inactive(model: Autoencoder, loader: ImageLoader) -> int:
    """Inactive latents (by the variance of the mean) over fixed training images."""
    return inactive_latents(_joined([model.encode(x) for x in loader.fixed_batches(PROBED)]))["by_mean"]


def _joined(parts: list[DiagonalGaussian]) -> DiagonalGaussian:
    return DiagonalGaussian(torch.cat([q.mean for q in parts]), torch.cat([q.logvar for q in parts]))


@torch.no_grad()
def write_summary(
    model: Autoencoder, cache: ImageCache, run: Run, config: TrainConfig, state: TrainingState
) -> list[str]:
    """Write ``summary.json`` and return it in words: what the model does on (up to 10,000) test images.

    ``mse`` is of reconstructions from the posterior mean.
    """
    device = model.device
    posteriors, errors = [], []
    for x in ImageLoader(cache, "test", 1, 0, device, resident=False).fixed_batches(10_000):
        posteriors.append(model.encode(x))
        errors.append((model.decode(posteriors[-1].mode()).x_hat - x).square().mean(dim=(1, 2, 3)))
    posterior = _joined(posteriors)
    summary: dict[str, Any] = {
        "epochs": config.epochs,
        "steps": state.step,
        "images_seen": state.step * config.batch_size,
        "training_seconds": round(state.seconds, 1),
        "test_images": len(posterior.mean),
        "mse": float(torch.cat(errors).mean()),
        "kl": float(posterior.kl().mean()),
        "gamma": float(model.variance.value()),
        "latent_dim": model.latent_dim,
        "inactive_latents": inactive_latents(posterior),
    }
    write_json(run.path / "summary.json", summary)
    inactive = summary["inactive_latents"]["by_mean"]
    balance = f"½‖z‖² {summary['kl']:.1f}"
    if config.variational:
        balance = f"KL {summary['kl']:.1f} nats, γ {summary['gamma']:.4f}"
    return [
        f"test: mse {summary['mse']:.4f}, {balance}, "
        f"{inactive} of {model.latent_dim} latents inactive; trained for {state.seconds / 60:.1f} min",
        f"the model is in {run.path / 'model'}, pictures of the training in {run.path / 'samples'}",
    ]
