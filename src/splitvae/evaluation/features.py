"""From many uint8 images (N, C, H, W) to float32 features (N, F), what every metric is computed from.

``extractors.py`` holds the networks; here they run over any number of images, in batches, and what they find is kept.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitvae.data.cache import ImageCache
from splitvae.errors import InputError
from splitvae.evaluation.crew import Crew
from splitvae.evaluation.extractors import EXTRACTORS as EXTRACTORS
from splitvae.evaluation.extractors import Extractor as Extractor
from splitvae.evaluation.extractors import check_images, name_of
from splitvae.evaluation.extractors import get_extractor as get_extractor
from splitvae.evaluation.extractors import metric_name as metric_name
from splitvae.evaluation.feature_cache import digest, kept_features
from splitvae.evaluation.metrics import frechet_from_features
from splitvae.pictures import to_uint8 as to_uint8

# On a CPU larger batches lose time: each result is memory that the system hands out anew, page by page.
CPU_BATCH, GPU_BATCH = 16, 256
CHUNK = 2_000  # images of a data set in memory at once
BF16_SHIFT = 0.005  # of a distance: below what a change of seed does to it


@torch.inference_mode()
def extract(
    images: Any,
    extractor: Callable[[Tensor], Tensor],
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Features of many images.

    Args:
        images: uint8: an array, memmap or tensor (N, C, H, W), or an iterable of such batches, whose sizes may differ.
        extractor: uint8 (B, C, H, W) → (B, F).
        batch_size: the most images at once; None = 16 on a CPU and 256 on a GPU.
        device: where batches are sent; None = the extractor's own device, else the CPU.
        bf16: compute under autocast: faster on some machines, another protocol on all.
        progress: called with the number of images after each batch; None = silent.

    Returns:
        (N, F) float32.

    Raises:
        InputError: images that are not uint8 (B, C, H, W), none at all, or features that are not (B, F).
    """
    place = torch.device(device or str(getattr(extractor, "device", "cpu")))
    if batch_size is None:
        batch_size = CPU_BATCH if place.type == "cpu" else GPU_BATCH
    features = []
    for batch in _batches(images, batch_size):
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bf16):
            found = extractor(batch.to(place))
        if found.ndim != 2 or len(found) != len(batch):
            raise InputError(
                f"the extractor '{name_of(extractor)}' returned the shape {tuple(found.shape)} for {len(batch)} "
                "images; it must return (B, F)."
            )
        features.append(found.float().cpu().numpy())
        if progress is not None:
            progress(len(batch))
    if not features:
        raise InputError("there are no images to extract features from.")
    return np.concatenate(features)


def real_features(
    cache: ImageCache,
    rows: np.ndarray,
    extractor: Extractor,
    mirrored: bool = False,
    bf16: bool = False,
    progress: Callable[[int], Any] | None = None,
    crew: Crew | None = None,
) -> np.ndarray:
    """Features of images of a prepared data set, extracted once and then kept: (len(rows), F) float32.

    Args:
        cache: the data.
        rows: row numbers in ``cache.images``.
        extractor: see ``get_extractor``.
        mirrored: of their left-right mirror images.
        bf16, progress: see ``extract``.
        crew: processes that share the work, which know it as "real"; None = this one alone.
    """
    content = [cache.meta["content_hash"], digest(rows), *["mirrored"] * mirrored]
    work = partial(features_of_rows, cache, extractor, progress)
    make = partial((crew or Crew()).share, "real", rows, work, mirrored, bf16)
    return kept_features("real", extractor, content, len(rows), make, bf16)


def features_of_rows(
    cache: ImageCache,
    extractor: Extractor,
    progress: Callable[[int], Any] | None,
    rows: np.ndarray,
    mirrored: bool,
    bf16: bool,
) -> np.ndarray:
    """Features of images of a prepared data set: (len(rows), F) float32; the arguments are those of ``real_features``.

    At most 2,000 images are in memory at once.
    """

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), CHUNK):
            images = cache.images[rows[start : start + CHUNK]]
            yield np.ascontiguousarray(images[..., ::-1]) if mirrored else images

    return extract(batches(), extractor, bf16=bf16, progress=progress)


def bf16_shift(extractor: Callable[[Tensor], Tensor], images: Any) -> float:
    """How far bf16 moves the Fréchet distance, as a share of it; 0 where the two agree.

    The distance is that of the even to the odd images: as small as distances between real sets get, and so the one
    that rounding disturbs most.

    Args:
        extractor: as in ``extract``.
        images: REAL images, uint8 array or tensor (N, C, H, W), N ≥ 4; a thousand will do.
    """
    distances = []
    for bf16 in (False, True):
        features = extract(images, extractor, bf16=bf16)
        if bf16 and not np.isfinite(features).all():
            return float("inf")
        distances.append(frechet_from_features(features[::2], features[1::2]))
    plain, rounded = distances
    if plain == rounded:
        return 0.0
    return abs(rounded - plain) / plain if plain > 0 else float("inf")


def choose_bf16(extractor: Callable[[Tensor], Tensor], images: Any) -> tuple[bool, str]:
    """Whether features may be computed in bf16: only where that moves the distance by less than ``BF16_SHIFT``.

    Args:
        extractor, images: as in ``bf16_shift``.

    Returns:
        (whether, reason); both belong into the protocol. It says nothing about speed: measure that first.
    """
    shift = bf16_shift(extractor, images)
    reason = f"bf16 moves {metric_name(extractor)} by {shift:.2%}; it must stay below {BF16_SHIFT:.1%}"
    return shift < BF16_SHIFT, reason


def _batches(images: Any, batch_size: int) -> Iterator[Tensor]:
    """Checked uint8 batches on the CPU (or where the tensors are), of at most batch_size images."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    arrays: Iterable[Any] = [images] if hasattr(images, "shape") else images
    for array in arrays:
        check_images(array)
        for start in range(0, len(array), batch_size):
            batch = array[start : start + batch_size]
            # np.array copies: a read-only memmap cannot become a tensor.
            yield batch if isinstance(batch, Tensor) else torch.from_numpy(np.array(batch))
