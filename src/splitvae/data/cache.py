"""Data prepared once: every picture decoded into one uint8 array on disk, memory-mapped by training.

A cache directory holds ``images.npy`` (N, C, H, W) uint8, ``train.npy`` and ``test.npy`` (row numbers), ``labels.npy``
(where the source has labels), ``names.json`` (where it has file names), ``sizes.npy`` (of the pictures before) and
``meta.json``. It is found again by the source's identity, the transform that was asked for and ``CACHE_VERSION``; the
content hash is computed once and kept.
"""

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splitvae.data.decode import Crop, Fit, Transform, choose_transform, decode, read_header
from splitvae.data.sources import Source, Split, find_source
from splitvae.errors import InputError, SplitVAEError

CACHE_VERSION = 2
CHUNK = 512  # pictures decoded between two writes
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 10_000


@dataclass(frozen=True)
class ImageCache:
    """A prepared data set.

    Attributes:
        path: its directory.
        images: (N, C, H, W) uint8, memory-mapped, in the order of the source.
        splits: row numbers of "train" and "test".
        labels: (N,) int64; None = the source has none.
        names: N file names relative to their split; None = the source has none.
        meta: shape, counts, content hash, source, and the transform that was applied.
        sizes: (N, 2), width and height of each picture before the transform.
    """

    path: Path
    images: np.ndarray
    splits: dict[str, np.ndarray]
    labels: np.ndarray | None
    names: list[str] | None
    meta: dict[str, Any]
    sizes: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    @classmethod
    def open(cls, path: Path) -> "ImageCache":
        """Open the cache in the directory ``path``."""
        labels, names = path / "labels.npy", path / "names.json"
        return cls(
            path,
            np.load(path / "images.npy", mmap_mode="r"),
            # Mapped like the images; "c" because torch wants arrays that could be written to.
            {split: np.load(path / f"{split}.npy", mmap_mode="c") for split in ("train", "test")},
            np.load(labels) if labels.exists() else None,
            json.loads(names.read_text(encoding="utf-8")) if names.exists() else None,
            json.loads((path / "meta.json").read_text(encoding="utf-8")),
            np.load(path / "sizes.npy", mmap_mode="r"),
        )


def cache_root() -> Path:
    """Where caches live: ``$SPLITVAE_CACHE``, else ``~/.cache/splitvae``."""
    return Path(os.environ.get("SPLITVAE_CACHE") or Path.home() / ".cache" / "splitvae").expanduser()


def prepare(
    data: str | Path,
    image_size: int | tuple[int, int] | Literal["native"] | None = None,
    crop: Crop = "auto",
    fit: Fit = "crop",
    skip_damaged: bool = False,
    channels: Literal[1, 3] | None = None,
    quiet: bool = True,
) -> ImageCache:
    """Find the prepared form of a source, or make it: decoded in parallel, once per content.

    Two processes may ask for the same source at once: one prepares, the other waits.

    Args:
        data: a directory of parquet shards ``train-*``, ``test-*``; a folder of images, with or without ``train/``
            and ``test/``; an ``.npz``; "digits"; or the name of a data set on the hub.
        image_size: (H, W), or one side of a square; "native" = the pictures' own, on which they must agree; None =
            their own where they agree and no side is above 128, else 64×64.
        crop, fit: see ``choose_transform``.
        skip_damaged: leave out pictures that cannot be read instead of refusing the source.
        channels: 1 (grey) or 3 (colour); None = grey where all pictures are.
        quiet: no progress bar.

    Raises:
        InputError: nothing readable, damaged pictures, wrong shapes or ranges.
        SplitVAEError: the hub cannot be reached, or the cache cannot be written.
    """
    source = find_source(str(data))
    if isinstance(image_size, int):
        image_size = image_size, image_size
    asked = [image_size, crop, fit, skip_damaged, channels]
    key = hashlib.sha256(json.dumps([CACHE_VERSION, source.identity, asked]).encode()).hexdigest()[:16]
    stem = "".join(c if c.isalnum() else "-" for c in Path(source.name).name) or "data"
    # A moved source is found again by its key; a name with a dot is what another process is making.
    directory = next(cache_root().glob(f"[!.]*-{key}"), cache_root() / f"{stem}-{key}")
    if (found := _found(directory)) is not None:
        return _renamed(found, source)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_suffix(".lock")):
            if _found(directory) is None:
                temporary = directory.with_name(f".{directory.name}")  # ours alone: we hold the lock
                shutil.rmtree(temporary, ignore_errors=True)
                splits = _load(source)
                temporary.mkdir()
                try:
                    _write(source, splits, image_size, crop, fit, skip_damaged, channels, temporary, quiet)
                    if directory.exists():  # damaged: out of the way, now that there is a whole one
                        aside = directory.with_name(f".{uuid.uuid4().hex[:8]}")
                        os.replace(directory, aside)
                        shutil.rmtree(aside, ignore_errors=True)
                    os.replace(temporary, directory)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise SplitVAEError(
            f"cannot prepare {data} in {directory.parent}: {error.strerror or error}. "
            "Set SPLITVAE_CACHE to another directory, with enough space."
        ) from error
    return _renamed(ImageCache.open(directory), source)


