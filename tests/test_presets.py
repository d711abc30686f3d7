"""Promises about the recipes: every system has one, small ones are comparable, nothing of the authors' is changed."""

import pytest
import torch

from splitvae import InputError
from splitvae.describe import count_parameters
from splitvae.models.build import build_model
from splitvae.models.registry import NETWORKS, network_options
from splitvae.presets import PRESETS, resolve
from splitvae.presets.small import EPOCHS, SIZES
from splitvae.presets.systems import DATA_SETS, SYSTEMS, parse_name, preset_name
from splitvae.reproduce.results import Job


def built(preset: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(resolve(preset), PRESETS[preset].shape)


def test_every_system_has_a_recipe_on_every_data_set_with_a_card_and_its_command():
    for data in DATA_SETS:
        for system in SYSTEMS:
            name = preset_name(data, system)
            if system == "2s-vae-wae" and data != "celeba":
                assert name not in PRESETS
                continue
            assert parse_name(name) == (data, system, False)
            assert f"splitvae train {name} " in PRESETS[name].card
            assert resolve(name).data == PRESETS[data].values["data"]
    assert parse_name("images") is None
    assert parse_name("mnist-small") == ("mnist", "svae", True)


@pytest.mark.parametrize(
    ("preset", "total"),
    [
        ("cifar10-rae-gp", 30_506_243),  # the authors' code; the paper's 30,510,339 has a batch norm more
        ("mnist-rae-l2", 22_695_057),
        ("celeba-rae-sn", 39_748_163),
        ("mnist-2s-vae", 9_032_769 + 1),  # and the learned γ, which the paper's count lacks
        ("cifar10-2s-vae", 27_766_275 + 1),
        ("celeba-2s-vae-wae", 47_088_260),
        ("cifar10-balanced-2s-vae", 5_193_283),
        ("celeba-balanced-2s-vae", 19_327_555),
        ("mnist", 12_799_299),
        ("cifar10", 13_061_143),
        ("celeba", 28_989_363),
    ],
)
def test_parameters_are_those_of_the_authors_networks(preset: str, total: int):
    assert count_parameters(built(preset))[1] == total


def test_coefficients_are_those_that_the_authors_print():
    # Spec of the RAE configurations: embedding weight, λ, epochs; in sums, 2βD/d on ½‖z‖².
    for preset, beta, weight, epochs in (
        ("mnist-rae-gp", 0.0128, 1024 * 0.5e-7, 100),
        ("mnist-rae-sn", 1.152, None, 100),
        ("cifar10-rae-gp", 0.0432, 0.0, 70),
        ("cifar10-rae-l2", 0.048, 3072 * 1e-6, 100),
        ("cifar10-rae-sn", 1.44, None, 100),
        ("celeba-rae-gp", 0.0384, 12288 * 1e-7, 70),
        ("celeba-rae-sn", 0.9216, None, 70),
    ):
        model = built(preset)
        assert model.beta == pytest.approx(beta, rel=1e-3)
        assert weight is None or model.penalty_weight == pytest.approx(weight)
        assert resolve(preset).epochs == epochs
    assert resolve("celeba-balanced-2s-vae").beta == 4.0  # (2·64/64)² of its image and latent sizes
    assert resolve("mnist-2s-vae").gamma_rule == "learned"
    assert built("mnist-ae").beta == 0.0


@pytest.mark.parametrize("data", ["mnist", "cifar10", "celeba"])
def test_small_recipes_have_equal_parameters_and_see_equal_images(data: str):
    own = resolve(preset_name(data, "svae", small=True))
    target = count_parameters(built(preset_name(data, "svae", small=True)))[1]
    best = preset_name(data, "best", small=True)
    assert abs(count_parameters(built(best))[1] / target - 1) < 0.05
    assert [getattr(resolve(best), field) for field in ("epochs", "batch_size", "flip")] == [2, 100, False]
    for system in SIZES:
        name = preset_name(data, system, small=True)
        config = resolve(name)
        assert abs(count_parameters(built(name))[1] / target - 1) < 0.05, name
        same = ("epochs", "batch_size", "lr", "lr_schedule", "batch_norm_momentum", "flip", "ema_decay")
        assert [getattr(config, field) for field in same] == [getattr(own, field) for field in same]
        # What makes the system is as at the paper's scale.
        paper = resolve(preset_name(data, system))
        kept = ("model", "beta", "gamma_rule", "embedding_weight", "penalty_weight", "num_components")
        assert [getattr(config, field) for field in kept] == [getattr(paper, field) for field in kept]
        assert PRESETS[name].densities["gmm"] == PRESETS[data].densities["gmm"]
    assert set(EPOCHS) == set(DATA_SETS)


def test_a_network_takes_exactly_the_options_that_the_configuration_gives_it():
    for network in NETWORKS:
        config = resolve(network=network)
        assert config.network_options() <= network_options(network)
        size = 64 if network == "wae" else 32
        with torch.device("meta"):
            model = build_model(config, (3, size, size))
        assert model.config["network"] == network
    with pytest.raises(InputError, match="network is 'resent'"):
        resolve(network="resent")


def test_what_does_not_apply_is_refused_and_another_network_drops_the_presets_sizes():
    for changes, words in (
        ({"model": "rae", "beta": 7.0}, "beta does not apply to the model rae"),
        ({"model": "ae", "gamma_rule": "learned"}, "gamma_rule does not apply"),
        ({"model": "rae-gp", "gamma_rule": "fixed"}, "gamma_rule does not apply"),
        ({"model": "ae", "embedding_weight": 1.0}, "embedding_weight does not apply to the model ae"),
        ({"model": "rae-sn", "penalty_weight": 1.0}, "penalty_weight does not apply to the model rae-sn"),
        ({"model": "rae-l2", "gradient_penalty": "pythae"}, "gradient_penalty does not apply to the model rae-l2"),
        ({"embedding_weight": 1.0}, "embedding_weight does not apply to the model splitvae"),
        ({"gamma_lr": 10.0}, "gamma_lr needs gamma_rule learned"),
        ({"lr_halve_every": 10}, "lr_halve_every needs lr_schedule halving"),
        ({"mask_repeat": 20}, "mask_repeat needs masks, and there are none"),
        ({"model": "vae", "num_components": 2}, "vae has one component"),
        ({"network": "rae", "embedding_dim": 100}, "embedding_dim does not apply to the network rae"),
    ):
        with pytest.raises(InputError, match=words):
            resolve("images", **changes)
    assert resolve("mnist-small", network="rae").embedding_dim == resolve().embedding_dim
    assert resolve("mnist", model="rae-gp").embedding_weight == 1e-4  # RAE on SplitVAE's recipe


def test_a_result_is_bound_to_its_recipe():
    job = Job("mnist", "rae-l2", True, 0, 5_000)
    assert job.name == "mnist-rae-l2-small-seed0"
    assert job.recipe == Job("mnist", "rae-l2", True, 1, 5_000).recipe  # the seed is told apart by its name
    others = {Job("mnist", "rae-sn", True, 0, 5_000).recipe, Job("mnist", "rae-l2", True, 0, 4_000).recipe}
    assert job.recipe not in others
    assert list(job.densities) == ["gaussian", "gmm"]
    assert list(Job("mnist", "2s-vae", True, 0, 5_000).densities) == ["gmm", "second-stage"]
