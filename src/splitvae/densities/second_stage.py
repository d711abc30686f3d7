"""The second stage of a Two-Stage VAE: a small VAE of the codes, which samples where the posteriors really are.

Dai & Wipf, *Diagnosing and Enhancing VAE Models* (ICLR 2019), section 4: the aggregate posterior q(z) of a trained VAE
is seldom N(0, I), but it fills the latent space, and there a second VAE of the same dimension can learn it.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.densities.checks import check_at_least_one, check_draw, check_rates
from splitvae.densities.trained import (
    as_posterior,
    derived,
    finite_loss,
    load_state,
    resampled_batches,
)
from splitvae.errors import InputError, nearest
from splitvae.models.distributions import DiagonalGaussian
from splitvae.models.losses import DecoderVariance, balanced_loss, gamma_apart

_CHUNK = 8192  # codes that are decoded at once: bounds the memory of hidden layers
_MEASURED = 10_000  # samples of which ``match_variance`` takes the variance


class _Dense(nn.Linear):
    """A dense layer that has no values until it is given them: torch's global generator is left alone."""

    def reset_parameters(self) -> None:
        pass


class SecondStageNetwork(nn.Module):
    """The VAE z → u → ẑ and its objective; u has the dimension of z.

    Each side is ``depth`` × [dense layer, ReLU], beside which its input goes on to the last layer unchanged. The
    encoder gives log σ² as everywhere here, where Dai & Wipf's code gives log σ: the same posteriors, but the steps of
    that layer count half as much.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, depth: int, gamma_rule: Literal["learned", "clamped-ema"]):
        super().__init__()
        D, widths = latent_dim, [latent_dim] + [hidden_dim] * depth
        self.encoder = nn.ModuleList(_Dense(a, b) for a, b in itertools.pairwise(widths))
        self.mean = _Dense(D + hidden_dim, D)
        self.logvar = _Dense(D + hidden_dim, D)
        self.decoder = nn.ModuleList(_Dense(a, b) for a, b in itertools.pairwise(widths))
        self.head = _Dense(D + hidden_dim, D)
        self.variance = DecoderVariance(gamma_rule)

    def reset(self, generator: torch.Generator) -> None:
        """Glorot-uniform kernels, zero biases, as in Dai & Wipf's code; the order is that of the layers above."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)

    def encode(self, z: Tensor) -> DiagonalGaussian:
        """q(u | z) of z (B, D)."""
        h = _through(self.encoder, z)
        return DiagonalGaussian(self.mean(h), self.logvar(h))

    def decode(self, u: Tensor) -> Tensor:
        """The mean of p(z | u) for u (B, D): ẑ (B, D)."""
        return self.head(_through(self.decoder, u))

    def forward(self, z: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of ``balanced_loss`` with β = 1 for z (B, D), in nats per code; ``noise`` (B, D) is the ε of u."""
        posterior = self.encode(z)
        u = posterior.sample(noise=noise)
        squared_error = (z - self.decode(u)).square().sum(dim=1)
        return balanced_loss(squared_error, posterior.kl(), self.variance, beta=1.0, values_per_image=z.shape[1])


class SecondStageVAE:
    """p(z) = ∫ N(z; dec(u), γ·I) N(u; 0, I) du, trained as a VAE on draws from the posteriors.

    The defaults are Dai & Wipf's for MNIST and Fashion-MNIST. As their code it minimises, per code,
    ½ Σᵢ (μᵢ² + σᵢ² − log σᵢ² − 1) + Σᵢ [(zᵢ − ẑᵢ)²/(2γ) + ½·log γ]; their γ_z is the standard deviation √γ.
    z is drawn anew from its posterior at every step, codes beyond the last full batch of an epoch wait for the next.

    Asperti & Trentin, *Balancing reconstruction error and KL divergence* (2020), use the same network with
    ``gamma_rule="clamped-ema", gamma_noise=False, batch_size=100`` and, at ``depth=3``,

    - CIFAR-10: ``hidden_dim=2048, lr=1e-4, epochs=1400, halve_every=400``;
    - CelebA: ``hidden_dim=4096, lr=5e-5, epochs=140, halve_every=120``.

    Args:
        depth: hidden layers on each side, at least 1.
        hidden_dim: their width.
        epochs: passes over the codes, at least 1.
        batch_size: codes per step; all of them where there are fewer.
        lr: of Adam (eps 1e-8) at the start.
        gamma_lr: multiplies the rate of a learned γ, which in few steps cannot fall far enough by the rate itself.
        halve_every: epochs after which the learning rate is halved, again and again; None = it stays.
        gamma_rule: "learned" (Dai & Wipf) or "clamped-ema" (Asperti & Trentin), see ``DecoderVariance``; from γ = 1.
        gamma_noise: whether a sample is drawn from N(dec(u), γ·I) (Dai & Wipf) or is dec(u) itself.
        match_variance: scale samples around their mean by one factor, measured after the fit, so that the mean over
            the dimensions of their variance is that of the codes, Var(μ) + E[σ²]. This is the rescaling of Asperti &
            Trentin mended: their code takes the standard deviation exp(log σ) for the variance, and measures the
            samples of each batch of 100 anew.
        device: where to fit; None = where the codes are.

    Attributes:
        network_: ``SecondStageNetwork``, on the device of the fit.
        gamma_: γ after the last step, a variance.
        losses_: mean loss of each epoch, nats per code, without the constant (D/2)·log 2π.
        scale_: the factor of ``match_variance``; 1 without.
        centre_: (D,) mean of the samples, around which they are scaled.

    Examples:
        >>> codes = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> SecondStageVAE(hidden_dim=16, epochs=2).fit(codes).sample(10).shape
        torch.Size([10, 3])
    """

    network_: SecondStageNetwork
    losses_: list[float]
    scale_: float
    centre_: Tensor

    def __init__(
        self,
        depth: int = 3,
        hidden_dim: int = 1024,
        *,
        epochs: int = 800,
        batch_size: int = 64,
        lr: float = 1e-4,
        halve_every: int | None = 300,
        gamma_rule: Literal["learned", "clamped-ema"] = "learned",
        gamma_noise: bool = True,
        gamma_lr: float = 1.0,
        match_variance: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_at_least_one(depth=depth, hidden_dim=hidden_dim, epochs=epochs, batch_size=batch_size)
        if halve_every is not None:
            check_at_least_one(halve_every=halve_every)
        check_rates(lr=lr, gamma_lr=gamma_lr)
        if gamma_rule not in ("learned", "clamped-ema"):
            raise InputError(f"gamma_rule '{gamma_rule}' is unknown.{nearest(gamma_rule, ['learned', 'clamped-ema'])}")
        self.depth, self.hidden_dim = depth, hidden_dim
        self.epochs, self.batch_size, self.lr, self.halve_every = epochs, batch_size, lr, halve_every
        self.gamma_rule: Literal["learned", "clamped-ema"] = gamma_rule
        self.gamma_noise, self.match_variance, self.device = gamma_noise, match_variance, device
        self.gamma_lr = gamma_lr

    @property
    def gamma_(self) -> float:
        """γ, the variance of the decoder of z."""
        return float(self.network_.variance.value())

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
            generator: source of the first weights, the order and all noise; None = torch's global one.
            progress: called with 1 after every epoch.

        Returns:
            self.

        Raises:
            InputError: fewer than 2 codes, codes that are not finite, a loss that is not finite.
        """
        posterior = as_posterior(codes, self.device)
        N, D = posterior.mean.shape
        device, source = posterior.mean.device, derived(generator)
        network = SecondStageNetwork(D, self.hidden_dim, self.depth, self.gamma_rule)
        network.reset(source)
        network.to(device)
        optimizer = torch.optim.Adam(gamma_apart(network, self.gamma_lr), self.lr, eps=1e-8, fused=True)

        losses = []
        for epoch in range(self.epochs):
            for group in optimizer.param_groups:
                decay = 0.5 ** (0 if self.halve_every is None else epoch // self.halve_every)
                group["lr"] = self.lr * group["factor"] * decay
            total, steps = torch.zeros((), device=device), max(N // self.batch_size, 1)
            for z in resampled_batches(posterior, self.batch_size, source):
                noise = torch.randn(z.shape, generator=source)
                terms = network(z, noise)
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()
                network.variance.update(terms["mse"].detach())
                total += terms["loss"].detach()
            losses.append(finite_loss(total / steps, epoch))
            if progress is not None:
                progress(1)

        self.network_, self.losses_ = network.requires_grad_(False), losses
        self.scale_, self.centre_ = 1.0, torch.zeros(D, device=device)
        if self.match_variance:
            self._match(posterior, source)
        return self

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw n latents: u ~ N(0, temperature²·I), z = dec(u) + temperature·√γ·ε, without ε if ``gamma_noise`` is off.

        Args:
            n: at least 1.
            generator: source of u and ε; None = torch's global one.
            temperature: scales both standard deviations; 1 = the density, 0 = its centre dec(0).

        Returns:
            z (n, D) float32 on the device of the fit.
        """
        self._check_fitted()
        check_draw(n, temperature)
        device, D = self.centre_.device, len(self.centre_)
        # Drawn where the generator lives, so that a CPU generator gives the same z on every device.
        place = device if generator is None else generator.device
        u = temperature * torch.randn(n, D, generator=generator, device=place).to(device)
        z = torch.cat([self.network_.decode(part) for part in u.split(_CHUNK)])
        if self.gamma_noise:
            noise = torch.randn(n, D, generator=generator, device=place).to(device)
            z += temperature * self.network_.variance.value().sqrt() * noise
        return z if self.scale_ == 1 else self.centre_ + self.scale_ * (z - self.centre_)

    def to_tensors(self) -> dict[str, Tensor]:
        """What samples depend on, and the losses, as a flat dict of tensors, to be written as safetensors."""
        self._check_fitted()
        return {f"network.{name}": value.clone() for name, value in self.network_.state_dict().items()} | {
            "gamma_noise": torch.tensor(self.gamma_noise),
            "losses_": torch.tensor(self.losses_, dtype=torch.float64),
            "scale_": torch.tensor(self.scale_, dtype=torch.float64),
            "centre_": self.centre_.clone(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device | str | None = None) -> Self:
        """The density that ``to_tensors`` wrote, on ``device`` (None = where the tensors are)."""
        state = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
        if missing := {"gamma_noise", "losses_", "scale_", "centre_", "network.encoder.0.weight"} - tensors.keys():
            raise InputError(f"the tensors hold no second-stage VAE: '{min(missing)}' is missing.")
        depth = sum(name.startswith("encoder.") and name.endswith(".weight") for name in state)
        hidden_dim, D = state["encoder.0.weight"].shape
        density = cls(
            depth,
            hidden_dim,
            gamma_rule="learned" if "variance.log_std" in state else "clamped-ema",
            gamma_noise=bool(tensors["gamma_noise"]),
            match_variance=float(tensors["scale_"]) != 1,
            device=device,
        )
        network = SecondStageNetwork(D, hidden_dim, depth, density.gamma_rule)
        load_state(network, state, "second-stage VAE")
        centre = tensors["centre_"].to(device)
        density.network_, density.centre_ = network.requires_grad_(False).to(centre.device), centre
        density.losses_, density.scale_ = tensors["losses_"].tolist(), float(tensors["scale_"])
        return density

    def _match(self, posterior: DiagonalGaussian, generator: torch.Generator) -> None:
        """Measure the factor of ``match_variance``."""
        z = self.sample(_MEASURED, generator)
        of_samples = float(z.var(dim=0).mean())
        of_codes = float((posterior.mean.var(dim=0) + posterior.logvar.exp().mean(dim=0)).mean())
        if of_samples <= 1e-12 * of_codes:
            raise InputError("match_variance finds samples that do not vary; train for more epochs or switch it off.")
        self.scale_, self.centre_ = math.sqrt(of_codes / of_samples) if of_codes else 1.0, z.mean(dim=0)

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InputError("this second stage is not fitted; call fit(codes) first.")


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """The hidden layers, and beside them their input: (B, D) → (B, D + hidden_dim)."""
    h = x
    for layer in layers:
        h = layer(h)
        h = F.relu(h)
    return torch.cat([x, h], dim=1)
