"""The second stage: Dai & Wipf's objective and recipe, samples that the prior misses, a fit that the seed decides."""

import itertools
import math

import numpy as np
import pytest
import torch

from splitvae.densities.second_stage import SecondStageNetwork, SecondStageVAE
from splitvae.densities.store import load_density, save_density
from splitvae.errors import InputError
from splitvae.models.distributions import DiagonalGaussian

# A second or two of training.
SMALL = {"depth": 2, "hidden_dim": 64, "epochs": 30, "batch_size": 100, "lr": 3e-3, "halve_every": 12}
TINY = {"depth": 1, "hidden_dim": 8, "epochs": 3, "batch_size": 16, "lr": 1e-2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int, seed: int) -> torch.Tensor:
    """n codes around a circle of radius 2, (n, 2): N(0, I) has its mode where there are none."""
    g = seeded(seed)
    angle, radius = 2 * math.pi * torch.rand(n, generator=g), 2 + 0.1 * torch.randn(n, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """2·E|a − b| − E|a − a'| − E|b − b'|: 0 where both are drawn from the same distribution."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


@pytest.fixture(scope="module")
def fitted() -> SecondStageVAE:
    return SecondStageVAE(**SMALL).fit(ring(2000, seed=1), generator=seeded())


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """What the network was given at every step, and the terms that it returned."""
    seen: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    forward = SecondStageNetwork.forward

    def watched(self, z, noise=None):
        terms = forward(self, z, noise)
        seen.append((z.clone(), {name: value.detach() for name, value in terms.items()}))
        return terms

    monkeypatch.setattr(SecondStageNetwork, "forward", watched)
    return seen


# The objective and the recipe


def test_loss_is_the_formula_of_dai_and_wipf():
    network = SecondStageNetwork(3, 5, 2, "learned")
    network.reset(seeded())
    root_of_gamma = 0.3  # their γ_z, a standard deviation
    torch.nn.init.constant_(network.variance.log_std, math.log(root_of_gamma))
    z, noise = torch.randn(7, 3, generator=seeded(1)), torch.randn(7, 3, generator=seeded(2))

    w = {name: value.double().numpy() for name, value in network.state_dict().items()}

    def dense(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def hidden(side, x):
        h = np.maximum(dense(f"{side}.1", np.maximum(dense(f"{side}.0", x), 0)), 0)
        return np.concatenate([x, h], axis=1)

    x = z.double().numpy()
    mu, log_sigma = dense("mean", hidden("encoder", x)), dense("logvar", hidden("encoder", x)) / 2
    u = mu + np.exp(log_sigma) * noise.double().numpy()
    x_hat = dense("head", hidden("decoder", u))
    kl = 0.5 * (mu**2 + np.exp(2 * log_sigma) - 2 * log_sigma - 1)
    gaussian = (x - x_hat) ** 2 / (2 * root_of_gamma**2) + math.log(root_of_gamma) + 0.91893853
    printed = (kl.sum(axis=1) + gaussian.sum(axis=1)).mean()

    terms = {name: value.detach() for name, value in network(z, noise).items()}
    assert float(terms["loss"]) + 3 * 0.91893853 == pytest.approx(printed, rel=1e-5)
    assert float(terms["kl"]) == pytest.approx(kl.sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("hidden_dim", "rule", "count"),
    [(1024, "learned", 4_540_609), (2048, "clamped-ema", 17_457_344), (4096, "clamped-ema", 68_456_640)],
)
def test_parameters_are_as_many_as_in_the_papers_networks(hidden_dim, rule, count):
    network = SecondStageNetwork(64, hidden_dim, 3, rule)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_adam_has_their_eps_and_the_rate_halves(monkeypatch):
    rates = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            rates.append([(group["lr"], group["eps"]) for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    codes = torch.randn(40, 2, generator=seeded())
    options = TINY | {"epochs": 5, "batch_size": 20, "gamma_lr": 10}
    SecondStageVAE(**options, halve_every=2).fit(codes, generator=seeded())
    # Weights, and γ with its own rate.
    expected = [[(rate, 1e-8), (10 * rate, 1e-8)] for rate in (1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3) for _ in range(2)]
    assert rates == expected


def test_clamped_gamma_is_updated_once_per_step(batches):
    density = SecondStageVAE(**TINY, gamma_rule="clamped-ema").fit(torch.randn(64, 2, generator=seeded()))
    running = 1.0
    for _, terms in batches:
        assert float(terms["gamma"]) == pytest.approx(running, rel=1e-6)  # a step uses the γ of the step before
        running = min(running, 0.99 * running + 0.01 * float(terms["mse"]))
    assert len(batches) == 3 * 4
    assert density.gamma_ == pytest.approx(running, rel=1e-6)


def test_z_is_drawn_from_its_posterior_anew_at_every_step(batches):
    mean = 0.1 * torch.arange(50)[:, None].expand(50, 40)  # ten σ apart: a code is known by its place
    posterior = DiagonalGaussian(mean, torch.full((50, 40), 2 * math.log(0.01)))
    SecondStageVAE(**TINY | {"batch_size": 50}).fit(posterior, generator=seeded())
    first, second, third = (z[z[:, 0].argsort()] for z, _ in batches)
    for a, b in itertools.combinations([first, second, third], 2):
        assert float((a - b).std()) == pytest.approx(0.01 * math.sqrt(2), rel=0.05)
    assert float((first - mean).std()) == pytest.approx(0.01, rel=0.05)


def test_plain_latents_are_taken_as_they_are(batches):
    codes = torch.arange(50.0)[:, None]
    SecondStageVAE(**TINY | {"batch_size": 25, "epochs": 2}).fit(codes.numpy(), generator=seeded())
    order = [torch.cat([batches[i][0], batches[i + 1][0]]) for i in (0, 2)]
    assert all(torch.equal(epoch.sort(dim=0).values, codes) for epoch in order)
    assert not torch.equal(*order)


def test_deterministic_posterior_is_fitted_as_its_means():
    codes = torch.randn(60, 2, generator=seeded())
    plain = SecondStageVAE(**TINY).fit(codes, generator=seeded())
    certain = SecondStageVAE(**TINY).fit(DiagonalGaussian(codes, torch.full((60, 2), -torch.inf)), generator=seeded())
    assert torch.equal(plain.sample(5, seeded()), certain.sample(5, seeded()))


# Samples


@pytest.mark.parametrize("options", [{}, {"gamma_rule": "clamped-ema", "gamma_noise": False}])
def test_samples_are_where_the_prior_is_not(fitted, options):
    density = SecondStageVAE(**SMALL, **options).fit(ring(2000, 1), generator=seeded()) if options else fitted
    data, prior = ring(2000, seed=2), torch.randn(2000, 2, generator=seeded(3))
    z = density.sample(2000, seeded(4))
    assert z.dtype == torch.float32
    assert energy_distance(z, data) < 0.25 * energy_distance(prior, data)


def test_samples_without_noise_vary_less(fitted):
    without = SecondStageVAE.from_tensors(fitted.to_tensors() | {"gamma_noise": torch.tensor(False)})
    difference = fitted.sample(4000, seeded()).var(dim=0) - without.sample(4000, seeded()).var(dim=0)
    torch.testing.assert_close(difference, torch.full((2,), fitted.gamma_), rtol=0.15, atol=0)


def test_temperature_scales_both_noises(fitted):
    mode = fitted.sample(5, seeded(), temperature=0.0)
    torch.testing.assert_close(mode, mode[:1].expand(5, 2))
    assert fitted.sample(2000, seeded(), 0.5).var(dim=0).mean() < fitted.sample(2000, seeded()).var(dim=0).mean()


@pytest.mark.parametrize("gamma_noise", [True, False])
def test_match_variance_gives_samples_the_variance_of_the_codes(gamma_noise):
    mean = 5 + ring(1000, seed=1)
    posterior = DiagonalGaussian(mean, torch.full_like(mean, math.log(0.5)))
    options = SMALL | {"epochs": 10, "gamma_noise": gamma_noise}
    plain = SecondStageVAE(**options).fit(posterior, generator=seeded())
    matched = SecondStageVAE(**options, match_variance=True).fit(posterior, generator=seeded())
    of_codes = float(mean.var(dim=0).mean()) + 0.5
    before, after = plain.sample(20_000, seeded(7)), matched.sample(20_000, seeded(7))
    assert float(before.var(dim=0).mean()) != pytest.approx(of_codes, rel=0.05)
    assert float(after.var(dim=0).mean()) == pytest.approx(of_codes, rel=0.03)
    torch.testing.assert_close(after.mean(dim=0), before.mean(dim=0), rtol=0, atol=0.05)


# Seeds and files


def test_fit_and_samples_are_functions_of_the_generator():
    posterior = DiagonalGaussian(torch.randn(60, 3, generator=seeded()), torch.zeros(60, 3))
    before = torch.get_rng_state()
    first, second, other = (SecondStageVAE(**TINY).fit(posterior, generator=seeded(seed)) for seed in (5, 5, 6))
    assert first.losses_ == second.losses_ != other.losses_
    assert torch.equal(first.sample(9, seeded(1)), second.sample(9, seeded(1)))
    assert not torch.equal(first.sample(9, seeded(1)), first.sample(9, seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options", [{}, {"gamma_rule": "clamped-ema", "gamma_noise": False, "depth": 3}, {"match_variance": True}]
)
def test_saved_second_stage_samples_bit_for_bit(tmp_path, options):
    density = SecondStageVAE(**TINY | options).fit(torch.randn(60, 3, generator=seeded()), generator=seeded())
    save_density(density, tmp_path / "densities" / "second.safetensors", {"latent_dim": 3})
    again, record = load_density("second", tmp_path, latent_dim=3)
    assert record["class"] == "SecondStageVAE"
    for name in ("depth", "hidden_dim", "gamma_rule", "gamma_noise", "match_variance", "gamma_", "losses_", "scale_"):
        assert getattr(again, name) == getattr(density, name)
    assert torch.equal(again.sample(50, seeded()), density.sample(50, seeded()))


def test_progress_is_told_every_epoch_and_few_codes_are_one_batch(batches):
    told: list[int] = []
    SecondStageVAE(**TINY).fit(torch.randn(5, 2, generator=seeded()), generator=seeded(), progress=told.append)
    assert told == [1, 1, 1]
    assert [len(z) for z, _ in batches] == [5, 5, 5]


# What cannot be done


@pytest.mark.parametrize(
    ("options", "codes", "message"),
    [
        ({"depth": 0}, torch.zeros(3, 2), "depth must be at least 1, not 0"),
        ({"epochs": 0}, torch.zeros(3, 2), "epochs must be at least 1"),
        ({"halve_every": 0}, torch.zeros(3, 2), "halve_every must be at least 1"),
        ({"lr": float("nan")}, torch.zeros(3, 2), "lr must be above 0 and finite, not nan"),
        ({"gamma_lr": -1.0}, torch.zeros(3, 2), "gamma_lr must be above 0 and finite, not -1.0"),
        ({"gamma_rule": "learnt"}, torch.zeros(3, 2), "Did you mean 'learned'"),
        ({}, torch.zeros(6), r"shape \(N, D\), not \(6,\)"),
        ({}, torch.zeros(1, 2), "1 code is too few"),
        ({}, torch.tensor([[0.0], [math.inf]]), "code 1 is not finite"),
        ({}, DiagonalGaussian(torch.zeros(2, 1), torch.tensor([[0.0], [math.nan]])), "code 1 is not finite"),
        ({}, DiagonalGaussian(torch.zeros(2, 2), torch.zeros(2, 1)), "must have one shape"),
        ({}, torch.full((20, 2), 1e25), "loss of epoch 1 is nan; lower lr or scale the codes"),
        ({"lr": 1e6}, torch.randn(20, 2, generator=seeded()), "loss of epoch 2 is"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, codes, message):
    with pytest.raises(InputError, match=message) as told:
        SecondStageVAE(**TINY | options).fit(codes, generator=seeded())
    assert "\n" not in str(told.value)


def test_use_before_fit_and_foreign_tensors_are_refused(fitted):
    with pytest.raises(InputError, match="not fitted"):
        SecondStageVAE().sample(3)
    with pytest.raises(InputError, match="number of samples"):
        fitted.sample(0)
    with pytest.raises(InputError, match="temperature"):
        fitted.sample(1, temperature=-1.0)
    with pytest.raises(InputError, match="'centre_' is missing"):
        SecondStageVAE.from_tensors({})
    with pytest.raises(InputError, match="no second-stage VAE") as told:
        SecondStageVAE.from_tensors(fitted.to_tensors() | {"network.head.bias": torch.zeros(3)})
    assert "\n" not in str(told.value)
