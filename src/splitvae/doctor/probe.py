"""What a trained model does with some fixed images, and the checks of it."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitvae.codes import encode_rows
from splitvae.config import TrainConfig
from splitvae.data.cache import ImageCache
from splitvae.data.loader import ImageLoader, fixed_rows
from splitvae.device import pick_device
from splitvae.doctor.findings import Finding
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.distributions import DiagonalGaussian, inactive_latents

ENCODED, DECODED = 2_000, 300  # test images; and images of each split, because decoding costs four times as much
STALE = 1.2  # mse with stored over mse with fresh batch-norm statistics
SATURATED = 0.05  # distance of a value from 0 or 1 below which hardly any gradient comes through the sigmoid
SILENT = 0.01  # mean weight of a component that carries nothing
LAW_NOTE, LAW_WARNING = 0.15, 0.4  # distance of the variance law from 1
OVERFIT_NOTE, OVERFIT_WARNING = 1.5, 3.0  # mse of test over training images


@dataclass(frozen=True)
class Probe:
    """What was measured; mse is per value, of reconstructions from the posterior mean.

    Attributes:
        codes: posterior of up to 2,000 test images.
        test_mse, train_mse: on up to 300 images of each split.
        fresh_mse: as ``train_mse``, on the same images, with the batch's own statistics in batch norm.
        weights: (K,) mean weight of each component over pixels and test images.
        greyest: the largest distance of any value of any component from both 0 and 1, on the same test images.
    """

    codes: DiagonalGaussian
    test_mse: float
    train_mse: float
    fresh_mse: float
    weights: Tensor
    greyest: float


@torch.no_grad()
def probe(model: Autoencoder, cache: ImageCache) -> Probe:
    """Measure, on a GPU where there is one; ``model`` stays as it is."""
    device = pick_device()
    model = copy.deepcopy(model).to(device).eval()
    train, test = (ImageLoader(cache, split, 1, 0, device, resident=False) for split in ("train", "test"))
    codes = encode_rows(model, cache, fixed_rows(cache, "test", ENCODED))
    test_mse, weights, greyest = _reconstruct(model, test)
    train_mse, *_ = _reconstruct(model, train)
    model.train()
    fresh_mse, *_ = _reconstruct(model, train)
    return Probe(codes, test_mse, train_mse, fresh_mse, weights, greyest)


def _reconstruct(model: Autoencoder, loader: ImageLoader) -> tuple[float, Tensor, float]:
    """(mse, mean weights, greyest value) on fixed images of a loader."""
    errors, weights, greyest = [], [], 0.0
    for i, x in enumerate(loader.fixed_batches(DECODED)):
        if i and len(x) < 50:  # the statistics of a short tail are those of other images
            continue
        decoded = model.decode(model.encode(x).mode())
        errors.append((decoded.x_hat - x).square().mean(dim=(1, 2, 3)))
        weights.append(decoded.weights.mean(dim=(2, 3, 4)))
        greyest = max(greyest, float(torch.minimum(decoded.components, 1 - decoded.components).max()))
    return float(torch.cat(errors).mean()), torch.cat(weights).mean(dim=0).cpu(), greyest


def check_model(found: Probe, config: TrainConfig) -> list[Finding]:
    """All checks of what was measured; one line alone where the model gives no numbers."""
    if not math.isfinite(found.train_mse + found.test_mse) or not found.codes.mean.isfinite().all():
        return [
            Finding(
                "model", "warning", "its codes or reconstructions are not finite",
                f"train it again with a smaller rate, such as --lr {config.lr / 10:g}",
            )
        ]  # fmt: skip
    findings = [check_batch_norm(found, config), check_overfitting(found), check_output(found)]
    findings.append(check_latents(found, config))
    if found.codes.logvar.isfinite().all():  # a deterministic encoder has no variance
        findings.append(check_variance_law(found))
    return findings + ([check_components(found)] if len(found.weights) > 1 else [])


def check_batch_norm(found: Probe, config: TrainConfig) -> Finding:
    """Whether batch norm's stored statistics are those of the weights."""
    stored, fresh = found.train_mse, found.fresh_mse
    text = f"mse {stored:.3g} on training images with the stored statistics, {fresh:.3g} with fresh ones"
    if stored > STALE * fresh:
        return Finding(
            "batch norm", "warning", f"{text}: the stored ones are stale, whatever the model decodes is off",
            f"one epoch more estimates them anew at its end: --resume RUN --epochs {config.epochs + 1}; or, in Python, "
            "calibrate(run.model, ImageLoader(run.data, 'train', 100, 0)).save_pretrained(run.path / 'model')",
        )  # fmt: skip
    return Finding("batch norm", "ok", text)


