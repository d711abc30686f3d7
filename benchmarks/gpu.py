"""Everything that needs a GPU: ``python -m benchmarks.gpu``, or ``--tiny`` anywhere, to see that it runs.

Writes ``benchmarks/results/HARDWARE-….json``. The aims on one H100, from the project's plan: 2.2 ms per step of 100 at
32×32 (stretch 1.6), 20 % of the measured bf16 matrix rate at 64×64 (stretch 35 %), features and Fréchet distances of
10,000 images × 4 outputs × 3 priors in a minute, and a mixture of 100 components on 162,770×150 codes in 20 s.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.__main__ import RESULTS, file_name, machine
from benchmarks.ceilings import ceilings
from benchmarks.density import synthetic_codes
from benchmarks.extraction import INCEPTION, write_random_weights
from benchmarks.timing import seconds, summary
from benchmarks.training import Ours
from splitvae import GaussianMixture, SplitVAE, train
from splitvae.device import pick_device
from splitvae.evaluation.extractors import get_extractor
from splitvae.evaluation.metrics import Reference, frechet_from_features
from splitvae.evaluation.outputs import mixed, output_features
from splitvae.files import write_json

AIMS = {
    "ms per step of 100, 32×32": 2.2,
    "share of the bf16 matrix rate, 64×64": 0.20,
    "seconds, 10,000 images × 4 outputs × 3 priors": 60,
    "seconds, mixture of 100 on 162,770×150": 20,
}
SIZES = {
    "full": {
        "base_channels": 64, "batch": 100, "steps": 200, "matrix": 8192, "images": 60_000, "evaluated": 10_000,
        "codes": 162_770, "dim": 150, "components": 100,
    },
    "tiny": {
        "base_channels": 4, "batch": 4, "steps": 2, "matrix": 64, "images": 40, "evaluated": 20,
        "codes": 400, "dim": 8, "components": 3,
    },
}  # fmt: skip


def steps(side: int, device: torch.device, size: dict[str, int], rate_tflops: float, compiled: bool) -> dict[str, Any]:
    """Milliseconds of a step in a row of steps; how much of that the host needs; the share of the matrix rate."""
    precision = "bf16" if device.type == "cuda" else "float32"
    ours = Ours(side, size["base_channels"], size["batch"], precision, device, compiled)
    ours.run(max(3, size["steps"] // 10))  # chooses kernels, records graphs
    n, host, whole = size["steps"], [], []
    for _ in range(5):

        def run() -> None:
            begun = time.perf_counter()
            ours.run(n)
            host.append((time.perf_counter() - begun) / n)  # until the last step is enqueued

        whole.append(seconds(run) / n)
    median = summary(whole)["median_s"]
    return {
        "ms_per_step": 1e3 * median,
        "host_ms_per_step": 1e3 * summary(host)["median_s"],
        "images_per_second": size["batch"] / median,
        "share_of_bf16_matrix_rate": ours.step_flops() / median / 1e12 / rate_tflops,
        "parts_ms": {name: 1e3 * value for name, value in ours.step().items()},
    }


def epoch(side: int, device: torch.device, size: dict[str, int], compiled: bool) -> dict[str, float]:
    """Seconds of epochs as ``splitvae train`` runs them, log, pictures and checkpoints included."""
    shape = {32: (1, 32, 32), 64: (3, 64, 64)}[side]
    images = np.random.default_rng(0).integers(0, 256, (size["images"], *shape), dtype=np.uint8)
    options = {
        "base_channels": size["base_channels"], "batch_size": size["batch"], "compile": compiled, "quiet": True,
        "device": "cpu" if device.type == "cpu" else "auto",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "noise.npz", train=images, test=images[: max(10, len(images) // 60)])
        with patch.dict(os.environ, SPLITVAE_CACHE=folder):
            run = train(data=str(Path(folder) / "noise.npz"), out=Path(folder) / "run", epochs=2, **options)
        log = run.log()
        summed = run.summary["training_seconds"]
    return {
        "training_seconds_of_two_epochs": summed,
        "steps": 2 * (size["images"] // size["batch"]),
        "logged_ms_per_step": 1e3 * log[-1]["sec_per_step"] if log else float("nan"),
    }


def evaluation(device: torch.device, size: dict[str, int]) -> dict[str, float]:
    """Seconds to decode, extract and compare n images × (x̂, x̂₁, x̂₂, mix) × 3 priors, with Inception-2015."""
    n, model = size["evaluated"], SplitVAE((3, 64, 64), 150, base_channels=size["base_channels"]).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_random_weights(Path(folder) / "weights.pt")  # random ones cost what the published ones do
        extractor = get_extractor(INCEPTION, Path(folder) / "weights.pt", device)
    z = torch.randn(n, 150, generator=torch.Generator().manual_seed(0))
    taken = {"features_s": 0.0, "frechet_s": 0.0}
    reference: Reference | None = None
    for prior in range(3):
        begun = time.perf_counter()
        features = output_features(model, z + 0.1 * prior, extractor)
        taken["features_s"] += time.perf_counter() - begun
        begun = time.perf_counter()
        reference = reference or Reference(features[:, 0])
        for own in (*features.swapaxes(0, 1), mixed(features, 0)):
            frechet_from_features(own, reference)
        taken["frechet_s"] += time.perf_counter() - begun
    return taken | {"total_s": sum(taken.values()), "images": n}


def mixture(device: torch.device, size: dict[str, int]) -> dict[str, float]:
    """Seconds of a whole fit, of its start by k-means, and of one iteration."""
    codes = synthetic_codes(size["codes"], size["dim"], size["components"], 0.2, 0).to(device)
    density = GaussianMixture(size["components"], device=device)
    generator = torch.Generator().manual_seed(0)
    start = seconds(lambda: density._start(codes, generator))
    climb = seconds(lambda: density._climb(codes))
    return {
        "start_s": start,
        "total_s": start + climb,
        "iterations": density.n_iter_,
        "iteration_s": climb / density.n_iter_,
        "nats_per_code": density.lower_bound_,
    }


def measure(device: torch.device, size: dict[str, int], say: Callable[[str], Any] = print) -> dict[str, Any]:
    """All of the above; what fails is told in its place, and the rest goes on."""
    torch.manual_seed(0)
    result: dict[str, Any] = {}

    def attempt(name: str, call: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        try:
            result[name] = call()
        except Exception as error:  # such as a compiler that is missing: one mode, not the rest
            result[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        say(f"{name}: {result[name]} ({time.perf_counter() - begun:.0f} s)")

    attempt("ceilings", lambda: ceilings(device, size["matrix"], size["batch"]))
    rate = result["ceilings"].get("matmul_bf16_tflops", float("nan"))
    for side in (32, 64):
        for compiled in (False, True):
            mode = "compiled" if compiled else "eager"
            attempt(f"steps {side} {mode}", lambda s=side, c=compiled: steps(s, device, size, rate, c))
    for compiled in (False, True):
        attempt(f"epochs 32 {'compiled' if compiled else 'eager'}", lambda c=compiled: epoch(32, device, size, c))
    attempt("evaluation", lambda: evaluation(device, size))
    attempt("mixture", lambda: mixture(device, size))
    result["aims"] = _aims(result)
    return result


def _aims(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What was aimed at, and what was reached by the better mode."""

    def better(side: int, key: str, choose: Callable[..., float]) -> float | None:
        found = [result[f"steps {side} {mode}"].get(key) for mode in ("eager", "compiled")]
        found = [value for value in found if value is not None]
        return choose(found) if found else None

    reached = [
        better(32, "ms_per_step", min),
        better(64, "share_of_bf16_matrix_rate", max),
        result["evaluation"].get("total_s"),
        result["mixture"].get("total_s"),
    ]
    return {name: {"aim": aim, "reached": value} for (name, aim), value in zip(AIMS.items(), reached, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; the GPU without it")
    parser.add_argument("--tiny", action="store_true", help="a size for any machine: shows that it runs, no more")
    parser.add_argument("--out", type=Path, help="the JSON file; without it one of benchmarks/results/")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cpu" and not options.tiny:
        parser.error("there is no GPU here; pass --tiny to see that everything runs")
    record = machine(torch.get_num_threads()) | {"gpu": None}
    if device.type == "cuda":
        record["gpu"] = {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    result = {"machine": record, "size": SIZES["tiny" if options.tiny else "full"]}
    result |= measure(device, result["size"])
    kind = f"{record['gpu']['name'] if record['gpu'] else 'no gpu'} {'tiny ' if options.tiny else ''}"
    out = options.out or RESULTS / file_name(kind)
    write_json(out, result)
    print(json.dumps(result["aims"], indent=2), out, sep="\n")


if __name__ == "__main__":
    main()