def _found(directory: Path) -> ImageCache | None:
    """The cache in a directory; None = there is none, or a damaged one, which is made again."""
    if not (directory / "meta.json").exists():
        return None
    try:
        return ImageCache.open(directory)
    except (FileNotFoundError, ValueError, EOFError):  # others, as of too many open files, are no damage
        return None


def refuse_few(cache: ImageCache) -> None:
    """Raise InputError for data that nothing can be trained on; encoding one image is no mistake."""
    train, total = len(cache.splits["train"]), len(cache.images)
    if train < 2:
        different = len({image.tobytes() for image in cache.images})
        raise InputError(
            f"{total} image{'s' * (total != 1)} ({different} different) leave {train} for training; at least 2 are "
            "needed, and some hundreds to learn anything."
        )


def _renamed(cache: ImageCache, source: Source) -> ImageCache:
    """The cache under the name that its source has now: a copy elsewhere may have been prepared first."""
    return replace(cache, meta={**cache.meta, "source": source.name})


def _write(
    source: Source,
    splits: dict[str, Split],
    size: tuple[int, int] | Literal["native"] | None,
    crop: Crop,
    fit: Fit,
    skip_damaged: bool,
    channels: int | None,
    directory: Path,
    quiet: bool,
) -> None:
    """Decode everything into ``directory``; ``meta.json`` is written last."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor() as pool, Progress(*columns, disable=quiet, transient=True) as progress:
        splits, headers, damaged = _read_headers(source, splits, pool, progress)
        if damaged and not skip_damaged:
            raise InputError(
                f"{source.name}: {len(damaged)} of {len(damaged) + len(headers)} images cannot be read, the first: "
                f"{damaged[0]}. Remove them or pass --skip-damaged."
            )
        transform = choose_transform(headers, size, crop, fit)
        transform = replace(transform, channels=channels or transform.channels)
        _refuse_too_much(2 * len(headers) * transform.channels * math.prod(transform.size), directory)
        digests, damaged_too, kept = _decode_all(splits, transform, skip_damaged, directory, pool, progress, source)
        damaged += damaged_too
    starts = np.cumsum([0, *(len(split.items) for split in splits.values())])
    rows_kept = [start + i for start, name in zip(starts, splits, strict=False) for i in kept[name]]
    np.save(directory / "sizes.npy", np.array([headers[i].size for i in rows_kept], np.int32))
    splits = {name: _take(split, kept[name]) for name, split in splits.items()}
    total = len(digests)
    rows = _split_rows(splits, digests)
    for name, part in rows.items():
        np.save(directory / f"{name}.npy", part)

    parts = list(splits.values())
    if all(part.labels is not None for part in parts):
        np.save(directory / "labels.npy", np.concatenate([part.labels for part in parts]))
    if all(part.names is not None for part in parts):
        names = [name for part in parts for name in part.names or ()]
        (directory / "names.json").write_text(json.dumps(names), encoding="utf-8")
    meta = {
        "cache_version": CACHE_VERSION,
        "source": source.name,
        "shape": [transform.channels, *transform.size],
        "counts": {"total": total, **{name: len(part) for name, part in rows.items()}},
        "test_split": "of the source" if "test" in splits else "held out by the hash of each image",
        "content_hash": hashlib.sha256(b"".join(digests) + rows["train"].tobytes()).hexdigest(),
        "transform": transform.describe(),
        "original_sizes": [list(s) for s in sorted({header.size for header in headers})[:10]],
        "not_images": {"count": len(source.skipped), "first": list(source.skipped[:3])},
        "damaged": {"count": len(damaged), "first": damaged[:3]},
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=2, ensure_ascii=False), encoding="utf-8")


def _refuse_too_much(needed: int, directory: Path) -> None:
    """Say before the work, and not hours into it, that the disk will not hold the bytes (for a moment twice)."""
    if needed > (free := shutil.disk_usage(directory).free):
        raise InputError(
            f"preparing the images needs {needed / 1e9:,.1f} GB, and {directory.parent} has {free / 1e9:,.1f} GB free; "
            "pass a smaller --image-size, or set SPLITVAE_CACHE to another directory."
        )


def _load(source: Source) -> dict[str, Split]:
    try:
        return source.load()
    except OSError as error:
        raise InputError(f"cannot read {source.name}: {error.strerror or error}.") from error


def _read_headers(
    source: Source, splits: dict[str, Split], pool: ThreadPoolExecutor, progress: Progress
) -> tuple[dict[str, Split], list, list[str]]:
    """Headers of all pictures; pictures without a readable one are taken out of the splits and named."""
    headers, damaged, kept = [], [], {}
    for name, split in splits.items():
        results = _mapped(pool, progress, f"Looking at {source.name} ({name})", read_header, split.items)
        good = [i for i, (header, _) in enumerate(results) if header is not None]
        headers += [results[i][0] for i in good]
        damaged += [_named(split, i, reason) for i, (header, reason) in enumerate(results) if header is None]
        kept[name] = _take(split, good)
    if not headers:
        raise InputError(f"{source.name}: none of its {len(damaged)} images can be read, the first: {damaged[0]}.")
    return kept, headers, damaged


def _decode_all(
    splits: dict[str, Split],
    transform: Transform,
    skip_damaged: bool,
    directory: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
    source: Source,
) -> tuple[list[bytes], list[str], dict[str, list[int]]]:
    """Decode into ``images.npy``; return the digest of each image, what was damaged, and the rows that were kept."""
    digests: list[bytes] = []
    damaged: list[str] = []
    kept: dict[str, list[int]] = {name: [] for name in splits}
    raw = directory / "images.raw"
    with open(raw, "wb") as file:  # written, not memory-mapped: a full disk is then an error and not a crash
        for name, split in splits.items():
            task = progress.add_task(f"Decoding {source.name} ({name})", total=len(split.items))
            for start in range(0, len(split.items), CHUNK):
                chunk = split.items[start : start + CHUNK]
                results = _parallel(pool, partial(decode, transform=transform), chunk)
                for i, (image, reason) in enumerate(results, start):
                    if image is None:
                        damaged.append(_named(split, i, reason))
                    else:
                        data = np.ascontiguousarray(image).tobytes()
                        file.write(data)
                        digests.append(hashlib.blake2b(data, digest_size=16).digest())
                        kept[name].append(i)
                progress.advance(task, len(chunk))
    if damaged and not skip_damaged:
        raise InputError(
            f"{source.name}: {len(damaged)} of {len(damaged) + len(digests)} images cannot be decoded, the first: "
            f"{damaged[0]}. Remove them or pass --skip-damaged."
        )
    _prepend_npy_header(raw, directory / "images.npy", (len(digests), transform.channels, *transform.size))
    return digests, damaged, kept


def _prepend_npy_header(raw: Path, path: Path, shape: tuple[int, ...]) -> None:
    """Turn raw bytes, whose count is known only at the end, into an .npy file."""
    with open(path, "wb") as target, open(raw, "rb") as content:
        np.lib.format.write_array_header_2_0(target, {"descr": "|u1", "fortran_order": False, "shape": shape})
        shutil.copyfileobj(content, target, 1 << 24)
    raw.unlink()


def _split_rows(splits: dict[str, Split], digests: list[bytes]) -> dict[str, np.ndarray]:
    """Row numbers of train and test; without a test split the images with the lowest hashes are held out.

    The choice depends on each image's pixels alone: not on the seed, the order, or the other images' names, and
    copies of one picture fall on the same side.
    """
    n_train = len(splits["train"].items)
    if "test" in splits:
        rows = {"train": np.arange(n_train), "test": np.arange(n_train, len(digests))}
    else:
        wanted = min(HELD_OUT_MOST, max(1, round(HELD_OUT_SHARE * n_train)))
        last = sorted(digests)[wanted - 1]
        held_out = np.array([digest <= last for digest in digests])
        rows = {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
    return rows


def _parallel(pool: ThreadPoolExecutor, function: Callable, items: Sequence | np.ndarray) -> list[tuple[Any, str]]:
    """(result, "") or (None, reason) for each item, in order.

    Threads, because Pillow decodes without holding the interpreter's lock; one task for many items, because small
    pictures decode faster than a task is handed over.
    """

    def attempt_all(part: Sequence) -> list[tuple[Any, str]]:
        results: list[tuple[Any, str]] = []
        for item in part:
            try:
                results.append((function(item), ""))
            except InputError as error:
                results.append((None, str(error)))
        return results

    return [
        result
        for part in pool.map(attempt_all, (items[i : i + 64] for i in range(0, len(items), 64)))
        for result in part
    ]


def _mapped(pool: ThreadPoolExecutor, progress: Progress, title: str, function: Any, items: Any) -> list:
    task = progress.add_task(title, total=len(items))
    results = []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        results += _parallel(pool, function, chunk)
        progress.advance(task, len(chunk))
    return results


def _named(split: Split, index: int, reason: str) -> str:
    return f"{split.names[index] if split.names else f'number {index}'} ({reason})"


class _Chosen(Sequence):
    """Some rows of a sequence that may be too large to be copied."""

    def __init__(self, items: Sequence | np.ndarray, rows: list[int]) -> None:
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.items[row] for row in self.rows[index]]
        return self.items[self.rows[index]]


def _take(split: Split, rows: list[int]) -> Split:
    if len(rows) == len(split.items):
        return split
    return Split(
        _Chosen(split.items, rows),
        None if split.names is None else [split.names[i] for i in rows],
        None if split.labels is None else split.labels[rows],
    )
