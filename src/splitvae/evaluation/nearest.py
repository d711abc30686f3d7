"""The training images nearest to given ones: what a memorising model would give itself away by."""

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from splitvae.data.cache import ImageCache

CHUNK = 5_000  # training images held as floats at once


def nearest_training(images: np.ndarray, cache: "ImageCache", k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest images of the whole training split, by root mean squared difference of pixels.

    Args:
        images: (N, C, H, W) uint8.
        cache: prepared data of the same shape.
        k: neighbours; as many as there are training images where they are fewer.

    Returns:
        row numbers in ``cache.images``, nearest first, and distances in units of the full range [0, 1]; (N, k) both.
    """
    rows = cache.splits["train"]
    k = min(k, len(rows))
    x = torch.from_numpy(images.reshape(len(images), -1)).float() / 255
    found, distances = torch.empty(len(x), 0, dtype=torch.long), torch.empty(len(x), 0)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        y = torch.from_numpy(cache.images[part].reshape(len(part), -1)).float() / 255
        # Only the best k so far and this chunk compete, so that memory stays bounded.
        own = torch.from_numpy(part).long().expand(len(x), -1)
        found, distances = torch.cat([found, own], dim=1), torch.cat([distances, torch.cdist(x, y)], dim=1)
        distances, order = distances.topk(min(k, distances.shape[1]), largest=False)
        found = found.gather(1, order)
    # cdist multiplies matrices, which leaves a copy at some thousandths: of the few that it found all is subtracted.
    nearest = found.numpy()
    for i, own in enumerate(x.numpy()):
        y = cache.images[nearest[i]].reshape(k, -1) / np.float32(255)
        exact = np.sqrt(np.square(y - own).mean(axis=1))
        sorting = np.argsort(exact, kind="stable")
        nearest[i], distances[i] = nearest[i][sorting], torch.from_numpy(exact[sorting])
    return nearest, distances.numpy()
