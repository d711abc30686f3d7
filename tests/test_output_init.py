"""Where decoded images begin."""

from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import nn

from splitvae import InputError, SplitVAE, train
from splitvae.models.output_init import LEAST, begin_at_mean
from splitvae.models.rae import RAE
from splitvae.models.registry import NETWORKS
from splitvae.models.vae import VAE


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_begins_at_the_mean_of_each_channel(network: str):
    torch.manual_seed(0)
    model = VAE((3, 32, 32), 4, network=network, base_channels=8).eval()
    mean = torch.tensor([0.02, 0.5, 0.9])
    z = torch.randn(20, 4)
    before = model.decode(z).x_hat.mean(dim=(0, 2, 3))
    begin_at_mean(model, mean)
    after = model.decode(z).x_hat.mean(dim=(0, 2, 3))
    assert ((before - mean).abs()[[0, 2]] > 0.25).all()
    torch.testing.assert_close(after, mean, rtol=0, atol=0.12)


def test_all_components_begin_there_and_masks_stay():
    model = SplitVAE((1, 16, 16), num_components=3, **TINY)
    head = model.network.decoder.head
    masks = head.bias[:2].clone()
    begin_at_mean(model, torch.tensor([0.0]))  # a black set: not where a sigmoid passes nothing
    assert torch.equal(head.bias[:2], masks)
    torch.testing.assert_close(head.bias[2:].sigmoid(), torch.full((3,), LEAST))


def test_a_layer_with_spectral_norm_has_its_bias_too():
    model = RAE((1, 16, 16), 4, regularizer="sn", network="rae", base_channels=4)
    begin_at_mean(model, torch.tensor([0.1]))
    assert float(model.sample(4).mean()) == pytest.approx(0.1, abs=0.05)


def test_a_network_that_paints_its_own_way_is_refused():
    model = SplitVAE((1, 16, 16), **TINY)
    model.network.decoder.head = nn.Conv2d(model.network.decoder.head.in_channels, 3, 3, padding=1, bias=False)
    with pytest.raises(InputError, match="a bias for each map; leave it out"):
        begin_at_mean(model, torch.tensor([0.1]))


def test_training_begins_there_once(npz: Path, tmp_path: Path):
    options = TINY | {"data": str(npz), "batch_size": 8, "precision": "fp32", "quiet": True, "lr": 1e-9}
    plain = train(out=tmp_path / "plain", epochs=1, **options)
    run = train(out=tmp_path / "run", epochs=1, output_init="data-mean", ema_decay=0.9, **options)
    images = torch.from_numpy(run.data.images[run.data.splits["train"]].copy()).float() / 255
    expected = images.mean(dim=(0, 2, 3)).logit()
    for weights in (run.model, train(resume=run.path, epochs=2).model):
        torch.testing.assert_close(weights.network.decoder.head.bias[1:], expected.repeat(2), rtol=0, atol=1e-4)
    assert not torch.allclose(plain.model.network.decoder.head.bias[1:], expected.repeat(2), atol=1e-2)
