"""Images whose parts are known: digits in random colours over textures, with the exact foreground alpha.

A test bed for masks and layers: image = alpha·colour + (1 − alpha)·texture, so foreground, background and what belongs
to which are given for every pixel.
"""

from dataclasses import dataclass

import numpy as np

from splitvae.data.cache import ImageCache
from splitvae.errors import InputError

CHUNK = 1_000
COLOURS_TRIED = 4


@dataclass(frozen=True)
class Composed:
    """N images and what they were made of, all uint8.

    Attributes:
        images: (N, 3, H, W).
        alpha: (N, H, W), the digits' grey values: 255 = foreground alone.
        colours: (N, 3), the digits' colours.
        background: (N, 3, H, W), the textures.
        labels: (N,) int64, the digits' labels; None = they have none.
    """

    images: np.ndarray
    alpha: np.ndarray
    colours: np.ndarray
    background: np.ndarray
    labels: np.ndarray | None


def compose(digits: ImageCache, textures: ImageCache, split: str, n: int | None = None, seed: int = 0) -> Composed:
    """Lay the first n digits of a split over textures of the same split, chosen and mirrored at random.

    Each digit has one bright colour: of four drawn, the one furthest from the mean colour of its texture, so that it
    can be told from it.

    Args:
        digits: grey images (N, 1, H, W).
        textures: colour images (M, 3, H, W) of the same size; each may serve several digits.
        split: "train" or "test".
        n: how many; None = one for each digit, but no more than there are textures.
        seed: decides textures, mirroring and colours; "train" and "test" differ.

    Raises:
        InputError: wrong channels, sizes that differ, or fewer digits than asked for.
    """
    if digits.shape[0] != 1 or textures.shape[0] != 3:
        raise InputError(
            f"digits must be grey and textures in colour, not of {digits.shape[0]} and {textures.shape[0]} channels."
        )
    if digits.shape[1:] != textures.shape[1:]:
        sizes = " and ".join(f"{H}×{W}" for _, H, W in (digits.shape, textures.shape))
        raise InputError(f"digits and textures must have the same size, not {sizes}.")
    rows, pool = digits.splits[split], textures.splits[split]
    n = min(len(rows), len(pool)) if n is None else n
    if not 1 <= n <= len(rows):
        raise InputError(f"{split}: {n:,} images were asked for, there are {len(rows):,} digits.")
    generator = np.random.default_rng([seed, {"train": 0, "test": 1}[split]])
    chosen, mirrored = generator.integers(len(pool), size=n), generator.random(n) < 0.5
    tried = _bright_colours(generator.random((n, COLOURS_TRIED, 2)))
    H, W = digits.shape[1:]
    made = Composed(
        np.empty((n, 3, H, W), np.uint8), np.empty((n, H, W), np.uint8), np.empty((n, 3), np.uint8),
        np.empty((n, 3, H, W), np.uint8), None if digits.labels is None else digits.labels[rows[:n]],
    )  # fmt: skip
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        background = textures.images[pool[chosen[part]]]
        background = np.where(mirrored[part, None, None, None], background[..., ::-1], background)
        distance = np.linalg.norm(tried[part] - background.mean(axis=(2, 3))[:, None], axis=2)
        colours = np.take_along_axis(tried[part], distance.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        alpha = digits.images[rows[part], 0]
        made.alpha[part], made.colours[part], made.background[part] = alpha, np.rint(colours), background
        share = alpha[:, None].astype(np.float32) / 255
        blend = share * made.colours[part, :, None, None] + (1 - share) * background
        made.images[part] = np.rint(blend)
    return made


def _bright_colours(numbers: np.ndarray) -> np.ndarray:
    """(…, 2) uniform in [0, 1) → (…, 3) colours in [0, 255]: any hue, saturation from ½ up, one channel at its full."""
    hue, saturation = numbers[..., 0] * 6, 0.5 + numbers[..., 1] / 2
    wheel = np.stack([np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)], axis=-1).clip(0, 1)
    return 255 * (1 - saturation[..., None] * (1 - wheel))
