"""The test bed's images are made of what it says, and the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
from conftest import pixels

from splitvae import InputError, prepare
from splitvae.data.compose import Composed, _bright_colours, compose


@pytest.fixture
def caches(tmp_path: Path):
    grey, colour = pixels(40, channels=1), pixels(50)
    labels = {"train_labels": np.arange(30), "test_labels": np.arange(10)}
    np.savez(tmp_path / "digits.npz", train=grey[:30], test=grey[30:], **labels)
    np.savez(tmp_path / "textures.npz", train=colour[:40], test=colour[40:])
    return prepare(tmp_path / "digits.npz"), prepare(tmp_path / "textures.npz")


def test_an_image_is_its_alpha_its_colour_and_its_background(caches):
    digits, textures = caches
    made = compose(digits, textures, "train")
    assert len(made.images) == 30  # one for each digit
    share = made.alpha[:, None] / 255
    expected = share * made.colours[:, :, None, None] + (1 - share) * made.background
    assert np.abs(made.images - expected).max() <= 0.5 + 1e-4
    assert (made.alpha == digits.images[digits.splits["train"]][:, 0]).all()
    assert (made.labels == np.arange(30)).all()
    known = textures.images[textures.splits["train"]].copy()
    both = {image.tobytes() for image in (*known, *np.ascontiguousarray(known[..., ::-1]))}
    assert all(np.ascontiguousarray(image).tobytes() in both for image in made.background)


def test_the_seed_decides_everything_and_splits_differ(caches):
    def of(split: str, seed: int) -> Composed:
        return compose(*caches, split, 10, seed)

    assert (of("train", 3).images == of("train", 3).images).all()
    assert (of("train", 3).images != of("train", 4).images).any()
    assert (of("train", 3).colours != of("test", 3).colours).any()
    assert len(compose(*caches, "test").images) == 10


def test_colours_are_bright_and_differ_from_the_texture(caches):
    made = compose(*caches, "train")
    assert (made.colours.max(axis=1) == 255).all()
    assert (made.colours.min(axis=1) <= 128).all()
    distance = np.linalg.norm(made.colours - made.background.mean(axis=(2, 3)), axis=1)
    assert np.median(distance) > 100
    # Red, yellow, green, cyan, blue, magenta on the wheel.
    pure = _bright_colours(np.stack([np.arange(6) / 6, np.ones(6)], axis=1))
    assert pure.round().tolist() == [
        [255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255],
    ]  # fmt: skip


def test_wrong_sources_are_refused(caches, tmp_path: Path):
    digits, textures = caches
    with pytest.raises(InputError, match="grey and textures in colour"):
        compose(textures, digits, "train")
    with pytest.raises(InputError, match="40 images were asked for, there are 30 digits"):
        compose(digits, textures, "train", 40)
    np.savez(tmp_path / "large.npz", train=pixels(12, 24, 24))
    with pytest.raises(InputError, match="the same size, not 16×16 and 24×24"):
        compose(digits, prepare(tmp_path / "large.npz"), "train", 2)


def test_the_command_writes_a_source_with_its_masks(caches, tmp_path: Path, splitvae, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "bed.npz"
    sources = ["--digits", tmp_path / "digits.npz", "--textures", tmp_path / "textures.npz"]
    status, printed, _ = splitvae("compose", *sources, "--image-size", 16, "--out", out)
    assert status == 0
    assert "30 training and 10 test images of 16×16" in printed
    with np.load(out) as file:
        assert (file["train"].transpose(0, 3, 1, 2) == compose(*caches, "train").images).all()
        assert (file["test_masks"] == (file["test_alpha"] >= 128)).all()
    cache = prepare(out)  # what `train --data` does with it
    assert cache.shape == (3, 16, 16)
    assert (cache.labels[cache.splits["train"]] == np.arange(30)).all()
    for wrong, words in (
        (["--out", tmp_path / "bed.png"], "ends in .npz"),
        (["--out", out], "exists already"),
        (["--out", "~/bed.npz"], "exists already"),
        (["--out", tmp_path / "b.npz", "--n", 31, "--image-size", 16], "31 images were asked for"),
        (["--out", tmp_path / "b.npz", "--image-size", 4], "image_size"),
    ):
        status, _, err = splitvae("compose", *sources, *wrong)
        assert status == 2
        assert words in err
