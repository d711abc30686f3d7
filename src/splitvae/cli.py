"""The command ``splitvae``: each sub-command is a function in ``commands/``, whose docstring is its help.

Nothing heavy is imported before a command needs it. An error is one line on stderr; exit status 2 for wrong usage or
input, 1 for a failure on the way, 130 and 143 after signals; a traceback only with ``--debug``.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from cyclopts import CycloptsError, MissingArgumentError

from splitvae.commands import converting as converting
from splitvae.commands import densities as densities
from splitvae.commands import editing as editing
from splitvae.commands import evaluation as evaluation
from splitvae.commands import images as images
from splitvae.commands import layers as layers
from splitvae.commands import reports as reports
from splitvae.commands import reproducing as reproducing
from splitvae.commands import scoring as scoring
from splitvae.commands import serving as serving
from splitvae.commands import training as training
from splitvae.commands.app import app
from splitvae.errors import Interrupted, SplitVAEError

PATIENCE_S = 10  # of other processes than the first


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    debug = "--debug" in arguments
    quiet = "--quiet" in arguments and arguments[0] != "train"  # which has an option of that name, kept in the record
    taken = {"--debug", "--quiet"} if quiet else {"--debug"}
    arguments = [argument for argument in arguments if argument not in taken]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _silence() if quiet else nullcontext():
            app(arguments, print_error=False, exit_on_error=False)
        return 0
    except SplitVAEError as error:
        message, status = str(error), error.exit_status
        if debug:
            raise
    except CycloptsError as error:
        message, status = _wrong_usage(error), 2
        if debug:
            raise
    except KeyboardInterrupt:
        message, status = "interrupted; what was written before is untouched.", 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        message, status = f"{type(error).__name__}: {error} (run again with --debug for the traceback)", 1
    if rank := int(os.environ.get("RANK", "0")):
        if status >= 128:  # torchrun ends all of them together, and the first tells why
            return status
        _let_the_first_tell()
        message = f"process {rank + 1}: {message}"
    print("splitvae: " + " ".join(message.split()), file=sys.stderr)
    return status


def _wrong_usage(error: CycloptsError) -> str:
    """The library's message, but where something is missing: then it is called what the command's help calls it."""
    if not isinstance(error, MissingArgumentError) or error.argument is None:
        return str(error)
    command, option = " ".join(error.command_chain or ()), error.argument.names[0]
    what = f"{option} with a value" if error.argument.index is None else option.removeprefix("--").upper()
    return f"{command} needs {what}; see splitvae {command} --help."


def _let_the_first_tell() -> None:
    """Wait a little before one of several processes ends in an error.

    As a rule all of them meet it, and ``torchrun`` ends the rest as soon as one has gone: were it not the first, that
    might not have told it yet.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(PATIENCE_S)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is printed inside the block but errors, and no bars are drawn."""
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _terminate(number: int, frame: object) -> None:
    raise Interrupted("terminated; what was written before is untouched.", number)
