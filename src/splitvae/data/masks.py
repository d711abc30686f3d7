"""Masks given with images: for each pixel the component that shall paint it, or that nobody has said.

Masks are numbers, one for each thing: 0 and 255 of a black and white PNG, or 0, 1, 2 … of a segmentation. Sorted, the
numbers that occur are the components in their order; 255 beyond as many numbers as there are components means unknown.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from splitvae.data.cache import ImageCache
from splitvae.data.decode import open_picture
from splitvae.data.loader import seeded
from splitvae.data.sources import PICTURE_SUFFIXES, find_source
from splitvae.errors import InputError
from splitvae.models.split_terms import UNKNOWN

# Without loss: a number must stay what it is. Not .gif, whose encoders number colours as they like.
SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm")


@dataclass(frozen=True)
class Masks:
    """The masks of a prepared data set.

    Attributes:
        numbers: (N, H, W) uint8 in the order of ``ImageCache.images``, as they are in the source.
        given: (N,) bool, which images have a mask.
        values: the numbers that mean something, one for each component from the first.
        digest: a hash of them all; a share of the masks has that of the whole.
        border: pixels on each side that the images were padded by, of which nobody says anything.
    """

    numbers: np.ndarray
    given: np.ndarray
    values: list[int]
    digest: str
    border: int = 0

    def components(self, rows: np.ndarray) -> np.ndarray:
        """The component of each pixel of some images: (n, H, W) uint8, 0 … K−1 or ``UNKNOWN``."""
        table = np.full(256, UNKNOWN, np.uint8)
        table[self.values] = range(len(self.values))
        found = table[self.numbers[rows]]
        found[~self.given[rows]] = UNKNOWN
        if self.border:
            inside = slice(self.border, -self.border)
            framed = np.full_like(found, UNKNOWN)
            framed[:, inside, inside] = found[:, inside, inside]
            return framed
        return found

    def rows(self, cache: ImageCache, split: str) -> np.ndarray:
        """Row numbers of a split's images that have a mask."""
        rows = np.asarray(cache.splits[split])
        return rows[self.given[rows]]

    def sparse(self, cache: ImageCache, share: float, seed: int) -> "Masks":
        """The masks of a share of the training images only, chosen by a seed; test images keep theirs."""
        if share == 1:
            return self
        has = self.rows(cache, "train")
        order = np.random.default_rng(int(seeded(seed, "masks", 0).initial_seed())).permutation(has)
        given = self.given.copy()
        given[order[max(1, round(share * len(has))) :]] = False
        return replace(self, given=given)


def read_masks(source: str | Path, cache: ImageCache, num_components: int, values: list[int] | None = None) -> Masks:
    """Read masks and fit them to prepared images as those were fitted, without mixing numbers.

    Args:
        source: an .npz with ``train_masks`` and perhaps ``test_masks``, (N, H, W) of whole numbers, one for each image
            of the data's own train and test in order; or a folder whose files have the names of the images, in the
            same sub-folders, with the suffix of a format without loss; or, of parquet shards and hub data, the name of
            a column (a folder beside it needs its whole path, see ``absolute``). An image without a file has no mask,
            and neither has one whose row is empty or whose mask is unknown everywhere.
        cache: the images.
        num_components: K.
        values: the numbers of the components, where a model has learned them; None = those that occur.

    Raises:
        InputError: no masks, masks of another size or number than the images, more numbers than components, a number
            that the model has not learned, or a file of no image.
    """
    path = Path(source).expanduser()
    column = find_source(cache.meta["source"]).column if len(path.parts) == 1 else None
    if column is not None:
        read = _read_column(str(source), column, cache)
    elif not path.exists():
        raise InputError(f"masks: {source} does not exist.")
    elif path.is_dir():
        read = _read_folder(path, cache)
    elif path.suffix == ".npz":
        read = _read_npz(path, cache)
    else:
        raise InputError(f"masks: {source} must be an .npz with train_masks, or a folder of pictures.")
    numbers, given = np.zeros((len(cache.images), *cache.shape[1:]), np.uint8), np.zeros(len(cache.images), bool)
    counts = np.zeros(256, np.int64)
    blank = np.zeros_like(given)
    for row, mask in read:
        counts += np.bincount(mask.ravel(), minlength=256)
        numbers[row], given[row] = _fitted(mask, cache), True
        blank[row] = (numbers[row] == UNKNOWN).all()
    found = np.flatnonzero(counts).tolist()
    if values is None:
        values = found[:-1] if len(found) == num_components + 1 and found[-1] == UNKNOWN else found
    elif unknown := set(found) - {*values, UNKNOWN}:
        raise InputError(f"masks: {source} holds {min(unknown)}, the model has learned {', '.join(map(str, values))}.")
    if len(values) > num_components:
        shown = ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
        raise InputError(
            f"masks: {source} holds {len(values)} different numbers ({shown}), the model has {num_components} "
            "components; ask for more with --num-components, or merge numbers."
        )
    if UNKNOWN not in values:
        given &= ~blank
    digest = hashlib.sha256(numbers.data)
    digest.update(given.data)
    return Masks(numbers, given, values, digest.hexdigest()[:16], cache.meta["transform"]["pad"])


