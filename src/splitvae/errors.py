"""What a person is told when something cannot be done: one line that names the thing, the bound and the remedy."""

import difflib
from collections.abc import Iterable


class SplitVAEError(Exception):
    """A failure on the way (exit status 1): a diverged run, a full disk, a hub that cannot be reached."""

    exit_status = 1


class InputError(SplitVAEError, ValueError):
    """Wrong usage or input (exit status 2)."""

    exit_status = 2


class Interrupted(SplitVAEError):
    """A signal ended the work in an orderly way (exit status 128 + signal: 130 for Ctrl-C, 143 for SIGTERM)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'mnist'?"`` where a known word is close, else what there is to choose from."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Choose from: {', '.join(known)}."
