"""Terms on the weights of a blend, for whoever wants to choose the kind of split or to say what belongs to what.

All are off by default: the paper's model has none of them. Each is in nats or plain numbers per image, summed over
pixels as the loss is, so that a weight of 1 makes a pixel's term as heavy as a nat of its likelihood.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EDGE = 0.1  # difference between neighbouring pixels, of values in [0, 1], at which an edge counts as one
UNKNOWN = 255  # in masks: nobody has said what this pixel belongs to


@dataclass(frozen=True)
class SplitTerms:
    """Weights of the terms; 0 = off.

    Attributes:
        smoothness: of ``roughness``; below 0 it rewards masks that deal neighbours out to different components.
        decisiveness: of ``indecision``.
        balance: of ``imbalance``.
        guidance: of ``disagreement`` with given masks, averaged over the images that have one.
    """

    smoothness: float = 0.0
    decisiveness: float = 0.0
    balance: float = 0.0
    guidance: float = 0.0

    def __call__(self, weights: Tensor, x: Tensor, masks: Tensor | None, guided_images: Tensor | None = None) -> Tensor:
        """The sum of the terms, a mean over the batch (0-dim).

        Args:
            weights: (B, K, 1, H, W) as ``Decoded.weights``.
            x: (B, C, H, W), the images.
            masks: (B, H, W) uint8, the component that each pixel belongs to, or ``UNKNOWN``; None = there are none.
            guided_images: by how many images the guidance is divided, 0-dim, where these images are a part of a batch:
                those of the whole batch that have a mask, over the number of parts; None = those that have one here.
        """
        terms = [torch.zeros((), device=weights.device)]
        if self.smoothness:
            terms.append(self.smoothness * roughness(weights, x).mean())
        if self.decisiveness:
            terms.append(self.decisiveness * indecision(weights).mean())
        if self.balance:
            terms.append(self.balance * imbalance(weights))
        if self.guidance and masks is not None:
            # A mean over the images that have a mask: its weight is the same whether all have one or few.
            if guided_images is None:
                guided_images = images_with_mask(masks).clamp_min(1)
            terms.append(self.guidance * disagreement(weights, masks).sum() / guided_images)
        return torch.stack(terms).sum()


def images_with_mask(masks: Tensor) -> Tensor:
    """Of how many of the images something is known, from masks (B, H, W): 0-dim."""
    return (masks != UNKNOWN).any(dim=(1, 2)).sum()


def roughness(weights: Tensor, x: Tensor) -> Tensor:
    """How much the weights change between neighbouring pixels where the image does not: (B,).

    R = Σ_{p∼q} exp(−|x_p − x_q|/EDGE) · ½ Σ_k |w_{k,p} − w_{k,q}| over horizontal and vertical neighbours p∼q, with
    the mean absolute difference over channels. A change along an edge of the image costs next to nothing.
    """
    planes = weights[:, :, 0]
    total = torch.zeros(len(planes), device=planes.device)
    for dim in (2, 3):
        step = planes.diff(dim=dim).abs().sum(dim=1) / 2  # (B, H−1, W) or (B, H, W−1)
        edge = x.float().diff(dim=dim).abs().mean(dim=1)
        total = total + (step * torch.exp(-edge / EDGE)).sum(dim=(1, 2))
    return total


def indecision(weights: Tensor) -> Tensor:
    """The entropy of the weights, Σ_p −Σ_k w log w, in nats: (B,). 0 where one component takes each pixel whole."""
    # The slope of −w log w is infinite at 0, where a softmax that has decided ends; its own slope there is 0.
    weights = weights.clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.special.entr(weights).sum(dim=(1, 2, 3, 4))


def imbalance(weights: Tensor) -> Tensor:
    """How far the components' shares of the batch are from equal: H·W·KL(uniform ‖ shares) in nats, 0-dim.

    It grows without bound as a component dies, and is nearly flat about equal shares. Of this process's batch.
    """
    K, _, H, W = weights.shape[1:]
    shares = weights.mean(dim=(0, 2, 3, 4))
    return -H * W * (K * shares).log().mean()


def disagreement(weights: Tensor, masks: Tensor) -> Tensor:
    """−Σ_p log w_{m(p),p} in nats over the pixels whose component m(p) is known: (B,)."""
    known = masks != UNKNOWN
    own = weights[:, :, 0].gather(1, torch.where(known, masks, 0).long()[:, None])[:, 0]  # (B, H, W)
    return -torch.where(known, own.clamp_min(1e-6).log(), 0).sum(dim=(1, 2))
