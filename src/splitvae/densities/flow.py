"""A masked autoregressive flow on the latent space: an exact density, for which EM's clusters are too coarse.

Papamakarios, Pavlakou & Murray, *Masked Autoregressive Flow for Density Estimation* (NeurIPS 2017); section 4 of the
Split-VAE paper names autoregressive flows among the alternatives to the prior. The flow is ``zuko.flows.MAF``.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from splitvae.densities.checks import as_latents, check_at_least_one, check_draw, check_rates
from splitvae.densities.trained import (
    as_posterior,
    derived,
    finite_loss,
    load_state,
    resampled_batches,
)
from splitvae.errors import InputError, SplitVAEError

_CHUNK = 8192  # codes that pass at once: bounds the memory of hidden layers


class AutoregressiveFlow:
    """p(z) = N(f(z); 0, I)·|det ∂f/∂z| for f = standardisation, then masked autoregressive affine transforms.

    Trained by maximum likelihood (Adam, cosine decay to 0) on draws from the posteriors, anew at every step. It starts
    as the Gaussian with the codes' means and variances. ``log_prob`` is one pass; a sample needs D passes through
    every transform: on one CPU core 10,000 take some 20 s for 32 variables and minutes for 200.

    Args:
        transforms: autoregressive transforms, each with the variables in the opposite order of the last; at least 1.
        hidden_dim: width of each hidden layer.
        depth: hidden layers of each transform, at least 1.
        epochs: passes over the codes, at least 1.
        batch_size: codes per step; all of them where there are fewer.
        lr: Adam's learning rate at the start.
        device: where to fit; None = where the codes are.

    Attributes:
        flow_: the ``zuko.flows.MAF`` of standardised codes, on the device of the fit.
        mean_: (D,) mean of the codes.
        std_: (D,) square root of Var(μ) + E[σ²]; 1 where a variable is constant.
        losses_: mean of −log p(z) in each epoch, nats per code.

    Examples:
        >>> codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> flow = AutoregressiveFlow(transforms=2, hidden_dim=8, epochs=2).fit(codes)
        >>> flow.sample(10).shape, flow.log_prob(codes).shape
        (torch.Size([10, 3]), torch.Size([200]))
    """

    fits_draws = True
    flow_: Any
    mean_: Tensor
    std_: Tensor
    losses_: list[float]

    def __init__(
        self,
        transforms: int = 5,
        hidden_dim: int = 256,
        depth: int = 2,
        *,
        epochs: int = 50,
        batch_size: int = 512,
        lr: float = 3e-3,
        device: torch.device | str | None = None,
    ) -> None:
        check_at_least_one(
            transforms=transforms, hidden_dim=hidden_dim, depth=depth, epochs=epochs, batch_size=batch_size
        )
        check_rates(lr=lr)
        self.transforms, self.hidden_dim, self.depth = transforms, hidden_dim, depth
        self.epochs, self.batch_size, self.lr, self.device = epochs, batch_size, lr, device

    def fit(
        self,
        codes: Any,
        labels: Any = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Self:
        """Train on the codes.

        Args:
            codes: a posterior, from which z is drawn anew at every step, or plain latents (N, D), a tensor or an
                array, which are taken as they are.
            labels: not used.
            generator: source of the first weights, the order and the draws; None = torch's global one.
            progress: called with 1 after every epoch.

        Returns:
            self.

        Raises:
            InputError: fewer than 2 codes, codes that are not finite, a loss that is not finite.
            SplitVAEError: zuko is not installed.
        """
        posterior = as_posterior(codes, self.device)
        N, D = posterior.mean.shape
        device, source = posterior.mean.device, derived(generator)
        mean = posterior.mean.mean(dim=0)
        std = (posterior.mean.var(dim=0) + posterior.logvar.exp().mean(dim=0)).sqrt()
        # What float32 leaves of a constant is not a spread.
        std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)

        flow = self._build(D)
        _start_as_identity(flow, source)
        flow.to(device)
        optimizer = torch.optim.Adam(flow.parameters(), self.lr, fused=True)
        losses, steps = [], max(N // self.batch_size, 1)
        for epoch in range(self.epochs):
            total = torch.zeros((), device=device)
            for step, z in enumerate(resampled_batches(posterior, self.batch_size, source)):
                done = (epoch * steps + step) / (self.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * done))
                loss = -flow().log_prob((z - mean) / std).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            losses.append(finite_loss(total / steps + std.log().sum(), epoch))
            if progress is not None:
                progress(1)

        self.flow_, self.mean_, self.std_, self.losses_ = flow.requires_grad_(False), mean, std, losses
        return self

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw n latents z = f⁻¹(ε), ε ~ N(0, temperature²·I).

        Args:
            n: at least 1.
            generator: source of ε; None = torch's global one.
            temperature: scales the base noise; 1 = the density, 0 = f⁻¹(0).

        Returns:
            z (n, D) float32 on the device of the fit.
        """
        self._check_fitted()
        check_draw(n, temperature)
        # Drawn where the generator lives, so that a CPU generator gives the same z on every device.
        place = self.mean_.device if generator is None else generator.device
        noise = torch.randn(n, len(self.mean_), generator=generator, device=place)
        noise = temperature * noise.to(self.mean_.device)
        inverse = self.flow_().transform.inv
        return self.mean_ + self.std_ * torch.cat([inverse(part) for part in noise.split(_CHUNK)])

    @torch.no_grad()
    def log_prob(self, z: Any) -> Tensor:
        """log p(z) of latents z (N, D): (N,) float64 nats."""
        self._check_fitted()
        x, D = as_latents(z, self.mean_.device, torch.float32), len(self.mean_)
        if x.shape[1] != D:
            raise InputError(
                f"codes have {x.shape[1]} variables, but the flow was fitted on {D}; encode with its model."
            )
        standardised = (x - self.mean_) / self.std_
        log_prob = torch.cat([self.flow_().log_prob(part) for part in standardised.split(_CHUNK)])
        return log_prob.double() - self.std_.double().log().sum()

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything learned and the sizes as a flat dict of tensors, to be written as safetensors."""
        self._check_fitted()
        return {f"flow.{name}": value.clone() for name, value in self.flow_.state_dict().items()} | {
            "sizes_": torch.tensor([self.transforms, self.hidden_dim, self.depth]),
            "mean_": self.mean_.clone(),
            "std_": self.std_.clone(),
            "losses_": torch.tensor(self.losses_, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str | None = None) -> Self:
        """The flow that ``to_tensors`` wrote, on ``device`` (None = where the tensors are)."""
        if missing := {"sizes_", "mean_", "std_", "losses_"} - tensors.keys():
            raise InputError(f"the tensors hold no autoregressive flow: '{min(missing)}' is missing.")
        density = cls(*tensors["sizes_"].tolist(), device=device)
        density.mean_, density.std_ = tensors["mean_"].to(device), tensors["std_"].to(device)
        density.losses_ = tensors["losses_"].tolist()
        flow = density._build(len(density.mean_))
        state = {name.removeprefix("flow."): value for name, value in tensors.items() if name.startswith("flow.")}
        load_state(flow, state, "autoregressive flow")
        density.flow_ = flow.requires_grad_(False).to(density.mean_.device)
        return density

    def _build(self, D: int) -> nn.Module:
        """The flow of D variables, its weights to be set; torch's global generator is left alone."""
        try:
            from zuko.flows import MAF
        except ImportError as error:
            raise SplitVAEError("an autoregressive flow needs zuko; install it: pip install splitvae[flow]") from error
        with torch.random.fork_rng(devices=[]):
            return MAF(D, transforms=self.transforms, hidden_features=[self.hidden_dim] * self.depth)

    def _check_fitted(self) -> None:
        if not hasattr(self, "flow_"):
            raise InputError("this flow is not fitted; call fit(codes) first.")


def _start_as_identity(flow: Any, generator: torch.Generator) -> None:
    """Hidden layers as torch starts them, last layers 0: every affine transform begins with shift 0 and scale 1."""
    for transform in flow.transform.transforms:
        layers = [module for module in transform.modules() if isinstance(module, nn.Linear)]
        for layer in layers[:-1]:
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        # With a single variable there are no layers, but a shift and a scale.
        for parameter in layers[-1].parameters() if layers else transform.parameters():
            nn.init.zeros_(parameter)
