"""Training, read from top to bottom: what is asked for, data, model, optimiser, resume, loop.

The loop is the same for every model: ``forward`` gives the objective and its terms, and changes no state but batch
norm's. Noise and order are functions of (seed, step), so a run that is killed and resumed equals one that was not.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import nn

from splitvae.codes import refuse_other_images
from splitvae.config import TrainConfig
from splitvae.data.cache import ImageCache, refuse_few
from splitvae.data.loader import ImageLoader, fixed_rows
from splitvae.data.masks import Masks
from splitvae.data.sources import absolute
from splitvae.device import hardware, keep_freed_memory, pick_device
from splitvae.errors import InputError, Interrupted, SplitVAEError
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.build import build_model
from splitvae.models.losses import gamma_apart
from splitvae.models.output_init import begin_at_mean
from splitvae.presets import resolve
from splitvae.run import NO_DATA, Run, open_data, open_masks, write_record
from splitvae.training.batches import Batches
from splitvae.training.calibrate import calibrate
from splitvae.training.checkpoint import TrainingState, load_latest, saved_states
from splitvae.training.ema import update_average
from splitvae.training.guard import clear_run, interrupts, leaving_no_state, only_process_in, refuse_existing
from splitvae.training.precision import choose_precision, memory_layout
from splitvae.training.progress import Reporter, finish_trackers, start_tracker
from splitvae.training.records import (
    count_inactive,
    divergence,
    opening_lines,
    save_picture_of,
    wants_picture,
    write_summary,
)
from splitvae.training.schedule import Plateau, learning_rate
from splitvae.training.sync_norm import synchronise
from splitvae.training.watch import Watch, reads_at_once

# What may change when a run goes on: how long and how fast it trains, where it runs and what it records.
MAY_CHANGE = {
    "epochs", "lr", "lr_schedule", "lr_halve_every", "clip_norm", "accumulate", "precision", "compile", "device",
    "data", "masks", "quiet", "checkpoint_minutes", "checkpoint_every", "snapshot_every", "log_every", "tracker",
    "sync_batch_norm",
}  # fmt: skip
QUICK_CALIBRATION = 500  # images for the batch norm of a picture along the way; a model for use takes 10,000


@leaving_no_state()
def train(
    preset: str | None = None,
    *,
    out: str | Path | None = None,
    resume: Run | str | Path | None = None,
    overwrite: bool = False,
    **changes: Any,
) -> Run:
    """Train a model, or go on with a run.

    Args:
        preset: "digits", "mnist", "fashion-mnist", "cifar10", "celeba"; None = "images", for data of one's own.
        out: the run directory to make; it must not exist, or hold a run that ``overwrite`` gives up.
        resume: a run to go on with, instead of ``preset`` and ``out``; a finished one says so and is returned.
        overwrite: replace the run in ``out``.
        **changes: fields of ``TrainConfig``; with ``resume``, only those in ``MAY_CHANGE``.

    Returns:
        the finished run.

    Raises:
        InputError: wrong options, data or directories; nothing has been changed.
        Interrupted: after SIGINT or SIGTERM; the state was saved.
        SplitVAEError: the loss became NaN or infinite, or a file could not be written; the last good state stays.

    Examples:
        >>> run = train("digits", out="runs/digits", epochs=1)  # doctest: +SKIP
        >>> run.model.sample(4).shape  # doctest: +SKIP
        torch.Size([4, 1, 16, 16])
    """
    if resume is not None:
        if preset is not None or out is not None or overwrite:
            raise InputError("resume goes on with a run as it was begun: leave out the preset, out and overwrite.")
        run = Run.open(resume)
        config, name = _resumed_config(run, changes), run.record["preset"]
        if run.finished and run.summary["epochs"] >= config.epochs:
            if not config.quiet:
                print(f"{run.path} is finished: {config.epochs} epochs. To go on, ask for more with --epochs.")
            return run
        if (run.finished or "origin" in run.record) and not saved_states(run.path / "state"):
            raise InputError(f"{run.path}/state holds nothing to go on from; train anew, into another --out.")
    else:
        if out is None:
            raise InputError("no run directory: pass --out RUN.")
        config, name = resolve(preset, **changes), preset or "images"
        run = Run(Path(out).expanduser())
        if config.data is None:
            raise InputError(NO_DATA)
    # A run may be resumed from another directory: only what is named now is meant from here.
    for place in ("data", "masks") if resume is None else changes.keys() & {"data", "masks"}:
        if (source := getattr(config, place)) is not None:
            config = config.with_changes({place: absolute(source)})

    tracker = None if config.tracker == "none" else config.tracker
    if tracker is not None and find_spec(tracker) is None:
        raise InputError(f"--tracker {tracker} needs the package {tracker}: pip install 'splitvae[{tracker}]'.")
    if config.device == "cuda":
        pick_device("cuda")  # or there is none
    # γ, and batch norm's statistics where they are synchronised, are equal in all processes as they are computed: no
    # step needs to send them. Of others the first process's are used.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision="no", log_with=tracker, project_dir=run.path, kwargs_handlers=[ddp]
    )
    main = accelerator.is_main_process
    refuse = partial(refuse_existing, run.path, overwrite, config.data, config.masks)
    if main and resume is None:
        refuse()
    with only_process_in(run.path) if main else nullcontext():
        if main and resume is None:
            refuse()  # again, now that nobody else can make a run of it
        cache = open_data(config if main else replace(config, quiet=True))
        refuse_few(cache)
        before = None if resume is None else run.record["data"]["content_hash"]
        if before not in (None, cache.meta["content_hash"]):
            raise InputError(f"{config.data} is not the data that {run.path} was trained on: its content differs.")
        if resume is not None:
            refuse_other_images(cache, run.image_shape)
        masks = open_masks(config, cache, None if resume is None else run.record.get("masks"))
        config = _fitting_batch(config, len(cache.splits["train"]), accelerator.num_processes)
        machine = _machine(config, accelerator, run.record["machine"] if resume is not None else {})
        # Refuses what does not suit these images; a run that goes on takes its weights from its state.
        model = build_model(config, cache.shape)
        if config.output_init == "data-mean":
            images = cache.images[fixed_rows(cache, "train", 10_000)]
            begin_at_mean(model, torch.from_numpy(images.mean(axis=(0, 2, 3)) / 255))
        if tracker not in (None, "tensorboard"):
            start_tracker(accelerator, config, run.path.name)  # it may be refused: before anything is replaced
        if main and resume is None:
            clear_run(run.path)
        origin = None if resume is None else run.record.get("origin")
        record = partial(write_record, run, name, config, cache.meta, machine, origin, masks)
        if main and resume is None:
            record()
        accelerator.wait_for_everyone()
        if tracker == "tensorboard":  # whose files lie in the run
            start_tracker(accelerator, config, run.path.name)
        try:
            bf16 = machine["precision"] == "bf16"
            _fit(run, config, cache, masks, model, accelerator, bf16, None if resume is None else record)
        finally:
            finish_trackers(accelerator)
            if accelerator.num_processes > 1:
                accelerator.end_training()
    return Run(run.path)


def _machine(config: TrainConfig, accelerator: Accelerator, before: dict[str, Any]) -> dict[str, Any]:
    """What this session runs on, for the record; a resumed run keeps what decides its bits.

    Args:
        before: the record of the session before; empty = none.
    """
    device = str(accelerator.device)
    same = before.get("device") == device
    if same and device == "cpu" and accelerator.num_processes == 1 == before["processes"]:
        torch.set_num_threads(before["threads"])  # sums are split among threads
    if same and config.precision == "auto":
        chosen = [before["precision"], before["precision_reason"]]
    else:
        chosen = list(choose_precision(config.precision, accelerator.device))
    precision, reason = broadcast_object_list(chosen)  # all processes alike, whatever each has timed
    return {
        "device": device, "hardware": hardware(accelerator.device), "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "precision": precision, "precision_reason": reason,
    }  # fmt: skip


def _fit(
    run: Run,
    config: TrainConfig,
    cache: ImageCache,
    masks: Masks | None,
    model: Autoencoder,
    accelerator: Accelerator,
    bf16: bool,
    record: Callable[[], None] | None,
) -> None:
    """Train until ``config.epochs`` are done, from the newest state in the run if there is one.

    Args:
        model: as it begins where there is none.
        record: of a resumed run, writes its ``config.json`` anew, once it is known that the run can go on.
    """
    device, main = accelerator.device, accelerator.is_main_process
    if device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # fp32 is what it says (see pick_device)

    # Data: a batch is the global one; this process and micro-batch takes its part of it.
    components = None if masks is None else masks.components  # a function of row numbers
    again = None if masks is None else np.tile(masks.rows(cache, "train"), config.mask_repeat - 1)
    loader = ImageLoader(cache, "train", config.batch_size, config.seed, device, config.flip, True, components, again)
    total = config.epochs * loader.steps_per_epoch

    # Model, the running average of its weights, and Adam.
    layout = memory_layout(config, device)

    def copied() -> Autoencoder:
        other = build_model(config, cache.shape).to(device, memory_format=layout)  # type: ignore[call-overload]
        other.load_state_dict(bare.state_dict())
        return other

    bare = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    average = copied() if config.ema_decay else None
    groups, fused = gamma_apart(bare, config.gamma_lr), device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.999), eps=1e-7, fused=fused)

    # RAE's rate follows the loss, which its authors measure per value: ours is a sum, SSE/(2γ) + ….
    plateau = None
    if config.lr_schedule == "plateau":
        scale = math.prod(cache.shape) / (2 * float(bare.variance.value()))
        plateau = Plateau(loader.steps_per_epoch, scale)

    # Resume, before the model is wrapped for several processes.
    at_once = reads_at_once(device)
    watch = Watch(config.log_every, total, at_once)
    state = TrainingState(bare, optimizer, average, plateau, watch)
    found = load_latest(state, run.path / "state")
    if main and record is not None:
        record()
    quiet = config.quiet or not main
    reporter = Reporter(run.path / "log.jsonl", config, bare.terms, state.step, total, quiet, main)
    if accelerator.num_processes > 1 and config.sync_batch_norm:
        synchronise(bare)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes never change: the fastest kernels are looked for once
    wrapped = accelerator.prepare(_compiled(bare, device, config.accumulate) if config.compile else bare)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
    if config.tracker != "none":
        reporter.also = accelerator.log
    reporter.say(*opening_lines(run, config, bare, cache, masks, accelerator, bf16, found))

    # A second copy of the model gets calibrated weights, for pictures along the way and for use at the end.
    ready = copied()

    def ready_model(images: int) -> Autoencoder:
        ready.load_state_dict((average or bare).state_dict())
        with autocast():
            return calibrate(ready, loader, images)

    def save() -> None:
        if state.step == clock["step"]:
            return
        clock["step"] = state.step
        state.seconds += time.monotonic() - clock["began"]
        clock["began"] = clock["saved"] = time.monotonic()
        if main:
            state.save(run.path / "state")

    batches = Batches(loader, config, bare.noise_shape, accelerator.num_processes, accelerator.process_index)
    wrapped.train()
    if state.step == 0 and config.variational and config.gamma_init == "first-batch":
        with torch.no_grad(), autocast():
            first = torch.stack([wrapped(*given)["mse"] for given in batches(0)]).mean()
        bare.variance.start_from(accelerator.reduce(first, "mean"))

    parameters = list(bare.parameters())
    clock = {"began": time.monotonic(), "saved": time.monotonic(), "step": -1 if found is None else state.step}
    with reporter, interrupts() as received:
        while state.step < total:
            factor = 1.0 if plateau is None else plateau.factor
            lr = learning_rate(config, state.step, loader.steps_per_epoch, factor)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]

            # Forward and backward over micro-batches; gradients are exchanged with the last one.
            values = torch.zeros(len(bare.terms), device=device)
            for m, given in enumerate(batches(state.step)):
                with nullcontext() if m == config.accumulate - 1 else accelerator.no_sync(wrapped):
                    with autocast():
                        terms = wrapped(*given)
                    accelerator.backward(terms["loss"] / config.accumulate)
                values += torch.stack([terms[name].detach() for name in bare.terms]) / config.accumulate
            if config.clip_norm is not None:
                norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            else:
                norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

            # Negative log-likelihood of the Gaussian decoder: SSE/(2γ) + (N/2)·log 2πγ.
            reconstruction, gamma = (values[bare.terms.index(name)] for name in ("reconstruction", "gamma"))
            nll = reconstruction + 0.5 * math.prod(cache.shape) * (2 * math.pi * gamma).log()

            # One small exchange: the terms' mean over processes, and whether any of them was asked to stop.
            asked = bool(received)
            others = torch.stack([norm.detach(), nll, torch.full((), float(asked), device=device)])
            values = accelerator.reduce(torch.cat([values, others]), "mean")

            # Reading a value waits for a GPU, so there each is read a turn late (see Watch).
            # But always before something is written, so that a state or a model on disk is a good one.
            due = time.monotonic() - clock["saved"] > 60 * config.checkpoint_minutes
            by_step = state.step + 1 == total or _divides(config.checkpoint_every, state.step + 1)
            by_step = by_step or _divides(config.snapshot_every * loader.steps_per_epoch, state.step + 1)
            writes = by_step or due or asked
            # The state of this step is not worth keeping: with the same noise and images it would end here again.
            if (at_once or writes) and not torch.isfinite(values).all():
                raise SplitVAEError(divergence(bare.terms, values, state.step, run, config))

            # Adam, then γ by its rule, then the average of the weights.
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bare.variance.update(values[bare.terms.index("mse")])
            state.step += 1
            if plateau is not None:
                plateau.update(values[0], state.step)
            if average is not None:
                update_average(average, bare, config.ema_decay, state.step)

            # Log, picture, snapshot.
            # Several processes read at the same steps, whatever their clocks and signals say: one that learns earlier
            # that it shall stop would leave the others waiting for it.
            now = writes if accelerator.num_processes == 1 else by_step
            readings = watch.take(state.step, values, lr, now)
            for reading in readings:
                if not torch.isfinite(reading.last).all():
                    raise SplitVAEError(divergence(bare.terms, reading.last, reading.step - 1, run, config))
                reporter.note(reading)
            newest = values if at_once else readings[-1].last if readings else None
            if newest is not None:
                reporter.show(state.step, newest)
            if main and wants_picture(state.step, loader.steps_per_epoch, total):
                with autocast():
                    save_picture_of(ready_model(QUICK_CALIBRATION), cache, run, state.step)
                    reporter.inactive = count_inactive(ready, loader)
            epoch = state.step // loader.steps_per_epoch
            if main and _divides(config.snapshot_every * loader.steps_per_epoch, state.step):
                ready_model(10_000).save_pretrained(run.path / "snapshots" / f"epoch-{epoch:04d}")

            # Save what is needed to resume, and leave if asked to.
            if due or _divides(config.checkpoint_every, state.step):
                save()
            if asked if accelerator.num_processes == 1 else newest is not None and newest[-1] > 0:
                if not torch.isfinite(values).all():
                    raise SplitVAEError(divergence(bare.terms, values, state.step - 1, run, config))
                save()
                number = received[0] if received else 15
                raise Interrupted(
                    f"stopped at step {state.step} of {total}, and saved. Go on with: "
                    f"splitvae train --resume {run.path}", number,
                )  # fmt: skip

        save()
        if main:
            model_for_use = ready_model(10_000)
            model_for_use.save_pretrained(run.path / "model")
            with autocast():
                lines = write_summary(model_for_use, cache, run, config, state)
            reporter.say(*lines)


def _compiled(model: nn.Module, device: torch.device, accumulate: int) -> Any:
    """The model compiled; on a GPU as CUDA graphs, because a step of 100 small images is mostly launches.

    Not where gradients are accumulated: each replay of a graph overwrites the gradients of the one before.
    """
    return torch.compile(model, mode="reduce-overhead" if device.type == "cuda" and accumulate == 1 else None)


def _divides(period: int, step: int) -> bool:
    """Whether a step is one of every ``period``; a period of 0 = never."""
    return period > 0 and step % period == 0


def _resumed_config(run: Run, changes: dict[str, Any]) -> TrainConfig:
    """The run's configuration with the changes that a resumed run may make."""
    config = run.config.with_changes(changes)
    for name in changes:
        if name not in MAY_CHANGE and getattr(config, name) != getattr(run.config, name):
            raise InputError(
                f"{name} of {run.path} is {getattr(run.config, name)} and cannot become {changes[name]} when it is "
                "resumed; train a new run with --out."
            )
    before, now = ("without" if given is None else "with" for given in (run.config.masks, config.masks))
    if before != now:
        raise InputError(
            f"{run.path} was trained {before} masks, and cannot go on {now} them; train a new run with --out."
        )
    if config.epochs < run.config.epochs:
        raise InputError(f"{run.path} was asked for {run.config.epochs} epochs; a resumed run may have more, not less.")
    return config


def _fitting_batch(config: TrainConfig, images: int, processes: int) -> TrainConfig:
    """A batch no larger than the data, in equal parts for all processes and micro-batches."""
    parts = processes * config.accumulate
    size = min(config.batch_size, images - images % parts)
    if size % parts or size // parts < 2:
        raise InputError(
            f"a batch of {size} (of {images} training images) must split into {processes} processes × "
            f"{config.accumulate} micro-batches of at least 2 images; choose another --batch-size or --accumulate."
        )
    return replace(config, batch_size=size)
