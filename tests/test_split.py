"""Any decoder can be split, and any pair of modules goes through our loop and evaluation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from splitvae import (
    RAE,
    VAE,
    InputError,
    Run,
    SplitVAE,
    adopt,
    evaluate,
    load_model,
    register_network,
    split,
    split_model,
    train,
)
from splitvae.config import REGISTERED
from splitvae.models import registry
from splitvae.models.split import _wide


class Reshaped(nn.Module):
    """A decoder as pythae has them: a dense layer, a sigmoid, a fixed shape, an object around the image."""

    def __init__(self, latent_dim: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_dim, 3 * 16 * 16), nn.Sigmoid())

    def forward(self, z: Tensor) -> object:
        image = self.layers(z).reshape((z.shape[0], 3, 16, 16))
        return type("Output", (), {"reconstruction": image})()


def convolutional(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8 * 8 * 8), nn.Unflatten(1, (8, 8, 8)), nn.ReLU(), *end)


def encoder(images: tuple[int, int, int] = (3, 16, 16), outputs: int = 8) -> nn.Module:
    C, H, W = images
    return nn.Sequential(
        nn.Conv2d(C, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(2 * H * W, outputs)
    )


class Halves(nn.Module):
    """An encoder that gives mean and logvar."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = encoder()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layers(x).chunk(2, dim=1)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        Reshaped,
        lambda: convolutional(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()),
        lambda: convolutional(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1, bias=False), nn.Tanh()),
        lambda: convolutional(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1)),
        lambda: convolutional(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1), nn.Hardtanh()),
    ],
)
def test_a_split_decoder_starts_with_the_same_image_even_masks_and_copies(make: Callable[[], nn.Module], K: int):
    torch.manual_seed(0)
    decoder = make()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    halves = split(decoder, torch.randn(2, 4), K, generator=torch.Generator().manual_seed(0))
    z = torch.randn(64, 4)
    with torch.no_grad():
        image = decoder(z)
        image = getattr(image, "reconstruction", image)
        decoded = halves(z)
    assert decoded.components.shape == (64, K, 3, 16, 16)
    assert torch.equal(decoded.weights, torch.full((64, K, 1, 16, 16), 1 / K))
    assert (decoded.x_hat - image).abs().max() < 1e-2
    apart = (decoded.components - image[:, None]).abs().amax(dim=(0, 2, 3, 4))
    assert (apart > 1e-5).all()  # exact copies would have equal gradients for ever
    assert (apart < 0.1).all()
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())  # the user's own


def test_components_part_when_a_split_decoder_is_trained():
    torch.manual_seed(0)
    halves = split(Reshaped(), torch.randn(2, 4))
    z, x = torch.randn(32, 4), (torch.rand(32, 3, 16, 16) > 0.5).float()
    optimizer = torch.optim.Adam(halves.parameters(), lr=1e-2)

    def gap() -> Tensor:
        components = halves(z).components
        return (components[:, 0] - components[:, 1]).abs().mean().detach()

    first, losses = gap(), []
    for _ in range(100):
        losses.append((halves(z).x_hat - x).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert gap() > 10 * first
    assert halves(z).weights.std() > 0.01  # and the mask chooses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (nn.Linear(5, 8), "does not take latents of the shape"),
        (nn.Linear(4, 8), r"must paint images \(B, C, H, W\), not \(2, 8\)"),
        (nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)), nn.Upsample(scale_factor=2)), "it ends otherwise"),
        (nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)), nn.Softplus()), "followed by something else"),
        (nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Upsample(8), nn.Conv2d(4, 4, 1, groups=2)), "one group"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 64)), "not (2, 64)"),
        (convolutional(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 3, 1))), "remove its normalisation"),
        (nn.Unflatten(1, (1, 2, 2)), "it ends otherwise"),
    ],
)
def test_decoders_that_cannot_be_split_get_one_line(decoder: nn.Module, words: str):
    with pytest.raises(InputError, match=words.replace("(2, 64)", r"\(2, 64\)")):
        split(decoder, torch.randn(2, 4))


@pytest.mark.parametrize(
    ("decoder", "z", "K", "words"),
    [
        (lambda z: z, torch.randn(2, 4), 2, "an nn.Module, not this function"),
        (Reshaped(), [[0.0] * 4], 2, "a tensor with a few latents .*, not a list"),
        (Reshaped(), torch.randn(4), 2, r"not of the shape \(4,\)"),
        (Reshaped(), torch.randn(0, 4), 2, r"not of the shape \(0, 4\)"),
        (Reshaped(), torch.randn(2, 4), 1.5, "whole and at least 2"),
        (nn.Bilinear(4, 4, 64), torch.randn(2, 4), 2, "TypeError: .* missing 1 required"),
        (split(Reshaped(), torch.randn(2, 4)), torch.randn(2, 4), 2, "split already, into 2 components"),
    ],
)
def test_what_is_no_decoder_or_no_latents_gets_one_line(decoder: Any, z: Any, K: Any, words: str):
    with pytest.raises(InputError, match=words):
        split(decoder, z, K)


