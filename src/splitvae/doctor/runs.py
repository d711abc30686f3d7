"""Checks of a training run: its record, its log, its data, its model, its densities."""

import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from splitvae.data.cache import ImageCache
from splitvae.densities.store import density_names, load_density
from splitvae.doctor.findings import Finding, counted
from splitvae.doctor.probe import Probe, check_model, less_pressure, probe
from splitvae.errors import InputError, SplitVAEError
from splitvae.run import Run

DIVERGED = 1.5  # mse at the end of the log over its best
GAMMA_APART = 2.0  # factor between γ and the mse


def examine_run(run: str | Path | Run) -> list[Finding]:
    """Examine a run, finished or not; checks that need missing data or a missing model are left out.

    Args:
        run: a run directory.

    Raises:
        InputError: it does not exist, is no run, or its ``config.json`` is damaged.
    """
    opened = Run.open(run)
    log = opened.log()
    findings = [check_finished(opened, log), check_versions(opened), check_log(opened, log)]
    try:
        cache = opened.data
    except SplitVAEError as error:
        if opened.config.data is None:  # weights from elsewhere
            remedy = "make the run again with --data; without it the model cannot be examined"
            return [*findings, Finding("data", "note", "nobody has told what it was trained on", remedy)]
        remedy = "put the data back where it was; without it the model cannot be examined"
        return [*findings, Finding("data", "warning", f"not found: {error}", remedy)]
    findings.append(check_data(opened, cache))
    if not (opened.path / "model" / "config.json").exists():
        return findings + check_latents_so_far(opened, log)
    if cache.shape != opened.image_shape:  # the check of the data has said so
        return findings
    try:
        model = opened.model
    except InputError as error:
        return [*findings, Finding("model", "warning", str(error), "copy the run anew, or train it again")]
    found = probe(model, cache)
    findings += [check_gamma(opened, log, found), *check_model(found, opened.config)]
    return findings + [check_density(opened, name) for name in density_names(opened.path)]


def check_finished(run: Run, log: list[dict[str, Any]]) -> Finding:
    """Whether all epochs that were asked for are done."""
    epochs = run.config.epochs
    if (run.path / "summary.json").exists() and run.summary["epochs"] >= epochs:
        steps, seconds = run.summary["steps"], run.summary["training_seconds"]
        time = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
        return Finding("training", "ok", f"finished: {counted(epochs, 'epoch')}, {steps:,} steps, {time}")
    if "origin" in run.record and not log:
        return Finding("training", "ok", f"none here: the weights come from {run.record['origin']['from']}")
    where = f"in epoch {log[-1]['epoch'] + 1}" if log else "before its first line"
    return Finding(
        "training", "warning", f"stopped, or still running: the log ends {where} of {epochs}",
        f"if it is not running, go on: splitvae train --resume {run.path}",
    )  # fmt: skip


def check_versions(run: Run) -> Finding:
    """Whether the packages are those that the run was trained with."""
    differing = []
    for name, before in run.record["versions"].items():
        try:
            now = version(name)
        except PackageNotFoundError:
            now = "not installed"
        if now != before:
            differing.append(f"{name} {before} (now {now})")
    if differing:
        return Finding(
            "versions", "note", f"trained with {', '.join(differing)}",
            "numbers may differ in their last digits; install those versions where that matters",
        )  # fmt: skip
    return Finding("versions", "ok", "as installed")


def check_log(run: Run, log: list[dict[str, Any]]) -> Finding:
    """Whether the loss stayed finite, and the mse low once it was.

    The loss itself says little: it rises as γ falls.
    """
    if not log:
        return Finding("log", "note", f"no step yet; a line comes every {run.config.log_every} steps")
    slower = f"--lr {run.config.lr / 10:g}"
    for line in log:
        bad = [name for name in ("loss", "mse", "kl", "grad_norm") if not math.isfinite(line.get(name, 0))]
        if bad:
            return Finding(
                "log", "warning", f"{bad[0]} is {line[bad[0]]} at step {line['step']:,}: training diverged",
                f"train with a smaller rate, {slower}; a run that stopped goes on with --resume {run.path} {slower}",
            )  # fmt: skip
    means = _running_mse(log)
    best = min(means)
    text = f"mse from {log[0]['mse']:.3g} to {means[-1]:.3g}, at best {best:.3g}"
    if means[-1] > DIVERGED * best:
        step = log[len(log) - len(means) + means.index(best)]["step"]
        return Finding(
            "log", "warning", f"{text} near step {step:,}: it has risen since",
            f"train with a smaller rate, {slower}, with --lr-schedule cosine, or with --clip-norm",
        )  # fmt: skip
    return Finding("log", "ok", text)


