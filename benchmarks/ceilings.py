"""What the machine can do at all, so that a rate can be called good or bad: matrix product, convolution, copy."""

import time

import torch
import torch.nn.functional as F

from benchmarks.timing import seconds


def ceilings(
    device: torch.device, size: int = 2048, batch: int = 100, channels: int = 64, side: int = 32, bf16: bool = True
) -> dict:
    """Best of several.

    Args:
        device: where.
        size: side of the matrices; 8192 fills a GPU.
        batch, channels, side: of the convolution, 3×3, channels-last, forward.
        bf16: whether the device has bf16 units.

    Returns:
        ``matmul_float32_tflops``, ``matmul_bf16_tflops``, ``convolution_float32_tflops``,
        ``convolution_bf16_tflops``, ``copy_gbps`` (read and written bytes), ``launch_us`` (a tiny operation).
    """
    found: dict[str, float] = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        n = size if name == "float32" or bf16 else size // 8  # without bf16 units a large product takes minutes
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[f"matmul_{name}_tflops"] = 2 * n**3 / _best(lambda a=a, b=b: a @ b) / 1e12
        x = torch.randn(batch, channels, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
        flops = 2 * 9 * channels**2 * batch * side**2
        found[f"convolution_{name}_tflops"] = flops / _best(lambda x=x, w=w: F.conv2d(x, w, padding=1)) / 1e12
    source = torch.zeros(64 * size**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_gbps"] = 2 * len(source) / _best(lambda: target.copy_(source)) / 1e9
    tiny = torch.zeros(1, device=device)
    start = time.perf_counter()
    for _ in range(1000):
        tiny.add_(1)
    found["launch_us"] = (time.perf_counter() - start) * 1e3
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _best(call: object, limit_s: float = 1.0) -> float:
    """The fastest of at least three calls, and of as many as fit into the limit."""
    times = [seconds(call)]  # type: ignore[arg-type]
    begun = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - begun < limit_s and len(times) < 100):
        times.append(seconds(call))  # type: ignore[arg-type]
        if time.perf_counter() - begun > 4 * limit_s:
            break
    return min(times)
