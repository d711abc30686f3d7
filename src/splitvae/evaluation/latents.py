"""What the codes of a run say: inactive variables, the variance law, the KL of each dimension, the prior hole."""

import math
from typing import Any

import torch

from splitvae.models.distributions import DiagonalGaussian, inactive_latents


def diagnose_latents(posterior: DiagonalGaussian) -> dict[str, Any]:
    """Numbers about the codes of a data set.

    Args:
        posterior: of N images, mean and logvar (N, D), N ≥ 2.

    Returns:
        - ``kl``: mean KL(q(z|x) ‖ N(0, I)), nats per image; ``kl_per_dimension``: its D terms, by variable;
        - ``inactive_by_mean``, ``inactive_by_variance``: see ``inactive_latents``;
        - ``variance_law``: Var(μᵢ) + E[σᵢ²] for each variable; 1 where the aggregate posterior has the prior's
          variance (Asperti & Trentin 2020, section 3), and its mean as ``variance_law_mean``;
        - ``aggregate_kl``: KL of the Gaussian with the mean and covariance of the aggregate posterior from N(0, I),
          nats: the sum of ``aggregate_kl_marginal``, what the single variables miss of N(0, 1), and
          ``total_correlation``, what they say about each other. Only what mean and covariance show of the prior
          hole; a mixture sees more (``prior_gap``).
    """
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    D = mean.shape[1]
    kl = DiagonalGaussian(mean, posterior.logvar.double()).kl_per_dimension()
    law = mean.var(dim=0, correction=0) + variance.mean(dim=0)
    covariance = torch.cov(mean.T, correction=0).reshape(D, D) + variance.mean(dim=0).diag()
    marginal = 0.5 * float((law + mean.mean(dim=0).square() - 1 - law.log()).sum())
    total_correlation = 0.5 * float(law.log().sum() - torch.linalg.slogdet(covariance).logabsdet)
    inactive = inactive_latents(posterior)
    return {
        "codes": len(mean),
        "latent_dim": D,
        "kl": float(kl.sum(dim=1).mean()),
        "kl_per_dimension": kl.mean(dim=0).tolist(),
        "inactive_by_mean": inactive["by_mean"],
        "inactive_by_variance": inactive["by_variance"],
        "variance_law": law.tolist(),
        "variance_law_mean": float(law.mean()),
        "aggregate_kl": marginal + total_correlation,
        "aggregate_kl_marginal": marginal,
        "total_correlation": total_correlation,
    }


def prior_gap(density: Any, posterior: DiagonalGaussian) -> float:
    """By how many nats per code a density describes codes (posterior means) better than the prior N(0, I)."""
    mean = posterior.mean.double()
    prior = -0.5 * (mean.square().sum(dim=1) + mean.shape[1] * math.log(2 * math.pi))
    return float((density.log_prob(posterior.mean).cpu().double() - prior).mean())


def diagnosis(latents: dict[str, Any], floor: float, reconstruction: float, prior: float, fitted: float | None) -> str:
    """In one line, where the distance of samples comes from.

    Args:
        latents: from ``diagnose_latents``.
        floor: Fréchet distance of real training from real test images.
        reconstruction: of reconstructions.
        prior: of samples from N(0, I).
        fitted: of samples from the best fitted density; None = none was fitted.
    """
    D, inactive = latents["latent_dim"], latents["inactive_by_mean"]
    if inactive > D / 2:
        return (
            f"collapse: {inactive} of {D} latents carry nothing (KL {latents['kl']:.1f} nats); lower --beta or "
            "--latent-dim, or train longer."
        )
    best = prior if fitted is None else min(fitted, prior)
    shares = {"decoder": max(0.0, reconstruction - floor), "density": max(0.0, best - reconstruction)}
    if fitted is not None:
        shares["prior hole"] = max(0.0, prior - fitted)
    parts = " + ".join(f"{name} {value:.1f}" for name, value in {"floor": floor, **shares}.items())
    advice = {
        "decoder": "decoder limit: reconstructions themselves are far from the data; train longer or widen the network",
        "density": "density limit: codes are drawn where the data has none; fit a richer density on them",
        "prior hole": "prior hole: N(0, I) misses where the codes are; sample from the fitted density",
    }
    if fitted is None:
        advice["density"] = "prior hole: codes are drawn where the data has none; fit a density: splitvae fit RUN"
    worst = max(shares, key=lambda name: shares[name])
    return f"{advice[worst]}. The distance from the prior, {prior:.1f}, is {parts}."
