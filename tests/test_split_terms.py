"""Promises about the knobs of the split: terms on masks, coarse masks, and that all are off by default."""

import math
from pathlib import Path

import pytest
import torch
from conftest import TINY

from splitvae import InputError, SplitVAE
from splitvae.config import TrainConfig
from splitvae.models.build import build_model
from splitvae.models.pretrained import load_model
from splitvae.models.split_terms import EDGE, UNKNOWN, SplitTerms, disagreement, imbalance, indecision, roughness
from splitvae.presets import resolve

FLAT = torch.full((1, 3, 4, 4), 0.5)


def weights_of(sigma: torch.Tensor) -> torch.Tensor:
    """(B, H, W) → (B, 2, 1, H, W)."""
    return torch.stack([sigma, 1 - sigma], dim=1)[:, :, None]


def chessboard(side: int = 4) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows + columns) % 2).float()[None]


# The terms, against cases done by hand.


def test_roughness_counts_changes_where_the_image_has_none():
    assert roughness(weights_of(torch.full((1, 4, 4), 0.3)), FLAT).item() == 0
    assert roughness(weights_of(chessboard()), FLAT).item() == 24  # all pairs of a 4×4 image
    half = torch.cat([torch.ones(1, 4, 2), torch.zeros(1, 4, 2)], dim=2)
    assert roughness(weights_of(half), FLAT).item() == 4
    edge = torch.cat([torch.zeros(1, 3, 4, 2), torch.ones(1, 3, 4, 2)], dim=3)
    assert roughness(weights_of(half), edge).item() == pytest.approx(4 * math.exp(-1 / EDGE))


def test_indecision_is_the_entropy_of_each_pixel():
    assert indecision(weights_of(chessboard())).item() == pytest.approx(0, abs=1e-6)
    assert indecision(weights_of(torch.full((1, 4, 4), 0.5))).item() == pytest.approx(16 * math.log(2))


def test_a_pixel_that_is_decided_to_the_last_bit_has_a_slope():
    logits = torch.tensor([0.0, 200.0]).reshape(1, 2, 1, 1, 1).requires_grad_()
    weights = logits.softmax(dim=1)
    assert weights[0, 0].item() == 0
    found = indecision(weights)
    found.sum().backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_imbalance_grows_as_a_component_dies():
    assert imbalance(weights_of(chessboard())).item() == pytest.approx(0, abs=1e-6)
    tenth = imbalance(weights_of(torch.full((2, 4, 4), 0.1))).item()
    assert tenth == pytest.approx(-16 * 0.5 * (math.log(0.2) + math.log(1.8)), rel=1e-5)
    assert imbalance(weights_of(torch.full((2, 4, 4), 0.01))).item() > 2 * tenth


def test_disagreement_is_the_likelihood_of_known_pixels():
    masks = torch.full((2, 4, 4), UNKNOWN, dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 0, 1] = 0, 1
    found = disagreement(weights_of(torch.full((2, 4, 4), 0.8)), masks)
    torch.testing.assert_close(found, torch.tensor([-math.log(0.8) - math.log(0.2), 0.0]))


def test_guidance_weighs_the_same_whether_all_images_have_a_mask_or_few():
    weights, x = weights_of(torch.rand(4, 6, 6)), torch.rand(4, 1, 6, 6)
    masks = torch.randint(0, 2, (4, 6, 6), dtype=torch.uint8)
    few = masks.clone()
    few[1:] = UNKNOWN
    terms = SplitTerms(guidance=3.0)
    torch.testing.assert_close(terms(weights, x, few), terms(weights[:1], x[:1], masks[:1]))
    assert terms(weights, x, torch.full_like(masks, UNKNOWN)) == 0


def test_each_term_goes_down_its_own_way():
    """A step along the gradient of each does to a mask what its name says."""
    torch.manual_seed(0)
    logits = torch.randn(4, 8, 8)
    masks = (torch.arange(8)[None, :, None] < 4).expand(4, 8, 8).to(torch.uint8)
    x = torch.rand(4, 1, 8, 8) * 0.01
    for name, weight, measure in (
        ("smoothness", 1.0, lambda w: roughness(w, x).mean()),
        ("smoothness", -1.0, lambda w: -roughness(w, x).mean()),
        ("decisiveness", 1.0, lambda w: indecision(w).mean()),
        ("balance", 1.0, imbalance),
        ("guidance", 1.0, lambda w: disagreement(w, masks).mean()),
    ):
        tried = logits.clone().add(0.5).requires_grad_()
        weights = weights_of(torch.sigmoid(tried))
        SplitTerms(**{name: weight})(weights, x, masks).backward()
        better = weights_of(torch.sigmoid(tried - 0.1 * tried.grad / tried.grad.abs().max()))
        assert measure(better) < measure(weights), name


