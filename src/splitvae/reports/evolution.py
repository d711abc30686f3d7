"""Figure 13: the Fréchet distance of x̂ and of each component along training, from a run's snapshots."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from splitvae.densities.normal import StandardNormal
from splitvae.errors import InputError
from splitvae.evaluation.evaluate import open_setting
from splitvae.evaluation.feature_cache import digest, kept_features
from splitvae.evaluation.metrics import frechet_from_features
from splitvae.evaluation.outputs import mixed, output_features
from splitvae.evaluation.protocol import Setting, Source, card
from splitvae.models.pretrained import load_model
from splitvae.reports.plots import COLOURS, PALE, mathtext, new_plot
from splitvae.run import Run, model_hash

if TYPE_CHECKING:
    import torch

    from splitvae.evaluation.features import Extractor


def evolution(
    run: Run,
    n: int = 10_000,
    seed: int = 0,
    extractor: "str | Extractor" = "inception-v3-compat",
    weights: str | Path | None = None,
    device: "torch.device | str | None" = None,
    advance: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """The distance from test images of every output of every snapshot; latents from the prior.

    The latents are those of `splitvae evaluate` with the same n and seed, so that a snapshot of the last epoch has
    the distances of its rows "normal".

    Args:
        run: a finished run with snapshots.
        n: samples of each snapshot; the test split's size where it has fewer.
        seed: of the latents, which are the same for every snapshot.
        extractor, weights, device, advance: as in ``evaluate``.

    Returns:
        ``distance``, its name; ``epochs``; ``outputs``, name → one distance for each epoch; ``card``, as that of
        ``evaluate``: equal signatures say that numbers may stand beside each other.

    Raises:
        InputError: the run has no snapshots.
    """
    folders = sorted(path.parent for path in (run.path / "snapshots").glob("epoch-*/config.json"))
    if not folders:
        raise InputError(
            f"{run.path} has no snapshots, of which figure 13 is made; train a run with: --snapshot-every 1"
        )
    if n < 2:
        raise InputError(f"a distance needs at least 2 samples, not --n {n}.")
    setting = open_setting(run, extractor, n, every=False, weights=weights, device=device, advance=advance)
    prior = Source("clean", "normal", StandardNormal(run.model.latent_dim))
    z, _ = setting.sample(prior, seed)
    distances = [_kept_distances(setting, folder, z, seed) for folder in folders]
    how = card(setting, [prior], [seed]) | {"density": "normal", "snapshots": len(folders)}
    return {
        "figure": 13,
        "distance": how["distance"],
        "epochs": [int(folder.name.removeprefix("epoch-")) for folder in folders],
        "outputs": {name: [float(row[i]) for row in distances] for i, name in enumerate(setting.outputs)},
        "card": how,
    }


def evolution_plot(result: dict[str, Any]) -> Figure:
    """Figure 13 as lines, from what ``evolution`` returns."""
    figure, (axes,) = new_plot(6.4, 4.0)
    for output, distances in result["outputs"].items():
        colour = COLOURS.get(output, PALE)
        marker = "." if len(distances) <= 40 else ""
        axes.plot(result["epochs"], distances, color=colour, label=mathtext(output), linewidth=1.6, marker=marker)
    axes.set_xlabel("epoch")
    axes.set_ylabel(result["distance"])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def _kept_distances(setting: Setting, folder: Path, z: Tensor, seed: int) -> np.ndarray:
    """``_distances`` from disk where they are there; the features of a hundred snapshots would be some 15 GB."""
    content = [model_hash(folder), digest(z.numpy()), setting.run.data.meta["content_hash"], seed]
    make = partial(_distances, setting, folder, z, seed)
    return kept_features("snapshot", setting.extractor, content, len(setting.outputs), make, setting.bf16)


def _distances(setting: Setting, folder: Path, z: Tensor, seed: int) -> np.ndarray:
    """The distance of each output of one snapshot, (O,), in the order of ``setting.outputs``."""
    model = load_model(folder).to(setting.run.model.device)
    features = output_features(model, z, setting.extractor, setting.advance)
    own = [mixed(features, seed) if name == "mix" else features[:, i] for i, name in enumerate(setting.outputs)]
    return np.array([frechet_from_features(part, setting.test) for part in own])
