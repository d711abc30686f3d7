"""Images as people see them: rounding to uint8, grids, the rows of the paper's figures 1 to 4, PNG and .npz files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splitvae.errors import InputError
from splitvae.files import replacing
from splitvae.models.autoencoder import Decoded

GAP = 2  # pixels between tiles


def to_uint8(images: Tensor) -> np.ndarray:
    """Floats in [0, 1] → uint8 of the same shape, by rounding (truncation would darken every pixel by ½).

    Raises:
        InputError: the images are uint8 already; as floats they would all be white.
    """
    if images.dtype == torch.uint8:
        raise InputError("the images are already uint8; to_uint8 takes floats in [0, 1].")
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def rows_of(decoded: Decoded) -> dict[str, Tensor]:
    """The rows of the paper's figures 1 to 4, top to bottom: the masks, x̂₁ … x̂_K, x̂; each (B, C or 1, H, W)."""
    K = decoded.components.shape[1]
    masks = {"mask": decoded.weights[:, 0]} if K == 2 else {f"mask{k + 1}": decoded.weights[:, k] for k in range(K)}
    components = {f"x{k + 1}": decoded.components[:, k] for k in range(K)}
    return (masks | components if K > 1 else {}) | {"x_hat": decoded.x_hat}


def mix(decoded: Decoded, generator: torch.Generator | None = None) -> Tensor:
    """One component per image, chosen uniformly: (B, C, H, W). The paper's "random mix" of x̂₁ and x̂₂."""
    B, K = decoded.components.shape[:2]
    place = None if generator is None else generator.device
    chosen = torch.randint(K, (B,), generator=generator, device=place).to(decoded.components.device)
    return decoded.components[torch.arange(B, device=chosen.device), chosen]


def grid(rows: Sequence[np.ndarray], zoom: int | None = None) -> Image.Image:
    """Tile rows of images into one picture.

    Args:
        rows: each (N, C, H, W) uint8 with C 1 or 3; grey and colour may be mixed, and rows may be of unequal length.
        zoom: whole-number enlargement; None = such that a tile is at least 48 pixels high.
    """
    H, W = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (H + GAP) + GAP, columns * (W + GAP) + GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = GAP + r * (H + GAP), GAP + c * (W + GAP)
            canvas[top : top + H, left : left + W] = image.transpose(1, 2, 0)  # grey is broadcast to RGB
    picture = Image.fromarray(canvas)
    zoom = zoom or max(1, -(-48 // H))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def square_grid(images: np.ndarray) -> Image.Image:
    """Tile (N, C, H, W) uint8 into a picture that is about square."""
    columns = int(np.ceil(np.sqrt(len(images))))
    return grid([images[i : i + columns] for i in range(0, len(images), columns)])


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, atomically."""
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def animation(frames: np.ndarray, form: Literal["gif", "png"] = "gif", seconds: float = 3.0, zoom: int = 1) -> bytes:
    """An endless animation, forth and back, as the bytes of a GIF or an animated PNG.

    Args:
        frames: (N, C, H, W) uint8 with C 1 or 3.
        form: "gif" is shown everywhere and has 256 colours; "png" is exact.
        seconds: from the first frame to the last.
        zoom: whole-number enlargement.
    """
    pixels = frames.repeat(zoom, axis=2).repeat(zoom, axis=3).transpose(0, 2, 3, 1)
    tiles = [Image.fromarray(tile[..., 0] if tile.shape[-1] == 1 else tile) for tile in pixels]
    tiles += tiles[-2:0:-1]
    buffer = io.BytesIO()
    duration = max(20, round(1000 * seconds / len(frames)))
    tiles[0].save(buffer, form, save_all=True, append_images=tiles[1:], duration=duration, loop=0)
    return buffer.getvalue()


def save_images(rows: dict[str, np.ndarray], out: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write images in the form that the name of ``out`` asks for.

    ``….png``: one grid, a row for each entry of ``rows`` (a square grid if there is one). ``….npz``: the arrays under
    their names. Anything else is a directory of single PNG files ``00000-x_hat.png``.

    Args:
        rows: name → (N, C, H, W) uint8; in single files C may be 4, with α.
        names: of the N images, for single files; None = their numbers.

    Returns:
        the files written.
    """
    if out.suffix.lower() == ".png":
        save_picture(square_grid(*rows.values()) if len(rows) == 1 else grid(list(rows.values())), out)
        return [out]
    if out.suffix.lower() == ".npz":
        with replacing(out) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **rows)  # type: ignore[arg-type]
        return [out]
    paths = []
    for name, images in rows.items():
        for i, image in enumerate(images):
            of = f"{i:05d}" if names is None else names[i]
            paths.append(out / (f"{of}.png" if len(rows) == 1 else f"{of}-{name}.png"))
            save_picture(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)), paths[-1])
    return paths