def test_only_models_of_splitvae_are_adopted_and_their_network_stays(tmp_path: Path):
    with pytest.raises(InputError, match="not this Reshaped; see register_network"):
        adopt(Reshaped(), tmp_path / "run")  # type: ignore[arg-type]
    for changes in ({"latent_dim": 9}, {"mask_scale": 4}, {"base_channels": 9}):
        with pytest.raises(InputError, match=f"{min(changes)} is the model's own"):
            adopt(SplitVAE((1, 16, 16), **TINY), tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_an_adopted_model_without_its_state_is_not_trained_from_nothing(tmp_path: Path, npz: Path):
    run = adopt(SplitVAE((3, 16, 16), **TINY), tmp_path / "run", data=str(npz))
    shutil.rmtree(run.path / "state")
    with pytest.raises(InputError, match="holds nothing to go on from"):
        train(resume=run.path)


def test_a_pair_of_modules_is_trained_scored_saved_and_split(tmp_path: Path, npz: Path):
    torch.manual_seed(0)
    register_network("mine", (Halves(), Reshaped()))
    common = {"data": str(npz), "network": "mine", "latent_dim": 4, "precision": "fp32", "batch_size": 8, "quiet": True}
    plain = train(out=tmp_path / "vae", model="vae", epochs=30, beta=0.1, lr=1e-2, **common)
    assert plain.summary["steps"] == 180
    assert Run.open(tmp_path / "vae").config.network == "mine"
    untrained = VAE((3, 16, 16), 4, network="mine")
    x = torch.from_numpy(plain.data.images[plain.data.splits["train"]]).float() / 255
    errors = [(model.reconstruct(x) - x).square().mean() for model in (plain.model, untrained)]
    assert errors[0] < 0.85 * errors[1]
    result = evaluate(plain, "efficientnet-lite0", n=12, metrics="frechet")
    assert {row["source"] for row in result["rows"]} == {"REC", "normal"}

    # The trained one, split: its x̂ at first, and training goes on from there.
    register_network("mine", plain.model.network)
    model = SplitVAE((3, 16, 16), 4, network="mine").eval()
    z = torch.randn(16, 4)
    with torch.no_grad():
        assert (model.decode(z).x_hat - plain.model.decode(z).x_hat).abs().max() < 1e-2
    adopted = adopt(model, tmp_path / "adopted", npz)
    assert evaluate(adopted, "efficientnet-lite0", n=12, metrics="frechet")["rows"][0]["output"] == "x_hat"
    went_on = train(resume=adopted, epochs=2, quiet=True, precision="fp32", lr=1e-4)
    assert went_on.summary["mse"] < 1.2 * plain.summary["mse"]

    registry.OTHERS.clear()
    REGISTERED.clear()
    for load in (lambda: load_model(tmp_path / "adopted"), lambda: Run.open(tmp_path / "adopted")):
        with pytest.raises(InputError, match=r"registered first, with splitvae\.register_network"):
            load()


@pytest.mark.parametrize("network", ["split-vae", "rae", "infogan", "wae", "resnet", "mine"])
def test_a_trained_vae_of_any_network_is_split(network: str):
    torch.manual_seed(0)
    shape = (3, 16, 16) if network == "mine" else (1, 32, 32)
    if network == "mine":
        register_network("mine", (Halves(), Reshaped()))
    options = {} if network == "mine" else {"base_channels": 8}
    model = VAE(shape, 4, network=network, beta=2.0, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # as a training would move them
            parameter.add_(0.02 * torch.randn_like(parameter))
    model(torch.rand(4, *shape))
    model.variance.update(torch.tensor(0.1))
    model.eval()
    halves = split_model(model)
    assert (halves.num_components, halves.beta, float(halves.variance.gamma)) == (2, 2.0, float(model.variance.gamma))
    x = torch.rand(3, *shape)
    with torch.no_grad():
        q = model.encode(x)
        assert torch.equal(halves.encode(x).logvar, q.logvar)
        decoded = halves.decode(q.mean)
        assert (decoded.x_hat - model.decode(q.mean).x_hat).abs().max() < 1e-2
    assert not torch.equal(decoded.components[:, 0], decoded.components[:, 1])
    with pytest.raises(InputError, match="with one component"):
        split_model(halves)
    with pytest.raises(InputError, match="split by split_model"):
        split(model, q.mean)


def test_ranges_of_images_and_latents_of_any_shape():
    down = nn.Conv2d(3, 4, 3, 4, 1)
    up = nn.ConvTranspose2d(2, 3, 4, 4)
    pair = (nn.Sequential(down, Chunks()), up)
    x = torch.rand(2, 3, 16, 16)
    register_network("signed", pair, images="signed")
    model = VAE((3, 16, 16), 32, network="signed")
    mean, logvar = down(2 * x - 1).chunk(2, dim=1)
    torch.testing.assert_close(model.encode(x).mean, mean.flatten(1))
    torch.testing.assert_close(model.encode(x).logvar, logvar.flatten(1))
    torch.testing.assert_close(model.decode(mean.flatten(1)).x_hat, (up(mean) + 1) / 2)
    register_network("logits", pair, images="logits")
    halves = SplitVAE((3, 16, 16), 32, network="logits")
    torch.testing.assert_close(halves.decode(mean.flatten(1)).x_hat, up(mean).sigmoid(), atol=1e-2, rtol=0)
    register_network("points", (encoder(outputs=4), Reshaped()))
    assert RAE((3, 16, 16), 4, network="points").encode(x).deterministic


class Thirds(nn.Module):
    """As an encoder that returns (z, mean, logvar)."""

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        return h.chunk(3, dim=1)


class Chunks(nn.Module):
    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        return h.chunk(2, dim=1)


@pytest.mark.parametrize(
    ("pair", "latent_dim", "words"),
    [
        ((Halves(), Reshaped()), 5, "gives 4 latents, not 5; pass latent_dim=4"),
        ((encoder(outputs=4), Reshaped()), 4, "gives no logvar"),
        ((encoder(outputs=8), Reshaped()), 4, "gives no logvar"),  # and not that it gives 8 latents
        ((nn.Sequential(encoder(outputs=12), Thirds()), Reshaped()), 4, r"gives 3 tensors like \(z, mean, logvar\)"),
        (
            (Halves(), nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))),
            4,
            r"paints \(1, 8, 8\)",
        ),
        ((Halves(), Reshaped(5)), 4, "does not take latents"),
        ((encoder((1, 16, 16)), Reshaped()), 4, "does not take images"),
        ((Halves(), convolutional(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Threshold(9.0, 9.0))), 4, "paints values from"),
    ],
)
def test_pairs_that_do_not_fit_get_one_line(pair: tuple[nn.Module, nn.Module], latent_dim: int, words: str):
    register_network("mine", pair)
    with pytest.raises(InputError, match=words):
        VAE((3, 16, 16), latent_dim, network="mine")


