"""Promises about ways between latents and about blends by hand."""

import pytest
import torch

from splitvae.editing import interpolate, recombine
from splitvae.errors import InputError
from splitvae.models.vae import SplitVAE


@pytest.fixture
def decoded():
    model = SplitVAE((1, 16, 16), 4, base_channels=4, num_scales=2, embedding_dim=16).eval()
    with torch.no_grad():
        return model.decode(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("path", ["line", "great-circle"])
def test_a_way_begins_and_ends_where_it_should(path):
    a, b = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    z = interpolate(a, b, 7, path)
    assert z.shape == (7, 32)
    torch.testing.assert_close(z[0], a)
    torch.testing.assert_close(z[-1], b)


def test_a_great_circle_keeps_the_length_and_turns_evenly():
    a, b = torch.randn(2, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b = a / a.norm(), b / b.norm()
    z = interpolate(a, b, 9, "great-circle")
    torch.testing.assert_close(z.norm(dim=1), torch.ones(9, dtype=torch.float64))
    cosines = (z[1:] * z[:-1]).sum(dim=1)
    torch.testing.assert_close(cosines, cosines[:1].expand(8))
    assert interpolate(a, b, 9, "line").norm(dim=1)[4] < 0.9  # what the great circle avoids


def test_ways_between_nearly_equal_and_opposite_ends():
    a = torch.randn(8, generator=torch.Generator().manual_seed(3))
    assert interpolate(a, a, 5, "great-circle").isfinite().all()
    near = interpolate(a, a + 1e-6, 5, "great-circle")
    torch.testing.assert_close(near, interpolate(a, a + 1e-6, 5, "line"))
    with pytest.raises(InputError, match="opposite"):
        interpolate(a, -a, 5, "great-circle")
    with pytest.raises(InputError, match="Did you mean 'line'"):
        interpolate(a, a, 5, "lin")  # type: ignore[arg-type]


def test_recombining_with_nothing_changed_changes_nothing(decoded):
    again = recombine(decoded)
    torch.testing.assert_close(again.x_hat, decoded.x_hat)


def test_all_the_way_towards_a_component_leaves_that_component_alone(decoded):
    for k in (0, 1):
        torch.testing.assert_close(recombine(decoded, towards=k, amount=1).x_hat, decoded.components[:, k])
    half = recombine(decoded, towards=0, amount=0.5)
    torch.testing.assert_close(half.weights.sum(dim=1), torch.ones(3, 1, 16, 16))
    mask = decoded.weights[:, 0]
    torch.testing.assert_close(half.weights[:, 0], mask + 0.5 * (1 - mask))


def test_swapping_gives_each_component_the_mask_of_the_other(decoded):
    mask, (x1, x2) = decoded.weights[:, 0], decoded.components.unbind(1)
    torch.testing.assert_close(recombine(decoded, order=(1, 0)).x_hat, mask * x2 + (1 - mask) * x1)


def test_strengths_scale_components_and_stay_in_range(decoded):
    out = recombine(decoded, strengths=(0, 1))
    torch.testing.assert_close(out.x_hat, decoded.weights[:, 1] * decoded.components[:, 1])
    assert recombine(decoded, strengths=(5, 5)).x_hat.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "wrong", [{"strengths": (1,)}, {"strengths": (-1, 1)}, {"order": (0, 0)}, {"towards": 2}, {"amount": 1.5}]
)
def test_blends_that_make_no_sense_are_refused(decoded, wrong):
    with pytest.raises(InputError):
        recombine(decoded, **wrong)