# In the model.


def test_off_by_default_and_then_the_paper_bit_for_bit():
    config = resolve("mnist")
    assert (config.split, config.mask_scale, config.masks) == ("free", 1, None)
    assert config.split_terms() == {}
    torch.manual_seed(0)
    plain = SplitVAE((1, 16, 16), **TINY)
    torch.manual_seed(0)
    named = SplitVAE((1, 16, 16), **TINY, mask_scale=1, split_terms={})
    assert plain.config == named.config
    x, noise = torch.rand(4, 1, 16, 16), torch.randn(4, TINY["latent_dim"])
    first, second = plain(x, noise), named(x, noise)
    assert "split" not in first
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_terms_are_in_the_loss_and_in_the_log():
    torch.manual_seed(0)
    model = SplitVAE((1, 16, 16), **TINY, split_terms={"decisiveness": 0.5, "guidance": 2.0})
    x, noise = torch.rand(4, 1, 16, 16), torch.randn(4, TINY["latent_dim"])
    masks = torch.zeros(4, 16, 16, dtype=torch.uint8)
    terms = model(x, noise, masks)
    assert set(terms) == set(model.terms)
    weights = model.decode(model.encode(x).sample(noise=noise)).weights
    expected = 0.5 * indecision(weights).mean() + 2 * disagreement(weights, masks).mean()
    torch.testing.assert_close(terms["split"], expected, rtol=1e-4, atol=1e-4)
    without = terms["reconstruction"] + model.beta * terms["kl"]
    torch.testing.assert_close(terms["loss"], without + terms["split"])
    assert set(model(x, noise)) == set(model.terms)  # images without masks


def test_coarse_masks_are_smooth_and_components_stay_sharp(tmp_path: Path):
    torch.manual_seed(0)
    fine = SplitVAE((1, 20, 16), **TINY).eval()
    coarse = SplitVAE((1, 20, 16), **TINY, mask_scale=4).eval()
    coarse.load_state_dict(fine.state_dict())
    z = torch.randn(8, TINY["latent_dim"])
    with torch.no_grad():
        a, b = fine.decode(z), coarse.decode(z)
    assert torch.equal(a.components, b.components)
    assert b.weights.shape == a.weights.shape
    torch.testing.assert_close(b.weights.sum(dim=1), torch.ones(8, 1, 20, 16))
    flat = torch.zeros(8, 1, 20, 16)
    assert roughness(b.weights, flat).mean() < roughness(a.weights, flat).mean()
    coarse.save_pretrained(tmp_path)
    # Squares lie on the grid of the image whether or not they divide its sides.
    narrow = SplitVAE((1, 20, 14), **TINY, mask_scale=4).eval()
    logits = torch.zeros(1, 3, 20, 16)
    logits[:, 0, :, 8:] = 9.0  # an edge between squares
    coarse.network.decode = lambda z: logits
    narrow.network.decode = lambda z: logits[..., :14]
    torch.testing.assert_close(narrow.decode(z[:1]).weights, coarse.decode(z[:1]).weights[..., :14])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).decode(z).x_hat, b.x_hat)


# What is asked for.


def test_a_kind_of_split_is_a_name_for_values_that_go_before_it():
    semantic = resolve("mnist", split="semantic")
    assert semantic.mask_scale > 1
    assert resolve("mnist", split="syntactic").mask_smoothness < 0
    assert resolve("mnist", split="semantic", mask_scale=2).mask_scale == 2
    assert build_model(resolve("mnist", split="syntactic", base_channels=4), (1, 32, 32)).terms[-1] == "split"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_scale": 0}, "mask_scale must be at least 1"),
        ({"mask_balance": -1.0}, "mask_balance must be at least 0"),
        ({"mask_smoothness": float("nan")}, "mask_smoothness must be finite"),
        ({"mask_share": 0.0}, "mask_share must lie in"),
        ({"mask_repeat": 0}, "mask_repeat"),
        ({"split": "semantics"}, "semantic"),
        ({"model": "rae", "mask_scale": 2}, "mask_scale does not apply to the model rae"),
    ],
)
def test_what_makes_no_sense_gets_one_line(changes, words):
    with pytest.raises(InputError, match=words):
        resolve("images", **changes)


def test_a_model_of_one_component_has_no_masks():
    with pytest.raises(InputError, match="one component has no masks"):
        TrainConfig(num_components=1, mask_scale=2)
    with pytest.raises(InputError, match="one component has no masks"):
        SplitVAE((1, 16, 16), **TINY, num_components=1, split_terms={"decisiveness": 1.0})
    with pytest.raises(InputError, match="half a side"):
        SplitVAE((1, 16, 16), **TINY, mask_scale=9)
