"""Promises about the other papers' networks: their counts, their layers, any size of image, their initial weights."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitvae import InputError
from splitvae.models.baselines.infogan import InfoGANNetwork
from splitvae.models.baselines.rae import RAENetwork
from splitvae.models.baselines.resnet import TwoStageResNet
from splitvae.models.baselines.wae import WAENetwork

LIGHT = {"stem_stride": 2, "decoder_start": 4, "last_scale_block": False, "dense_norm": True}

# The real classes at tiny size, in all their variants.
TINY = {
    "rae": (RAENetwork, {"base_channels": 2}),
    "rae-celeba": (RAENetwork, {"base_channels": 2, "kernel_size": 5}),
    "rae-normed-4x4": (RAENetwork, {"base_channels": 2, "dense_norm": True, "decoder_start": 4}),
    "infogan": (InfoGANNetwork, {"base_channels": 4, "embedding_dim": 16}),
    "wae": (WAENetwork, {"base_channels": 2}),
    "resnet": (TwoStageResNet, {"base_channels": 4, "num_scales": 3, "embedding_dim": 16}),
    "resnet-light": (TwoStageResNet, {"base_channels": 4, "num_scales": 3, "embedding_dim": 16, **LIGHT}),
}
every_network = pytest.mark.parametrize("name", TINY)


def tiny(name: str, sides: tuple[int, int] = (16, 16), deterministic: bool = False) -> nn.Module:
    """A network for colour images, with 4 latents and 7 maps of logits."""
    torch.manual_seed(0)
    cls, options = TINY[name]
    network = cls((3, *cls.padded_size(*sides)), 4, 7, deterministic, **options)
    network.reset_parameters()
    return network


def images(n: int, sides: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.rand(n, 3, *sides, generator=torch.Generator().manual_seed(1))


def counts(network: nn.Module) -> tuple[int, int]:
    """(trainable, with batch norm's statistics)."""
    trainable = sum(p.numel() for p in network.parameters())
    return trainable, trainable + sum(b.numel() for name, b in network.named_buffers() if "running_" in name)


def watch(*layers: nn.Module) -> list[tuple[int, ...]]:
    """A list to which each layer adds (C, H, W) of what it gives."""
    seen: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    return seen


def strided_shapes(network: nn.Module, sides: tuple[int, int]) -> tuple[list, list]:
    """(C, H, W) after each convolution of ``encode`` and after each transposed one of ``decode``."""
    modules = list(network.modules())
    down = watch(*(m for m in modules if isinstance(m, nn.Conv2d)))
    up = watch(*(m for m in modules if isinstance(m, nn.ConvTranspose2d)))
    stem = next(m for m in modules if isinstance(m, nn.Conv2d))
    mean, _ = network.encode(torch.empty(2, stem.in_channels, *sides))
    network.decode(mean)
    return down, up


@pytest.mark.parametrize(
    ("options", "trainable", "total"),
    [
        ({"image_shape": (1, 32, 32), "latent_dim": 16}, 22_689_681, 22_695_057),  # the authors' code, MNIST
        ({"image_shape": (3, 32, 32), "latent_dim": 128}, 30_500_867, 30_506_243),  # CIFAR-10
        ({"image_shape": (3, 64, 64), "latent_dim": 64}, 39_742_531, 39_748_163),  # CelebA
        # Tables 1 and 3 of the Split-VAE paper.
        (
            {"image_shape": (1, 32, 32), "latent_dim": 16, "dense_norm": True, "decoder_start": 4},
            22_378_769,
            22_386_449,
        ),
        ({"image_shape": (3, 32, 32), "latent_dim": 128, "dense_norm": True}, 30_502_915, 30_510_339),
    ],
)
def test_rae_counts_are_the_papers_and_the_codes(options, trainable, total):
    with torch.device("meta"):
        network = RAENetwork(out_channels=options["image_shape"][0], deterministic=True, **options)
    assert counts(network) == (trainable, total)


@pytest.mark.parametrize(
    ("options", "trainable", "total"),
    [
        # Tables 1 and 3 of the Split-VAE paper.
        ({"image_shape": (1, 32, 32), "base_channels": 64, **LIGHT}, 9_027_393, 9_032_769),
        ({"image_shape": (3, 32, 32), "base_channels": 64, "dense_norm": True}, 27_756_547, 27_766_275),
        # The authors' code; Dai & Wipf count their trainable γ, too.
        ({"image_shape": (3, 32, 32), "base_channels": 64}, 27_754_500 - 1, 27_762_180 - 1),
        ({"image_shape": (3, 32, 32), "num_scales": 3}, 5_190_467, 5_193_283),  # Asperti & Trentin, CIFAR-10
        ({"image_shape": (3, 64, 64)}, 19_321_667, 19_327_555),  # CelebA
    ],
)
def test_resnet_counts_are_the_papers_and_the_codes(options, trainable, total):
    with torch.device("meta"):
        network = TwoStageResNet(latent_dim=64, out_channels=options["image_shape"][0], **options)
    assert counts(network) == (trainable, total)


def test_infogan_and_wae_counts_are_the_codes_without_gamma():
    with torch.device("meta"):
        infogan = InfoGANNetwork((1, 28, 28), 64, 1)
        wae = WAENetwork((3, 64, 64), 64, 3)
    assert counts(infogan) == (13_331_586 - 1, 13_348_610 - 1)  # without the vectors of the spectral norms
    assert counts(wae) == (47_082_628 - 1, 47_088_260 - 1)


@pytest.mark.parametrize(
    ("network", "sides", "encoder", "decoder"),
    [
        # name → (channels, height, width) that comes out, at full width
        (
            lambda: RAENetwork((1, 32, 32), 16, 1),
            (32, 32),
            [(128, 16, 16), (256, 8, 8), (512, 4, 4), (1024, 2, 2)],
            [(512, 16, 16), (256, 32, 32), (1, 33, 33)],  # the 4×4 kernel's last row and column are cut
        ),
        (
            lambda: RAENetwork((1, 32, 32), 16, 1, decoder_start=4),
            (32, 32),
            [(128, 16, 16), (256, 8, 8), (512, 4, 4), (1024, 2, 2)],
            [(512, 8, 8), (256, 16, 16), (128, 32, 32), (1, 33, 33)],
        ),
        (
            lambda: RAENetwork((3, 64, 64), 64, 3),
            (64, 64),
            [(128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4)],
            [(512, 16, 16), (256, 32, 32), (128, 64, 64), (3, 64, 64)],
        ),
        (
            lambda: InfoGANNetwork((1, 28, 28), 64, 1),
            (28, 28),
            [(64, 14, 14), (128, 7, 7)],
            [(64, 14, 14), (1, 28, 28)],
        ),
        (
            lambda: WAENetwork((3, 64, 64), 64, 3),
            (64, 64),
            [(128, 64, 64), (256, 32, 32), (512, 16, 16), (1024, 8, 8)],
            [(512, 16, 16), (256, 32, 32), (128, 64, 64), (3, 64, 64)],
        ),
    ],
)
def test_convolutions_halve_and_double_as_the_authors_do(network, sides, encoder, decoder):
    with torch.device("meta"):
        network = network()
        shapes = strided_shapes(network, sides)
    assert shapes == (encoder, decoder)


@pytest.mark.parametrize(
    ("options", "encoder", "decoder"),
    [
        # Dai & Wipf: full resolution first, and a decoder from 2×2.
        (
            {},
            [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)],
            [(256, 4, 4), (128, 8, 8), (64, 16, 16), (32, 32, 32)],
        ),
        (LIGHT, [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)], [(128, 8, 8), (64, 16, 16), (32, 32, 32)]),
    ],
)
def test_resnet_scales_are_the_authors(options, encoder, decoder):
    with torch.device("meta"):
        network = TwoStageResNet((3, 32, 32), 64, 3, **options)
        seen = watch(network.encoder_stem, *network.encoder_downsamples)
        network.encode(torch.empty(2, 3, 32, 32))
        assert seen == encoder
        seen = watch(*network.decoder_upsamples)
        network.decode(torch.empty(2, 64))
        assert seen == decoder
    blocks = [type(block).__name__ for block in (*network.encoder_blocks, *network.decoder_blocks)]
    assert blocks.count("ResidualBlock") == (3 + 2 if options else 4 + 4)