def check_overfitting(found: Probe) -> Finding:
    """Whether test images are reconstructed as well as training images."""
    ratio = found.test_mse / max(found.train_mse, 1e-12)
    text = f"mse {found.test_mse:.3g} on test images, {found.train_mse:.3g} on training images"
    if ratio <= OVERFIT_NOTE:
        return Finding("over-fitting", "ok", text)
    return Finding(
        "over-fitting", "warning" if ratio > OVERFIT_WARNING else "note",
        f"{text}: {ratio:.1f} times as much, the model knows its images by heart",
        "more images; or --flip, fewer --epochs, a smaller --base-channels, a larger --beta (RAE: --embedding-weight)",
    )  # fmt: skip


def check_output(found: Probe) -> Finding:
    """Whether the output layer still passes a gradient: a sigmoid that is 0 or 1 everywhere does not.

    Then all images are black (or white) whatever the code says, no smaller β helps, and the latents fall idle.
    """
    if found.greyest > SATURATED:
        return Finding("output", "ok", "reconstructions have values between black and white")
    return Finding(
        "output", "warning", f"every value of every reconstruction is within {SATURATED:g} of 0 or 1: the output layer "
        "is stuck, and nothing more is learned",
        "train anew with --output-init data-mean, or --warmup-steps 200; a smaller --beta does not help",
    )  # fmt: skip


def check_latents(found: Probe, config: TrainConfig) -> Finding:
    """How many latent variables carry no information, by the variance of their mean.

    The official code's other criterion, a posterior variance above 0.95, says nothing where codes are wider than the
    prior.
    """
    D, counts = found.codes.mean.shape[1], inactive_latents(found.codes)
    inactive = counts["by_mean"]
    little, collapse = "their mean varies by less than 0.05 over the images", " (posterior collapse)"
    if not config.variational:
        little, collapse = "they vary by less than 0.05 of the average over the images", ""
    text = f"{D - inactive} of {D} in use; {inactive} idle ({little})"
    if inactive == D:
        measured = config.gamma_init == "first-batch" or not config.variational
        start = "" if measured else ", or --gamma-init first-batch"
        stuck = found.greyest <= SATURATED
        return Finding(
            "latents", "warning", f"{text}: codes tell nothing of the image{collapse}",
            "see the check of the output" if stuck else f"more --epochs, {less_pressure(config)}{start}",
        )  # fmt: skip
    if inactive > D / 2:
        enough = max(2, math.ceil(1.25 * (D - inactive)))
        return Finding(
            "latents", "warning", f"{text}: more than half are idle{collapse}",
            f"{less_pressure(config)} brings more into use; or do with --latent-dim {enough}",
        )  # fmt: skip
    if inactive == 0:
        return Finding("latents", "ok", f"all {D} in use; a larger --latent-dim may reconstruct better")
    return Finding("latents", "ok", text)


def less_pressure(config: TrainConfig) -> str:
    """The option that lets latents carry more."""
    if config.variational:
        return f"a smaller --beta (now {config.beta:g})"
    if config.model == "ae":  # nothing presses
        return f"a larger --base-channels (now {config.base_channels})"
    return f"a smaller --embedding-weight (now {config.embedding_weight:g})"


def check_variance_law(found: Probe) -> Finding:
    """Var(μᵢ) + E[σᵢ²] ≈ 1, which holds where the codes of all images together have the prior's variance."""
    sums = found.codes.mean.var(dim=0, correction=0) + found.codes.logvar.exp().mean(dim=0)
    mean = float(sums.mean())
    text = f"Var(μ) + E[σ²] is {mean:.2f} on average, {sums.min():.2f} to {sums.max():.2f} over the latents; ideal is 1"
    if abs(mean - 1) <= LAW_NOTE:
        return Finding("variance law", "ok", text)
    return Finding(
        "variance law", "warning" if abs(mean - 1) > LAW_WARNING else "note",
        f"{text}: samples from N(0, I) miss the codes that the decoder knows",
        "train longer, or sample from a fitted density: splitvae fit RUN, then splitvae sample RUN --density gmm",
    )  # fmt: skip


def check_components(found: Probe) -> Finding:
    """Whether every image of the blend carries something."""
    text = "mean weights " + ", ".join(f"{100 * weight:.1f} %" for weight in found.weights.tolist())
    silent = (found.weights < SILENT).nonzero().flatten().tolist()
    if silent:
        return Finding(
            "components", "warning", f"{text}: x{silent[0] + 1} is hardly ever seen",
            f"another --seed; or --num-components {max(1, len(found.weights) - len(silent))}, which loses nothing",
        )  # fmt: skip
    return Finding("components", "ok", text)
