"""The app of the command line, and what several commands share."""

from pathlib import Path
from typing import Any, Literal

from cyclopts import App, Group, Parameter

from splitvae import __version__
from splitvae.errors import InputError

MAIN = Group("Command", sort_key=0)
app = App(
    name="splitvae",
    help="Train, compare and score variational autoencoders; split ones first of all.",
    version=__version__,
    group_arguments=MAIN,
    group_parameters=MAIN,
    result_action="return_value",
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
    help_epilogue="With any command: --quiet prints nothing but errors, --debug a traceback instead of the one-line "
    "error.",
)


@app.command(
    help_epilogue="Example: splitvae completion bash > ~/.local/share/bash-completion/completions/splitvae\n\n"
    "Example: splitvae completion zsh > ~/.zfunc/_splitvae\n\n"
    "Example: splitvae completion fish > ~/.config/fish/completions/splitvae.fish"
)
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script that completes commands, options and their values in a shell.

    Args:
        shell: Which one.
    """
    print(app.generate_completion(prog_name="splitvae", shell=shell))


def progress_bar(console: Any) -> Any:
    """A progress bar that counts, on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def existing(run: Path) -> Path:
    """A path on this machine; a mistyped run must not be looked for on the hub."""
    if not (found := run.expanduser()).exists():
        raise InputError(f"{run} does not exist; pass a run directory or a saved model.")
    return found


def preparation(run: Path) -> tuple[Any, Any]:
    """How the run prepared its pictures, (crop, fit); the defaults for a model without its run."""
    from splitvae.run import Run

    if not (run / "model").is_dir():
        return "auto", "crop"
    config = Run.open(run).config
    return config.crop, config.fit


def check_seed(seed: int) -> None:
    """Refuse what torch's generators cannot be seeded with."""
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed must be from 0 to 2⁶³ − 1, not {seed}.")
