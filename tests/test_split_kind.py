"""The kind of split is read off masks whose answer is known."""

import pytest
import torch
from torch import Tensor

from splitvae.evaluation.split_kind import SEMANTIC_FROM, split_kind, split_words

N, SIDE = 40, 32
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")


def discs() -> Tensor:
    """N bright discs at their own places, (N, 1, SIDE, SIDE): the pictures."""
    generator = torch.Generator().manual_seed(0)
    places, radii = torch.rand(N, 2, generator=generator) * 16 + 8, torch.rand(N, generator=generator) * 4 + 4
    distance = torch.hypot(ROWS - places[:, 0, None, None], COLUMNS - places[:, 1, None, None])
    return torch.sigmoid(2 * (radii[:, None, None] - distance))[:, None]


def bands(x: Tensor) -> Tensor:
    """1 along the contours of x, 0 elsewhere."""
    across, down = x.diff(dim=3, prepend=x[..., :1]), x.diff(dim=2, prepend=x[..., :1, :])
    return (torch.hypot(across, down) > 0.1).float()


def blobs(seed: int = 1) -> Tensor:
    coarse = torch.randn(N, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic") > 0).float()


def noise() -> Tensor:
    return torch.rand(N, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def chessboard() -> Tensor:
    return ((ROWS + COLUMNS) % 2).float().expand(N, 1, SIDE, SIDE)


def of(mask: Tensor) -> dict:
    return split_kind(torch.stack([mask, 1 - mask], dim=1), discs())


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (chessboard(), "syntactic"),
        (noise(), "syntactic"),
        (0.45 + 0.1 * chessboard(), "syntactic"),  # weak, and a chessboard all the same
        (blobs(), "semantic"),
        (bands(discs()), "semantic"),
        (discs(), "semantic"),
        (torch.full((N, 1, SIDE, SIDE), 0.5), "none"),
        (torch.full((N, 1, SIDE, SIDE), 1.0), "none"),
    ],
    ids=["chessboard", "noise", "weak chessboard", "blobs", "contours", "objects", "half", "one"],
)
def test_known_masks_land_on_their_side(mask: Tensor, kind: str):
    found = of(mask)
    assert found["kind"] == kind
    assert split_words(found).startswith({"none": "no split"}.get(kind, f"{kind} split"))
    if kind != "none":  # far from the border: not a matter of the threshold
        assert abs(found["smoothness"] - SEMANTIC_FROM) > 0.1
    swapped = split_kind(torch.stack([1 - mask, mask], dim=1), discs())
    assert swapped["smoothness"] == pytest.approx(found["smoothness"])  # a matter of the split, not of names
    assert swapped["usage"] == pytest.approx(found["usage"][::-1])


def test_the_other_numbers_have_their_known_values():
    board = of(chessboard())
    assert board["smoothness"] == pytest.approx(-1, abs=1e-6)
    assert board["high_frequency"] == pytest.approx(1)
    assert board["decisiveness"] == pytest.approx(1)
    assert board["usage"] == pytest.approx([0.5, 0.5])
    assert board["variation"] == pytest.approx(0.5)
    white = of(noise())
    assert white["smoothness"] == pytest.approx(0, abs=0.02)
    assert white["high_frequency"] == pytest.approx(0.804, abs=0.01)  # 1 − π/16: what of the square of
    # frequencies lies outside the circle
    assert of(discs())["contours"] == pytest.approx(1)
    assert of(blobs())["contours"] < 0.2 < of(bands(discs()))["contours"]
    assert of(blobs())["high_frequency"] < 0.1
    assert of(torch.full((N, 1, SIDE, SIDE), 0.75))["decisiveness"] == pytest.approx(0.5)


def test_more_components_than_two():
    masks = torch.stack([blobs(1), blobs(3), blobs(4)], dim=1) + 0.1
    weights = masks / masks.sum(dim=1, keepdim=True)
    found = split_kind(weights, discs())
    assert found["kind"] == "semantic"
    assert sum(found["usage"]) == pytest.approx(1)
    assert 0 < found["decisiveness"] < 1
