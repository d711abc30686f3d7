"""The files behind a source: their sizes and formats before anything was decoded, from up to a thousand of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitvae.data.cache import ImageCache
from splitvae.data.decode import open_picture, read_header
from splitvae.data.sources import find_source
from splitvae.doctor.findings import Finding, counted
from splitvae.errors import InputError, SplitVAEError

LOOKED_AT = 1_000
ENLARGED = 1.5  # factor above which enlarging is a warning
LOST = 0.25  # share of the median image that cutting its centre may lose unmentioned


@dataclass(frozen=True)
class Originals:
    """Training images as they lie on disk.

    Attributes:
        sizes: (n, 2) width and height of those looked at.
        formats: how many of them are of which format, as Pillow names it; empty for arrays.
        unused: images in the folder that lie in no split.
    """

    sizes: np.ndarray
    formats: Counter[str]
    unused: int = 0


def look_at_originals(source: str | Path, cache: ImageCache) -> Originals:
    """Open up to ``LOOKED_AT`` training images, spread evenly, and read their headers."""
    recorded = np.array(cache.meta["original_sizes"])
    if str(source) == "digits" or Path(source).suffix == ".npz":  # arrays: one size, no format, and long to read
        return Originals(recorded, Counter())
    try:
        place = find_source(str(source))
        splits = place.load()
    except (SplitVAEError, OSError):  # a prepared set outlives its source: a hub out of reach
        return Originals(recorded, Counter())
    items = splits["train"].items
    sizes, formats = [], Counter[str]()
    for i in np.linspace(0, len(items) - 1, min(len(items), LOOKED_AT)).astype(int):
        item = items[int(i)]
        try:
            sizes.append(read_header(item).size)
            with open_picture(item) as picture:
                formats[picture.format or "?"] += 1
        except InputError:  # damaged: counted when it was prepared
            continue
    folder = isinstance(items[0], Path) and splits["train"].names is not None
    pictures = sum(isinstance(entry, list) for entry in place.identity)  # the others are names of folders
    unused = pictures - sum(len(split.items) for split in splits.values()) if folder else 0
    return Originals(np.array(sizes) if sizes else recorded, formats, unused)


def check_files(cache: ImageCache, originals: Originals) -> list[Finding]:
    """Damaged images, images outside the splits, and files that are no images: a line for each kind that occurs."""
    damaged, others, findings = cache.meta["damaged"], cache.meta["not_images"], []
    if damaged["count"]:
        text = f"{damaged['count']:,} of {damaged['count'] + len(cache.images):,} images cannot be read, such as "
        remedy = "copy them anew, or train without them: --skip-damaged"
        findings.append(Finding("files", "warning", text + damaged["first"][0], remedy))
    if originals.unused:
        text = f"{originals.unused:,} images lie outside the folders that are used"
        remedy = "move them into train/ if they belong to the data; a third split, such as val/, is rightly left out"
        findings.append(Finding("files", "note", text, remedy))
    if others["count"]:
        text = f"{counted(others['count'], 'file')} passed over for being no image, such as {others['first'][0]}"
        findings.append(Finding("files", "note", text))
    return findings or [Finding("files", "ok", "all images can be read")]


def check_size(cache: ImageCache, originals: Originals) -> list[Finding]:
    """Original sizes, and whether images are enlarged to the size that is used."""
    _, H, W = cache.shape
    transform = cache.meta["transform"]
    sizes = originals.sizes
    used, median = f"{H}×{W}", np.median(sizes, axis=0)
    if len(np.unique(sizes, axis=0)) == 1:
        was = f"{sizes[0, 1]}×{sizes[0, 0]}"
    else:
        area = sizes.prod(axis=1)
        (small_w, small_h), (large_w, large_h) = sizes[area.argmin()], sizes[area.argmax()]
        was = f"mixed, from {small_h}×{small_w} to {large_h}×{large_w}, median {median[1]:.0f}×{median[0]:.0f}"
    if transform["pad"]:
        return [Finding("size", "ok", f"{was} (height × width), padded to {used} with black")]
    cut = f", cut to rows {transform['crop'][1]} to {transform['crop'][3]}" if transform["crop"] else ""
    factors = _factors(cache, originals)
    factor, share = float(np.median(factors)), float((factors > 1).mean())
    if (factors == 1).all():
        return [Finding("size", "ok", f"{was} (height × width){cut}, used as they are")]
    text = f"{was} (height × width){cut}, used at {used}"
    if share <= 0.05:
        return [Finding("size", "ok", text)]
    text += f": {100 * share:.0f} % are enlarged" + (f", the median {factor:.1f} times" if factor > 1 else "")
    side = int(np.quantile(sizes.min(axis=1), 0.1))
    remedy = "use larger originals" + (f", or train at --image-size {side}: " if side >= 8 else ": ")
    return [
        Finding(
            "size", "warning" if factor >= ENLARGED else "note", text,
            f"{remedy}enlarging costs time and adds no detail, and samples look soft",
        )
    ]  # fmt: skip


def check_shape(cache: ImageCache, originals: Originals) -> list[Finding]:
    """How much of the images is cut away to get the shape that is used; no line where nothing is."""
    transform, (_, H, W) = cache.meta["transform"], cache.shape
    if transform["crop"] or transform["pad"] or transform["fit"] == "stretch":
        return []
    sizes = originals.sizes
    lost = float(np.median(1 - H * W / (_factors(cache, originals) ** 2 * sizes.prod(axis=1))))
    if lost < LOST:
        return []
    width, height = np.median(sizes, axis=0)
    scale = min(H, W) / min(width, height)
    better = f"{max(8, 8 * round(height * scale / 8))}x{max(8, 8 * round(width * scale / 8))}"
    return [
        Finding(
            "shape", "note", f"cutting the centre to {H}×{W} loses {100 * lost:.0f} % of the median image",
            f"--image-size {better} keeps its shape, --fit stretch keeps all of it out of shape",
        )
    ]  # fmt: skip


def check_format(cache: ImageCache, originals: Originals) -> list[Finding]:
    """Lossy formats whose marks are still there at the size that is used; no line for arrays."""
    if not originals.formats:
        return []
    total = originals.formats.total()
    text = ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in originals.formats.most_common(3))
    if originals.formats["JPEG"] == 0:
        return [Finding("format", "ok", text)]
    if np.median(_factors(cache, originals)) <= 0.5:
        return [Finding("format", "ok", f"{text}; JPEG's marks vanish as the images are made smaller")]
    return [
        Finding(
            "format", "note", f"{text}: the model learns JPEG's marks too, and they shift FID",
            "compare scores only with models of these very files, or take a lossless copy (PNG) if there is one",
        )
    ]  # fmt: skip


def _factors(cache: ImageCache, originals: Originals) -> np.ndarray:
    """(n,) the factor by which each image is enlarged, below 1 where it is made smaller."""
    _, H, W = cache.shape
    box, sizes = cache.meta["transform"]["crop"], originals.sizes
    if cache.meta["transform"]["pad"]:
        return np.ones(len(sizes))
    if box:
        sizes = np.array([[box[2] - box[0], box[3] - box[1]]])
    return np.maximum(W / sizes[:, 0], H / sizes[:, 1])
