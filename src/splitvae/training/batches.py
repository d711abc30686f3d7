"""What each step sees: images and noise, functions of (seed, step), each process and micro-batch its own part."""

import torch
from torch import Tensor

from splitvae.config import TrainConfig
from splitvae.data.loader import ImageLoader, seeded


class Batches:
    """The parts of one process of each step's batch.

    Images and noise are those of the whole batch, however many processes and micro-batches share it.

    Args:
        loader: of the training split.
        config: its ``batch_size``, ``accumulate`` and ``seed``.
        noise_shape: of the standard normal noise of one image.
        processes, process: how many there are, and which one this is.
    """

    def __init__(
        self, loader: ImageLoader, config: TrainConfig, noise_shape: tuple[int, ...], processes: int, process: int
    ) -> None:
        self.loader, self.seed = loader, config.seed
        self.shape = (config.batch_size, *noise_shape)
        size = config.batch_size // (processes * config.accumulate)
        first = [(m * processes + process) * size for m in range(config.accumulate)]
        self.parts = [slice(i, i + size) for i in first]

    def __call__(self, step: int) -> list[tuple[Tensor, ...]]:
        """Images (b, C, H, W) in channels-last memory, noise (b, …), and masks (b, H, W) where there are some; one
        tuple for each micro-batch."""
        device = self.loader.device
        epoch, index = divmod(step, self.loader.steps_per_epoch)
        # Drawn on the CPU, so that every device sees the same; from page-locked memory a copy does not wait for a GPU.
        generator = seeded(self.seed, "noise", step)
        noise = torch.randn(self.shape, generator=generator, pin_memory=device.type == "cuda")
        return [
            (
                self.loader.batch(epoch, index, part).contiguous(memory_format=torch.channels_last),
                noise[part].to(device, non_blocking=True),
                *([] if self.loader.masks is None else [self.loader.batch_of_masks(epoch, index, part)]),
            )
            for part in self.parts
        ]
