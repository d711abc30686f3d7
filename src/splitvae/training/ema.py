"""A running average of the weights, which samples better than the last weights."""

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """average ← d·average + (1 − d)·model with d = min(decay, (1 + step)/(10 + step)).

    The ramp lets short runs forget their random start. Parameters only: batch-norm statistics are re-estimated for the
    averaged weights before use, and γ is taken over.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - d)
    for own, other in zip(average.buffers(), model.buffers(), strict=True):
        own.copy_(other)
