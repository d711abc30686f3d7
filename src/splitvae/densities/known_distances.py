"""Which distances of an E step need not be computed: bounds that are carried from one iteration to the next."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# What the E step leaves out is less than this part of a code's density, and what the M step leaves out is together
# less than this part of a component's weight.
NEGLIGIBLE = 1e-12


class KnownDistances:
    """What EM still knows about the squared distances (z − μₖ)ᵀ Σₖ⁻¹ (z − μₖ) after its parameters have moved.

    The idea of Hamerly (2010) for k-means, carried over to covariances: when (μ, Σ) becomes (μ', Σ') with
    Σ' ⪯ s·Σ and m = ‖μ' − μ‖ in the metric of Σ⁻¹, a distance d is afterwards at least (d − m) / √s. Where this
    bound makes a component's density less than ``NEGLIGIBLE`` times that of another, the distance is not computed.
    A bound that has become too loose opens its pair, which is then computed and known exactly again.
    """

    def __init__(self, responsibilities: Tensor) -> None:
        self.bounds = torch.zeros_like(responsibilities)  # (K, N), of the squared distances, from below
        self.means: Tensor | None = None
        self.precisions_cholesky: Tensor

    def follow(self, means: Tensor, covariances: Tensor, precisions_cholesky: Tensor) -> None:
        """Loosen the bounds by what has changed since the last call."""
        if self.means is not None:
            P = self.precisions_cholesky
            s = torch.linalg.eigvalsh(P.mT @ covariances @ P)[:, -1:]
            m = torch.einsum("kd,kde->ke", means - self.means, P).norm(dim=1, keepdim=True)
            self.bounds.sqrt_().sub_(m).clamp_(min=0).square_().div_(s)
        self.means, self.precisions_cholesky = means, precisions_cholesky

    def look(self, rows: slice, z: Tensor, constant: Tensor, distance_to: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The squared distances of a chunk of codes, (K, B) float64, infinite where they do not matter.

        Args:
            rows: the chunk's place among the codes.
            z: the chunk, (B, D).
            constant: (K,), so that constant − ½·distance is the logarithm of a component's weighted density.
            distance_to: (k, z) -> squared distances (B,).
        """
        bounds = self.bounds[:, rows]
        everyone, done = torch.arange(len(z)), torch.zeros(bounds.shape, dtype=torch.bool)

        def compute(pairs: Tensor) -> None:
            for k, chosen in enumerate(pairs):
                some = chosen.nonzero().squeeze(1)
                if 2 * len(some) > len(z):
                    bounds[k] = distance_to(k, z)  # cheaper than to gather most of them
                elif len(some):
                    bounds[k, some] = distance_to(k, z[some])
            done.logical_or_(pairs)

        # The most probable component, to judge the others by; then whatever may matter beside it.
        best = (constant[:, None] - 0.5 * bounds).argmax(dim=0)
        compute(torch.zeros_like(done).index_put_((best, everyone), torch.tensor(True)))
        floor = constant[best] - 0.5 * bounds[best, everyone] + math.log(NEGLIGIBLE)
        compute((constant[:, None] - 0.5 * bounds > floor) & ~done)
        return torch.where(done, bounds.to(constant), math.inf)
