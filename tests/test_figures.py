"""Promises about the paper's figures: each number gives its picture, and the pictures hold what they say."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, pixels
from PIL import Image

from splitvae import load_model, train
from splitvae.data.loader import ImageLoader, seeded
from splitvae.densities.normal import StandardNormal
from splitvae.errors import InputError
from splitvae.evaluation.features import Extractor
from splitvae.evaluation.latents import diagnose_latents
from splitvae.evaluation.metrics import frechet_distance
from splitvae.models.distributions import DiagonalGaussian
from splitvae.pictures import GAP, to_uint8
from splitvae.reports.evolution import evolution
from splitvae.reports.figures import FIGURES, LABELS, NEAREST_LABELS, draw_figure, nearest_picture
from splitvae.reports.plots import latent_plot, loss_plot, mathtext, save_plot
from splitvae.run import Run

Call = Callable[..., tuple[int, str, str]]
COLOUR = Extractor("mean-colour", 3, lambda x: x.float().mean(dim=(2, 3)), "none", "no-weights")
SIDE, ZOOM = 16, 3  # of the images; how much a grid enlarges them


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with two snapshots, and beside it a run of one component without any."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        images = pixels(60)
        np.savez(folder / "data.npz", train=images[:48], test=images[48:])
        options = TINY | {"data": str(folder / "data.npz"), "batch_size": 8, "precision": "fp32", "quiet": True}
        train(out=folder / "run", epochs=2, snapshot_every=1, log_every=2, **options)
        train(out=folder / "plain", epochs=1, num_components=1, **options)
        yield folder


def size_of_grid(rows: int, columns: int, left: int = 0) -> tuple[int, int]:
    return (columns * (SIDE + GAP) + GAP) * ZOOM + left, (rows * (SIDE + GAP) + GAP) * ZOOM


def read(path: Path) -> np.ndarray:
    """The pixels (height, width, 3) of a PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def size(path: Path) -> tuple[int, int]:
    """(width, height) of a PNG."""
    return read(path).shape[1::-1]


@pytest.mark.parametrize("number", FIGURES)
def test_every_figure_is_a_png_of_the_expected_size_in_the_run(made, number):
    n = {"samples": 9, "masks": 9, "mean images": None}.get(FIGURES[number].kind, 4)
    path = draw_figure(number, made / "run", n=n, extractor=COLOUR)
    assert path == made / "run" / "figures" / f"figure-{number}.png"
    expected = {
        "masks and components": size_of_grid(4, 4, LABELS),
        "reconstructions": size_of_grid(5, 4, LABELS),
        "samples": size_of_grid(3, 3),
        "masks": size_of_grid(3, 3),
        "mean images": (SIDE * 16 + 2 * 8 * GAP, SIDE * 16 + 8 * GAP + 48),
        "distances along training": (960, 600),
    }
    assert size(path) == expected[FIGURES[number].kind]
    assert len(np.unique(read(path))) > 20  # something is on it


def test_rows_hold_the_images_that_sample_makes_with_the_same_seed(made, tmp_path):
    path = draw_figure(7, made / "run", n=4, seed=5, out=tmp_path / "seven.png")
    model = load_model(made / "run")
    z = StandardNormal(model.latent_dim).sample(4, torch.Generator().manual_seed(5))
    with torch.inference_mode():
        decoded = model.decode(z)
    rows = [decoded.weights[:, 0], decoded.components[:, 0], decoded.components[:, 1], decoded.x_hat]
    shown = read(path)[:, LABELS:]
    for r, row in enumerate(rows):
        for c, image in enumerate(to_uint8(row)):
            assert np.array_equal(tile(shown, r, c), np.broadcast_to(image, (3, SIDE, SIDE)))


def test_reconstructions_stand_below_the_test_images_they_are_of(made, tmp_path):
    path = draw_figure(10, made / "run", n=4, out=tmp_path / "ten.png")
    run = Run.open(made / "run")
    x = ImageLoader(run.data, "test", 1, 0).fixed(4)
    shown = read(path)[:, LABELS:]
    for c in range(4):
        assert np.array_equal(tile(shown, 0, c), to_uint8(x)[c])
        assert np.array_equal(tile(shown, 4, c), to_uint8(run.model.reconstruct(x))[c])