def test_resnet_decoder_has_1024_channels_at_most_or_its_own_base():
    with torch.device("meta"):
        assert [up.out_channels for up in TwoStageResNet((3, 64, 64), 4, 3, base_channels=512).decoder_upsamples] == [
            1024, 1024, 1024, 1024, 512,
        ]  # fmt: skip
        assert TwoStageResNet((3, 8, 8), 4, 3, base_channels=2048, num_scales=1).start == (2048, 2, 2)


@every_network
@pytest.mark.parametrize("sides", [(28, 28), (9, 13), (40, 56), (8, 8), (17, 70)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_any_sides_from_8_give_latents_and_logits(name, sides, deterministic):
    network = tiny(name, sides, deterministic)
    padded = network.padded_size(*sides)
    mean, logvar = network.encode(images(2, padded))
    assert mean.shape == (2, 4)
    if deterministic:
        assert logvar is None
    else:
        assert logvar.shape == (2, 4)
        assert torch.isfinite(logvar).all()
    logits = network.decode(mean)
    assert logits.shape == (2, 7, *padded)
    assert torch.isfinite(logits).all()


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(TINY)),
    height=st.integers(8, 400),
    width=st.integers(8, 400),
)
def test_padded_sides_are_a_fixed_point_that_the_network_takes(name, height, width):
    cls, options = TINY[name]
    padded = cls.padded_size(height, width)
    assert all(side <= new for side, new in zip((height, width), padded, strict=True))
    assert cls.padded_size(*padded) == padded
    with torch.device("meta"):
        network = cls((3, *padded), 4, 7, **options)
        mean, _ = network.encode(torch.empty(2, 3, *padded))
        assert network.decode(mean).shape == (2, 7, *padded)


