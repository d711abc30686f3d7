"""Features that are kept on disk under a key of everything that decides them; the files may be deleted at any time."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from splitvae.data.cache import cache_root
from splitvae.errors import SplitVAEError
from splitvae.files import replacing

if TYPE_CHECKING:
    from splitvae.evaluation.extractors import Extractor

CACHE_VERSION = 1
MOST_BYTES = 8 * 2**30  # of a folder of features; the longest unused files are deleted beyond it


def kept_features(
    what: str, extractor: "Extractor", content: list[Any], rows: int, make: Callable[[], np.ndarray], bf16: bool = False
) -> np.ndarray:
    """Features from the cache, or made now; not kept where the extractor does not state its weights.

    Args:
        what: begins the file's name, for people.
        extractor: all of it that decides features is in the key.
        content: which images: hashes, JSON values.
        rows, make: see ``keep``.
        bf16: whether they are computed in bf16.
    """
    if not extractor.weights_sha256:
        return make()
    key = [*content, extractor.name, extractor.weights_sha256, extractor.resize, bf16]
    return keep(cache_root() / "features", f"{what}-{extractor.name}", key, rows, make)


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, for keys."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def keep(directory: Path, name: str, key: list[Any], rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that ``make`` made once for this key, from disk, or made now and put there if there is room.

    Args:
        directory: made where it is missing.
        name: begins the file's name, for people.
        key: JSON values. torch's version is left out on purpose: what it changes is rounding.
        rows: the length of the array; a file of another length is made again.
        make: called where there is no such file, or a damaged one.
    """
    code = hashlib.sha256(json.dumps([CACHE_VERSION, *key]).encode()).hexdigest()[:24]
    path = directory / f"{name.replace(':', '-')}-{code}.npy"
    try:
        stored = np.load(path, allow_pickle=False)
        if len(stored) == rows:
            os.utime(path)  # used now: deleted last
            return stored
    except (OSError, ValueError, EOFError, TypeError):
        pass
    made = make()
    try:
        with replacing(path) as temporary:
            np.save(temporary, made)
        _make_room(directory)
    except (OSError, SplitVAEError):
        pass  # a full disk must not cost the numbers: they are made again next time
    return made


def _make_room(directory: Path) -> None:
    """Delete the longest unused files of a folder that has grown too large."""
    files = sorted(((f.stat().st_mtime, f.stat().st_size, f) for f in directory.glob("*.npy")), reverse=True)
    total = 0
    for _, size, file in files:
        total += size
        if total > MOST_BYTES:
            file.unlink(missing_ok=True)
