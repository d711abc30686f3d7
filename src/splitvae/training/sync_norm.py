"""Batch norm over the batch of all processes, so that N processes train the model that one would."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose mean and variance are those of the global batch; works on every backend, gloo included.

    torch's own ``SyncBatchNorm`` needs a GPU. Every process must hold equally many images.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1] * dist.get_world_size()

        # One exchange: the means of x and of x² over processes; gradients flow back through it. In float64, because the
        # difference of the two loses digits where a channel is far from 0.
        own_variance, own_mean = (moment.double() for moment in torch.var_mean(x, axes, correction=0))
        moments = torch.stack([own_mean, own_variance + own_mean.square()])
        moments = all_reduce(moments) / dist.get_world_size()
        mean, variance = moments[0].float(), (moments[1] - moments[0].square()).clamp(min=0).float()

        with torch.no_grad():
            assert self.momentum is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(input.dtype)


def synchronise(model: nn.Module) -> None:
    """Turn every batch norm in ``model`` into a synchronised one, in place; names and tensors stay the same."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SyncedBatchNorm  # type: ignore[assignment]
