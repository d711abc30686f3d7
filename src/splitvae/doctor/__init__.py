"""``splitvae doctor``: what goes wrong most often, found before it costs a night.

A leaf: nothing else imports it. ``sources.py`` examines images, ``runs.py`` and ``probe.py`` a training run; each check
says in one line what it found, whether that is fine, and the remedy if not.
"""

from pathlib import Path

from rich.console import Console

from splitvae.config import parse_size
from splitvae.doctor.findings import Finding as Finding
from splitvae.doctor.findings import show as show
from splitvae.doctor.runs import examine_run as examine_run
from splitvae.doctor.sources import examine_source as examine_source
from splitvae.errors import InputError
from splitvae.presets import PRESETS
from splitvae.run import is_run


def examine(what: str | Path, image_size: int | str | None = None, quiet: bool = True) -> list[Finding]:
    """Examine a run, or else a source of images.

    Args:
        what: a run directory; or whatever ``train`` takes as its data.
        image_size: that a source will be trained at, as for ``train``; a run has its own.
        quiet: no progress bar.

    Raises:
        InputError: neither a run nor a source, or an ``image_size`` for a run.
    """
    size, path = parse_size(image_size), Path(what).expanduser()
    if is_run(path):
        if size is not None:
            raise InputError(f"{what} is a run and has its size; leave out --image-size.")
        return examine_run(path)
    if not path.exists():
        if path.parent != Path() and path.parent.is_dir():  # mistyped, and not the name of a data set on the hub
            raise InputError(f"{what} does not exist; pass a run, or whatever `splitvae train` takes as --data.")
        if str(what) in PRESETS and what != "digits":
            own = PRESETS[str(what)].values.get("data", "FOLDER")
            raise InputError(f"{what} is a recipe; examine its images: splitvae doctor {own}, or a copy of them.")
    return examine_source(what, size, quiet=quiet)


def doctor(what: str, image_size: int | str | None = None) -> None:
    """Examine and print. Whatever is found the exit status stays 0: findings are advice, not failures."""
    console = Console(highlight=False, markup=False)
    show(examine(what, image_size, quiet=not console.is_terminal), console)
