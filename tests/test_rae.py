"""Promises about Regularized Autoencoders: their losses against the authors' formulas, and every command on them."""

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_options
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from splitvae import RAE, VAE, DiagonalGaussian, InputError, Run, TrainConfig, evaluate, load_model, train
from splitvae.densities.fit import fit_density
from splitvae.describe import count_flops, count_parameters, layers
from splitvae.doctor import examine
from splitvae.evaluation.features import Extractor
from splitvae.evaluation.verify import verify
from splitvae.models.baselines.infogan import InfoGANNetwork
from splitvae.models.baselines.rae import RAENetwork
from splitvae.models.build import build_model
from splitvae.models.distributions import inactive_latents
from splitvae.models.penalties import (
    SpectralNorm,
    input_gradient_penalty,
    jacobian_penalty,
    normalise_spectrally,
    squared_output_penalty,
    weight_penalty,
)
from splitvae.presets import resolve
from splitvae.reports.plots import latent_plot, loss_plot
from splitvae.training import loop
from splitvae.training.calibrate import calibrate
from splitvae.training.precision import memory_layout

Call = Callable[..., tuple[int, str, str]]
COLOUR = Extractor("mean-colour", 1, lambda x: x.float().mean(dim=(2, 3)), "none", "no-weights", published=True)

# Networks at tiny size, each with its own kind of layers.
NETWORKS = {
    "split-vae": {"base_channels": 2, "num_scales": 2, "embedding_dim": 8},
    "rae": {"base_channels": 2},
    "resnet": {"base_channels": 2, "num_scales": 2, "embedding_dim": 8},
    "infogan": {"base_channels": 2, "embedding_dim": 8},
}
REGULARIZED = {
    "ae": {"regularizer": "none", "embedding_weight": 0.0},
    "none": {"regularizer": "none"},
    "gp-authors": {"regularizer": "gp", "gradient_penalty": "authors"},
    "gp-jacobian": {"regularizer": "gp", "gradient_penalty": "jacobian"},
    "gp-pythae": {"regularizer": "gp", "gradient_penalty": "pythae"},
    "l2": {"regularizer": "l2"},
    "sn": {"regularizer": "sn"},
}
every_regularizer = pytest.mark.parametrize("name", REGULARIZED)


def tiny(network: str = "rae", image_shape: tuple[int, int, int] = (1, 16, 16), **changes: object) -> RAE:
    torch.manual_seed(0)
    return RAE(image_shape, 4, network=network, **(NETWORKS[network] | changes))


def images(n: int = 5, channels: int = 1) -> Tensor:
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(1))


def kernels(network: nn.Module) -> dict[str, nn.Module]:
    """Convolutions, transposed ones and dense layers by name, those that are normalised included."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kinds)}


# The losses.


def authors_spectral_norm(kernel: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Their layers: W (…, last) in Keras' layout and u (1, last) → W / σ and the next u."""
    W = kernel.reshape(-1, kernel.shape[-1])
    v = u @ W.T
    v = v / (v.square().sum().sqrt() + 1e-12)
    u = v @ W
    u = u / (u.square().sum().sqrt() + 1e-12)
    sigma = v @ W @ u.T
    return kernel / sigma, u


def in_keras_layout(weight: Tensor) -> Tensor:
    """(k, k, in, out) of a convolution, (k, k, out, in) of a transposed one, (in, out) of a dense layer."""
    return weight.permute(2, 3, 1, 0) if weight.dim() == 4 else weight.T


def from_keras_layout(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1) if kernel.dim() == 4 else kernel.T


def authors_loss(model: RAE, x: Tensor, noise: Tensor, beta: float, lam: float) -> Tensor:
    """MSE + β·mean z² + λ·penalty, means as in their code; pythae's and the paper's penalties as those print them."""
    x = x.clone().requires_grad_()
    z = model.encode(x).mean
    x_hat = model.decode(z).x_hat
    loss = (x.detach() - x_hat).square().mean(dim=(1, 2, 3)).mean() + beta * z.square().mean(dim=1).mean()
    if model.regularizer == "gp":
        if model.gradient_penalty == "authors":  # K.gradients(K.square(x_hat), z), squared, averaged over all
            (gradient,) = torch.autograd.grad(x_hat.square().sum(), z, create_graph=True)
            loss = loss + lam * gradient.square().mean()
        elif model.gradient_penalty == "jacobian":
            (gradient,) = torch.autograd.grad((x_hat * noise).sum(), z, create_graph=True)
            loss = loss + lam * gradient.square().sum(dim=1).mean()
        else:  # pythae: ‖∂ Σ x̂ / ∂x‖₂² of each image
            (gradient,) = torch.autograd.grad(x_hat, x, torch.ones_like(x_hat), create_graph=True)
            loss = loss + lam * gradient.reshape(len(x), -1).norm(2, dim=1).pow(2).mean()
    elif model.regularizer == "l2":
        convs = [layer for layer in model.network.modules() if isinstance(layer, nn.ConvTranspose2d)]
        loss = loss + sum(lam * layer.weight.square().sum() for layer in convs)
    return loss


