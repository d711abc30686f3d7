"""What a named recipe is."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A recipe: what differs from ``TrainConfig``'s defaults, and its card.

    Attributes:
        values: fields of ``TrainConfig``.
        card: for people: paper row, cost and what to expect.
        shape: (C, H, W) of its data, for `splitvae info` without the data.
        densities: kind → options of the densities that its authors fit on the codes, see ``densities/fit.py``.
        images: training images of its data set, for the cost of a whole training; None = unknown before the data is.
    """

    values: dict[str, Any]
    card: str
    shape: tuple[int, int, int]
    densities: dict[str, dict[str, Any]] = field(default_factory=lambda: {"gmm": {"n_components": 10}})
    images: int | None = None
