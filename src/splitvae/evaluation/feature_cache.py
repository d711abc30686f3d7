"""Features that are kept on disk under a key of everything that decides them; the files may be deleted at any time."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from splitvae.files import replacing

CACHE_VERSION = 1


def keep(directory: Path, name: str, key: list[Any], rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that ``make`` made once for this key, from disk, or made now and put there.

    Args:
        directory: made where it is missing.
        name: begins the file's name, for people.
        key: JSON values. torch's version is left out on purpose: what it changes is rounding.
        rows: the length of the array; a file of another length is made again.
        make: called where there is no such file, or a damaged one.
    """
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, *key]).encode()).hexdigest()[:24]
    path = directory / f"{name.replace(':', '-')}-{digest}.npy"
    try:
        stored = np.load(path, allow_pickle=False)
        if len(stored) == rows:
            return stored
    except (OSError, ValueError, EOFError, TypeError):
        pass
    made = make()
    with replacing(path) as temporary:
        np.save(temporary, made)
    return made
