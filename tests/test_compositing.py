"""Promises about layers: exported ones give the blend again, and one component moves while the others stand."""

from functools import reduce

import numpy as np
import pytest
import torch
from PIL import Image

from splitvae import InputError, SplitVAE, edit_component, layers, recombine
from splitvae.compositing import recombination, with_on_top
from splitvae.models.autoencoder import Decoded
from splitvae.pictures import to_uint8


def decoded(K: int = 3, C: int = 3, seed: int = 0, n: int = 4) -> Decoded:
    """Random images whose weights go from 0 to 1, all of it included."""
    g = torch.Generator().manual_seed(seed)
    components = torch.rand(n, K, C, 8, 12, generator=g)
    weights = (6 * torch.randn(n, K, 1, 8, 12, generator=g)).softmax(dim=1)
    weights[0, :, :, :4] = 0
    weights[0, 0, :, :4] = 1  # only the first component takes part here,
    weights[1, :, :, :4] = 0
    weights[1, K - 1, :, :4] = 1  # only the last here
    return Decoded((weights * components).sum(dim=1), components, weights)


def composited(rgba) -> torch.Tensor:
    """What Pillow makes of layers (K, 4, H, W) over each other, from bottom to top: (3, H, W) uint8."""
    pictures = [Image.fromarray(layer.transpose(1, 2, 0)) for layer in rgba]
    over = reduce(Image.alpha_composite, pictures)
    assert over.getchannel("A").getextrema() == (255, 255)
    return torch.from_numpy(np.array(over.convert("RGB")).transpose(2, 0, 1).astype(int))


@pytest.mark.parametrize(("K", "C"), [(2, 1), (2, 3), (3, 3), (5, 3)])
def test_layers_over_each_other_give_the_blend(K, C):
    d = decoded(K, C)
    for order in (None, with_on_top(0, K), list(reversed(range(K)))):
        rgba = layers(d, order)
        assert rgba.shape == (4, K, 4, 8, 12)
        x_hat = torch.from_numpy(to_uint8(d.x_hat)).expand(-1, 3, -1, -1).int()
        for image, expected in zip(rgba, x_hat, strict=True):
            assert (composited(image) - expected).abs().max() <= 2  # each layer was rounded


def test_the_layer_on_top_is_as_opaque_as_its_weight():
    d = decoded()
    assert with_on_top(1, 3) == [0, 2, 1]
    for k in range(3):
        top = layers(d, with_on_top(k, 3))[:, -1]
        assert (top[:, 3:] == to_uint8(d.weights[:, k])).all()
        assert (top[:, :3] == to_uint8(d.components[:, k])).all()
    assert (layers(d)[:, 0, 3] == 255).all()


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("k", [0, 1])
def test_recombining_is_the_formula(K, k):
    a, b = decoded(K, seed=1), decoded(K, seed=2)
    a, b = (Decoded(*(part[2:] for part in d)) for d in (a, b))  # the others have weight everywhere
    out = recombine(a, b, k)
    others = [j for j in range(K) if j != k]
    total = b.weights[:, others].sum(dim=1)
    rest = (b.weights * b.components)[:, others].sum(dim=1) / total
    x = a.weights[:, k] * a.components[:, k] + (1 - a.weights[:, k]) * rest
    plain = (total > 1e-4).expand_as(x)  # elsewhere the shares tend to equal ones
    torch.testing.assert_close(out.x_hat[plain], x[plain], atol=1e-3, rtol=0)
    torch.testing.assert_close(out.weights.sum(dim=1), torch.ones_like(total))
    torch.testing.assert_close((out.weights * out.components).sum(dim=1), out.x_hat)
    rows = recombination(a, b, k)
    assert list(rows) == ["foreground", "mask", "layer", "background", "rest", "recombined"]
    torch.testing.assert_close(rows["recombined"], out.x_hat)
    torch.testing.assert_close(rows["rest"][plain], rest[plain], atol=1e-3, rtol=0)


def test_an_image_recombined_with_itself_is_that_image():
    d = decoded()
    for k in range(3):
        torch.testing.assert_close(recombine(d, d, k).x_hat, d.x_hat)


def test_where_the_others_are_silent_they_share_alike():
    b = decoded()
    out = recombine(decoded(seed=1), b, 0)
    silent = (0, slice(None), slice(0, 4))  # there the first component was everything in B
    w = out.weights[0, :, :, :4]
    torch.testing.assert_close(w[1], w[2])
    assert out.x_hat[silent].isfinite().all()


def test_one_foreground_lies_over_many_backgrounds():
    a, b = decoded(n=4), decoded(seed=1)
    one = Decoded(*(part[2:3] for part in a))
    out = recombine(one, b, 1)
    for i in range(4):
        alone = recombine(one, Decoded(*(part[i : i + 1] for part in b)), 1)
        torch.testing.assert_close(out.x_hat[i], alone.x_hat[0])
    assert recombine(b, one, 1).x_hat.shape == b.x_hat.shape


def test_editing_a_component_leaves_the_others_as_they_are():
    model = SplitVAE((1, 16, 16), 4, num_components=3, base_channels=4, num_scales=2, embedding_dim=16).eval()
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = model.decode(z), model.decode(z + 1)
    out = edit_component(before, after, 1)
    assert torch.equal(out.components[:, [0, 2]], before.components[:, [0, 2]])
    assert torch.equal(out.components[:, 1], after.components[:, 1])
    assert torch.equal(out.weights, before.weights)
    torch.testing.assert_close((out.weights * out.components).sum(dim=1), out.x_hat)

    along = edit_component(before, after, 1, weight=True)
    assert torch.equal(along.components, out.components)
    assert torch.equal(along.weights[:, 1], after.weights[:, 1])
    ratio = before.weights[:, 0] / before.weights[:, 2]
    torch.testing.assert_close(along.weights[:, 0] / along.weights[:, 2], ratio)
    torch.testing.assert_close(edit_component(before, before, 1, weight=True).x_hat, before.x_hat)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (lambda: recombine(decoded(1), decoded(1), 0), "one component only"),
        (lambda: layers(decoded(1)), "one component only"),
        (lambda: recombine(decoded(), decoded(), 3), r"component must lie in 0 … 2, not 3"),
        (lambda: edit_component(decoded(), decoded(), -1), r"component must lie in 0 … 2, not -1"),
        (lambda: recombine(decoded(2), decoded(3), 0), "of the same shape"),
        (lambda: edit_component(decoded(n=2), decoded(n=3), 0), "of the same shape"),
        (lambda: layers(decoded(), [0, 1]), "each of the components 0 to 2 once"),
        (lambda: layers(decoded(2, C=4)), "not of 4 channels"),
    ],
)
def test_what_cannot_be_put_together_is_refused_in_one_line(wrong, line):
    with pytest.raises(InputError, match=line) as told:
        wrong()
    assert "\n" not in str(told.value)
