"""How well a model's masks agree with given ones: intersection over union, image by image."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from splitvae.data.cache import ImageCache
from splitvae.data.loader import fixed_rows
from splitvae.data.masks import Masks, read_masks
from splitvae.data.sources import absolute
from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder, evaluating
from splitvae.models.split_terms import UNKNOWN
from splitvae.run import Run


def iou_of_run(run: Run, source: str | Path | None = None) -> dict[str, Any] | None:
    """``iou_of_model`` of a run against the masks that it was trained with, or others.

    Args:
        run: finished.
        source: see ``read_masks``; None = the run's own. A run without any gives None.

    Raises:
        InputError: the masks cannot be read, are others than the run was trained with, or the model has one component.
    """
    place = run.config.masks if source is None else absolute(str(source))
    if place is None:
        return None
    K = run.model.num_components
    if K < 2:
        raise InputError(f"masks: {run.path} has a model of one component, which has none to compare.")
    guided = "guidance" in run.config.split_terms()
    learned = run.record.get("masks", {}).get("values") if guided else None
    masks = read_masks(place, run.trained_data, K, learned)
    recorded = run.record.get("masks", {}).get("digest")
    if source is None and recorded not in (None, masks.digest):  # of an adopted model nobody knows
        raise InputError(f"masks: {place} holds other masks than those that the run was trained with.")
    return iou_of_model(run.model, run.trained_data, masks, guided)


def iou_words(found: dict[str, Any]) -> str:
    """The agreement in a sentence."""
    each = ", ".join(
        f"x̂{component} {'–' if value is None else f'{value:.3f}'}"
        for component, value in zip(found["matched"], found["components"], strict=True)
    )
    return f"masks: mean IoU with the given ones over {found['images']:,} test images: {each}"


@torch.inference_mode()
def iou_of_model(
    model: Autoencoder, cache: ImageCache, masks: Masks, guided: bool, n: int = 10_000
) -> dict[str, Any] | None:
    """Of reconstructions from the posterior mean of test images, a pixel belonging to its largest weight.

    Args:
        model: with K ≥ 2 components.
        cache, masks: the data set and its given masks.
        guided: whether the model was trained with masks. One that was not may number its components as it likes: each
            given one is matched to one of the model's, in the way that agrees best over all images.
        n: images, chosen over the whole test split.

    Returns:
        ``components``: the mean over images for each component that is given, None where no test image has it;
        ``foreground``: the mean of all but the first, which is the background where masks are black and white;
        ``matched``: the model's component for each; ``images``; ``digest`` of the masks. None where no test image has
        a mask.
    """
    rows = fixed_rows(cache, "test", n)
    rows = rows[masks.given[rows]]
    if not len(rows):
        return None
    K, given = model.num_components, len(masks.values)
    total, images = np.zeros((given, K)), np.zeros((given, K), np.int64)
    occurs = np.zeros(given, bool)
    with evaluating(model):
        for part in np.array_split(rows, -(-len(rows) // 200)):
            x = torch.from_numpy(cache.images[part]).to(model.device).float() / 255
            predicted = model.decode(model.encode(x).mode()).weights[:, :, 0].argmax(dim=1).cpu()
            truth = torch.from_numpy(masks.components(part))
            for component, own in np.ndindex(given, K):
                values = iou(predicted == own, truth == component, truth != UNKNOWN)
                total[component, own] += float(values.nansum())
                images[component, own] += int((~values.isnan()).sum())
                occurs[component] |= bool((truth == component).any())
    table = total / np.maximum(images, 1)  # [given component, the model's]
    _, columns = linear_sum_assignment(table, maximize=True)
    matched = list(range(given)) if guided else columns.tolist()
    found = [float(table[c, m]) if occurs[c] else None for c, m in enumerate(matched)]
    front = [value for value in found[1:] if value is not None]
    return {
        "components": found, "foreground": sum(front) / len(front) if front else None,
        "matched": [component + 1 for component in matched], "images": len(rows), "digest": masks.digest,
    }  # fmt: skip


def iou(predicted: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Intersection over union of two areas, image by image: (N,), NaN where neither side has a pixel.

    Args:
        predicted, truth: (N, H, W) bool.
        known: (N, H, W) bool, the pixels that count.
    """
    both, either = predicted & truth & known, (predicted | truth) & known
    return both.sum(dim=(1, 2)) / either.sum(dim=(1, 2))
