"""Promises about the objective: each formula against a direct transcription."""

import math

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvae import DiagonalGaussian, InputError, SplitVAE, StandardNormal
from splitvae.models.distributions import inactive_latents
from splitvae.models.losses import DecoderVariance, balanced_loss, gamma_apart


def test_kl_equals_torch_distributions():
    mean, logvar = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), expected)


def test_samples_have_the_posteriors_mean_and_spread():
    mean, logvar = torch.tensor([[1.0, -2.0]]).expand(20_000, 2), torch.tensor([[0.0, -2.0]]).expand(20_000, 2)
    z = DiagonalGaussian(mean, logvar).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(0), (logvar[0] / 2).exp(), atol=0.03, rtol=0)


def test_a_deterministic_posterior_has_std_zero():
    q = DiagonalGaussian(torch.ones(2, 3), torch.full((2, 3), -math.inf))
    assert torch.equal(q.sample(), q.mode())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=1, max_size=30), st.sampled_from(["running-min", "clamped-ema"]))
def test_gamma_never_rises(errors, rule):
    variance = DecoderVariance(rule)
    last = float(variance.gamma)
    for error in errors:
        variance.update(torch.tensor(error))
        assert float(variance.gamma) <= last
        last = float(variance.gamma)


def test_gamma_rules_follow_their_papers():
    errors = [0.5, 2.0, 0.1, 0.1, 3.0, 0.05] * 20
    split, balanced = DecoderVariance("running-min"), DecoderVariance("clamped-ema")
    m, gamma, clamped = 1.0, 1.0, 1.0
    for error in errors:
        split.update(torch.tensor(error))
        balanced.update(torch.tensor(error))
        m = 0.99 * m + 0.01 * error  # Split-VAE, official code
        gamma = min(gamma, m)
        clamped = min(clamped, 0.99 * clamped + 0.01 * error)  # Asperti & Trentin
    assert float(split.gamma) == pytest.approx(gamma, rel=1e-5)
    assert float(split.running_mse) == pytest.approx(m, rel=1e-5)
    assert float(balanced.gamma) == pytest.approx(clamped, rel=1e-5)
    fixed = DecoderVariance("fixed", 0.5)
    fixed.update(torch.tensor(0.01))
    fixed.start_from(torch.tensor(0.01))
    assert float(fixed.gamma) == 0.5
    learned = DecoderVariance("learned")
    learned.start_from(torch.tensor(0.04))
    assert learned.value().item() == pytest.approx(0.04)


def test_the_loss_is_its_formula():
    torch.manual_seed(0)
    sse, kl = torch.rand(7) * 100, torch.rand(7) * 10
    terms = balanced_loss(sse, kl, DecoderVariance(init=0.25), beta=3.0, values_per_image=48)
    torch.testing.assert_close(terms["loss"], (sse / (2 * 0.25) + 3 * kl).mean())
    torch.testing.assert_close(terms["mse"], sse.mean() / 48)
    torch.testing.assert_close(terms["reconstruction"], (sse / 0.5).mean())
    half = balanced_loss(sse, kl, DecoderVariance("fixed", 0.5), beta=1.0, values_per_image=48)
    torch.testing.assert_close(half["loss"], (sse + kl).mean())


def test_a_learned_gamma_settles_at_the_mse():
    variance = DecoderVariance("learned")
    sse = torch.full((3,), 48 * 0.04)
    optimizer = torch.optim.Adam(variance.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        balanced_loss(sse, torch.zeros(3), variance, 1.0, 48)["loss"].backward()
        optimizer.step()
    assert float(variance.value().detach()) == pytest.approx(0.04, rel=0.02)


def test_forward_returns_zero_dim_terms_of_the_formula():
    torch.manual_seed(0)
    model = SplitVAE((1, 16, 16), beta=8.0, gamma_init=0.3, **TINY).eval()
    x, noise = torch.rand(5, 1, 16, 16), torch.randn(5, 4)
    terms = model(x, noise)
    assert set(terms) == {"loss", "mse", "reconstruction", "kl", "gamma"}
    assert all(value.dim() == 0 for value in terms.values())
    q = model.encode(x)
    x_hat = model.decode(q.mean + (q.logvar / 2).exp() * noise).x_hat
    kl = 0.5 * (q.mean**2 + q.logvar.exp() - q.logvar - 1).sum(1).mean()
    loss = ((x - x_hat) ** 2).sum((1, 2, 3)).mean() / (2 * 0.3) + 8 * kl
    torch.testing.assert_close(terms["loss"], loss)


def test_inactive_latents_are_counted_by_both_criteria():
    N = 1000
    mean = torch.stack([torch.randn(N), 0.1 * torch.randn(N), torch.zeros(N)], 1)
    logvar = torch.stack([torch.full((N,), -3.0), torch.full((N,), -0.01), torch.zeros(N)], 1)
    assert inactive_latents(DiagonalGaussian(mean, logvar)) == {"by_mean": 2, "by_variance": 2}


def test_standard_normal_scales_with_temperature_and_knows_its_density():
    prior = StandardNormal(3)
    with pytest.raises(InputError, match="temperature must be at least 0 and finite, not nan"):
        prior.sample(2, temperature=math.nan)
    g = torch.Generator().manual_seed(0)
    assert float(prior.sample(20_000, g, temperature=0.5).std()) == pytest.approx(0.5, abs=0.01)
    z = torch.randn(4, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior.fit(z).log_prob(z), expected)


def test_a_learned_gamma_reaches_the_mse_of_a_short_run_with_a_rate_of_its_own():
    """As the small recipes of Two-Stage VAEs need it: 1,200 steps, cosine from 1e-3, mse from .23 to .009."""

    def final_ratio(factor: float) -> float:
        model = torch.nn.Module()
        model.variance = DecoderVariance("learned", 0.23)
        [_, group] = gamma_apart(model, factor)
        optimizer = torch.optim.Adam([group], lr=1e-3)
        for step in range(1200):
            mse = 0.009 + 0.221 * math.exp(-step / 100)
            for own in optimizer.param_groups:
                own["lr"] = 1e-3 * own["factor"] * 0.5 * (1 + math.cos(math.pi * step / 1200))
            gamma = model.variance.value()
            loss = 0.5 * 1024 * (mse / gamma + gamma.log())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(model.variance.value().detach()) / 0.009

    assert final_ratio(10) < 1.2
    assert final_ratio(1) > 3  # by the rate itself it cannot get there
