"""The balanced objective of variational autoencoders, one convention for all.

Sums over pixels and latent dimensions, means over the batch, in nats. For N real values per image,

    loss = SSE/(2γ) [+ (N/2)·log γ when γ is learned] + β·KL

where γ is the *variance* of the Gaussian decoder. Dai & Wipf (2019) and Asperti & Trentin (2020) write γ for the
standard deviation √γ; Split-VAE (2202.02738) uses the variance, as here.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from splitvae.errors import InputError

GammaRule = Literal["running-min", "clamped-ema", "learned", "fixed"]


class DecoderVariance(nn.Module):
    """γ, the variance of the decoder, and the rule by which it falls as the mean squared error falls.

    - ``running-min``, Split-VAE (official code): m ← .99·m + .01·mse, then γ ← min(γ, m).
    - ``clamped-ema``, Asperti & Trentin (2020): m ← min(m, .99·m + .01·mse), then γ ← m.
    - ``learned``, Dai & Wipf (2019): log √γ is a parameter, trained by the loss itself. Adam moves it by the learning
      rate at most in a step: a short run needs a larger rate for it.
    - ``fixed``: γ stays as it is; ½ makes the loss SSE + β·KL.

    A step uses the γ of the step before. ``forward`` never changes γ: the training loop calls ``update`` once per
    optimiser step with the mean mse over all processes and micro-batches.

    Args:
        rule: one of the above.
        init: γ at the start, > 0; the paper starts from 1.
    """

    gamma: Tensor
    running_mse: Tensor

    def __init__(self, rule: GammaRule = "running-min", init: float = 1.0) -> None:
        super().__init__()
        if not 0 < init < float("inf"):
            raise InputError(f"gamma_init is a variance and must be positive and finite, not {init}.")
        self.rule = rule
        if rule == "learned":
            self.log_std = nn.Parameter(0.5 * torch.tensor(init).log())
        else:
            self.register_buffer("gamma", torch.tensor(float(init)))
            self.register_buffer("running_mse", torch.tensor(float(init)))

    def value(self) -> Tensor:
        """γ as a 0-dim tensor; differentiable where it is learned."""
        return (2 * self.log_std).exp() if self.rule == "learned" else self.gamma

    @torch.no_grad()
    def start_from(self, mse: Tensor) -> None:
        """Set γ and m to a measured mean squared error, as the official code does when it loads weights."""
        if self.rule == "learned":
            self.log_std.copy_(0.5 * mse.log())
        elif self.rule != "fixed":
            self.gamma.copy_(mse)
            self.running_mse.copy_(mse)

    @torch.no_grad()
    def update(self, mse: Tensor) -> None:
        """Apply the rule with the mean squared error (0-dim, per element) of one optimiser step."""
        if self.rule == "running-min":
            self.running_mse.mul_(0.99).add_(mse, alpha=0.01)
            torch.minimum(self.gamma, self.running_mse, out=self.gamma)
        elif self.rule == "clamped-ema":
            torch.minimum(self.running_mse, 0.99 * self.running_mse + 0.01 * mse, out=self.running_mse)
            self.gamma.copy_(self.running_mse)


def gamma_apart(model: nn.Module, factor: float) -> list[dict[str, Any]]:
    """An optimiser's groups of parameters, each with the ``factor`` of its rate: 1, and for a learned γ ``factor``.

    Args:
        model: with a ``DecoderVariance`` as ``variance``.
        factor: above 0.
    """
    own = [p for name, p in model.named_parameters() if name != "variance.log_std"]
    groups: list[dict[str, Any]] = [{"params": own, "factor": 1.0}]
    learned = [p for name, p in model.named_parameters() if name == "variance.log_std"]
    return groups + ([{"params": learned, "factor": factor}] if learned else [])


def balanced_loss(
    squared_error: Tensor, kl: Tensor, variance: DecoderVariance, beta: float, values_per_image: int
) -> dict[str, Tensor]:
    """The objective and its terms.

    Args:
        squared_error: (B,) sum of squares over the N real values of each image.
        kl: (B,) nats per image.
        variance: γ and its rule.
        beta: weight of the KL term; 1 = the evidence lower bound.
        values_per_image: N = C·H·W, padding excluded.

    Returns:
        0-dim float32 tensors ``loss``, ``mse`` (mean per element), ``reconstruction`` (SSE/(2γ), batch mean),
        ``kl`` (nats per image, batch mean), ``gamma`` (the γ that was used).
    """
    gamma = variance.value()
    sse = squared_error.mean()
    reconstruction = sse / (2 * gamma)
    loss = reconstruction + beta * kl.mean()
    if variance.rule == "learned":
        loss = loss + 0.5 * values_per_image * gamma.log()
    return {
        "loss": loss,
        "mse": sse / values_per_image,
        "reconstruction": reconstruction,
        "kl": kl.mean(),
        "gamma": gamma.detach().clone(),
    }
