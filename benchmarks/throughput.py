"""Images per second of the loader, the forward pass and the training step, in float32 and bf16, in one run.

    python benchmarks/throughput.py [--base-channels 64] [--side 32] [--batch 100] [--steps 8]

Prints JSON: medians over the steps, with the machine. The precisions take turns step by step, so that a noisy
neighbour slows both alike; compare ratios within one run, never rates between runs.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from splitvae import SplitVAE, __version__, prepare
from splitvae.data.loader import ImageLoader
from splitvae.training.precision import choose_precision


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with the device's queue empty before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-channels", type=int, default=64)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    with tempfile.TemporaryDirectory() as directory:
        os.environ["SPLITVAE_CACHE"] = directory
        rng = np.random.default_rng(0)
        shape = (10 * options.batch, options.side, options.side, options.channels)
        np.savez(Path(directory) / "noise.npz", train=rng.integers(0, 256, shape, dtype=np.uint8))
        cache = prepare(Path(directory) / "noise.npz")
        loader = ImageLoader(cache, "train", options.batch, seed=0, device=device)
        loader.batch(0, 0)
        load = [seconds(lambda i=i: loader.batch(0, i % loader.steps_per_epoch)) for i in range(50)]
        x = loader.batch(0, 0).contiguous(memory_format=torch.channels_last)

    times: dict[str, list[float]] = {}
    models = {}
    for precision in ("float32", "bf16"):
        model = SplitVAE(cache.shape, options.latent_dim, base_channels=options.base_channels)
        model = model.to(device, memory_format=torch.channels_last)
        models[precision] = model, torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7, fused=True)

    def forward(precision: str) -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            models[precision][0](x)

    def step(precision: str) -> None:
        model, optimizer = models[precision]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(x)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for i in range(options.steps + 2):
        for precision in models:
            for call in (forward, step):
                taken = seconds(lambda call=call, precision=precision: call(precision))
                if i >= 2:  # the first two choose kernels and fill memory pools
                    times.setdefault(f"{precision} {call.__name__}", []).append(taken)

    rate = {name: options.batch / statistics.median(values) for name, values in times.items()}
    rate["loader"] = options.batch / statistics.median(load)
    step_seconds = options.batch / max(rate["float32 step"], rate["bf16 step"])
    chosen = choose_precision("auto", device)
    print(
        json.dumps(
            {
                "images_per_second": {name: round(value, 1) for name, value in sorted(rate.items())},
                "bf16_over_float32_step": round(rate["bf16 step"] / rate["float32 step"], 2),
                "loader_share_of_step": round(statistics.median(load) / step_seconds, 4),
                "auto_precision": chosen,
                "network": vars(options),
                "machine": {
                    "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
                    "threads": torch.get_num_threads(),
                    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                    "torch": torch.__version__,
                    "splitvae": __version__,
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
