"""Writing so that nothing that was there before is lost: beside the old file, then renamed over it."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from splitvae.errors import InputError, SplitVAEError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Raises:
        SplitVAEError: the file cannot be written (disk full, no permission); the old one is untouched.
    """
    path = path.expanduser()
    # The suffix stays last because writers such as Pillow choose their format by it.
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SplitVAEError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another place."
        ) from error
    finally:
        with suppress(OSError):  # as where the folder is a file: the error above is told
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; ``what`` names it in the error, as in "not a run: cannot read …"."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not valid JSON ({error})"
        raise InputError(f"{what}: cannot read {path}: {reason}.") from error