def _read_npz(path: Path, cache: ImageCache) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and masks as they are in the source."""
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            parts = [file[name] for name in ("train_masks", "test_masks") if name in file.files]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"masks: {path} is not a readable .npz: {error}.") from error
    if not parts:
        raise InputError(f"masks: {path} holds no array train_masks.")
    shapes = {part.shape[1:] for part in parts}
    if any(part.ndim != 3 or part.dtype.kind not in "uib" for part in parts) or len(shapes) > 1:
        raise InputError(f"masks: train_masks and test_masks of {path} must be (N, H, W) of whole numbers.")
    total = sum(map(len, parts))
    if any(part.size and not 0 <= int(part.min()) <= int(part.max()) <= 255 for part in parts):
        raise InputError(f"masks: the numbers in {path} must lie in 0 … 255.")
    test = len(cache.splits["test"]) if cache.meta["test_split"] == "of the source" else 0
    if total not in (len(cache.images), len(cache.images) - test):
        raise InputError(f"masks: {path} holds {total:,} masks for {len(cache.images):,} images.")
    for row, mask in enumerate(chain.from_iterable(parts)):
        yield row, _checked(mask.astype(np.uint8), cache, row, f"{path}, number {row}")


def _read_folder(path: Path, cache: ImageCache) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and masks as they are in their files."""
    if cache.names is None:
        raise InputError(
            f"masks: the images have no names that files in {path} could share; use an .npz of masks. (If a column is "
            "meant, call it from where no folder has its name.)"
        )
    rows: dict[str, list[int]] = {}
    test = set(cache.splits["test"].tolist()) if cache.meta["test_split"] == "of the source" else set()
    for row, name in enumerate(cache.names):
        stem = Path(name).with_suffix("").as_posix()
        for known in (stem, f"{'test' if row in test else 'train'}/{stem}"):
            rows.setdefault(known, []).append(row)
    pictures = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in PICTURE_SUFFIXES]
    files = [file for file in pictures if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
    if lossy := [file for file in pictures if file not in set(files) and file.name[0] != "."]:
        raise InputError(f"masks: {lossy[0]}: this format may change a mask's numbers; save it as PNG.")
    if not files:
        raise InputError(f"masks: {path} holds no mask; they are {', '.join(SUFFIXES)} named as the images.")
    palettes = _Palettes()
    for file in files:
        stem = file.relative_to(path).with_suffix("").as_posix()
        if len(rows.get(stem, [])) != 1:
            fault = "is no name of an image" if stem not in rows else "is the name of several images"
            raise InputError(f"masks: {file}: {stem} {fault}.")
        row = rows[stem][0]
        yield row, _checked(_read_mask(file, str(file), palettes), cache, row, str(file))


def _read_column(
    name: str, column: Callable[[str], list[Sequence[Any]]], cache: ImageCache
) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and masks of a column beside the images; ``column``: see ``Source``."""
    data = cache.meta["source"]
    try:
        splits = column(name)
    except InputError as error:
        raise InputError(f"masks: {error}") from error
    if (total := sum(map(len, splits))) != len(cache.images):
        raise InputError(
            f"masks: {data} has {total:,} rows for the {len(cache.images):,} images that could be read; remove the "
            "other rows, so that each mask finds its image without --skip-damaged."
        )
    palettes = _Palettes()
    for row, mask in enumerate(chain.from_iterable(splits)):
        if mask is not None:
            what = f"{name}, row {row}"
            yield row, _checked(_read_mask(mask, what, palettes), cache, row, what)


class _Palettes:
    """What palettes say about numbers: the same in all masks, or the numbers mean nothing.

    Of a palette of greys what one sees is what is meant: programs that make a palette for each file number it as they
    like. The numbers behind colours are meant themselves; then each has one colour.
    """

    def __init__(self) -> None:
        self.grey: bool | None = None
        self.colours: dict[int, tuple[int, ...]] = {}

    def numbers(self, picture: Image.Image) -> np.ndarray:
        """(H, W) uint8 of a picture with a palette."""
        numbers = np.asarray(picture)
        colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        grey = bool((colours == colours[:, :1]).all())
        if self.grey not in (None, grey):
            raise InputError(
                "its palette is of greys or of colours, a mask's before it is not; save all with one palette"
            )
        self.grey = grey
        if grey:
            return colours[numbers, 0]
        for number in np.unique(numbers).tolist():
            colour = tuple(colours[number].tolist())
            if self.colours.setdefault(number, colour) != colour:
                raise InputError(f"its palette has another colour for {number} than a mask before; save all with one")
        return numbers


def _read_mask(item: Path | bytes, what: str, palettes: _Palettes) -> np.ndarray:
    """(H, W) uint8: grey values, or see ``_Palettes``."""
    try:
        with open_picture(item) as picture:
            if picture.format in ("JPEG", "GIF"):
                raise InputError(f"a {picture.format} changes a mask's numbers; save it as PNG")
            picture.load()
            if picture.mode == "1":
                picture = picture.convert("L")
            if picture.mode not in ("L", "P"):
                raise InputError(f"a mask is grey or has a palette, not the mode {picture.mode}; convert it")
            return palettes.numbers(picture) if picture.mode == "P" else np.asarray(picture)
    except (InputError, OSError, ValueError, SyntaxError, IndexError) as error:
        raise InputError(f"masks: {what}: {str(error).rstrip('.')}.") from error


def _checked(mask: np.ndarray, cache: ImageCache, row: int, what: str) -> np.ndarray:
    """The mask, if it has the size of its image as it was or as it is prepared."""
    H, W = mask.shape
    sizes = [cache.sizes[row].tolist(), list(cache.shape[:0:-1])]  # (width, height)
    if [W, H] not in sizes:
        shown = " or ".join(dict.fromkeys(f"{height}×{width}" for width, height in sizes))
        raise InputError(f"masks: {what}: {H}×{W} pixels, the images {shown} (height × width).")
    return mask


def _fitted(mask: np.ndarray, cache: ImageCache) -> np.ndarray:
    """A mask through the crop, padding and resize of its images, the nearest pixel's number for each."""
    H, W = cache.shape[1:]
    if mask.shape == (H, W):
        return mask
    transform, picture = cache.meta["transform"], Image.fromarray(mask)
    if transform["pad"]:
        return np.pad(mask, transform["pad"])
    if transform["crop"]:
        picture = picture.crop(transform["crop"])
    resize = ImageOps.fit if transform["fit"] == "crop" else Image.Image.resize
    return np.asarray(resize(picture, (W, H), Image.Resampling.NEAREST))
