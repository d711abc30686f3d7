"""Codes of many images: what densities are fitted on, and what `splitvae encode` writes."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian

if TYPE_CHECKING:
    from splitvae.data.cache import ImageCache
    from splitvae.models.autoencoder import Autoencoder

BATCH = 250


@torch.inference_mode()
def encode_rows(model: "Autoencoder", cache: "ImageCache", rows: np.ndarray) -> DiagonalGaussian:
    """The posterior of images of a prepared data set, on the CPU.

    Args:
        model: in evaluation mode.
        cache: its images must have the model's shape.
        rows: (N,) row numbers in ``cache.images``, in the order wanted.

    Returns:
        mean and logvar, (N, D) float32.
    """
    refuse_other_images(cache, model.image_shape)
    device = model.device
    posteriors = []
    for start in range(0, len(rows), BATCH):
        x = torch.from_numpy(cache.images[rows[start : start + BATCH]]).to(device).float() / 255
        posteriors.append(model.encode(x))
    return DiagonalGaussian(
        torch.cat([q.mean for q in posteriors]).cpu(), torch.cat([q.logvar for q in posteriors]).cpu()
    )


def refuse_other_images(cache: "ImageCache", image_shape: tuple[int, int, int]) -> None:
    """Raise InputError for prepared data whose images are not of a model's (C, H, W)."""
    if cache.shape != image_shape:
        raise InputError(
            f"{cache.meta['source']} has images of {'×'.join(map(str, cache.shape))}, the model takes "
            f"{'×'.join(map(str, image_shape))}."
        )


def codes_hash(posterior: DiagonalGaussian) -> str:
    """SHA-256 of means and logvars, which names the codes that a density was fitted on."""
    digest = hashlib.sha256(posterior.mean.numpy().tobytes())
    digest.update(posterior.logvar.numpy().tobytes())
    return digest.hexdigest()
