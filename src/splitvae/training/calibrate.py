"""Weights made ready for use: batch-norm statistics re-estimated on fixed training images."""

import torch
from torch import nn

from splitvae.data.loader import ImageLoader, seeded
from splitvae.models.autoencoder import Autoencoder

BATCH = 100


@torch.no_grad()
def calibrate(model: Autoencoder, loader: ImageLoader, images: int = 10_000) -> Autoencoder:
    """Replace batch norm's running statistics by plain averages over fixed training images; nothing else moves.

    With the paper's momentum the running statistics lag a thousand steps behind the weights, and averaged weights have
    none of their own.

    Args:
        model: in place; left in evaluation mode.
        loader: of the training split.
        images: at most this many, in batches of 100.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # spectral norms rest
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average over all batches
    for i, x in enumerate(loader.fixed_batches(images, BATCH)):
        if len(x) == BATCH or i == 0:  # a short tail would weigh as much as a whole batch
            model(x, torch.randn(len(x), *model.noise_shape, generator=seeded(0, "calibrate", i)).to(x.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
