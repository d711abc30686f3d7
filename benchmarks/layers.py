"""Where a training step's time goes: every kind of layer and shape, forward, input gradient and weight gradient."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import seconds
from benchmarks.training import CHANNELS, LATENTS
from splitvae.config import TrainConfig
from splitvae.models.build import build_model

SHOWN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def profile(
    side: int, base_channels: int, batch: int, rounds: int, bf16: bool, device: torch.device
) -> list[dict[str, Any]]:
    """One entry for each different layer, dearest first.

    Each is run by itself on random numbers in channels-last memory: what it costs without its neighbours.

    Returns:
        ``layer`` in words, ``count`` in the network, and milliseconds of one: ``forward``, ``input``, ``weight``
        (gradients, the bias with the weight); ``total_ms`` = count times their sum; ``tflops`` over all three.
    """
    config = TrainConfig(latent_dim=LATENTS[side], base_channels=base_channels)
    model = build_model(config, (CHANNELS[side], side, side)).to(device)
    seen: Counter[tuple] = Counter()
    kinds: dict[tuple, tuple[nn.Module, tuple[int, ...]]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        key = (repr(module), tuple(inputs[0].shape[1:]))
        seen[key] += 1
        kinds[key] = (module, tuple(inputs[0].shape[1:]))

    for module in model.modules():
        if isinstance(module, SHOWN):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(2, *model.image_shape, device=device))
    rows = [_measure(*kinds[key], seen[key], batch, rounds, bf16) for key in seen]
    return sorted(rows, key=lambda row: -row["total_ms"])


def _measure(
    module: nn.Module, shape: tuple[int, ...], count: int, batch: int, rounds: int, bf16: bool
) -> dict[str, Any]:
    module._forward_hooks.clear()
    device = next(module.parameters()).device
    x = torch.randn(batch, *shape, device=device)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    parameters = list(module.parameters())
    out: list[Tensor] = []

    def forward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            out[:] = [module(x)]

    times: dict[str, list[float]] = {"forward": [], "input": [], "weight": []}
    for _ in range(rounds + 1):
        times["forward"].append(seconds(forward))
        gradient = torch.randn_like(out[0])
        for name, wanted in (("input", [x]), ("weight", parameters)):
            if name == "input" and shape[0] in (1, 3) and len(shape) == 3:
                times[name].append(0.0)  # the gradient of the image itself is never asked for
                continue
            times[name].append(
                seconds(lambda wanted=wanted, g=gradient: torch.autograd.grad(out[0], wanted, g, retain_graph=True))
            )
    ms = {name: 1e3 * sorted(values[1:])[len(values[1:]) // 2] for name, values in times.items()}
    total = sum(ms.values())
    passes = 1 + (ms["input"] > 0) + 1
    tflops = passes * _flops(module, out[0]) / total / 1e9 if _flops(module, out[0]) else None
    words = f"{_words(module)} on {'×'.join(map(str, shape))}"
    return {"layer": words, "count": count, **{k: round(v, 3) for k, v in ms.items()}} | {
        "total_ms": round(count * total, 2), "tflops": None if tflops is None else float(f"{tflops:.3g}"),
    }  # fmt: skip


def _flops(module: nn.Module, out: Tensor) -> float:
    """Of one forward pass; a multiply-add counts 2."""
    if isinstance(module, nn.Linear):
        return 2.0 * module.weight.numel() * len(out)
    if isinstance(module, nn.ConvTranspose2d):
        return 2.0 * module.weight.numel() * len(out) * out.shape[2] * out.shape[3] / module.stride[0] ** 2
    if isinstance(module, nn.Conv2d):
        return 2.0 * module.weight.numel() * len(out) * out.shape[2] * out.shape[3]
    return 0.0


def _words(module: nn.Module) -> str:
    if isinstance(module, nn.ConvTranspose2d):
        return f"transposed convolution {module.in_channels}→{module.out_channels}, stride 2"
    if isinstance(module, nn.Conv2d):
        return f"convolution {module.in_channels}→{module.out_channels}" + ", stride 2" * (module.stride[0] == 2)
    if isinstance(module, nn.Linear):
        return f"dense {module.in_features}→{module.out_features}"
    return "batch norm"
