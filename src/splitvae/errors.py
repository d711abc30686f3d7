"""What a person is told when something cannot be done: one line that names the thing, the bound and the remedy."""

import difflib
from collections.abc import Iterable


class SplitVAEError(Exception):
    """A failure on the way (exit status 1): a diverged run, a full disk, a hub that cannot be reached."""

    exit_status = 1


class InputError(SplitVAEError, ValueError):
    """Wrong usage or input (exit status 2)."""

    exit_status = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'mnist'?"`` where a known word is close, else what there is to choose from."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Choose from: {', '.join(known)}."
