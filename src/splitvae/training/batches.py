"""What each step sees: images and noise, functions of (seed, step), each process and micro-batch its own part."""

import torch
from torch import Tensor

from splitvae.config import TrainConfig
from splitvae.data.loader import ImageLoader, seeded
from splitvae.models.split_terms import images_with_mask
from splitvae.training.precision import memory_layout


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
        self.layout = memory_layout(config, loader.device)
        self.shape = (config.batch_size, *noise_shape)
        size = config.batch_size // (processes * config.accumulate)
        first = [(m * processes + process) * size for m in range(config.accumulate)]
        self.parts = [slice(i, i + size) for i in first]
        self.shares = processes * config.accumulate

    def __call__(self, step: int) -> list[tuple[Tensor, ...]]:
        """Images (b, C, H, W) in the model's layout of memory, noise (b, …), and where there are masks these (b, H, W)
        and by how many images their guidance is divided, see ``SplitTerms``; one tuple for each micro-batch."""
        device = self.loader.device
        epoch, index = divmod(step, self.loader.steps_per_epoch)
        # Drawn on the CPU, so that every device sees the same; from page-locked memory a copy does not wait for a GPU.
        generator = seeded(self.seed, "noise", step)
        noise = torch.randn(self.shape, generator=generator, pin_memory=device.type == "cuda")
        given = None if self.loader.masks is None else self.loader.batch_of_masks(epoch, index)
        # Of the whole batch: a part in which few images have a mask must not give each of them more weight.
        guided_images = None if given is None else images_with_mask(given).clamp_min(1) / self.shares
        return [
            (
                self.loader.batch(epoch, index, part).contiguous(memory_format=self.layout),
                noise[part].to(device, non_blocking=True),
                *([] if given is None or guided_images is None else [given[part], guided_images]),
            )
            for part in self.parts
        ]
