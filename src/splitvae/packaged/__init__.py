"""The small model that comes with the package, so that there is something to look at before any training.

``mnist/`` is a run as `splitvae train` leaves it, less what is only needed to go on with it; its card says how it was
made. ``pack.py`` puts a run there.
"""

from pathlib import Path

from splitvae.densities.store import density_names
from splitvae.errors import InputError, nearest
from splitvae.run import Run

TITLE = "A small SplitVAE on MNIST"
DENSITY = "gmm-per-class"  # of the packaged densities the one nearest to the training images; see its metrics.json


def packaged_run() -> Run:
    """The packaged run: a SplitVAE on MNIST, with two mixtures fitted on its training codes.

    Examples:
        >>> packaged_run().model.sample(2).shape
        torch.Size([2, 1, 32, 32])
    """
    return Run.open(Path(__file__).parent / "mnist")


def packaged_density(name: str | None) -> str:
    """The density of the packaged run to draw from: that of this name, None = ``DENSITY``.

    Raises:
        InputError: there is none of this name, and none can be fitted: the package is no place to write to.
    """
    known = ("normal", *density_names(packaged_run().path))
    if name is not None and name not in known:
        raise InputError(f"the model that comes with splitvae has no density '{name}'.{nearest(name, known)}")
    return name or DENSITY
