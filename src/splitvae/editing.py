"""What can be done by hand with latents and with the parts of a decoded image: ways between, blends of one's own."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from splitvae.errors import InputError, nearest
from splitvae.models.autoencoder import Decoded

Route = Literal["line", "great-circle"]
PARALLEL = 1e-4  # radians between directions, below which a great circle is a line


def interpolate(start: Tensor, end: Tensor, steps: int, path: Route = "line") -> Tensor:
    """Latents on the way from one to another, both ends included.

    Args:
        start, end: (D,).
        steps: number of latents, at least 2.
        path: "line" = (1−t)·start + t·end. In many dimensions its middle is nearer to the origin than samples of the
            prior ever are; "great-circle" (White 2016, arXiv 1609.04468) turns the direction evenly instead and so
            keeps the length between those of the ends.

    Returns:
        (steps, D).

    Raises:
        InputError: other shapes, fewer than 2 steps, or opposite ends, between which there is no one great circle.

    Examples:
        >>> interpolate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3, "great-circle")[1]
        tensor([0.7071, 0.7071])
    """
    if start.dim() != 1 or start.shape != end.shape:
        raise InputError(f"start and end must have the shape (D,), not {tuple(start.shape)} and {tuple(end.shape)}.")
    if steps < 2:
        raise InputError(f"a way takes at least 2 steps, not {steps}.")
    if path not in get_args(Route):
        raise InputError(f"'{path}' is no path.{nearest(path, get_args(Route))}")
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    if path == "line" or not (start.any() and end.any()):
        return (1 - t) * start + t * end
    a, b = start / start.norm(), end / end.norm()
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())  # exact for small angles too, unlike arccos
    if angle > torch.pi - PARALLEL:
        raise InputError("the ends are opposite, so many great circles join them; use path line.")
    if angle < PARALLEL:
        return (1 - t) * start + t * end
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


def reblend(
    decoded: Decoded,
    strengths: Sequence[float] | None = None,
    order: Sequence[int] | None = None,
    towards: int = 0,
    amount: float = 0.0,
) -> Decoded:
    """Blend the components of decoded images in another way than the decoder did.

    Args:
        decoded: B images of K components.
        strengths: K factors ≥ 0 of the components' brightness, which is cut off at 1; None = all 1.
        order: which component takes the place of each, such as (1, 0), which gives each the mask of the other; None =
            as they are.
        towards: the component that the masks are moved to.
        amount: how far, from 0 (not at all) to 1 (only that component is left). K = 2: towards 0 is σ + amount·(1−σ).

    Returns:
        the blend with the components and weights that made it.

    Raises:
        InputError: another number of strengths, an order that is none, an amount outside of [0, 1].
    """
    K = decoded.components.shape[1]
    strengths, order = list(strengths or [1.0] * K), list(range(K) if order is None else order)
    if len(strengths) != K or not all(0 <= s < float("inf") for s in strengths):
        raise InputError(f"strengths must be {K} numbers of at least 0, not {strengths}.")
    if sorted(order) != list(range(K)):
        raise InputError(f"order must name each of the components 0 to {K - 1} once, not {order}.")
    if not 0 <= towards < K or not 0 <= amount <= 1:
        raise InputError(f"towards must lie in 0 … {K - 1} and amount in [0, 1], not {towards} and {amount}.")
    factors = torch.tensor(strengths, device=decoded.components.device)[:, None, None, None]
    components = (decoded.components * factors).clamp(max=1)[:, order]
    weights = (1 - amount) * decoded.weights
    weights[:, order.index(towards)] += amount
    return Decoded((weights * components).sum(dim=1), components, weights)
