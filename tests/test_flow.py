"""The autoregressive flow: a density that integrates to 1, in the right nats, and one line where zuko is missing."""

import math
import subprocess
import sys

import pytest
import torch

from splitvae.densities.flow import AutoregressiveFlow
from splitvae.densities.store import load_density, save_density
from splitvae.errors import InputError, SplitVAEError
from splitvae.models.distributions import DiagonalGaussian

pytest.importorskip("zuko")

# A second or two of training.
SMALL = {"transforms": 4, "hidden_dim": 48, "epochs": 15, "batch_size": 100, "lr": 5e-3}
TINY = {"transforms": 2, "hidden_dim": 8, "depth": 1, "epochs": 2, "batch_size": 16}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int, seed: int) -> torch.Tensor:
    """n codes around a circle of radius 2, (n, 2): N(0, I) has its mode where there are none."""
    g = seeded(seed)
    angle, radius = 2 * math.pi * torch.rand(n, generator=g), 2 + 0.2 * torch.randn(n, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """2·E|a − b| − E|a − a'| − E|b − b'|: 0 where both are drawn from the same distribution."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


@pytest.fixture(scope="module")
def fitted() -> AutoregressiveFlow:
    return AutoregressiveFlow(**SMALL).fit(ring(2000, seed=1), generator=seeded())


def test_density_integrates_to_one(fitted):
    side = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(side, side)
    log_prob = fitted.log_prob(grid)
    assert log_prob.dtype == torch.float64
    assert float(log_prob.exp().sum()) * 0.05**2 == pytest.approx(1, abs=0.01)


def test_samples_and_likelihood_follow_what_a_gaussian_misses(fitted):
    data, prior = ring(2000, seed=2), torch.randn(2000, 2, generator=seeded(3))
    z = fitted.sample(2000, seeded(4))
    assert z.dtype == torch.float32
    assert energy_distance(z, data) < 0.2 * energy_distance(prior, data)
    gaussian = torch.distributions.MultivariateNormal(data.mean(dim=0), data.T.cov())
    assert fitted.log_prob(data).mean() > gaussian.log_prob(data).mean() + 0.5
    assert fitted.log_prob(z).mean() == pytest.approx(float(fitted.log_prob(data).mean()), abs=0.3)


def test_log_prob_agrees_with_the_gaussian_that_made_the_codes():
    factor = torch.tensor([[2.0, 0, 0], [1.5, 0.5, 0], [-0.3, 0.2, 10.0]])
    gaussian = torch.distributions.MultivariateNormal(torch.tensor([3.0, -1.0, 50.0]), scale_tril=factor)
    codes = gaussian.mean + torch.randn(4000, 3, generator=seeded()) @ factor.T
    flow = AutoregressiveFlow(transforms=2, hidden_dim=16, depth=1, epochs=10, batch_size=100, lr=1e-2)
    flow.fit(codes[:3000], generator=seeded())
    ours, exact = flow.log_prob(codes[3000:]), gaussian.log_prob(codes[3000:]).double()
    assert float(ours.mean()) == pytest.approx(float(exact.mean()), abs=0.03)
    assert float((ours - exact).abs().mean()) < 0.1
    assert flow.losses_[-1] == pytest.approx(-float(exact.mean()), abs=0.1)  # nats of the codes, not standardised ones


def test_flow_starts_as_the_gaussian_of_the_codes():
    posterior = DiagonalGaussian(3 + 2 * torch.randn(500, 2, generator=seeded()), torch.full((500, 2), math.log(5.0)))
    flow = AutoregressiveFlow(**TINY | {"lr": 1e-30}).fit(posterior, generator=seeded())
    std = (posterior.mean.var(dim=0) + 5).sqrt()  # the law of total variance
    exact = torch.distributions.Normal(posterior.mean.mean(dim=0), std).log_prob(posterior.mean).sum(dim=1)
    torch.testing.assert_close(flow.log_prob(posterior.mean), exact.double(), rtol=0, atol=1e-4)


def test_z_is_drawn_from_its_posterior_anew():
    mean = torch.zeros(500, 2)
    flow = AutoregressiveFlow(**TINY).fit(
        DiagonalGaussian(mean, torch.full((500, 2), math.log(4.0))), generator=seeded()
    )
    assert float(flow.sample(5000, seeded()).std()) == pytest.approx(2, rel=0.1)
    certain = AutoregressiveFlow(**TINY).fit(
        DiagonalGaussian(ring(60, 1), torch.full((60, 2), -math.inf)), generator=seeded()
    )
    assert certain.losses_ == AutoregressiveFlow(**TINY).fit(ring(60, 1).numpy(), generator=seeded()).losses_


@pytest.mark.parametrize("dim", [1, 3])
def test_constant_and_single_variables_survive(dim):
    codes = torch.cat([torch.randn(90, 1, generator=seeded()), torch.full((90, dim - 1), 1000.1)], dim=1)
    flow = AutoregressiveFlow(**TINY).fit(codes, generator=seeded())
    z = flow.sample(50, seeded())
    assert z.isfinite().all()
    assert flow.log_prob(codes).isfinite().all()
    assert torch.equal(flow.std_[1:], torch.ones(dim - 1))


def test_temperature_scales_the_base_noise(fitted):
    mode = fitted.sample(5, seeded(), temperature=0.0)
    torch.testing.assert_close(mode, mode[:1].expand(5, 2))
    flow = AutoregressiveFlow(**TINY | {"lr": 1e-30}).fit(torch.randn(90, 2, generator=seeded()))
    centre, half, whole = (flow.sample(9, seeded(), t) for t in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (centre + whole) / 2)


def test_fit_and_samples_are_functions_of_the_generator():
    posterior = DiagonalGaussian(ring(60, 1), torch.zeros(60, 2))
    before = torch.get_rng_state()
    first, second, other = (AutoregressiveFlow(**TINY).fit(posterior, generator=seeded(seed)) for seed in (5, 5, 6))
    assert first.losses_ == second.losses_ != other.losses_
    assert torch.equal(first.sample(9, seeded(1)), second.sample(9, seeded(1)))
    assert not torch.equal(first.sample(9, seeded(1)), first.sample(9, seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dim", [1, 3])
def test_saved_flow_samples_bit_for_bit(tmp_path, dim):
    codes = torch.randn(60, dim, generator=seeded())
    flow = AutoregressiveFlow(**TINY).fit(codes, generator=seeded())
    save_density(flow, tmp_path / "densities" / "flow.safetensors", {"latent_dim": dim})
    again, record = load_density("flow", tmp_path, latent_dim=dim)
    assert record["class"] == "AutoregressiveFlow"
    for name in ("transforms", "hidden_dim", "depth", "losses_"):
        assert getattr(again, name) == getattr(flow, name)
    assert torch.equal(again.sample(50, seeded()), flow.sample(50, seeded()))
    assert torch.equal(again.log_prob(codes), flow.log_prob(codes))


def test_progress_is_told_every_epoch():
    told: list[int] = []
    AutoregressiveFlow(**TINY).fit(torch.randn(5, 2, generator=seeded()), generator=seeded(), progress=told.append)
    assert told == [1, 1]


def test_zuko_is_imported_by_the_fit_only_and_missed_in_one_line(monkeypatch):
    code = "import sys, splitvae.densities.store; print('zuko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(SplitVAEError, match=r"pip install splitvae\[flow\]"):
        AutoregressiveFlow(**TINY).fit(torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("options", "codes", "message"),
    [
        ({"transforms": 0}, torch.zeros(3, 2), "transforms must be at least 1, not 0"),
        ({"batch_size": 0}, torch.zeros(3, 2), "batch_size must be at least 1"),
        ({"lr": 0.0}, torch.zeros(3, 2), "lr must be above 0 and finite"),
        ({}, torch.zeros(6), r"shape \(N, D\), not \(6,\)"),
        ({}, torch.zeros(1, 2), "1 code is too few"),
        ({}, torch.tensor([[0.0], [math.inf]]), "code 1 is not finite"),
        ({"lr": 1e30}, torch.randn(60, 2, generator=seeded()), "loss of epoch 1 is"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, codes, message):
    with pytest.raises(InputError, match=message) as told:
        AutoregressiveFlow(**TINY | options).fit(codes, generator=seeded())
    assert "\n" not in str(told.value)


def test_use_before_fit_and_foreign_tensors_are_refused(fitted):
    for use in (lambda: AutoregressiveFlow().sample(3), lambda: AutoregressiveFlow().log_prob(torch.zeros(3, 2))):
        with pytest.raises(InputError, match="not fitted"):
            use()
    with pytest.raises(InputError, match="have 3 variables, but the flow was fitted on 2"):
        fitted.log_prob(torch.zeros(1, 3))
    with pytest.raises(InputError, match="number of samples"):
        fitted.sample(0)
    with pytest.raises(InputError, match="temperature"):
        fitted.sample(1, temperature=math.nan)
    with pytest.raises(InputError, match="'losses_' is missing"):
        AutoregressiveFlow.from_tensors({})
    with pytest.raises(InputError, match="no autoregressive flow") as told:
        AutoregressiveFlow.from_tensors(fitted.to_tensors() | {"sizes_": torch.tensor([4, 9, 2])})
    assert "\n" not in str(told.value)