@every_regularizer
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_authors_formula_times_the_values_of_an_image(name, training):
    options = REGULARIZED[name]
    beta, lam = options.get("embedding_weight", 0.03), 0.02
    model = tiny(image_shape=(3, 16, 16), **({"embedding_weight": beta, "penalty_weight": lam} | options))
    model.train(training)
    x = images(channels=3)
    noise = torch.randn(5, *model.noise_shape)
    theirs = copy.deepcopy(model)
    terms = model(x, noise)
    expected = 3 * 16 * 16 * authors_loss(theirs, x, noise, beta, lam)
    torch.testing.assert_close(terms["loss"], expected)
    assert tuple(terms) == RAE.terms
    assert all(value.dim() == 0 and value.dtype == torch.float32 for value in terms.values())
    torch.testing.assert_close(terms["mse"] * 3 * 16 * 16, terms["reconstruction"])
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + model.beta * terms["kl"] + terms["penalty"])
    assert bool(terms["penalty"] > 0) == (options["regularizer"] in ("gp", "l2"))
    # The gradients, too; those of biases before batch norm are noise around 0.
    ours, others = (
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(own.parameters()))])
        for loss, own in ((terms["loss"], model), (expected, theirs))
    )
    torch.testing.assert_close(ours, others, atol=1e-4 * float(others.abs().max()), rtol=1e-3)


def test_rae_sn_is_the_plain_one_with_the_authors_kernels():
    model, plain = tiny(regularizer="sn").train(), tiny().train()
    x = images()
    for _ in range(3):  # each forward goes on with the u of the one before
        changed = {}
        for name, layer in kernels(model.network).items():
            norm = layer.parametrizations.weight[0]
            kernel, u = authors_spectral_norm(in_keras_layout(layer.parametrizations.weight.original), norm.u[None])
            changed[name] = (from_keras_layout(kernel), u)
        with torch.no_grad():
            for name, layer in kernels(plain.network).items():
                layer.weight.copy_(changed[name][0])
        terms, expected = model(x), plain(x)
        for key, value in expected.items():
            torch.testing.assert_close(terms[key], value, atol=1e-4, rtol=1e-4)
        for name, layer in kernels(model.network).items():
            torch.testing.assert_close(layer.parametrizations.weight[0].u, changed[name][1][0].detach())


@pytest.mark.parametrize("gradient_penalty", ["authors", "jacobian", "pythae"])
def test_only_the_jacobian_penalty_draws_and_it_draws_the_noise_it_is_not_given(gradient_penalty):
    model = tiny(regularizer="gp", gradient_penalty=gradient_penalty, penalty_weight=1.0)
    x = images()
    torch.manual_seed(3)
    drawn = model(x)["penalty"]
    again = torch.rand(())
    torch.manual_seed(3)
    noise = torch.randn(5, 1, 16, 16)
    after = torch.rand(())
    torch.manual_seed(3)
    if gradient_penalty == "jacobian":
        assert model.noise_shape == (1, 16, 16)
        assert torch.equal(drawn, model(x, noise)["penalty"])
        assert torch.equal(again, after)
    else:
        assert model.noise_shape == (4,)
        assert torch.equal(again, torch.rand(()))


# Spectral normalisation.

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(3, 5, 2),
    "transposed conv": lambda: nn.ConvTranspose2d(3, 5, 2),
    "dense": lambda: nn.Linear(3, 5),
}


def test_spectral_normalisation_by_hand():
    # W = [[3, 4], [0, 5]] as Keras has it (rest, last); u = (1, 0):
    # v ∝ u·Wᵀ = (3, 0) → (1, 0);  u' ∝ v·W = (3, 4) → (.6, .8);  σ = v·W·u'ᵀ = 3·.6 + 4·.8 = 5.
    W = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    norm = SpectralNorm(W.T)
    norm.u.copy_(torch.tensor([1.0, 0.0]))
    norm.train()
    torch.testing.assert_close(norm(W.T).T, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(norm.u, torch.tensor([0.6, 0.8]))
    # The next step: u·Wᵀ = (5, 4); v = (5, 4)/√41; v·W = (15, 40)/√41; σ = its norm = √(1825/41).
    torch.testing.assert_close(norm(W.T).T, W / math.sqrt(1825 / 41))
    torch.testing.assert_close(norm.u, torch.tensor([15.0, 40.0]) / math.sqrt(1825))


@pytest.mark.parametrize("kind", LAYERS)
def test_the_gradient_flows_through_the_iteration(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    weight = layer.weight.detach().double().requires_grad_()
    norm = SpectralNorm(weight).double().train()
    u = norm.u.clone()[None]
    probe = torch.randn_like(weight)
    (ours,) = torch.autograd.grad((norm(weight) * probe).sum(), weight)
    kernel, _ = authors_spectral_norm(in_keras_layout(weight), u)
    assert u.shape[1] == kernel.shape[-1]
    (theirs,) = torch.autograd.grad((from_keras_layout(kernel) * probe).sum(), weight)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    # With u' and v held fixed, as torch.nn.utils has it, it would be another.
    matrix = in_keras_layout(weight).reshape(-1, kernel.shape[-1])
    v = (u @ matrix.T).detach()
    v = v / v.norm()
    fixed = (v @ matrix).detach()
    sigma = (v @ matrix @ fixed.T / fixed.norm()).squeeze()
    (held,) = torch.autograd.grad((weight / sigma * probe).sum(), weight)
    assert (ours - held).abs().max() > 1e-3


@pytest.mark.parametrize("kind", LAYERS)
def test_sigma_becomes_the_largest_singular_value(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]().requires_grad_(False)
    # The columns are output channels, but of a transposed convolution input channels: torch's first axis.
    largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    normalise_spectrally(layer.train())
    for _ in range(200):
        weight = layer.weight
    torch.testing.assert_close(torch.linalg.matrix_norm(weight.flatten(1), 2), torch.tensor(1.0))
    torch.testing.assert_close(weight, layer.parametrizations.weight.original / largest)
    if isinstance(layer, nn.ConvTranspose2d):
        assert layer.parametrizations.weight[0].u.shape == (3,)  # input channels
        other = torch.linalg.matrix_norm(weight.transpose(0, 1).flatten(1), 2)
        assert abs(other - 1) > 1e-2


def test_u_rests_in_evaluation_and_the_same_images_come_out_twice():
    model = tiny(regularizer="sn")
    model(images())
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = model(images()), model(images())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(model.reconstruct(images()), model.reconstruct(images()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_kernel_is_normalised_and_nothing_else(network):
    model = tiny(network, regularizer="sn")
    plain = tiny(network)
    found = kernels(model.network)
    assert found.keys() == kernels(plain.network).keys()
    theirs = type(spectral_norm(nn.Linear(2, 2)).parametrizations.weight[0])
    for name, layer in found.items():
        (norm,) = layer.parametrizations.weight
        own = isinstance(plain.network, InfoGANNetwork) and name.startswith("encoder")  # normalised by its authors
        assert isinstance(norm, theirs if own else SpectralNorm), name
        assert list(layer.parametrizations) == ["weight"]
    others = {name for name, module in model.network.named_modules() if parametrize.is_parametrized(module)}
    assert others == found.keys()
    # The same initial weights, biases and batch norm, under the same names.
    wanted = dict(plain.named_parameters())
    mine = {name.replace("parametrizations.weight.original", "weight"): p for name, p in model.named_parameters()}
    wanted = {name.replace("parametrizations.weight.original", "weight"): p for name, p in wanted.items()}
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[name], wanted[name]) for name in mine)
    assert count_parameters(model) == count_parameters(plain)
    assert all(torch.isfinite(value) for value in model(images()).values())


def test_averages_and_copies_keep_their_spectral_norms_apart():
    from splitvae.training.ema import update_average

    model, average = tiny(regularizer="sn"), tiny(regularizer="sn")
    model(images())
    update_average(average, model, decay=0.75, step=1000)
    twin = copy.deepcopy(average)
    twin(images())
    for name, layer in kernels(average.network).items():
        assert torch.equal(
            layer.parametrizations.weight[0].u, kernels(model.network)[name].parametrizations.weight[0].u
        )
        assert not torch.equal(
            layer.parametrizations.weight[0].u, kernels(twin.network)[name].parametrizations.weight[0].u
        )


# Penalties.

A = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])  # AᵀA = [[2, 1], [1, 5]], ‖A‖²_F = 7


