"""Pictures that people drop on the page: looked at before they are decoded, refused in one line."""

from pathlib import Path

import numpy as np

from splitvae.data.decode import Crop, Fit, decode_for, read_header
from splitvae.errors import InputError

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000  # more than any phone takes; decoding more would hold up everybody else
MAX_SIDE = 12_000


def read_upload(
    path: str | Path, shape: tuple[int, int, int], crop: Crop = "auto", fit: Fit = "crop", invert: bool = False
) -> np.ndarray:
    """An uploaded file as the model's input.

    Args:
        path: the file. It is not named in errors: people know what they dropped, and nobody else should learn where
            it lies.
        shape: (C, H, W) of the model.
        crop, fit: as the run prepared its own pictures.
        invert: exchange black and white, for models that know white on black only.

    Returns:
        (C, H, W) uint8.

    Raises:
        InputError: too large, no picture, or a damaged one, and what to do about it.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"This file has {size / 1e6:.0f} MB; the page takes {MAX_BYTES / 1e6:.0f} MB at most.")
    try:
        width, height = read_header(Path(path)).size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            bound = f"{MAX_PIXELS // 10**6} million pixels and {MAX_SIDE:,} a side"
            raise InputError(f"it has {width:,}×{height:,} pixels, the page takes {bound} at most")
        image = decode_for(Path(path), shape, crop, fit)
    except InputError as error:
        raise InputError(f"This picture cannot be used: {error}. Try a PNG or JPEG of ordinary size.") from error
    return 255 - image if invert else image