def tile(grid: np.ndarray, row: int, column: int) -> np.ndarray:
    """One image (3, SIDE, SIDE) out of a grid's pixels."""
    top, left = ((GAP + place * (SIDE + GAP)) * ZOOM for place in (row, column))
    return grid[top : top + SIDE * ZOOM : ZOOM, left : left + SIDE * ZOOM : ZOOM].transpose(2, 0, 1)


def test_samples_may_be_components_or_their_mix(made, tmp_path):
    shown = {
        output: read(draw_figure(14, made / "run", output=output, n=4, out=tmp_path / "14.png"))
        for output in ("x_hat", "x1", "x2", "mix")
    }
    tiles = {name: [tile(picture, *divmod(i, 2)) for i in range(4)] for name, picture in shown.items()}
    assert not np.array_equal(shown["x1"], shown["x2"])
    for i, image in enumerate(tiles["mix"]):
        assert any(np.array_equal(image, tiles[name][i]) for name in ("x1", "x2"))


def test_mean_images_equal_numpys_mean_at_their_own_sizes(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey = pixels(2_500, 8, 8, 1, seed=3)[..., 0]  # more than are read at once
    np.savez("grey$1.npz", train=grey[:2_100], test=grey[2_100:])
    path = draw_figure(9, [made / "data.npz", "grey$1.npz"])
    assert path == Path("figure-9.png")
    shown, gap = read(path), 8 * GAP
    colour = np.load(made / "data.npz")["train"]
    for left, images, zoom in ((gap, colour, 16), (2 * gap + 256, grey[:2_100, ..., None], 32)):
        side = images.shape[1]
        found = shown[gap : gap + side * zoom : zoom, left : left + side * zoom : zoom]
        assert np.array_equal(found, np.broadcast_to(np.rint(images.mean(axis=0)), (side, side, 3)))
    assert shown[gap + 256 :].min() < 100  # the names below


def test_distances_along_training_equal_a_separate_computation(made):
    draw_figure(13, made / "run", n=10, seed=3, extractor=COLOUR)
    result = json.loads((made / "run" / "figures" / "figure-13.json").read_text())
    assert result["epochs"] == [1, 2]
    assert result["distance"] == "FD (mean-colour)"
    assert set(result["outputs"]) == {"x_hat", "x1", "x2", "mix"}
    run = Run.open(made / "run")
    z = StandardNormal(run.model.latent_dim).sample(10, generator=seeded(3, "sample", 0))
    real = moments(to_uint8(ImageLoader(run.data, "test", 1, 0).fixed(10)))
    for i, snapshot in enumerate(("epoch-0001", "epoch-0002")):
        with torch.inference_mode():
            decoded = load_model(made / "run" / "snapshots" / snapshot).decode(z)
        for name, images in (("x_hat", decoded.x_hat), ("x2", decoded.components[:, 1])):
            expected = frechet_distance(*moments(to_uint8(images)), *real)
            assert result["outputs"][name][i] == pytest.approx(expected, rel=1e-4)
    card = result["card"]
    assert card["seeds"] == [3]
    assert card["generated_images"] == card["real_images"] == 10


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = images.mean(axis=(2, 3))
    return features.mean(axis=0), np.cov(features.T)


def test_snapshots_are_measured_once_and_counted(made):
    seen: list[int] = []
    counting = Extractor("counting", 3, COLOUR.network, "none", "other-weights")
    first = evolution(Run.open(made / "run"), 8, 0, counting, advance=seen.append)
    assert sum(seen) == 8 + 2 * 3 * 8  # test images; x̂, x̂₁, x̂₂ of two snapshots
    again = evolution(Run.open(made / "run"), 8, 0, counting, advance=seen.append)
    assert again == first
    assert sum(seen) == 56


def test_the_nearest_training_images_stand_below_the_samples(made):
    run = Run.open(made / "run")
    images = run.data.images[run.data.splits["train"][[7, 3]]]
    picture = nearest_picture(run, images, k=2)
    assert picture.size == size_of_grid(3, 2, NEAREST_LABELS)
    shown = np.asarray(picture)[:, NEAREST_LABELS:]
    for column, image in enumerate(images):  # a training image is nearest to itself
        assert np.array_equal(tile(shown, 0, column), image)
        assert np.array_equal(tile(shown, 1, column), image)
        assert not np.array_equal(tile(shown, 2, column), image)


def test_latents_are_sorted_and_the_inactive_ones_marked():
    mean = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.01, 3.0, 2.0])
    latents = diagnose_latents(DiagonalGaussian(mean, torch.tensor([-2.0, 0.0, -2.0, -2.0]).expand(500, 4)))
    (axes,) = latent_plot(latents).axes
    heights = [bar.get_height() for bar in axes.patches[:4]]
    assert heights == sorted(latents["kl_per_dimension"], reverse=True)
    colours = [bar.get_facecolor() for bar in axes.patches[:4]]
    assert colours[0] == colours[2] != colours[3]
    assert "3 of 4 variables active" in axes.get_title(loc="left")


