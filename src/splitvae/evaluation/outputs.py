"""What a model makes of latents, as features: x̂ and every component, decoded, rounded and extracted batch by batch."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from splitvae.data.loader import seeded
from splitvae.errors import SplitVAEError
from splitvae.evaluation.features import extract
from splitvae.pictures import to_uint8

if TYPE_CHECKING:
    from splitvae.models.autoencoder import Autoencoder

BATCH = 100


def output_names(model: "Autoencoder") -> list[str]:
    """What a model paints: x_hat, and x1 … xK where there are K > 1 components."""
    K = model.num_components
    return ["x_hat"] + ([f"x{k + 1}" for k in range(K)] if K > 1 else [])


@torch.inference_mode()
def decode_outputs(model: "Autoencoder", z: Tensor, components: bool = True) -> Iterator[np.ndarray]:
    """Decode latents (N, D) on the model's device: batches (B, O, C, H, W) uint8, O as in ``output_names``.

    Without ``components`` x̂ alone, O = 1.
    """
    device = model.device
    for part in z.split(BATCH):
        decoded = model.decode(part.to(device))
        images = decoded.x_hat[:, None]
        if components and model.num_components > 1:
            images = torch.cat([images, decoded.components], dim=1)
        if not images.isfinite().all():
            raise SplitVAEError("the model paints images that are not finite; it has diverged, train it again.")
        yield to_uint8(images)


def output_features(
    model: "Autoencoder",
    z: Tensor,
    extractor: Callable[[Tensor], Tensor],
    progress: Callable[[int], Any] | None = None,
    components: bool = True,
    **options: Any,
) -> np.ndarray:
    """Features of all outputs of latents (N, D): (N, O, F) float32.

    Args:
        model: in evaluation mode.
        z: latents.
        extractor: see ``extract``.
        progress: called with the number of images after each batch; a latent counts O images.
        components: whether those are extracted too, or x̂ alone.
        options: of ``extract``.
    """
    flat = (images.reshape(-1, *images.shape[2:]) for images in decode_outputs(model, z, components))
    features = extract(flat, extractor, progress=progress, **options)
    return features.reshape(len(z), -1, features.shape[-1])


def mixed(features: np.ndarray, seed: int) -> np.ndarray:
    """Features of the mix: one component per image, chosen uniformly; (N, 1 + K, F) → (N, F).

    The paper's "random mix of x̂₁ and x̂₂"; its rows are among those already extracted.
    """
    N, outputs, _ = features.shape
    chosen = 1 + torch.randint(outputs - 1, (N,), generator=seeded(seed, "mix", 0)).numpy()
    return features[np.arange(N), chosen]