def _running_mse(log: list[dict[str, Any]]) -> list[float]:
    """The mse at each line, averaged over a tenth of the log, so that one odd batch is no divergence."""
    window = max(1, len(log) // 10)
    values = [line["mse"] for line in log]
    return [sum(values[i - window : i]) / window for i in range(window, len(values) + 1)]


def check_latents_so_far(run: Run, log: list[dict[str, Any]]) -> list[Finding]:
    """How many latents the last picture found idle, for a run that has no model yet; no line before the first."""
    known = [line for line in log if line.get("inactive") is not None]
    if not known:
        return []
    idle, D = known[-1]["inactive"], run.config.latent_dim
    text = f"{D - idle} of {D} in use near step {known[-1]['step']:,}"
    if idle <= D / 2:
        return [Finding("latents", "ok", text)]
    remedy = f"if it stays so for some epochs: {less_pressure(run.config)} or a smaller --latent-dim"
    return [Finding("latents", "note", text, remedy)]


def check_data(run: Run, cache: ImageCache) -> Finding:
    """Whether the data is what the run was trained on."""
    before = run.record["data"]
    if before["content_hash"] is None:
        if cache.shape != run.image_shape:
            sizes = "×".join(map(str, cache.shape)), "×".join(map(str, run.image_shape))
            remedy = "name images of the model's size and channels"
            return Finding("data", "warning", f"{run.config.data} is of {sizes[0]}, the model of {sizes[1]}", remedy)
        return Finding("data", "note", f"what it was trained on is not known; {cache.meta['source']} is looked at")
    if before["content_hash"] == cache.meta["content_hash"]:
        return Finding("data", "ok", f"the {len(cache.images):,} images that it was trained on")
    counts, now = before["counts"], cache.meta["counts"]
    return Finding(
        "data", "warning",
        f"changed since: trained on {counts['train']:,} + {counts['test']:,} images of "
        f"{'×'.join(map(str, before['shape']))}, now {now['train']:,} + {now['test']:,} of "
        f"{'×'.join(map(str, cache.shape))}",
        f"restore {run.config.data}, or train a new run: scores and what follows here are on other images",
    )  # fmt: skip


def check_gamma(run: Run, log: list[dict[str, Any]], found: Probe) -> Finding:
    """Whether γ, the decoder's variance, is the mse that it stands for."""
    config, gamma = run.config, float(run.model.variance.value().detach())
    if not config.variational:
        return Finding("balance", "ok", "an autoencoder without noise: no γ and no KL to balance")
    if config.gamma_rule == "fixed":
        return Finding("balance", "ok", f"γ is fixed at {gamma:g}, as asked for")
    last = run.summary["steps"] if run.finished else math.inf  # of the model, where the training goes on
    finite = [line for line in log if math.isfinite(line["mse"]) and line["step"] <= last]
    mse = _running_mse(finite)[-1] if finite else found.train_mse
    text, ratio = f"γ is {gamma:.3g}, the mse {mse:.3g}", gamma / mse
    if isinstance(config.gamma_init, int | float) and ratio > GAMMA_APART and gamma > config.gamma_init / 2:
        return Finding(
            "balance", "warning",
            f"{text}: γ is still near its start of {config.gamma_init:g}, so the KL weighs {ratio:.0f} times too much",
            "--gamma-init first-batch --batch-norm-momentum 0.05 for short runs, or more --epochs",
        )  # fmt: skip
    if ratio > GAMMA_APART:
        return Finding(
            "balance", "warning", f"{text}: γ lags behind, so the KL weighs {ratio:.1f} times too much",
            "more --epochs: γ follows the mse over some hundred steps",
        )  # fmt: skip
    if ratio < 1 / GAMMA_APART:
        return Finding(
            "balance", "warning", f"{text}, {1 / ratio:.1f} times as much: details outweigh the KL",
            f"a smaller rate, --lr {config.lr / 10:g}, or --clip-norm, so that the mse does not rise again",
        )  # fmt: skip
    return Finding("balance", "ok", text)


def check_density(run: Run, name: str) -> Finding:
    """Whether a density was fitted on the codes of the model as it is now."""
    check = f"density {name}"
    try:
        _, record = load_density(name, run.path, run.model.latent_dim)
    except SplitVAEError as error:
        return Finding(check, "warning", str(error), "fit it again with `splitvae fit`")
    return Finding(check, "ok", f"{record['class']} on {record['codes']:,} codes of this model")
