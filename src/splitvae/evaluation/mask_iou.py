"""How well a model's masks agree with given ones: intersection over union, image by image."""

from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitvae.data.cache import ImageCache
from splitvae.data.loader import fixed_rows
from splitvae.data.masks import Masks, read_masks
from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder, evaluating
from splitvae.models.split_terms import UNKNOWN
from splitvae.run import Run

MOST_MATCHED = 6  # components beyond which not all K! ways to match them are tried


def iou(predicted: Tensor, truth: Tensor, component: int) -> Tensor:
    """Intersection over union of one component's pixels, image by image: (N,), NaN where neither side has any.

    Args:
        predicted: (N, H, W), the component with the largest weight.
        truth: (N, H, W), the component that is given, or ``UNKNOWN``, which does not count.
        component: which.
    """
    known = truth != UNKNOWN
    mine, given = (predicted == component) & known, truth == component
    return (mine & given).sum(dim=(1, 2)) / (mine | given).sum(dim=(1, 2))


def iou_of_run(run: Run, source: str | Path | None = None) -> dict[str, Any] | None:
    """``iou_of_model`` of a run against the masks that it was trained with, or others.

    Args:
        run: finished.
        source: see ``read_masks``; None = the run's own. A run without any gives None.

    Raises:
        InputError: the masks cannot be read, or the model has one component.
    """
    place = run.config.masks if source is None else source
    if place is None:
        return None
    K = run.model.num_components
    if K < 2:
        raise InputError(f"masks: {run.path} has a model of one component, which has none to compare.")
    masks = read_masks(place, run.trained_data, K)
    return iou_of_model(run.model, run.trained_data, masks, guided=run.config.masks is not None)


def iou_words(found: dict[str, Any]) -> str:
    """The agreement in a sentence."""
    each = ", ".join(
        f"x̂{component} {value:.3f}" for component, value in zip(found["matched"], found["components"], strict=True)
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
        guided: whether the model was trained with masks. One that was not may number its components as it likes: they
            are matched to the given ones in the way that agrees best over all images.
        n: images, chosen over the whole test split.

    Returns:
        ``components``: mean over images for each component that is given; ``foreground``: the mean of all but the
        first, which is the background where masks are black and white; ``matched``: the model's component for each;
        ``images``. None where no test image has a mask.
    """
    rows = fixed_rows(cache, "test", n)
    rows = rows[(masks.components[rows] != UNKNOWN).any(axis=(1, 2))]
    if not len(rows):
        return None
    predicted = []
    with evaluating(model):
        for start in range(0, len(rows), 200):
            x = torch.from_numpy(cache.images[rows[start : start + 200]]).to(model.device).float() / 255
            predicted.append(model.decode(model.encode(x).mode()).weights[:, :, 0].argmax(dim=1).cpu())
    found, truth, given = torch.cat(predicted), torch.from_numpy(masks.components[rows]), len(masks.values)

    def scores(order: tuple[int, ...]) -> list[float]:
        return [float(iou(renumbered(order), truth, component).nanmean()) for component in range(given)]

    def renumbered(order: tuple[int, ...]) -> Tensor:
        numbers = torch.full((model.num_components,), given)
        numbers[list(order)] = torch.arange(given)
        return numbers[found]

    K = model.num_components
    orders = list(permutations(range(K), given)) if not guided and K <= MOST_MATCHED else [tuple(range(given))]
    best = max(orders, key=lambda order: sum(scores(order)))
    components = scores(best)
    return {
        "components": components, "foreground": sum(components[1:]) / max(1, given - 1),
        "matched": [component + 1 for component in best], "images": len(rows),
    }  # fmt: skip
