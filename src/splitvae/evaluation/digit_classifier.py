"""A small digit classifier, trained by the code below: the network behind the extractor ``mnist-classifier``.

On handwritten digits the features of photographs say little. The 64 features of this network are those that tell
digits apart, and its head turns them into classes, so that a set of samples can be asked which digits it holds.

    python -m splitvae.evaluation.digit_classifier SOURCE --out FILE

trains it on the training split of a source with labels 0 to 9. ``mnist-classifier.safetensors`` beside this file was
made so from MNIST (28×28 padded to 32×32): 99.53 % of the 10,000 test images, 5 minutes on one core of an AMD EPYC
(AVX2), one run, torch 2.15, ``OMP_NUM_THREADS=1``. Its metadata says with which seed, epochs and data; another torch,
machine or thread count rounds otherwise and gives another file.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.data.cache import ImageCache, prepare
from splitvae.data.loader import seeded
from splitvae.errors import InputError, SplitVAEError
from splitvae.models.pretrained import write_tensors

SIDE, FEATURES, CLASSES = 32, 64, 10
SHIPPED = Path(__file__).with_name("mnist-classifier.safetensors")


class DigitClassifier(nn.Module):
    """Five convolutions, each with batch norm and ReLU, and a linear head; 193,458 parameters.

    Args:
        generator: draws the initial weights (He et al. 2015, arXiv 1502.01852); None = torch's global one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 24, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.norm2 = nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48)
        self.conv3, self.norm3 = nn.Conv2d(48, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv4, self.norm4 = nn.Conv2d(64, 96, 3, padding=1, bias=False), nn.BatchNorm2d(96)
        self.conv5, self.norm5 = nn.Conv2d(96, FEATURES, 4, bias=False), nn.BatchNorm2d(FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(FEATURES), generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """(B, 1, 32, 32) in [0, 1] → (B, 64), at least 0."""
        x = F.relu(self.norm1(self.conv1(x)))  # (B, 24, 16, 16)

        x = F.max_pool2d(self.norm2(self.conv2(x)), 2)
        x = F.relu(x)  # (B, 48, 8, 8)

        x = F.max_pool2d(self.norm3(self.conv3(x)), 2)
        x = F.relu(x)  # (B, 64, 4, 4)

        x = F.relu(self.norm4(self.conv4(x)))  # (B, 96, 4, 4)

        return F.relu(self.norm5(self.conv5(x))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 32, 32) in [0, 1] → logits (B, 10)."""
        return self.head(self.features(x))


def as_input(images: Tensor) -> Tensor:
    """uint8 (B, 1 or 3, H, W) → what the network takes: grey (B, 1, 32, 32) in [0, 1], white digits on black."""
    x = images.float().mean(dim=1, keepdim=True) / 255
    if x.shape[2:] == (SIDE, SIDE):
        return x
    return F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)


def train_classifier(
    cache: ImageCache, epochs: int = 6, seed: int = 0, batch_size: int = 128, peak_lr: float = 3e-3
) -> DigitClassifier:
    """Train on the training split of a cache; a function of its arguments (on one machine and thread count).

    AdamW under a one-cycle learning rate (Smith & Topin 2017, arXiv 1708.07120), each image slightly distorted.

    Args:
        cache: images (N, 1 or 3, H, W) with labels 0 to 9.
        epochs: passes over the training split.
        seed: of initial weights, order and distortions.
        batch_size: images per step; a last partial batch is dropped.
        peak_lr: the highest learning rate, reached after 30 % of the steps.

    Returns:
        The network in evaluation mode.

    Raises:
        InputError: no labels, labels other than 0 to 9, or fewer training images than one batch.
    """
    rows, labels = cache.splits["train"], _labels(cache)
    steps = len(rows) // batch_size
    if steps < 1 or epochs < 1:
        raise InputError(f"{len(rows):,} training images and {epochs} epochs make no step of {batch_size} images.")
    model = DigitClassifier(seeded(seed, "classifier", 0)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=epochs * steps)
    for epoch in range(epochs):
        order = rows[torch.randperm(len(rows), generator=seeded(seed, "order", epoch)).numpy()]
        distortions = seeded(seed, "distort", epoch)
        for step in range(steps):
            batch = order[step * batch_size : (step + 1) * batch_size]
            x = distort(as_input(torch.from_numpy(cache.images[batch])), distortions)
            loss = F.cross_entropy(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def distort(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 12°, stretch each axis and shear by up to 12 %, shift by up to 2.5 pixels: (B, 1, H, W) → same."""
    B, _, H, _ = x.shape
    amounts = torch.rand(B, 6, generator=generator) * 2 - 1
    angle = amounts[:, 0] * math.radians(12)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(B, 2, 2)
    stretch = torch.diag_embed(1 + 0.12 * amounts[:, 1:3])
    stretch[:, 0, 1] = 0.12 * amounts[:, 3]
    shift = amounts[:, 4:, None] * 2.5 * 2 / H  # the grid runs from −1 to 1, so that a pixel is 2/H
    grid = F.affine_grid(torch.cat([turn @ stretch, shift], dim=2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@torch.inference_mode()
def accuracy(model: DigitClassifier, cache: ImageCache) -> float:
    """Share of the test images whose class the model in evaluation mode finds."""
    rows, labels = cache.splits["test"], _labels(cache)
    right = 0
    for start in range(0, len(rows), 100):
        batch = rows[start : start + 100]
        found = model(as_input(torch.from_numpy(cache.images[batch]))).argmax(dim=1)
        right += int((found == labels[batch]).sum())
    return right / len(rows)


def _labels(cache: ImageCache) -> Tensor:
    """(N,) int64 in 0 to 9."""
    source = cache.meta.get("source", cache.path)
    if cache.labels is None:
        raise InputError(f"{source} has no labels to learn from.")
    if cache.labels.min() < 0 or cache.labels.max() >= CLASSES:
        raise InputError(
            f"{source} has labels from {cache.labels.min()} to {cache.labels.max()}; the classifier knows 0 to 9."
        )
    return torch.from_numpy(cache.labels)


def main(arguments: list[str] | None = None) -> int:
    """Train, print what was reached, write the weights; returns the exit status."""
    parser = argparse.ArgumentParser("python -m splitvae.evaluation.digit_classifier", description="Train it anew.")
    parser.add_argument("source", metavar="SOURCE", help="digits with labels: parquet folder, .npz, or hub name")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="where the weights go (.safetensors)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        cache = prepare(options.source, (SIDE, SIDE), channels=1)
        print(f"training images: {len(cache.splits['train']):,}, test images: {len(cache.splits['test']):,}")
        model = train_classifier(cache, options.epochs, options.seed)
        reached = accuracy(model, cache)
        print(f"test accuracy: {reached:.2%}")
        # One entry: safetensors writes several in no fixed order, and the file's hash would change from run to run.
        about = {
            "test_accuracy": reached,
            "test_images": len(cache.splits["test"]),
            "seed": options.seed,
            "epochs": options.epochs,
            "data_content_hash": cache.meta["content_hash"],
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        write_tensors(options.out, model.state_dict(), {"training": json.dumps(about)})
    except (SplitVAEError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    print(f"sha256: {hashlib.sha256(options.out.read_bytes()).hexdigest()}  {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
