"""Components as layers: of several images put together, one changed while the others stand, RGBA for other programs.

A blend x̂ = Σₖ wₖ⊙x̂ₖ can be read as layers that lie over each other. Then each can be taken from another image, be
edited alone, or be handed to a program that knows layers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from splitvae.errors import InputError
from splitvae.models.autoencoder import Decoded
from splitvae.pictures import to_uint8

TINY = 1e-8  # added to weights before their shares are taken; far below what a grey level can show


def recombine(foreground: Decoded, background: Decoded, component: int) -> Decoded:
    """One component of one image over what the other components paint in another image.

    With component k of image A over image B, and all sums over j ≠ k:

        x = w_kᴬ⊙x̂_kᴬ + (1 − w_kᴬ) ⊙ Σ w_jᴮ⊙x̂_jᴮ / Σ w_jᴮ

    Where the others hardly take part in B (Σ w_jᴮ far below 1e-8), the decoder says nothing of their shares, so all get
    the same. With K = 2 there is one other, which has everything that the component leaves.

    Args:
        foreground: A, of B images or of one, which then lies over each background.
        background: B, of as many images or of one, which then lies under each foreground.
        component: k, from 0.

    Returns:
        the new blend with the components and weights that make it; of an image with itself it is the image.

    Raises:
        InputError: one component only, no such component, images of other shapes or in other numbers.

    Examples:
        >>> from splitvae import SplitVAE
        >>> model = SplitVAE((1, 16, 16), latent_dim=4, base_channels=4, num_scales=2).eval()
        >>> a, b = model.decode(torch.randn(1, 4)), model.decode(torch.randn(5, 4))
        >>> recombine(a, b, component=0).x_hat.shape
        torch.Size([5, 1, 16, 16])
    """
    foreground, background = _alike(foreground, background, component)
    weight = foreground.weights[:, component, None]  # (B, 1, 1, H, W)
    others, shares = _shares_without(background, component)
    weights = torch.empty_like(foreground.weights)
    weights[:, component, None] = weight
    weights[:, others] = (1 - weight) * shares
    return _blend(_replaced(background.components, foreground.components, component), weights)


def recombination(foreground: Decoded, background: Decoded, component: int) -> dict[str, Tensor]:
    """What ``recombine`` does, as rows of pictures.

    Returns:
        foreground and background, the images x̂ᴬ and x̂ᴮ; mask, the component's weight in A; layer, the component in A;
        rest, what the others paint in B; recombined. Each (B, C or 1, H, W).
    """
    combined = recombine(foreground, background, component)
    foreground, background = _alike(foreground, background, component)
    others, shares = _shares_without(background, component)
    return {
        "foreground": foreground.x_hat,
        "mask": foreground.weights[:, component],
        "layer": foreground.components[:, component],
        "background": background.x_hat,
        "rest": (shares * background.components[:, others]).sum(dim=1),
        "recombined": combined.x_hat,
    }


def edit_component(before: Decoded, after: Decoded, component: int, weight: bool = False) -> Decoded:
    """Change one component while the others stand: it is taken from other latents, everything else stays.

    Args:
        before: B images or one, ``model.decode(z)``.
        after: as many images or one, ``model.decode(z_changed)``.
        component: the one to be taken from ``after``, from 0.
        weight: whether its weight is taken along, so that what it shows can move; the others then share the rest as
            they did before, see ``recombine``. False = all weights stand.

    Returns:
        the new blend with the components and weights that make it.

    Raises:
        InputError: no such component, images of other shapes or in other numbers.
    """
    if weight:
        return recombine(after, before, component)
    before, after = _alike(before, after, component)
    return _blend(_replaced(before.components, after.components, component), before.weights)


def layers(decoded: Decoded, order: Sequence[int] | None = None) -> np.ndarray:
    """The components as RGBA layers which, laid over each other, give x̂.

    A program lays a layer over what is below it by α·layer + (1−α)·below. From bottom to top this is the blend where
    αₖ = wₖ / Σ_{j≤k} wⱼ, the sum over the layer and all below it. So the bottom layer is opaque, and α of the top layer
    is its weight: put the component on top that shall be laid over other pictures. Values are blended as they are
    stored; a program that blends in linear light shows half-transparent places somewhat brighter.

    Args:
        decoded: B images of K components, grey or colour.
        order: components from bottom to top; None = 0 … K−1.

    Returns:
        (B, K, 4, H, W) uint8, the layers from bottom to top, each red, green, blue, α. α = 0 where a layer and all
        below it have weight 0, which the layers above hide.

    Raises:
        InputError: one component only, an order that is none, or neither 1 nor 3 channels.
    """
    K, C = decoded.components.shape[1:3]
    order = list(range(K) if order is None else order)
    if K == 1:
        raise InputError("there is one component only, so there are no layers; they take at least 2.")
    if sorted(order) != list(range(K)):
        raise InputError(f"order must name each of the components 0 to {K - 1} once, not {order}.")
    if C not in (1, 3):
        raise InputError(f"layers are made of grey or colour images, not of {C} channels.")
    weights, components = decoded.weights[:, order], decoded.components[:, order]
    below = weights.cumsum(dim=1)  # (B, K, 1, H, W), the layer itself included
    alpha = weights / below.clamp(min=torch.finfo(below.dtype).tiny)
    alpha[:, 0] = 1
    colour = components.expand(-1, -1, 3, -1, -1)  # grey is repeated
    return to_uint8(torch.cat([colour, alpha], dim=2))


def with_on_top(component: int, count: int) -> list[int]:
    """An order for ``layers`` with this component on top, the others below it as they are."""
    return [k for k in range(count) if k != component] + [component]


def _shares_without(decoded: Decoded, component: int) -> tuple[list[int], Tensor]:
    """The other components, and the shares (B, K−1, 1, H, W) that they would have if this one were not there."""
    others = [j for j in range(decoded.weights.shape[1]) if j != component]
    if not others:
        raise InputError("there is one component only, so nothing can lie under it; recombining takes at least 2.")
    weights = decoded.weights[:, others] + TINY
    return others, weights / weights.sum(dim=1, keepdim=True)


def _alike(first: Decoded, second: Decoded, component: int) -> tuple[Decoded, Decoded]:
    """Both with the same number of images, a single one repeated; refuses what cannot be put together."""
    ours, theirs = first.components.shape, second.components.shape
    if ours[1:] != theirs[1:] or (ours[0] != theirs[0] and 1 not in (ours[0], theirs[0])):
        raise InputError(
            "components of one image and of another must be of the same shape (B, K, C, H, W), or one B must be 1; "
            f"they are {tuple(ours)} and {tuple(theirs)}."
        )
    if not 0 <= component < ours[1]:
        raise InputError(f"component must lie in 0 … {ours[1] - 1}, not {component}.")
    B = max(ours[0], theirs[0])
    a, b = (Decoded(*(part.expand(B, *part.shape[1:]) for part in decoded)) for decoded in (first, second))
    return a, b


def _replaced(components: Tensor, others: Tensor, k: int) -> Tensor:
    """``components`` (B, K, C, H, W) with the k-th of ``others``."""
    return torch.cat([components[:, :k], others[:, k : k + 1], components[:, k + 1 :]], dim=1)


def _blend(components: Tensor, weights: Tensor) -> Decoded:
    """The blend that they make."""
    return Decoded((weights * components).sum(dim=1), components, weights)
