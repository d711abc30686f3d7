"""What keeps a run from harm: existing directories, two processes at once, signals."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.state import AcceleratorState, is_initialized
from filelock import FileLock, Timeout

from splitvae.errors import InputError
from splitvae.run import is_run


def refuse_existing(path: Path, overwrite: bool, *sources: str | None) -> None:
    """Make the directory ``path``, or raise InputError if it cannot become a run: it is a file, or holds something.

    Args:
        path: of the run to be.
        overwrite: a run that is there shall be replaced.
        sources: data and masks, see ``absolute``, which must not be lost with it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run directory {path}: {error.strerror}; choose another --out.") from error
    if all(child.name.startswith(".") for child in path.iterdir()):  # nothing, or what a killed start left behind
        return
    if not overwrite:
        raise InputError(f"{path} exists already; choose another --out, resume it with --resume, or pass --overwrite.")
    if not is_run(path):
        raise InputError(f"{path} is not empty and holds no run; --overwrite replaces runs only. Choose another --out.")
    for source in sources:
        if source is not None and Path(source).is_absolute() and Path(source).is_relative_to(path.resolve()):
            raise InputError(f"{source} lies in {path}, which --overwrite empties; choose another --out.")


def clear_run(path: Path) -> None:
    """Remove everything of a run but its lock."""
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != ".lock":
            child.unlink()


@contextmanager
def leaving_no_state() -> Iterator[None]:
    """Forget what accelerate keeps for the whole process, so that the next training may choose another device.

    Not where somebody else's accelerator was there before.
    """
    before = is_initialized()
    try:
        yield
    finally:
        if not before:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def only_process_in(path: Path) -> Iterator[None]:
    """Hold the run's lock, which the operating system releases when the process ends, however it ends.

    A directory in which nothing came to be is removed at the end.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{path} is in use by another process; wait for it or stop it.") from error
    try:
        yield
    finally:
        if [child.name for child in path.iterdir()] == [".lock"]:
            (path / ".lock").unlink()
            path.rmdir()
        lock.release()


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the list that is yielded; a second SIGINT interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
