"""What the systems of a table paint: a row of samples for each."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from splitvae.densities.store import load_density
from splitvae.errors import InputError
from splitvae.evaluation.outputs import decode_outputs, output_names
from splitvae.pictures import grid, mix, to_uint8
from splitvae.reports.columns import symbol
from splitvae.reports.plots import titled
from splitvae.reproduce.results import Job, own_run
from splitvae.run import Run


@torch.inference_mode()
def samples_picture(result: dict[str, Any], jobs: list[Job], runs: Path, n: int = 14) -> Image.Image | None:
    """Samples of each system's density and chosen output, not picked by hand: drawn with generator seed 0.

    Args:
        result: see ``summarize_table``, or ``summarize_claim``, of whose lines all are shown; the first seed's run.
        jobs: those of the table.
        runs: the folder of run directories; systems whose run is not there are left out.
        n: samples of each system.

    Returns:
        the picture, or None where no run is there.
    """
    named, rows = {job.name: job for job in jobs}, dict[str, np.ndarray]()
    for line in result["lines"]:
        job, output = named.get(line["run"]), "" if line["output"] == "x_hat" else f", {symbol(line['output'])}"
        if line.get("chosen", True) and job is not None:
            with suppress(InputError):  # a run half removed, or another's: it has no row
                rows[line["row"] + output] = _samples(own_run(job, runs), line["density"], line["output"], n)
    if not rows:
        return None
    return titled(grid(list(rows.values())), list(rows))


def _samples(run: Run, density: str, output: str, n: int) -> np.ndarray:
    """(n, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    z = load_density(density, run.path, run.model.latent_dim)[0].sample(n, generator=generator)
    if output == "mix":
        return to_uint8(mix(run.model.decode(z), generator))
    number = output_names(run.model).index(output)
    return np.concatenate([batch[:, number] for batch in decode_outputs(run.model, z)])
