"""Make the packaged model from a run: `make packaged-model`, whose last line is `python -m splitvae.packaged.pack RUN`.

What is kept is what shows, samples and explains: model, densities, log, numbers; no image of the data set. The record
loses what belongs to the machine that trained: folders, the operating system.
"""

import shutil
import sys
from pathlib import Path

import torch

from splitvae.densities.store import density_names
from splitvae.errors import InputError
from splitvae.evaluation.evaluate import chosen, summarize
from splitvae.evaluation.verify import read_metrics
from splitvae.files import write_json
from splitvae.models.pretrained import load_model
from splitvae.packaged import DENSITY
from splitvae.presets import PRESETS
from splitvae.run import Run

LARGEST_BYTES = 3_000_000

CARD = """\
# A small SplitVAE on MNIST

The model that `splitvae sample` and `splitvae serve` use where no run is named. Made by this code alone:

```sh
make packaged-model      # train, fit, evaluate, pack; about half an hour on two cores
```

| | |
|---|---|
| recipe | `{preset}` with β {beta:g}, {epochs} epochs, seed {seed}, {precision} |
| model | {parameters:,} parameters, {latents} latents |
| data | MNIST (LeCun, Cortes, Burges), 60,000 training images, padded to 32×32; content {data_hash} |
| code | commit {commit}, torch {torch} |
| test images | mse {mse:.5f} per pixel, KL {kl:.1f} nats, γ {gamma:.5f}, {inactive} inactive latents |

{distance}, clean protocol: densities fitted on training codes, {n:,} samples against {real:,} test images,
one seed. Lower is better; real training images are {floor:.2f} away. The extractor is this package's own classifier of
digits: these numbers compare with nothing but themselves.

| latents from | {distance} of x̂ |
|---|---|
{rows}

Two epochs of a narrow network: good to look at, not to compare with.
"""


def pack(run: Run, out: Path) -> int:
    """Copy what is needed of an evaluated run to ``out``; returns the bytes written.

    Raises:
        InputError: it was not evaluated or is larger than a package should carry.
    """
    metrics = read_metrics(run)
    best = chosen(metrics["rows"])["source"]
    if best != DENSITY:
        raise InputError(f"the density nearest to the training images is {best}; name it as DENSITY.")
    shutil.rmtree(out, ignore_errors=True)
    for folder in ("model", "densities"):
        (out / folder).mkdir(parents=True)
    for name in density_names(run.path):
        shutil.copyfile(run.path / "densities" / f"{name}.safetensors", out / "densities" / f"{name}.safetensors")
    for name in ("log.jsonl", "summary.json", "model/config.json", "model/model.safetensors"):
        shutil.copyfile(run.path / name, out / name)

    record = run.record
    source = PRESETS[record["preset"]].values["data"]  # the data set's name, whichever folder it lay in
    record["config"]["data"] = record["data"]["source"] = source
    del record["machine"]["system"]
    write_json(out / "config.json", record)
    metrics["card"]["machine"] = metrics["card"]["machine"].split("-")[0]
    write_json(out / "metrics.json", metrics)
    (out / "README.md").write_text(_card(run, metrics), encoding="utf-8")

    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > LARGEST_BYTES:
        raise InputError(f"{out} has {size:,} bytes, a package should carry {LARGEST_BYTES:,} at most.")
    load_model(out)
    return size


def _card(run: Run, metrics: dict) -> str:
    summary, config = run.summary, run.config
    lines = [line for line in summarize(metrics["rows"]) if (line["protocol"], line["output"]) == ("clean", "x_hat")]
    return CARD.format(
        preset=run.record["preset"], beta=config.beta, epochs=config.epochs, seed=config.seed,
        precision=run.record["machine"]["precision"], latents=config.latent_dim,
        parameters=sum(p.numel() for p in run.model.parameters()),
        data_hash=run.record["data"]["content_hash"][:12], commit=(run.record["git_commit"] or "unknown")[:12],
        torch=run.record["versions"]["torch"], mse=summary["mse"], kl=summary["kl"], gamma=summary["gamma"],
        inactive=summary["inactive_latents"]["by_mean"], distance=metrics["distance"],
        n=metrics["card"]["generated_images"], real=metrics["card"]["real_images"],
        floor=metrics["floor"]["frechet_distance"],
        rows="\n".join(f"| {line['source']} | {line['mean']['frechet_distance']:.2f} |" for line in lines),
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print(f"{pack(Run.open(sys.argv[1]), Path(__file__).parent / 'mnist'):,} bytes")