def linear(z: Tensor) -> Tensor:
    """x̂ = A·z as images of 1×2×2."""
    return (z @ A.T).view(-1, 1, 2, 2)


def test_the_authors_gradient_penalty_by_hand():
    # ∂‖A·z‖²/∂z = 2AᵀA·z: of z = (1, 2) it is (8, 22), of (−1, 0) it is (−4, −2).
    z = torch.tensor([[1.0, 2.0], [-1.0, 0.0]], requires_grad=True)
    torch.testing.assert_close(squared_output_penalty(linear(z), z), torch.tensor([8.0**2 + 22**2, 4.0**2 + 2**2]))


def test_the_jacobian_penalty_by_hand_and_its_mean():
    z = torch.randn(2, 2, requires_grad=True)
    noise = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, -1.0, 5.0]]).view(2, 1, 2, 2)
    # Aᵀε = (3, 8) and (0, −2).
    torch.testing.assert_close(jacobian_penalty(linear(z), z, noise), torch.tensor([73.0, 4.0]))
    # E εεᵀ = I: over the unit vectors the sum is ‖A‖²_F, and so is the mean over normal ε.
    z = torch.randn(4, 2, requires_grad=True)
    assert jacobian_penalty(linear(z), z, torch.eye(4).view(4, 1, 2, 2)).sum() == 7
    z = torch.randn(20_000, 2, requires_grad=True)
    noise = torch.randn(20_000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert float(jacobian_penalty(linear(z), z, noise).detach().mean()) == pytest.approx(7, rel=0.03)


def test_pythaes_gradient_penalty_by_hand():
    # x̂ = A·E·x: ∂ Σ x̂ / ∂x = 1ᵀ·A·E = (2, 3)·E = (2, 3, 0, 2), whatever x is.
    E = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    x = torch.rand(3, 1, 2, 2, requires_grad=True)
    x_hat = linear(x.flatten(1) @ E.T)
    torch.testing.assert_close(input_gradient_penalty(x_hat, x), torch.full((3,), 4.0 + 9 + 4))


@pytest.mark.parametrize("network", ["rae", "split-vae"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["authors", "jacobian", "pythae"])
def test_gradients_of_the_penalty_reach_the_decoder_through_batch_norm(network, training, kind):
    net = tiny(network, regularizer="gp", gradient_penalty=kind).network.double().train(training)
    x = images(3).double().requires_grad_()
    noise = torch.randn(3, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():  # away from zero biases, where ReLU has its corner
            p.add_(torch.randn_like(p), alpha=0.1)

    def penalty() -> Tensor:
        z = net.encode(x)[0]
        if kind != "pythae":
            z = z.detach().requires_grad_()
        x_hat = torch.sigmoid(net.decode(z)[..., :16, :16])
        if kind == "authors":
            return squared_output_penalty(x_hat, z).mean()
        return (jacobian_penalty(x_hat, z, noise) if kind == "jacobian" else input_gradient_penalty(x_hat, x)).mean()

    decoder = [(name, p) for name, p in net.named_parameters() if name.startswith(("decoder", "embedding"))]
    gradients = torch.autograd.grad(penalty(), [p for _, p in decoder], allow_unused=True, materialize_grads=True)
    for (name, p), gradient in zip(decoder, gradients, strict=True):
        if p.dim() > 1:
            assert gradient.abs().max() > 0, name
    # Along a random direction of all weights it is what the penalty really does.
    directions = [torch.randn_like(p) for _, p in decoder]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for (_, p), direction in zip(decoder, directions, strict=True):
                p.add_(direction, alpha=sign * step)
        values.append(float(penalty().detach()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_the_penalty_of_a_model_reaches_its_decoder_and_encoder():
    model = tiny(regularizer="gp", penalty_weight=1.0).train()
    model(images())["penalty"].backward()
    for name in ("decoder_dense", "decoder_head", "encoder_convs.0"):
        assert model.network.get_submodule(name).weight.grad.abs().max() > 0


def test_the_layout_of_memory_changes_a_penalised_step_by_rounding_only():
    cpu = torch.device("cpu")
    assert memory_layout(resolve("mnist-rae-gp-small"), cpu) == torch.contiguous_format
    assert memory_layout(resolve("mnist-rae-gp-small"), torch.device("cuda")) == torch.channels_last
    # The authors' penalty has weight 0 there.
    assert memory_layout(resolve("cifar10-rae-gp-small"), cpu) == torch.channels_last
    assert memory_layout(resolve("mnist-rae-l2-small"), cpu) == torch.channels_last
    model = tiny(regularizer="gp", penalty_weight=1e-3)
    x, gradients = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = copy.deepcopy(model).to(memory_format=layout)
        own(x.contiguous(memory_format=layout))["loss"].backward()
        gradients.append([parameter.grad for parameter in own.parameters()])
    for contiguous, last in zip(*gradients, strict=True):
        torch.testing.assert_close(contiguous, last, rtol=1e-4, atol=1e-4)


def test_the_weight_penalty_by_hand():
    assert float(weight_penalty([torch.tensor([[1.0, -2.0]]), torch.tensor([3.0])])) == 1 + 4 + 9
    model = tiny(regularizer="l2", embedding_weight=0.0, penalty_weight=0.5)
    model(images())["penalty"].backward()
    penalised = {name for name, p in model.network.named_parameters() if p.grad is not None}
    assert penalised == {"decoder_upsamples.0.weight", "decoder_head.weight"}  # no bias, no dense layer, no encoder
    head = model.network.decoder_head.weight
    torch.testing.assert_close(head.grad, 2 * 0.5 * 16 * 16 * head)  # D·λ·Σw²: no decoupled decay


def penalised(network: nn.Module) -> set[str]:
    own = {id(kernel) for kernel in network.decoder_kernels()}
    return {name for name, p in network.named_parameters() if id(p) in own}


def test_which_kernels_are_penalised():
    with torch.device("meta"):
        small, large = RAENetwork((1, 32, 32), 16, 1), RAENetwork((3, 64, 64), 64, 3)
    ups = {f"decoder_upsamples.{i}.weight" for i in range(3)} | {"decoder_head.weight"}
    assert penalised(small) == ups - {"decoder_upsamples.2.weight"}
    assert penalised(large) == ups | {"decoder_dense.weight"}  # the authors' CelebA
    for name in ("resnet", "split-vae"):  # all the decoder's convolutions, and no dense layer
        network = tiny(name).network
        expected = {f"{key}.weight" for key, m in kernels(network).items() if "decoder" in key and "dense" not in key}
        assert penalised(network) == expected
        assert len(expected) == (2 * 4 + 1 if name == "split-vae" else 3 * 4 + 1)
    assert penalised(tiny("infogan").network) == {"decoder_upsample.weight", "decoder_head.weight"}


# A point posterior.


def test_the_posterior_is_a_point():
    q = tiny().encode(images())
    assert q.deterministic
    assert q.std.max() == 0
    assert torch.equal(q.sample(), q.mean)
    assert torch.equal(q.sample(noise=torch.full((5, 4), 1e6)), q.mean)
    torch.testing.assert_close(q.kl(), q.mean.square().sum(1) / 2)
    assert torch.equal(q.kl_per_dimension(), q.mean.square() / 2)
    assert not VAE((1, 16, 16), **TINY).encode(images()).deterministic


def test_inactive_latents_of_points_are_measured_by_the_other_latents():
    mean = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.1, 0.001])
    points = DiagonalGaussian(mean, torch.full_like(mean, -math.inf))
    assert inactive_latents(points) == {"by_mean": 1, "by_variance": 0}
    assert inactive_latents(DiagonalGaussian(1000 * mean, points.logvar)) == {"by_mean": 1, "by_variance": 0}
    assert inactive_latents(DiagonalGaussian(0 * mean, points.logvar)) == {"by_mean": 3, "by_variance": 0}
    assert inactive_latents(DiagonalGaussian(mean, torch.zeros_like(mean)))["by_mean"] == 3  # beside the prior's 1


@every_regularizer
def test_forward_works_without_gradients_and_changes_no_state_but_batch_norms_and_spectral_norms(name):
    model = tiny(**({"penalty_weight": 1.0} | REGULARIZED[name]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = images()
    with torch.no_grad():
        terms = model(x)
    assert not x.requires_grad
    assert bool(terms["penalty"] > 0) == (name == "l2")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {
        key for key in before if ".running_mean" in key or "running_var" in key or key.endswith(("tracked", ".u"))
    }
    assert any(key.endswith(".u") for key in changed) == (name == "sn")
    with torch.inference_mode():
        model.eval()(x)
    assert not x.requires_grad


def test_calibration_moves_batch_norm_alone_and_fits_it_to_the_weights():
    class Loader:
        def fixed_batches(self, n, batch):
            return images(n).split(batch)

    model = tiny(regularizer="sn", embedding_weight=0.0)
    model(images())  # u is far from where it will settle
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibrate(model, Loader(), 100)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not model.training
    assert changed == {key for key in before if "running_mean" in key or "running_var" in key}
    stored = model(images(100))["mse"]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    torch.testing.assert_close(stored, model(images(100))["mse"], atol=0, rtol=0.01)


def test_calibration_averages_whole_batches_and_leaves_out_a_short_tail():
    x = (
        torch.randn(230, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2
        + torch.arange(230)[:, None, None, None]
    )

    class Loader:
        def fixed_batches(self, n, batch):
            assert (n, batch) == (230, 100)
            return x.split(batch)

    class Model(nn.Module):
        noise_shape = (1,)

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3, momentum=0.3)

        def forward(self, x, noise):
            return self.norm(x)

    model = calibrate(Model(), Loader(), 230)
    whole = [part.transpose(0, 1).flatten(1) for part in x.split(100)[:2]]
    torch.testing.assert_close(model.norm.running_mean, sum(part.mean(1) for part in whole) / 2)
    torch.testing.assert_close(model.norm.running_var, sum(part.var(1) for part in whole) / 2)
    assert (model.norm.momentum, model.training) == (0.3, False)


# Files and mistakes.


@every_regularizer
def test_saved_and_loaded_paints_the_same_bits(name, tmp_path: Path):
    model = tiny("split-vae", **REGULARIZED[name])
    model(images())  # batch norm and spectral norms have moved
    model.eval()
    model.save_pretrained(tmp_path / "model")
    x = images()
    with torch.no_grad():
        z = model.encode(x).mean
        expected = model.decode(z).x_hat
    for loaded in (RAE.from_pretrained(tmp_path / "model"), load_model(tmp_path)):
        assert type(loaded) is RAE
        assert not loaded.training
        assert loaded.config == model.config
        assert loaded.state_dict().keys() == model.state_dict().keys()
        with torch.no_grad():
            assert torch.equal(loaded.encode(x).mean, z)
            assert torch.equal(loaded.decode(z).x_hat, expected)
        noise = torch.randn(5, *model.noise_shape)
        assert all(torch.equal(a, b) for a, b in zip(model(x, noise).values(), loaded(x, noise).values(), strict=True))


MISTAKES = [
    ({"regularizer": "l1"}, "regularizer must be one of none, gp, l2, sn, not 'l1'"),
    ({"gradient_penalty": "author"}, "gradient_penalty must be one of .*, not 'author'. Did you mean 'authors'"),
    ({"embedding_weight": -1.0}, "embedding_weight must be at least 0 and finite, not -1.0"),
    ({"penalty_weight": -1e-9}, "penalty_weight must be at least 0 and finite"),
    ({"penalty_weight": math.inf}, "penalty_weight must be at least 0 and finite, not inf"),
    ({"embedding_weight": math.nan}, "embedding_weight must be at least 0 and finite, not nan"),
    ({"network": "rea"}, "unknown network 'rea'. Did you mean 'rae'"),
    ({"embedding_dim": 8}, "the network rae has no option 'embedding_dim'"),
    ({"base_chanels": 8}, "no option 'base_chanels'. Did you mean 'base_channels'"),
    ({"num_components": 2}, "no option 'num_components'"),
    ({"base_channels": 0}, "base_channels must be at least 1"),
    ({"base_channels": 4.5}, "base_channels must be at least 1 and whole, not 4.5"),
    ({"base_channels": "4"}, "base_channels must be at least 1 and whole, not '4'"),
    ({"latent_dim": 0}, "latent_dim must be at least 1"),
    ({"latent_dim": 2.5}, "latent_dim must be at least 1 and whole, not 2.5"),
    ({"batch_norm_momentum": 0}, "batch_norm_momentum must lie in"),
    ({"batch_norm_momentum": 0.0}, "batch_norm_momentum must lie in"),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES)
def test_wrong_values_are_refused_with_one_line(change, words, tmp_path: Path):
    with pytest.raises(InputError, match=words) as caught:
        RAE(**({"image_shape": (1, 16, 16), "latent_dim": 4, "base_channels": 2} | change))
    assert "\n" not in str(caught.value)
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=words) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_regularizer_is_not_loaded(tmp_path: Path):
    tiny(regularizer="sn").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"regularizer": "gp"}))
    with pytest.raises(InputError, match="does not fit the model"):
        RAE.from_pretrained(tmp_path)


CONFIGS = [
    ({"model": "rae-gp", "compile": True}, "rae-gp differentiates twice, which torch.compile cannot"),
    ({"model": "vae", "lr_schedule": "plateau"}, "use it with a fixed gamma"),
    ({"model": "splitvae", "lr_schedule": "plateau", "gamma_rule": "learned"}, "use it with a fixed gamma"),
    ({"model": "rae", "num_components": 3}, "rae has one component; use --model splitvae for 3"),
    ({"model": "rae", "network": "rae", "embedding_dim": 16}, "embedding_dim does not apply to the network rae"),
    ({"model": "rae-tv"}, "model is 'rae-tv'"),
    ({"gradient_penalty": "paper"}, "gradient_penalty is 'paper'"),
    ({"penalty_weight": -1.0}, "penalty_weight must be at least 0"),
]


@pytest.mark.parametrize(("change", "words"), CONFIGS)
def test_configurations_that_cannot_be_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        TrainConfig(**change)


def test_a_plateau_goes_with_an_autoencoder_or_a_fixed_gamma():
    assert TrainConfig(model="rae", lr_schedule="plateau").lr_schedule == "plateau"
    assert TrainConfig(model="vae", lr_schedule="plateau", gamma_rule="fixed", gamma_init=0.5).gamma_init == 0.5


@pytest.mark.parametrize("model", ["ae", "rae", "rae-gp", "rae-l2", "rae-sn"])
def test_a_configuration_becomes_its_model(model):
    config = TrainConfig(
        model=model, embedding_weight=0.5, penalty_weight=0.25, gradient_penalty="pythae", latent_dim=3, base_channels=2
    )
    built = build_model(config, (1, 16, 16))
    assert type(built) is RAE
    assert built.regularizer == (model.partition("-")[2] or "none")
    assert built.config["embedding_weight"] == (0.0 if model == "ae" else 0.5)
    assert (built.config["penalty_weight"], built.gradient_penalty) == (0.25, "pythae")
    again = build_model(config, (1, 16, 16))
    assert all(torch.equal(a, b) for a, b in zip(built.state_dict().values(), again.state_dict().values(), strict=True))


# Training.

QUICK = {"batch_size": 400, "epochs": 1, "precision": "fp32", "quiet": True, "log_every": 2, "device": "cpu"}
SIZES = {"split-vae": TINY, "rae": {"base_channels": 2, "latent_dim": 4}}


def strict(text: str) -> dict:
    """JSON without Infinity and NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Path]]:
    """Runs on the digits by model and network, trained when they are first asked for."""
    folder = tmp_path_factory.mktemp("rae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

        def make(model: str, network: str) -> Path:
            path = folder / f"{model}-{network}"
            if not path.exists():
                train("digits", out=path, model=model, network=network, **(QUICK | SIZES[network]))
            return path

        yield make


@pytest.fixture
def run(trained: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run, so that tests cannot disturb each other."""

    def copied(model: str) -> Path:
        return Path(shutil.copytree(trained(model, "rae"), tmp_path / model))

    return copied


@pytest.mark.parametrize("network", ["split-vae", "rae"])
@pytest.mark.parametrize("model", ["ae", "rae", "rae-gp", "rae-l2", "rae-sn"])
def test_every_model_trains_and_its_run_explains_itself(model, network, trained):
    run = Run(trained(model, network))
    lines = [strict(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["beta_gamma"] is None
        assert line["gamma"] == 0.5
        numbers = ["loss", "mse", "reconstruction", "kl", "penalty", "grad_norm", "nll"]
        assert all(math.isfinite(line[name]) for name in numbers)
        assert (line["penalty"] > 0) == (model in ("rae-gp", "rae-l2"))
        assert line["reconstruction"] == pytest.approx(256 * line["mse"], rel=1e-5)
    summary = strict((run.path / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["gamma"] == 0.5
    assert summary["mse"] > 0
    strict((run.path / "config.json").read_text())
    assert [path.name for path in sorted((run.path / "samples").iterdir())] == [
        f"step-{step:07d}.png" for step in (1, 2, 4)
    ]
    x = torch.from_numpy(run.data.images[run.data.splits["test"]].copy()).float() / 255
    assert summary["mse"] == pytest.approx(float((run.model.reconstruct(x) - x).square().mean()), rel=1e-4)
    assert summary["kl"] == pytest.approx(float(run.model.encode(x).mean.detach().square().sum(1).mean()) / 2, rel=1e-4)
    assert run.model.sample(2).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("model", ["rae-gp", "rae-sn"])
def test_training_lowers_the_loss(model, npz: Path, tmp_path: Path):
    options = QUICK | {"base_channels": 8, "latent_dim": 16, "network": "rae", "lr": 3e-3, "log_every": 2}
    run = train(out=tmp_path / "run", data=str(npz), model=model, **(options | {"epochs": 12, "batch_size": 24}))
    assert run.log()[-1]["mse"] < 0.65 * run.log()[0]["mse"]


class Cut(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def cut_at(step: int, patch: pytest.MonkeyPatch) -> None:
    def batch(self: object, epoch: int, index: int, part: slice = slice(None)) -> Tensor:
        if epoch * self.steps_per_epoch + index == step:  # type: ignore[attr-defined]
            raise Cut
        return real(self, epoch, index, part)

    real = loop.ImageLoader.batch
    patch.setattr(loop.ImageLoader, "batch", batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "rae-sn", "lr_schedule": "plateau", "ema_decay": 0.9, "lr": 1e-7},
        {"model": "rae-gp", "gradient_penalty": "jacobian", "penalty_weight": 1e-3, "accumulate": 2},
    ],
)
def test_a_run_that_was_cut_and_resumed_equals_one_that_was_not(changes, npz: Path, tmp_path: Path, monkeypatch):
    options = QUICK | SIZES["rae"] | {"network": "rae", "data": str(npz), "batch_size": 16, "checkpoint_every": 4}
    options |= {"epochs": 9, "log_every": 3} | changes
    whole = train(out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(7, patch)  # in the third epoch; the state is that of step 4, in the second
        train(out=tmp_path / "cut", **options)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(21, patch)
        train(resume=tmp_path / "cut")
    resumed = train(resume=tmp_path / "cut")
    a, b = (load_model(run.path).state_dict() for run in (whole, resumed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    timing = {"sec_per_step", "inactive"}
    logs = [[{k: v for k, v in line.items() if k not in timing} for line in run.log()] for run in (whole, resumed)]
    assert [line["step"] for line in logs[1]] == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert logs[0][-1] == logs[1][-1]
    if "lr_schedule" in changes:  # nothing was learned at such a rate: five epochs after the best it was halved
        assert logs[1][-1]["lr"] == 0.5e-7
        states = [strict((r.path / "state/step-000000027/state.json").read_text()) for r in (whole, resumed)]
        assert states[0]["plateau"] == states[1]["plateau"]
        # What is watched is the authors' MSE + β·mean z², not a sum over pixels.
        assert states[0]["plateau"]["best"] == pytest.approx(logs[0][0]["loss"] / 768, rel=0.1)


@pytest.mark.parametrize("gradient_penalty", ["jacobian", "pythae"])
def test_the_other_gradient_penalties_train(gradient_penalty, npz: Path, tmp_path: Path):
    options = QUICK | TINY | {"batch_size": 24, "model": "rae-gp", "gradient_penalty": gradient_penalty}
    run = train(out=tmp_path / "run", data=str(npz), penalty_weight=1e-3, **options)
    assert all(line["penalty"] > 0 for line in run.log())


@pytest.mark.parametrize("model", ["rae-gp", "rae-sn"])
def test_bf16_trains_and_stays_close_to_float32(model, npz: Path, tmp_path: Path):
    options = QUICK | SIZES["rae"] | {"model": model, "network": "rae", "batch_size": 24}
    options |= {"penalty_weight": 1e-3} if model == "rae-gp" else {}
    logs = [
        train(out=tmp_path / precision, data=str(npz), **(options | {"precision": precision})).log()[-1]
        for precision in ("fp32", "bf16")
    ]
    for name in ("mse", "penalty"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=0.05)
    assert logs[1]["loss"] != logs[0]["loss"]  # it is another arithmetic


@pytest.mark.slow
def test_two_processes_penalise_as_one(tmp_path: Path):
    common = ["train", "digits", *tiny_options(batch_size=200, log_every=4)]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    penalised = ["rae-gp", "--penalty-weight", "1e-3"]
    for model in ([*penalised, "--gradient-penalty", "jacobian"], penalised, ["rae-sn"]):
        logs = []
        for name, start in (("one", []), ("two", launch)):
            command = [sys.executable, *start, "-m", "splitvae", *common, "--device", "cpu", "--overwrite"]
            command += ["--quiet", "--model", *model, "--out", str(tmp_path / name)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=400)
            assert result.returncode == 0, result.stdout + result.stderr
            logs.append(Run.open(tmp_path / name).log())
        for one, two in zip(*logs, strict=True):
            for name in ("loss", "penalty", "grad_norm"):
                assert two[name] == pytest.approx(one[name], rel=1e-2), name


@pytest.mark.slow
def test_a_compiled_rae_sn_trains_as_the_eager_one(npz: Path, tmp_path: Path):
    options = QUICK | SIZES["rae"] | {"model": "rae-sn", "network": "rae", "data": str(npz), "batch_size": 24}
    logs = [train(out=tmp_path / str(c), compile=c, **options).log() for c in (False, True)]
    for eager, compiled in zip(*logs, strict=True):
        assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-3)


# Every command on such a run.


def without_memory(**options: object) -> RAE:
    with torch.device("meta"):
        return build_model(TrainConfig(base_channels=2, latent_dim=4, **options), (1, 16, 16))


@pytest.mark.parametrize("network", ["rae", "infogan", "resnet"])
def test_a_normalised_layer_is_told_as_what_it_is(network):
    described = layers(without_memory(model="rae-sn", network=network))
    assert described == layers(without_memory(model="rae", network=network))
    assert not any("Parametrized" in kind for _, kind, *_ in described)


def test_the_cost_per_image_counts_second_derivatives_and_no_spectral_norm():
    plain = count_flops(without_memory(model="rae", network="rae"))
    assert count_flops(without_memory(model="rae-sn", network="rae")) == plain
    for gradient_penalty in ("authors", "jacobian", "pythae"):
        found = count_flops(without_memory(model="rae-gp", network="rae", gradient_penalty=gradient_penalty))
        assert (found["encode"], found["decode"]) == (plain["encode"], plain["decode"])
        assert found["step"] > 1.5 * plain["step"]


def test_info_tells_the_objective(run, splitvae: Call):
    for model, words in (
        ("rae-gp", "objective: MSE + 0.0001·mean z² + 1e-07·gradient penalty (authors); 1 epochs"),
        ("rae-sn", "objective: MSE + 0.0001·mean z², every layer normalised spectrally; 1 epochs"),
        ("rae-l2", "objective: MSE + 0.0001·mean z² + 1e-07·Σw² of the decoder; 1 epochs"),
        ("ae", "objective: MSE; 1 epochs"),
    ):
        status, out, err = splitvae("info", run(model))
        assert (status, err) == (0, "")
        assert words in out
        assert "ConvTranspose2d" in out


def silence(run: Path, latents: int) -> None:
    """Give the first codes of a run's model nothing to say."""
    model = load_model(run)
    with torch.no_grad():
        model.network.mean.weight[:latents] = 0
        model.network.mean.bias[:latents] = 0
    model.save_pretrained(run / "model")


@pytest.mark.parametrize("model", ["rae-gp", "rae-sn", "ae"])
def test_doctor_speaks_of_an_autoencoder(model, run, splitvae: Call):
    path = run(model)
    findings = {finding.check: finding for finding in examine(path)}
    assert findings["balance"].text == "an autoencoder without noise: no γ and no KL to balance"
    assert findings["batch norm"].level == "ok"
    assert "variance law" not in findings
    assert "components" not in findings
    status, out, err = splitvae("doctor", path)
    assert (status, err) == (0, "")
    assert not any(word in out for word in ("--beta ", "--gamma", "posterior"))


def test_idle_codes_get_the_remedy_that_their_model_has(run):
    for model, remedy in (("rae-gp", "smaller --embedding-weight (now 0.0001)"), ("ae", "larger --base-channels (now")):
        for latents, words in ((3, "1 of 4 in use"), (4, "0 of 4 in use")):
            path = run(model)
            silence(path, latents)
            (finding,) = [found for found in examine(path) if found.check == "latents"]
            shutil.rmtree(path)
            assert finding.level == "warning"
            assert words in finding.text
            assert remedy in finding.remedy
            assert not any(word in finding.text + finding.remedy for word in ("beta", "posterior", "gamma"))


def test_small_codes_are_not_idle_ones(run):
    path = run("rae-gp")
    model = load_model(path)
    with torch.no_grad():
        model.network.mean.weight *= 1e-3
        model.network.decoder_dense.weight *= 1e3
    model.save_pretrained(path / "model")
    (finding,) = [found for found in examine(path) if found.check == "latents"]
    assert finding.level == "ok"


@pytest.mark.parametrize("model", ["rae-gp", "rae-sn"])
def test_codes_are_fitted_sampled_and_taken_apart(model, run, tmp_path: Path, splitvae: Call):
    path = run(model)
    for kind, options in (
        ("gmm", ["--n-components", 2]),
        ("gmm-per-class", []),
        ("second-stage", ["--epochs", 1, "--hidden-dim", 8]),
    ):
        status, out, err = splitvae("fit", path, "--density", kind, *options)
        assert (status, err) == (0, "")
        assert "1,617 train codes" in out
        assert splitvae("sample", path, "--density", kind, "--n", 3, "--out", tmp_path / f"{kind}.npz")[0] == 0
        assert np.load(tmp_path / f"{kind}.npz")["x_hat"].shape == (3, 1, 16, 16)
    assert splitvae("encode", path, "digits", "--split", "test", "--out", tmp_path / "codes.npz")[0] == 0
    codes = np.load(tmp_path / "codes.npz")
    assert np.isneginf(codes["logvar"]).all()
    assert np.isfinite(codes["mean"]).all()
    assert splitvae("decompose", path, "--n", 3, "--out", tmp_path / "taken.npz")[0] == 0
    assert np.load(tmp_path / "taken.npz").files == ["x", "x_hat"]
    assert splitvae("figure", 8, path, "--density", "gmm", "--out", tmp_path / "figure.png")[0] == 0
    for arguments in (
        ("sample", path, "--output", "mask", "--out", tmp_path / "m.png"),
        ("figure", 1, path),
        ("figure", 10, path),
        ("report", path),
    ):
        status, _, err = splitvae(*arguments)
        assert status == 2
        assert err.count("\n") == 1


@pytest.mark.parametrize("model", ["rae-gp", "rae-sn"])
def test_an_evaluation_has_finite_numbers_and_its_report_speaks_of_an_autoencoder(model, run, splitvae: Call):
    path = run(model)
    fit_density(Run.open(path), "gmm", n_components=2)
    result = evaluate(path, COLOUR, "both", n=30)
    assert {row["source"] for row in result["rows"]} == {"REC", "normal", "gmm", "gmm-test"}
    assert {row["output"] for row in result["rows"]} == {"x_hat"}
    assert strict((path / "metrics.json").read_text()) == strict(json.dumps(result))
    mean = np.array(result["latents"]["kl_per_dimension"])
    assert result["latents"]["kl"] == pytest.approx(mean.sum())
    # A point has no noise: both protocols decode the same reconstructions.
    clean, paper = (
        [row["metrics"] for row in result["rows"] if (row["protocol"], row["source"]) == (protocol, "REC")]
        for protocol in ("clean", "paper")
    )
    assert clean == paper
    assert all(check.agrees for check in verify(path, COLOUR))
    status, out, err = splitvae("report", path)
    assert (status, err) == (0, "")
    html = Path(out.strip()).read_text(encoding="utf-8")
    assert "<dt>½‖z‖²</dt>" in html
    assert "nats per image" not in html


def test_the_plots_leave_out_what_an_autoencoder_lacks(run):
    path = run("rae-sn")
    error, rate = loss_plot(Run.open(path)).axes
    assert [line.get_label() for line in error.get_lines()] == ["mse per value"]  # γ stays at ½
    assert rate.get_ylabel() == "½‖z‖², mean over images"
    latents = {"kl_per_dimension": [1.0, 0.5], "inactive_by_mean": 0}
    (axes,) = latent_plot(latents, variational=False).axes
    assert axes.get_ylabel() == "mean of ½z²"
    assert "nats" not in axes.get_title(loc="left")


def test_the_command_line_trains_one(npz: Path, tmp_path: Path, splitvae: Call):
    options = ["--network", "rae", "--base-channels", 2, "--latent-dim", 4, "--epochs", 1, "--batch-size", 24]
    options += ["--precision", "fp32", "--lr-schedule", "plateau", "--penalty-weight", "1e-5"]
    status, out, err = splitvae("train", "--data", npz, "--out", tmp_path / "run", "--model", "rae-gp", *options)
    assert (status, err) == (0, "")
    assert "RAE with" in out
    assert "½‖z‖²" in out
    assert "KL" not in out
    for arguments, words in (
        (("--model", "rae-gp", "--compile"), "leave --compile out"),
        (("--model", "vae", "--lr-schedule", "plateau"), "use it with a fixed gamma"),
        (("--model", "rae", "--num-components", 3), "rae has one component"),
        (("--model", "rae", "--network", "rae", "--embedding-dim", 8), "does not apply to the network rae"),
        (("--model", "rea"), "rea"),
    ):
        status, _, err = splitvae("train", "--data", npz, "--out", tmp_path / "no", *arguments)
        assert status == 2
        assert words in err
        assert err.count("\n") == 1
        assert not (tmp_path / "no").exists()
    for arguments, words in ((("--model", "rae-sn"), "cannot become rae-sn"), (("--compile",), "leave --compile out")):
        status, _, err = splitvae("train", "--resume", tmp_path / "run", "--epochs", 2, *arguments)
        assert status == 2
        assert words in err
