"""What the codes of a run say: inactive variables, the variance law, the KL of each dimension, the prior hole."""

from typing import Any

import torch

from splitvae.evaluation.metrics import places_for
from splitvae.models.distributions import DiagonalGaussian, inactive_latents

TINY = 1e-12  # least variance: a latent that never moves keeps the numbers finite


def diagnose_latents(posterior: DiagonalGaussian) -> dict[str, Any]:
    """Numbers about the codes of a data set.

    Args:
        posterior: of N images, mean and logvar (N, D), N ≥ 2.

    Returns:
        - ``kl``: mean KL(q(z|x) ‖ N(0, I)), nats per image (½‖μ‖² of a deterministic encoder);
          ``kl_per_dimension``: its D terms, by variable;
        - ``inactive_by_mean``, ``inactive_by_variance``: see ``inactive_latents``;
        - ``variance_law``: Var(μᵢ) + E[σᵢ²] for each variable; 1 where the aggregate posterior has the prior's
          variance (Asperti & Trentin 2020, section 3), and its mean as ``variance_law_mean``;
        - ``aggregate_kl``: KL of the Gaussian with the mean and covariance of the aggregate posterior from N(0, I),
          nats: the sum of ``aggregate_kl_marginal``, what the single variables miss of N(0, 1), and
          ``total_correlation``, what they say about each other. Only what mean and covariance show of the prior
          hole;
        - ``aggregate_kl_by_chance``: what of it N codes show although their distribution has it not, to first order
          in 1/N: D(D + 3)/(4N) where codes have no noise; None where N ≤ D: then all of it may be chance.
    """
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()  # of a deterministic encoder 0
    D = mean.shape[1]
    kl = DiagonalGaussian(mean, posterior.logvar.double()).kl_per_dimension()
    law = (mean.var(dim=0, correction=0) + variance.mean(dim=0)).clamp_min(TINY)
    spread = torch.cov(mean.T, correction=0).reshape(D, D)
    covariance = spread + variance.mean(dim=0).clamp_min(TINY).diag()
    marginal = 0.5 * float((law + mean.mean(dim=0).square() - 1 - law.log()).sum())
    total_correlation = 0.5 * float(law.log().sum() - torch.linalg.slogdet(covariance).logabsdet)
    by_chance = None
    if len(mean) > D:
        share = torch.linalg.solve(covariance, spread)  # of the means, which alone are known roughly
        by_chance = float(share.trace().square() + (share @ share).trace() + 2 * share.trace()) / (4 * len(mean))
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
        "aggregate_kl_by_chance": by_chance,
    }


def diagnosis(latents: dict[str, Any], floor: float, reconstruction: float, prior: float, fitted: float | None) -> str:
    """In one line, where the distance of samples comes from.

    The distance from the prior is told as a sum of steps: floor, then from it to reconstructions (the decoder), from
    them to samples of the best fitted density, from these to samples of the prior. A step may be negative.

    Args:
        latents: from ``diagnose_latents``.
        floor: Fréchet distance of real training from real test images.
        reconstruction: of reconstructions.
        prior: of samples from N(0, I).
        fitted: of samples from the best fitted density; None = none was fitted.
    """
    steps = {"decoder": reconstruction - floor}
    if fitted is None:
        steps["prior hole"] = prior - reconstruction
    else:
        steps |= {"density": fitted - reconstruction, "prior hole": prior - fitted}
    advice = {
        "decoder": "decoder limit: reconstructions themselves are far from the data; train longer or widen the network",
        "density": "density limit: codes are drawn where the data has none; fit a richer density",
        "prior hole": "prior hole: N(0, I) misses where the codes are; "
        + ("fit a density: splitvae fit RUN" if fitted is None else "sample from the fitted density"),
    }
    worst = max(steps, key=lambda name: steps[name])
    found = advice[worst] if steps[worst] > 0 else "nothing stands out: samples are as near as real images"
    places = places_for(floor)
    told = " ".join(f"{'+' if value >= 0 else '−'} {abs(value):.{places}f} {name}" for name, value in steps.items())
    D, inactive = latents["latent_dim"], latents["inactive_by_mean"]
    collapse = ""
    if inactive > D / 2:
        lower = "lower --beta (RAE: --embedding-weight) or --latent-dim"
        stuck = "; splitvae doctor RUN tells whether the output layer is stuck" if inactive == D else ""
        collapse = f" Collapse: {inactive} of {D} latents carry nothing; {lower}{stuck}."
    return f"{found}. The distance from the prior, {prior:.{places}f}, is {floor:.{places}f} floor {told}.{collapse}"