def test_the_loss_plot_draws_the_log(made, tmp_path):
    run = Run.open(made / "run")
    figure = loss_plot(run)
    drawn = {line.get_label(): line.get_ydata() for axes in figure.axes for line in axes.lines}
    assert list(drawn["mse per value"]) == [line["mse"] for line in run.log()]
    save_plot(figure, tmp_path / "loss.png")
    assert size(tmp_path / "loss.png") == (960, 720)
    with pytest.raises(InputError, match="no line in its log"):
        loss_plot(Run(tmp_path))


def test_symbols_are_the_papers():
    assert [mathtext(name) for name in ("x_hat", "x2", "mask", "mask1", "x", "mix")] == [
        r"$\hat{x}$", r"$\hat{x}_{2}$", r"$\sigma$", r"$\sigma_{1}$", "$x$", "mix",
    ]  # fmt: skip


def test_a_plain_vae_has_samples_and_says_so_of_the_rest(made, tmp_path):
    assert draw_figure(8, made / "plain", n=4, out=tmp_path / "8.png").exists()
    for number in (1, 10, 15):
        with pytest.raises(InputError, match=r"one component; what it generates is drawn by the figures 8, 11, 14\."):
            draw_figure(number, made / "plain")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["6", "RUN"], "figure 6 cannot be drawn: it shows the architecture"),
        (["16", "RUN"], "8, 11, 14 (samples)"),
        (["10"], "figure 10 is drawn from a run: splitvae figure 10 RUN"),
        (["9"], "figure 9 is drawn from runs or sources of images"),
        (["7", "RUN", "RUN"], "one run, not from 2"),
        (["7", "nowhere"], "nowhere is no directory"),
        (["7", "RUN", "--n", "0"], "at least 1, not 0"),
        (["9", "RUN", "--n", "3"], "all training images are averaged"),
        (["7", "RUN", "--out", "seven.jpg"], "ends in .png"),
        (["8", "RUN", "--density", "gmm"], "has no density 'gmm'"),
        (["10", "RUN", "--density", "gmm"], "nothing is sampled"),
        (["8", "RUN", "--output", "x3"], "choose from: x_hat, x1, x2, mix"),
        (["7", "RUN", "--output", "x1"], "takes no output"),
        (["13", "PLAIN"], "--snapshot-every 1"),
        (["13", "RUN", "--n", "1"], "at least 2"),
        (["13", "RUN", "--extractor", "efficientnet"], "Did you mean 'efficientnet-lite0'?"),
    ],
)
def test_mistakes_get_one_line(splitvae: Call, made, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": made / "run", "PLAIN": made / "plain"}
    status, _, error = splitvae("figure", *(places.get(argument, argument) for argument in arguments))
    assert status == 2
    assert line in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_draws_from_a_density_and_tells_the_caption(splitvae: Call, made, tmp_path):
    assert splitvae("fit", made / "run", "--n-components", 2)[0] == 0
    status, printed, _ = splitvae(
        "figure", 7, made / "run", "--density", "gmm", "--n", 3, "--out", tmp_path / "seven.png"
    )
    assert status == 0
    assert printed.startswith(f"{tmp_path / 'seven.png'}: Generated images taken apart")
    assert size(tmp_path / "seven.png") == size_of_grid(4, 3, LABELS)


def test_three_components_have_three_masks(made, tmp_path):
    options = TINY | {"data": str(made / "data.npz"), "batch_size": 8, "quiet": True}
    run = train(out=tmp_path / "three", num_components=3, epochs=1, **options)
    assert size(draw_figure(4, run, n=4)) == size_of_grid(7, 4, LABELS)
    assert size(draw_figure(15, run, n=4)) == size_of_grid(3, 4, LABELS)
