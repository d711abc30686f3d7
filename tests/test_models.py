"""Promises about the network: the paper's counts, the blend, Keras parity, shapes, files."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvae import VAE, InputError, SplitVAE, load_model
from splitvae.config import TrainConfig
from splitvae.describe import count_flops, count_parameters
from splitvae.models.networks import padded_size, upsamplings


def tiny(image_shape: tuple[int, int, int] = (1, 16, 16), **changes: object) -> SplitVAE:
    torch.manual_seed(0)
    return SplitVAE(image_shape, **(TINY | changes))


@pytest.mark.parametrize(
    ("image_shape", "latent_dim", "trainable", "total", "step_gflop"),
    [
        ((1, 32, 32), 32, 12_793_667, 12_799_299, 3.0),  # table 1
        ((3, 32, 32), 200, 13_055_511, 13_061_143, 3.0),  # table 3
        ((3, 64, 64), 150, 28_981_683, 28_989_363, 15.2),  # table 4
    ],
)
def test_parameter_counts_and_cost_are_the_papers(image_shape, latent_dim, trainable, total, step_gflop):
    with torch.device("meta"):
        model = SplitVAE(image_shape, latent_dim)
    assert count_parameters(model) == (trainable, total)
    assert count_flops(model)["step"] / 1e9 == pytest.approx(step_gflop, abs=0.1)


def test_configurable_counts_change_the_network():
    base = count_parameters(tiny())[0]
    block = tiny().network.encoder.scales[0][0][0]
    one_block = sum(p.numel() for p in block.parameters())
    assert len(tiny(scale_blocks=3).network.encoder.scales[0]) == 3
    assert len(tiny(blocks_per_scale=2).network.encoder.scales[0][0]) == 2
    assert len(tiny(depth_per_block=3).network.encoder.scales[0][0][0].convs) == 3
    assert count_parameters(tiny(scale_blocks=2))[0] == count_parameters(tiny(blocks_per_scale=2))[0] > base + one_block
    assert len(SplitVAE((1, 16, 16), **(TINY | {"num_scales": 3})).network.encoder.downsamples) == 2


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    channels=st.sampled_from([1, 2, 3]),
    components=st.integers(1, 4),
    padding=st.sampled_from(["torch", "tf-same"]),
)
def test_any_sides_from_8_give_images_of_the_same_size_and_weights_that_sum_to_one(
    height, width, channels, components, padding
):
    model = tiny((channels, height, width), num_components=components, padding=padding)
    x = torch.rand(2, channels, height, width)
    decoded = model.decode(model.encode(x).sample())
    assert decoded.x_hat.shape == x.shape
    assert decoded.components.shape == (2, components, channels, height, width)
    assert decoded.weights.shape == (2, components, 1, height, width)
    torch.testing.assert_close(decoded.weights.sum(1), torch.ones(2, 1, height, width))
    padded = padded_size(height, width)
    assert all(side % 2 ** upsamplings(*padded) == 0 for side in padded)
    assert padded_size(*padded) == padded
    assert all(torch.isfinite(value) for value in model(x).values())


def test_one_component_equals_the_vae_exactly():
    torch.manual_seed(0)
    split = SplitVAE((1, 16, 16), num_components=1, **TINY)
    torch.manual_seed(0)
    plain = VAE((1, 16, 16), **TINY)
    x, noise = torch.rand(4, 1, 16, 16), torch.randn(4, 4)
    for a, b in zip(split.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(split(x, noise).values(), plain(x, noise).values(), strict=True))
    decoded = plain.decode(noise)
    assert torch.equal(decoded.x_hat, decoded.components[:, 0])


def test_two_components_blend_by_the_papers_sigmoid_mask_on_channel_0():
    model = tiny((3, 16, 16)).eval()
    z = torch.randn(5, 4)
    raw = model.network.decoder(model.network.embedding(z))  # 2C + 1 channels: mask, x̂₁, x̂₂
    assert raw.shape[1] == 7
    sigma, x1, x2 = torch.sigmoid(raw[:, :1]), torch.sigmoid(raw[:, 1:4]), torch.sigmoid(raw[:, 4:])
    decoded = model.decode(z)
    torch.testing.assert_close(decoded.weights[:, 0], sigma, atol=1e-6, rtol=0)
    torch.testing.assert_close(decoded.x_hat, sigma * x1 + (1 - sigma) * x2, atol=1e-6, rtol=0)


def test_padding_never_touches_the_loss():
    model = tiny((1, 13, 9)).eval()
    x, noise = torch.rand(3, 1, 13, 9), torch.randn(3, 4)
    terms = model(x, noise)
    x_hat = model.decode(model.encode(x).sample(noise=noise)).x_hat
    torch.testing.assert_close(terms["mse"], (x - x_hat).square().mean())
    # Gradients at the decoder's output are zero on the padding.
    caught = []
    model.network.decoder.head.register_full_backward_hook(lambda _, __, grad: caught.append(grad[0]))
    model(x, noise)["reconstruction"].backward()
    H, W = caught[0].shape[-2:]
    inner = caught[0][..., (H - 13) // 2 : (H - 13) // 2 + 13, (W - 9) // 2 : (W - 9) // 2 + 9]
    assert caught[0].abs().sum() == pytest.approx(float(inner.abs().sum()), rel=1e-6)


def test_forward_changes_no_state_but_batch_norms():
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(4, 1, 16, 16))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".norms." in name for name in changed)


def test_sampling_is_reproducible_and_keeps_the_mode():
    model = tiny().train()
    a = model.sample(3, generator=torch.Generator().manual_seed(5))
    b = model.sample(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(a, b)
    assert model.training
    assert model.reconstruct(a).shape == a.shape


@pytest.mark.parametrize("cls", [SplitVAE, VAE])
def test_saved_and_loaded_is_bit_identical(cls, tmp_path: Path):
    model = cls((3, 12, 10), **TINY)
    model(torch.rand(4, 3, 12, 10))
    model.save_pretrained(tmp_path / "model")
    for loaded in (cls.from_pretrained(tmp_path / "model"), load_model(tmp_path)):
        assert type(loaded) is cls
        assert not loaded.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"num_components": 0}, "num_components must be at least 1"),
        ({"image_shape": (1, 7, 16)}, "sides of at least 8"),
        ({"padding": "same"}, "padding must be one of torch, tf-same"),
        ({"gamma_init": 0.0}, "gamma_init"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_arguments_out_of_bounds_are_named(change, words):
    with pytest.raises(InputError, match=words):
        SplitVAE(**({"image_shape": (1, 16, 16)} | TINY | change))


def test_images_and_latents_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(B, 1, 16, 16\), not \(2, 1, 16, 17\)"):
        tiny().encode(torch.rand(2, 1, 16, 17))
    with pytest.raises(InputError, match=r"\(B, 4\), not \(2, 5\)"):
        tiny().decode(torch.rand(2, 5))


def test_an_option_that_is_gone_is_read_where_it_was_as_what_is_left(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": "shared"}))
    assert load_model(tmp_path).config == {k: v for k, v in config.items() if k not in ("class", "format_version")}
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": "branch"}))
    with pytest.raises(InputError, match="no option 'head'"):
        load_model(tmp_path)
    recipe = TrainConfig.from_dict({"epochs": 3, "head": "shared"})
    assert recipe == TrainConfig(epochs=3)
    with pytest.raises(InputError, match="unknown option 'head'"):
        TrainConfig.from_dict({"head": "branch"})


def test_damaged_models_are_refused_with_one_line(tmp_path: Path):
    path = tmp_path / "model"
    tiny().save_pretrained(path)
    config, weights = (path / "config.json").read_text(), (path / "model.safetensors").read_bytes()

    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="truncated or foreign"):
        SplitVAE.from_pretrained(path)
    tiny(base_channels=8).save_pretrained(tmp_path / "other")
    (path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not fit the model"):
        SplitVAE.from_pretrained(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="missing"):
        SplitVAE.from_pretrained(path)

    for change, words in (
        ({"latent_dims": 3}, "no option 'latent_dims'"),
        ({"format_version": 99}, "format version 99"),
        ({"class": "GAN"}, "holds a GAN, not a SplitVAE"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
    ):
        (path / "config.json").write_text(json.dumps(json.loads(config) | change))
        with pytest.raises(InputError, match=words):
            SplitVAE.from_pretrained(path)
    with pytest.raises(InputError, match="does not exist"):
        SplitVAE.from_pretrained(tmp_path / "nowhere")
