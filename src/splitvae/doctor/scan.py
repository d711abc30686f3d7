"""One pass over prepared images for everything that the checks of a source need; memory grows by 140 bytes an image."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from splitvae.data.cache import ImageCache

CHUNK_BYTES = 8 << 20  # of images in memory at once; counting takes eight times as much
SIDE = 8  # of the thumbnails that near copies are looked for with
COMPARED = 10_000  # test images that near copies are looked for
# Correlations of a test image with its nearest training image. On MNIST, CIFAR-10 and CelebA these bounds find
# no test image, 0.9 % and 0.2 %; all that were looked at were real.
CANDIDATE = 0.9  # of thumbnails, and of whole images where the nearest stands out
STANDS_OUT = 0.15  # distance to the nearest thumbnail over that to the second
ALIKE = 0.99  # of whole images, whatever else is near


@dataclass(frozen=True)
class Scan:
    """What one pass found, with N images in the order of the cache.

    Attributes:
        histogram: (256,) how often each value occurs.
        digests: (N,) uint64; equal for equal images (two of a million differing ones agree with probability 3e-8).
        constant: (N,) whether all values of an image are one.
        thumbnails: (N, 64) float16, grey, 8×8.
        grey: whether all channels of every image agree.
    """

    histogram: np.ndarray
    digests: np.ndarray
    constant: np.ndarray
    thumbnails: np.ndarray
    grey: bool


def scan(cache: ImageCache, quiet: bool = True) -> Scan:
    """Go through all images once, in pieces."""
    images, (C, H, W) = cache.images, cache.shape
    N, step = len(images), max(1, CHUNK_BYTES // (C * H * W))
    histogram, grey = np.zeros(256, np.int64), True
    digests, constant = np.empty(N, np.uint64), np.empty(N, bool)
    thumbnails = np.empty((N, SIDE * SIDE), np.float16)
    for start in track(range(0, N, step), "Looking at the images", transient=True, disable=quiet):
        part = slice(start, min(start + step, N))
        x = np.array(images[part])
        histogram += np.bincount(x.ravel(), minlength=256)
        digests[part] = [int.from_bytes(hashlib.blake2b(image.data, digest_size=8).digest(), "little") for image in x]
        flat = x.reshape(len(x), -1)
        constant[part] = flat.max(axis=1) == flat.min(axis=1)
        grey = grey and bool((x == x[:, :1]).all())
        mean = torch.from_numpy(x).float().mean(dim=1, keepdim=True)
        thumbnails[part] = F.adaptive_avg_pool2d(mean, SIDE).flatten(1).numpy()
    return Scan(histogram, digests, constant, thumbnails, grey)


def near_copies(found: Scan, cache: ImageCache) -> tuple[int, list[tuple[int, int]]]:
    """Test images that nearly are training images: saved anew, brighter, without colour, a little cut.

    A bound on likeness alone would take a hundredth of MNIST's ones for copies and miss many real ones elsewhere. So
    the nearest training thumbnail must also be much nearer than the second, unless the images are all but equal.

    Returns:
        how many test images were looked at, and the pairs (row of the test image, row of the training image); exact
        copies are not among them.
    """
    train, test = cache.splits["train"], cache.splits["test"]
    test = test[np.linspace(0, len(test) - 1, min(len(test), COMPARED)).astype(np.int64)]
    _, H, W = cache.shape
    mine, every = _normal(found.thumbnails[test]), np.arange(len(test))
    first, nearest = np.full(len(test), -1.0, np.float32), np.zeros(len(test), np.int64)
    second = first
    for start in range(0, len(train), 1024):
        rows = train[start : start + 1024]
        correlation = mine @ _normal(found.thumbnails[rows]).T
        place = correlation.argmax(axis=1)
        value = correlation[every, place]
        correlation[every, place] = -1
        second = np.maximum(np.minimum(first, value), np.maximum(second, correlation.max(axis=1)))
        nearest = np.where(value > first, rows[place], nearest)
        first = np.maximum(first, value)

    lonely = 1 - first < STANDS_OUT * (1 - second)
    candidates = np.flatnonzero((first > CANDIDATE) & (found.digests[test] != found.digests[nearest]))
    pairs = []
    for part in np.array_split(candidates, len(candidates) // 256 + 1):
        a, b = (_normal(cache.images[rows].mean(axis=1).reshape(-1, H * W)) for rows in (test[part], nearest[part]))
        whole = (a * b).sum(axis=1)
        pairs += [(int(test[i]), int(nearest[i])) for i in part[(whole > ALIKE) | (whole > CANDIDATE) & lonely[part]]]
    return len(test), pairs


def _normal(x: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1, so that products are correlations; constant rows become 0."""
    x = x.astype(np.float32)
    x = x - x.mean(axis=1, keepdims=True)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-3)
