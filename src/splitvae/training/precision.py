"""bf16 where the machine is really faster with it, and the order of images in memory."""

import os
import time
from pathlib import Path

import torch
from torch import nn

from splitvae.config import TrainConfig

BF16_INSTRUCTIONS = {"amx_bf16", "avx512_bf16"}
CPUINFO = Path("/proc/cpuinfo")


def choose_precision(asked: str, device: torch.device) -> tuple[str, str]:
    """Decide between "bf16" and "fp32".

    Args:
        asked: "auto", "bf16" or "fp32".
        device: where training runs.

    Returns:
        (precision, reason); both are recorded in the run.
    """
    if asked != "auto":
        return asked, "asked for"
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16":
        return "bf16", "asked for by accelerate launch"
    if device.type == "cuda":
        known = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has bf16 units") if known else ("fp32", "the GPU has no bf16 units")
    if device.type != "cpu":
        return "fp32", f"bf16 is not known to help on {device.type}"
    if CPUINFO.exists() and (flags := BF16_INSTRUCTIONS & set(CPUINFO.read_text(encoding="utf-8").split())):
        return "bf16", f"the CPU has {', '.join(sorted(flags))}"
    ratio = _convolution_seconds(torch.float32) / _convolution_seconds(torch.bfloat16)
    return ("bf16" if ratio > 1.2 else "fp32"), f"a bf16 convolution runs at {ratio:.1f} times the float32 rate"


def memory_layout(config: TrainConfig, device: torch.device) -> torch.memory_format:
    """Channels last, in which convolutions are fastest, but for a gradient penalty on a CPU.

    Its second differentiation mixes both layouts, and every product of a mixed pair is slow there: in float32 a step of
    small RAE-GPs takes 1.65 times as long with channels last on MNIST, 1.27 times on CelebA (docs/performance.md).
    """
    twice = config.model == "rae-gp" and config.penalty_weight > 0
    return torch.contiguous_format if twice and device.type == "cpu" else torch.channels_last


def _convolution_seconds(dtype: torch.dtype) -> float:
    """Best of three: forward and backward of one 64-channel 3×3 convolution at 16×16."""
    layer = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last).to(dtype)
    x = torch.ones(16, 64, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        layer(x).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times[1:])
