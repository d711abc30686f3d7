"""What kind of split a model has learned, read off its masks: "semantic" or "syntactic" (Split-VAE, section 1).

The paper tells them apart by eye. A semantic mask follows the contours of things; a syntactic one deals neighbouring
pixels out to different components. So the index is how alike a mask's neighbouring pixels are, and the other numbers
say what else is to be seen.
"""

from typing import Any

import torch
from torch import Tensor

from splitvae.models.autoencoder import Autoencoder, evaluating

MASKS = 500  # images whose masks are looked at
# Between noise, 0, and the bands along the contours of digits, 0.7; a chessboard has −1, blobs have 0.9.
SEMANTIC_FROM = 0.5
# Below this standard deviation within an image a mask is flat, and there is no split: .03 and .047 in two small runs,
# .19 and more in thirty-four others.
FLAT = 0.05
HALF_NYQUIST = 0.25  # cycles per pixel
TINY = 1e-12


def split_kind(weights: Tensor, x_hat: Tensor) -> dict[str, Any]:
    """Numbers about the masks of some images.

    Args:
        weights: (N, K, 1, H, W) as ``Decoded.weights``, K ≥ 2, sides of at least 3.
        x_hat: (N, C, H, W), the blend.

    Returns:
        - ``smoothness``, the index, in [−1, 1]: the correlation of horizontally and vertically adjacent pixels of a
          weight, averaged over images and components by their variance;
        - ``high_frequency``, in [0, 1]: the share of the weights' power (without their mean) at spatial frequencies
          above half of Nyquist's; white noise has 0.8;
        - ``contours``, in [−1, 1]: the correlation of |∇weight| with |∇x̂|, averaged over images and components;
        - ``decisiveness``, in [0, 1]: (K·max weight − 1)/(K − 1), averaged over pixels: 0 = all alike, 1 = one takes
          all; for K = 2 it is |2σ − 1|;
        - ``usage``: K mean weights, which sum to 1;
        - ``variation``: the weights' standard deviation within an image;
        - ``kind``: "semantic", "syntactic", or "none" where the masks are flat.
    """
    K = weights.shape[1]
    planes = weights[:, :, 0].double()  # (N, K, H, W)
    centred = planes - planes.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3))  # (N, K)
    share = variance / variance.sum().clamp_min(TINY)
    slopes, grey = _gradient(planes), x_hat.double().mean(dim=1, keepdim=True)
    variation = float(variance.mean().sqrt())
    smoothness = float((_neighbours(centred) * share).sum())
    kind = "none" if variation < FLAT else "semantic" if smoothness >= SEMANTIC_FROM else "syntactic"
    return {
        "kind": kind,
        "smoothness": smoothness,
        "high_frequency": float((_high_frequency(centred) * share).sum()),
        "contours": float((_correlation(slopes, _gradient(grey).expand_as(slopes)) * share).sum()),
        "decisiveness": float(((K * planes.amax(dim=1) - 1) / (K - 1)).mean()),
        "usage": planes.mean(dim=(0, 2, 3)).tolist(),
        "variation": variation,
    }


@torch.inference_mode()
def split_of_model(model: Autoencoder, z: Tensor) -> dict[str, Any] | None:
    """``split_kind`` of the masks that a model gives to the first of some latents (N, D); None for one component."""
    if model.num_components < 2:
        return None
    with evaluating(model):
        parts = [model.decode(part.to(model.device)) for part in z[:MASKS].split(100)]
    return split_kind(torch.cat([part.weights for part in parts]), torch.cat([part.x_hat for part in parts]))


def split_words(split: dict[str, Any]) -> str:
    """The kind of split in a sentence."""
    most = max(split["usage"])
    shares = f"the larger part of the pixels, {most:.0%}, is one component's"
    if split["kind"] == "none":
        return f"no split: the masks are flat, {most:.0%} to one component everywhere"
    if split["kind"] == "syntactic":
        alike = f"neighbouring pixels alike by {split['smoothness']:+.2f} only"
        return f"syntactic split: {alike}, they are dealt out to different components; {shares}"
    where = "follows contours" if split["contours"] >= 0.3 else "lies in patches"
    return f"semantic split: the mask {where} (neighbouring pixels alike by {split['smoothness']:.2f}); {shares}"


def _neighbours(centred: Tensor) -> Tensor:
    """(…, H, W) without mean → (…): the correlation of adjacent pixels."""
    pairs = ((centred[..., 1:], centred[..., :-1]), (centred[..., 1:, :], centred[..., :-1, :]))
    products = sum((a * b).sum(dim=(-2, -1)) for a, b in pairs)
    squares = sum(0.5 * (a.square() + b.square()).sum(dim=(-2, -1)) for a, b in pairs)
    return products / torch.as_tensor(squares).clamp_min(TINY)


def _high_frequency(centred: Tensor) -> Tensor:
    """(…, H, W) without mean → (…): the share of the power above half of Nyquist's frequency."""
    H, W = centred.shape[-2:]
    power = torch.fft.fft2(centred).abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None]).to(centred.device)
    return power[..., frequency > HALF_NYQUIST].sum(dim=-1) / power.sum(dim=(-2, -1)).clamp_min(TINY)


def _gradient(planes: Tensor) -> Tensor:
    """(…, H, W) → (…, H−2, W−2): the length of the gradient by central differences."""
    across = planes[..., 1:-1, 2:] - planes[..., 1:-1, :-2]
    down = planes[..., 2:, 1:-1] - planes[..., :-2, 1:-1]
    return torch.hypot(across, down)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(…, H, W) twice → (…): Pearson's, 0 where one of them is constant."""
    a, b = (x - x.mean(dim=(-2, -1), keepdim=True) for x in (a, b))
    spread = (a.square().sum(dim=(-2, -1)) * b.square().sum(dim=(-2, -1))).sqrt()
    return (a * b).sum(dim=(-2, -1)) / spread.clamp_min(TINY)