def test_the_datasets_need_no_more_padding_than_their_authors_gave():
    for cls in (RAENetwork, InfoGANNetwork, WAENetwork, TwoStageResNet):
        assert cls.padded_size(32, 32) == (32, 32)
        assert cls.padded_size(64, 64) == (64, 64)
    assert InfoGANNetwork.padded_size(28, 28) == (28, 28)
    assert RAENetwork.padded_size(28, 28) == TwoStageResNet.padded_size(28, 28) == (32, 32)


@every_network
def test_deterministic_networks_lack_the_head_of_the_variance(name):
    point, gaussian = tiny(name, deterministic=True), tiny(name)
    _, logvar = gaussian.encode(images(2))
    with_head = sum(p.numel() for p in gaussian.parameters())
    without = sum(p.numel() for p in point.parameters())
    head = gaussian.encoder_head if name == "infogan" else gaussian.mean
    assert with_head - without == 4 * (head.in_features + 1)
    assert logvar is not None
    assert not any("log" in parameter for parameter, _ in point.named_parameters())


@every_network
@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients_reach_every_parameter(name, deterministic):
    network = tiny(name, deterministic=deterministic)
    mean, logvar = network.encode(images(6))
    z = mean if logvar is None else mean + (logvar / 2).exp() * torch.randn_like(mean)
    loss = (network.decode(z) - torch.randn(6, 7, 16, 16)).square().sum()
    (loss if logvar is None else loss + logvar.exp().sum()).backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert torch.isfinite(value.grad).all(), parameter
        assert value.dim() == 1 or value.grad.abs().sum() > 0, parameter  # a bias before batch norm has none


@every_network
def test_evaluation_changes_nothing_and_repeats_itself(name):
    network = tiny(name)
    network.decode(network.encode(images(6))[0])  # a step, so that the statistics are not the initial ones
    network.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = images(3)
    first, second = network.encode(x), network.encode(x)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(network.decode(first[0]), network.decode(first[0]))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@every_network
def test_images_stay_as_they_were(name):
    network, x, z = tiny(name), images(3), torch.randn(3, 4)
    before = x.clone(), z.clone()
    network.encode(x)
    network.decode(z)
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[1])


@every_network
def test_channels_last_gives_the_same_numbers(name):
    network = tiny(name).eval()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = images(2)
    mean, _ = network.encode(x)
    torch.testing.assert_close(other.encode(x.contiguous(memory_format=torch.channels_last))[0], mean)
    torch.testing.assert_close(other.decode(mean), network.decode(mean))


@every_network
def test_state_dict_round_trip_is_bit_identical(name):
    network = tiny(name)
    network.decode(network.encode(images(6))[0])
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    torch.manual_seed(7)
    cls, options = TINY[name]
    other = cls((3, 16, 16), 4, 7, **options)
    other.load_state_dict(torch.load(file))
    for loaded in (other, copy.deepcopy(network)):
        network.eval(), loaded.eval()
        assert all(torch.equal(a, b) for a, b in zip(network.encode(images(2)), loaded.encode(images(2)), strict=True))
        z = torch.randn(2, 4)
        assert torch.equal(network.decode(z), loaded.decode(z))


@every_network
def test_weights_begin_as_the_authors_had_them(name):
    network = tiny(name)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert not layer.bias.any()
    if name == "infogan":
        convolution = network.encoder_conv2.parametrizations.weight.original
        assert convolution.abs().max() <= 0.04
        assert network.encoder_dense.parametrizations.weight.original.std().item() == pytest.approx(0.02, rel=0.1)
        assert network.decoder_dense2.weight.abs().max() > 0.05  # not cut
    else:
        kernel = network.decoder_upsamples[0].weight if name != "resnet" else network.encoder_blocks[0].convs[0].weight
        fan_sum = (kernel.shape[0] + kernel.shape[1]) * kernel.shape[2] * kernel.shape[3]
        bound = math.sqrt(6 / fan_sum)
        assert 0.9 * bound < kernel.abs().max() <= bound


