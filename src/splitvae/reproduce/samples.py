"""What the systems of a table paint: a row of samples for each."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from splitvae.densities.store import density_names, load_density
from splitvae.evaluation.outputs import decode_outputs, output_names
from splitvae.pictures import grid, mix, to_uint8
from splitvae.reports.columns import symbol
from splitvae.reports.plots import with_text
from splitvae.run import Run

LABELS = 190  # pixels on the left


@torch.inference_mode()
def samples_picture(result: dict[str, Any], runs: Path, n: int = 14) -> Image.Image | None:
    """Samples of each system's density and chosen output, not picked by hand: the first of sampling seed 0.

    Args:
        result: see ``summarize_table``; shown is the first seed's run.
        runs: the folder of run directories; systems whose run is not there are left out.
        n: samples of each system.

    Returns:
        the picture, or None where no run is there.
    """
    rows = {}
    for line in result["lines"]:
        folder = runs / line["run"]
        if line["chosen"] and (folder / "config.json").exists() and line["density"] in density_names(folder):
            output = "" if line["output"] == "x_hat" else f", {symbol(line['output'])}"
            rows[line["row"] + output] = _samples(Run.open(folder), line["density"], line["output"], n)
    if not rows:
        return None
    picture = grid(list(rows.values()))
    step = picture.height / len(rows)
    texts = [(LABELS / 2, (i + 0.5) * step, name) for i, name in enumerate(rows)]
    return with_text(picture, texts, left=LABELS)


def _samples(run: Run, density: str, output: str, n: int) -> np.ndarray:
    """(n, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    z = load_density(density, run.path, run.model.latent_dim)[0].sample(n, generator=generator)
    if output == "mix":
        return to_uint8(mix(run.model.decode(z), generator))
    number = output_names(run.model).index(output)
    return np.concatenate([batch[:, number] for batch in decode_outputs(run.model, z)])