def test_names_and_modules_are_checked_when_they_are_registered():
    with pytest.raises(InputError, match="is a network of splitvae"):
        register_network("rae", (Halves(), Reshaped()))
    with pytest.raises(InputError, match="a module that has both"):
        register_network("mine", nn.Linear(2, 2))
    with pytest.raises(InputError, match="has no parameters"):
        register_network("mine", (nn.Flatten(), nn.Unflatten(1, (1, 8, 8))))
    with pytest.raises(InputError, match="name must be a text"):
        register_network("", (Halves(), Reshaped()))
    with pytest.raises(InputError, match="images is 'bytes'"):
        register_network("mine", (Halves(), Reshaped()), images="bytes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="registered first"):
        train(network="mime", out="nowhere", data="digits")


def test_an_autoencoder_kl_of_diffusers_keeps_its_numbers():
    diffusers = pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")
    torch.manual_seed(0)
    kl = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), latent_channels=2, norm_num_groups=4,
    ).eval()  # fmt: skip
    register_network("kl", kl)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        theirs = kl.encode(2 * x - 1).latent_dist
        for model in (VAE((3, 16, 16), 128, network="kl").eval(), SplitVAE((3, 16, 16), 128, network="kl").eval()):
            torch.testing.assert_close(model.encode(x).mean, theirs.mean.flatten(1))
            torch.testing.assert_close(model.encode(x).logvar, theirs.logvar.flatten(1))
            image = (kl.decode(theirs.mean).sample + 1) / 2
            torch.testing.assert_close(model.decode(theirs.mean.flatten(1)).x_hat, image, atol=1e-2, rtol=0)


@pytest.mark.filterwarnings("ignore")  # pythae's own
def test_a_model_of_pythae_keeps_its_numbers():
    pytest.importorskip("pythae", reason="the optional package pythae is not installed")
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig

    theirs = PythaeVAE(VAEConfig(input_dim=(1, 16, 16), latent_dim=4)).eval()
    register_network("pythae", theirs)
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        posterior = theirs.encoder(x)
        for model in (VAE((1, 16, 16), 4, network="pythae").eval(), SplitVAE((1, 16, 16), 4, network="pythae").eval()):
            torch.testing.assert_close(model.encode(x).logvar, posterior.log_covariance)
            image = theirs.decoder(posterior.embedding).reconstruction
            torch.testing.assert_close(model.decode(model.encode(x).mean).x_hat, image, atol=1e-2, rtol=0)


@pytest.mark.parametrize("K", [2, 4])
def test_copies_of_a_split_model_differ_by_as_much_as_was_asked_for(K: int):
    kernel = torch.randn(30, 20, 3, 3)
    copies = _wide(kernel, 0, 30, K, 0.01)[K - 1 :].unflatten(0, (K, 30))  # after the masks
    assert float((copies - kernel).std() / kernel.std()) == pytest.approx(0.01, rel=0.03)
    torch.testing.assert_close(copies.mean(dim=0), kernel)