@every_network
def test_resetting_a_used_network_equals_a_new_one(name):
    new, used = tiny(name), tiny(name)
    used.decode(used.encode(images(6))[0])
    for network in (new, used):
        torch.manual_seed(3)
        network.reset_parameters()
    assert list(used.state_dict()) == list(new.state_dict())
    for key, value in new.state_dict().items():
        assert torch.equal(value, used.state_dict()[key]), key


def test_rae_kernel_grows_with_the_image_and_centres_the_small_ones():
    with torch.device("meta"):
        assert RAENetwork((3, 48, 96), 4, 3).kernel_size == 4
        assert RAENetwork((3, 64, 64), 4, 3).kernel_size == 5
        assert RAENetwork((3, 64, 64), 4, 3, kernel_size=4).kernel_size == 4
    seen = []
    for name in ("rae", "rae-celeba"):
        network = tiny(name)
        network.encoder_convs[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network.encode(images(2))
    assert torch.equal(seen[0], images(2) * 2 - 1)
    assert torch.equal(seen[1], images(2))


def test_rae_crops_an_even_kernel_as_keras_same_padding():
    network = tiny("rae").eval()
    h = torch.rand(2, network.decoder_head.in_channels, 16, 16)
    network.decoder_norms[-1].register_forward_hook(lambda *_: h)
    full = nn.functional.conv_transpose2d(h, network.decoder_head.weight)  # 19×19; Keras drops one before, two after
    torch.testing.assert_close(network.decode(torch.randn(2, 4)), full[..., 1:17, 1:17])


def test_heads_of_dai_and_wipf_are_the_log_of_a_standard_deviation():
    for name in ("wae", "resnet"):
        network = tiny(name).eval()
        heads = []
        network.log_std.register_forward_hook(lambda _, __, output, heads=heads: heads.append(output))
        torch.testing.assert_close((network.encode(images(2))[1] / 2).exp(), heads[0].exp())


def test_infogan_has_a_softplus_standard_deviation_and_unit_spectral_norms():
    network = tiny("infogan").eval()
    heads = []
    network.encoder_head.register_forward_hook(lambda _, __, output: heads.append(output))
    mean, logvar = network.encode(images(2))
    torch.testing.assert_close(mean, heads[0][:, :4])
    torch.testing.assert_close((logvar / 2).exp(), 1e-6 + nn.functional.softplus(heads[0][:, 4:]))
    network.train()
    for _ in range(50):  # one power iteration each
        network.encode(images(2))
    for layer in (network.encoder_conv1, network.encoder_conv2, network.encoder_dense, network.encoder_head):
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=1e-2)
    assert not any("decoder" in key and "parametrizations" in key for key in network.state_dict())


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("rae", 2), ("rae-celeba", 1 + 2), ("rae-normed-4x4", 3), ("infogan", 2), ("wae", 4), ("resnet", 3 + 3 * 3 + 1)],
)
def test_weight_penalty_covers_kernels_of_the_decoder_alone(name, kernels):
    network = tiny(name, deterministic=True)
    covered = network.decoder_kernels()
    assert len(covered) == kernels
    assert all(kernel.dim() == 4 for kernel in covered[1:])
    names = {parameter for parameter, value in network.named_parameters() if any(value is kernel for kernel in covered)}
    assert len(names) == kernels
    network.decode(torch.randn(4, 4)).square().sum().backward()
    assert names <= {parameter for parameter, value in network.named_parameters() if value.grad is not None}
    assert ("decoder_dense.weight" in names) == (name == "rae-celeba")


def test_resnet_penalises_every_convolution_of_the_decoder():
    assert len(tiny("resnet-light").decoder_kernels()) == 2 + 3 * 1 + 1


def test_sides_that_the_decoder_cannot_double_to_are_named():
    with pytest.raises(InputError, match="multiples of 16, not 28×28"):
        RAENetwork((1, 28, 28), 4, 1)
    with pytest.raises(InputError, match="multiples of 8, not 28×28"):
        TwoStageResNet((1, 28, 28), 4, 1)
    with pytest.raises(InputError, match="stem_stride must be 1 or 2, not 3"):
        TwoStageResNet((1, 32, 32), 4, 1, stem_stride=3)  # type: ignore[arg-type]
