"""From an encoded picture of any kind to (C, H, W) uint8: modes, crop, padding, resize."""

import io
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from splitvae.errors import InputError

Crop = Literal["auto", "celeba", "none"]
Fit = Literal["crop", "stretch"]

# (left, upper, right, lower) of rows 45:173, columns 25:153 in the aligned 178×218 pictures, as Dai & Wipf's
# preprocessing and the official Split-VAE code; the RAE paper crops 140, PyTorch-VAE 148: other tasks.
CELEBA_BOX = (25, 45, 153, 173)
CELEBA_ORIGINAL = (178, 218)  # (width, height)
MNIST_ORIGINAL = (28, 28)
# Refused in our own words below; Pillow's warning would stand beside them.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
MAX_PIXELS = 89_478_485  # Pillow's own bound against decompression bombs


@dataclass(frozen=True)
class Transform:
    """What is done to each picture, in this order; recorded in the cache's ``meta.json``.

    Attributes:
        channels: 1 (grey) or 3 (RGB).
        size: (H, W) of the result.
        crop: (left, upper, right, lower) box taken first; None = all.
        pad: pixels of black added on each side; the picture is not resized then.
        fit: "crop" cuts the centre to the aspect of ``size`` before resizing, "stretch" changes the aspect.
    """

    channels: int
    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None = None
    pad: int = 0
    fit: Fit = "crop"

    def describe(self) -> dict[str, Any]:
        """As JSON, with the resampling filter by name."""
        return asdict(self) | {"resize": "none" if self.pad else "Pillow bilinear, antialiased"}


@dataclass(frozen=True)
class Header:
    """What can be known of a picture without decoding it."""

    size: tuple[int, int]  # (width, height)
    mode: str


def open_picture(item: Path | bytes | np.ndarray | None) -> Image.Image:
    """Open a file, its bytes, or an array ((H, W) or (H, W, 3) uint8); decoding is left to the caller.

    Raises:
        InputError: none, not a picture, or more than ``MAX_PIXELS``.
    """
    if item is None:  # a row of a table without one
        raise InputError("no picture")
    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    try:
        picture = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)
    except Image.DecompressionBombError as error:
        raise InputError(f"a decompression bomb of over {MAX_PIXELS:,} pixels") from error
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's ways to say that it knows no such format
        reason = getattr(error, "strerror", None) or "not an image that Pillow reads"
        raise InputError(reason) from error
    refusal = ""
    if picture.width * picture.height > MAX_PIXELS:
        refusal = f"a decompression bomb of {picture.width}×{picture.height} pixels"
    elif picture.mode not in GREY_MODES | COLOUR_MODES:
        refusal = f"of the mode {picture.mode}, which has no fixed range"
    if refusal:
        picture.close()
        raise InputError(refusal)
    return picture


def read_header(item: Path | bytes | np.ndarray) -> Header:
    """Size (after the camera's rotation) and mode; raises InputError as ``open_picture``."""
    with open_picture(item) as picture:
        # Orientations 5 to 8 swap the sides. Asking a PNG for its EXIF decodes all of it, so only where it has some.
        turned = picture.format in ("JPEG", "TIFF", "WEBP") or "exif" in picture.info
        try:
            turned = turned and picture.getexif().get(0x0112, 1) >= 5
        except Exception:  # EXIF is other people's bytes; `decode` names the picture if it is damaged
            turned = False
        size = (picture.height, picture.width) if turned else (picture.width, picture.height)
        return Header(size, picture.mode)


def decode(item: Path | bytes | np.ndarray, transform: Transform) -> np.ndarray:
    """Decode one picture to (C, H, W) uint8.

    Transparent pixels become white; 16-bit grey is scaled, not clipped; the camera's rotation is applied.

    Raises:
        InputError: the picture cannot be read, with the reason ("truncated", …).
    """
    with open_picture(item) as picture:
        try:
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
        except Exception as error:  # a damaged file raises whatever its bytes happen to lead to
            raise InputError(f"damaged ({error})") from error
        picture = _to_mode(picture, "L" if transform.channels == 1 else "RGB")
    if transform.crop:
        picture = picture.crop(transform.crop)
    height, width = transform.size
    if picture.size != (width, height) and not transform.pad:
        resize = ImageOps.fit if transform.fit == "crop" else Image.Image.resize
        picture = resize(picture, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.pad(pixels, ((0, 0), (transform.pad,) * 2, (transform.pad,) * 2)) if transform.pad else pixels


def decode_for(item: Path | bytes, shape: tuple[int, int, int], crop: Crop = "auto", fit: Fit = "crop") -> np.ndarray:
    """Decode one picture to the shape that a model takes, (C, H, W) uint8; arguments as for ``choose_transform``."""
    transform = choose_transform([read_header(item)], shape[1:], crop, fit)
    return decode(item, replace(transform, channels=shape[0]))


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Convert to "L" or "RGB" without the two losses of a bare ``convert``."""
    if picture.mode.startswith("I"):  # convert("L") would clip 16 bits at 255
        values = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


def choose_transform(
    headers: list[Header], size: tuple[int, int] | Literal["native"] | None, crop: Crop, fit: Fit
) -> Transform:
    """Decide from the headers of all pictures what is done to each.

    28×28 pictures asked for at 32×32 are padded by 2 (as every MNIST row of the paper); pictures that are all
    178×218 are aligned CelebA originals and get the paper's crop unless ``crop="none"``.

    Args:
        headers: of every picture, at least one.
        size: (H, W) asked for; "native" = the pictures' own, on which they must agree; None = their own where they
            agree and have no side above 128, else 64×64.
        crop: "auto" as above, "celeba" insists on it, "none" never crops.
        fit: see ``Transform``.
    """
    sizes = {header.size for header in headers}
    channels = 1 if all(header.mode in GREY_MODES for header in headers) else 3

    box = None
    if crop != "none" and CELEBA_ORIGINAL in sizes:
        if len(sizes) == 1:
            box, sizes = CELEBA_BOX, {(128, 128)}
            size = size or (64, 64)
        elif crop == "celeba":
            other = min(sizes - {CELEBA_ORIGINAL})
            raise InputError(
                f"crop celeba needs pictures of 178×218 only, but one is {other[0]}×{other[1]}; pass --crop none."
            )
    elif crop == "celeba":
        width, height = min(sizes)
        raise InputError(f"crop celeba needs pictures of 178×218, but one is {width}×{height}; pass --crop none.")

    if size == "native":
        if len(sizes) > 1:
            (width, height), (other_width, other_height) = min(sizes), max(sizes)
            raise InputError(
                f"the pictures have different sizes, from {width}×{height} to {other_width}×{other_height}; "
                "pass --image-size to resize them all."
            )
        width, height = min(sizes)
        size = (height, width)
    if size is None:
        width, height = min(sizes)
        size = (height, width) if len(sizes) == 1 and max(width, height) <= 128 else (64, 64)
    if min(size) < 8:
        raise InputError(f"images of {size[0]}×{size[1]} are too small: sides must be at least 8; pass --image-size.")
    pad = 2 if sizes == {MNIST_ORIGINAL} and size == (32, 32) else 0
    return Transform(channels, size, box, pad, fit)
