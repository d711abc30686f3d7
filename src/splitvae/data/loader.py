"""Batches whose order depends on (seed, epoch) only, from host memory or resident on the device as uint8."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from splitvae.data.cache import ImageCache

CHUNK = 10_000  # images on their way to a GPU at once, so that a data set never lies in host memory as a whole


def seeded(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator that is a function of (seed, purpose, index) and of nothing else.

    Noise and order come from here, so an interrupted run needs no saved generator state to go on bit for bit.
    """
    words = np.random.SeedSequence([seed, *purpose.encode(), index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def first_of_shuffled(count: int, n: int) -> Tensor:
    """n of the numbers below count (all of them where they are fewer), the same every time."""
    return torch.randperm(count, generator=seeded(0, "fixed", 0))[:n]


def fixed_rows(cache: ImageCache, split: str, n: int) -> np.ndarray:
    """Row numbers of n images chosen over a whole split (all where it has fewer), the same every time: (min(n, N),)."""
    rows = cache.splits[split]
    return rows[first_of_shuffled(len(rows), n).numpy()]


def fixed_images(cache: ImageCache, split: str, n: int, device: torch.device | str = "cpu") -> Tensor:
    """The images of ``fixed_rows``: (min(n, N), C, H, W) float32 in [0, 1]."""
    return ImageLoader(cache, split, 1, 0, device, resident=False).fixed(n)


class ImageLoader:
    """Shuffled batches of one split; the last partial batch of an epoch is dropped.

    Args:
        cache: the prepared data.
        split: "train" or "test".
        batch_size: images per optimiser step, over all processes and micro-batches.
        seed: with the epoch, decides the order.
        device: where batches go. On a GPU the whole split stays there as uint8 if it fits half of the free memory.
        resident: False = batches come from host memory on a GPU too.
        masks: row numbers (n,) → components (n, H, W) uint8, see ``Masks.components``; None = there are none.
        again: row numbers that an epoch has beside those of the split, for images that it shall show more than once;
            None = none.
        flip: mirror each image left to right with probability ½, decided by (seed, epoch).
    """

    def __init__(
        self,
        cache: ImageCache,
        split: str,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        flip: bool = False,
        resident: bool = True,
        masks: Callable[[np.ndarray], np.ndarray] | None = None,
        again: np.ndarray | None = None,
    ) -> None:
        self.masks = masks
        self.images, self.rows = cache.images, cache.splits[split]
        self._own = len(self.rows)
        if again is not None and len(again):
            self.rows = np.concatenate([self.rows, again])
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.device = torch.device(device)
        self.resident: Tensor | None = None
        if resident and self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if len(self.rows) * self.images[0].nbytes < free // 2:
                self.resident = torch.empty(len(self.rows), *self.images.shape[1:], dtype=torch.uint8, device=device)
                for part in np.array_split(np.arange(len(self.rows)), -(-len(self.rows) // CHUNK)):
                    self.resident[part[0] : part[-1] + 1].copy_(torch.from_numpy(self.images[self.rows[part]]))
        self._epoch = -1

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch: ⌊N / batch_size⌋, where images that are shown again count again."""
        return len(self.rows) // self.batch_size

    def batch(self, epoch: int, index: int, part: slice = slice(None)) -> Tensor:
        """Batch ``index`` of ``epoch``, or a part of it: (B, C, H, W) float32 in [0, 1] on the device.

        Args:
            part: which of the ``batch_size`` images; a process and micro-batch takes its own.
        """
        self._begin(epoch)
        place = slice(index * self.batch_size, (index + 1) * self.batch_size)
        x = self._floats(self._order[place][part])
        if self.flip:
            x = torch.where(self._mirror[place][part, None, None, None], x.flip(3), x)
        return x

    def batch_of_masks(self, epoch: int, index: int, part: slice = slice(None)) -> Tensor:
        """The masks of the same batch, mirrored where its images are: (B, H, W) uint8 on the device."""
        if self.masks is None:
            raise ValueError("this loader has no masks.")
        self._begin(epoch)
        place = slice(index * self.batch_size, (index + 1) * self.batch_size)
        masks = torch.from_numpy(self.masks(self.rows[self._host_order[place][part].numpy()]))
        if self.device.type == "cuda":
            masks = masks.pin_memory()  # as the images, see ``_floats``
        masks = masks.to(self.device, non_blocking=True)
        if self.flip:
            masks = torch.where(self._mirror[place][part, None, None], masks.flip(2), masks)
        return masks

    def _begin(self, epoch: int) -> None:
        """Draw the order and the mirroring of an epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._host_order = torch.empty(0)  # two at once would count with millions of images
            order = torch.randperm(len(self.rows), generator=seeded(self.seed, "order", epoch))
            self._host_order = order
            self._order = order if self.resident is None else order.to(self.device)  # once, not at every step
            if self.flip:
                mirror = torch.rand(len(self.rows), generator=seeded(self.seed, "flip", epoch)) < 0.5
                self._mirror = mirror.to(self.device)

    def fixed(self, n: int) -> Tensor:
        """The same n images every time, chosen over the whole split: (min(n, N), C, H, W) float32 in [0, 1]."""
        return torch.cat(list(self.fixed_batches(n)))

    def fixed_batches(self, n: int, size: int = 100) -> Iterator[Tensor]:
        """The images of ``fixed`` in batches of ``size``, of which one at a time is in memory."""
        for part in first_of_shuffled(self._own, n).split(size):
            yield self._floats(part)

    def _floats(self, numbers: Tensor) -> Tensor:
        if self.resident is not None:
            pixels = self.resident[numbers.to(self.device)]
        else:
            pixels = torch.from_numpy(self.images[self.rows[numbers.numpy()]])
            if self.device.type == "cuda":
                pixels = pixels.pin_memory()  # from page-locked memory the copy does not wait for the GPU
            pixels = pixels.to(self.device, non_blocking=True)
        return pixels.float().div_(255)
