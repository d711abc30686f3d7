"""The digit classifier: what the shipped weights do, that training learns, and that classes come from features."""

import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import SHARED, pixels
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from splitvae.data.cache import prepare
from splitvae.data.loader import fixed_rows
from splitvae.errors import InputError
from splitvae.evaluation.digit_classifier import (
    SHIPPED,
    DigitClassifier,
    accuracy,
    as_input,
    distort,
    main,
    train_classifier,
)
from splitvae.evaluation.extractors import MNIST_CLASSIFIER_SHA256
from splitvae.evaluation.features import EXTRACTORS, extract, get_extractor, metric_name
from splitvae.evaluation.metrics import class_histogram, total_variation
from splitvae.evaluation.score import score


@pytest.fixture(scope="module")
def extractor():
    return get_extractor("mnist-classifier")


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """1,000 test images of MNIST (1000, 1, 32, 32) and their labels."""
    if not SHARED.exists():
        pytest.skip("MNIST lies beside the checkout, in ../shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.mktemp("mnist")))
        cache = prepare(SHARED / "data" / "mnist", (32, 32), channels=1)
        rows = fixed_rows(cache, "test", 1000)
        return cache.images[rows], cache.labels[rows]


def test_shipped_weights_are_the_pinned_small_file():
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == MNIST_CLASSIFIER_SHA256
    assert SHIPPED.stat().st_size <= 1_000_000
    assert {tensor.dtype for tensor in load_file(SHIPPED).values()} <= {torch.float32, torch.int64}  # int64: counters
    with safe_open(SHIPPED, "pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["test_accuracy"] >= 0.993
    assert training["test_images"] == 10_000
    assert {"seed", "epochs", "data_content_hash", "torch", "threads"} < set(training)


def test_it_is_an_extractor_like_the_others(extractor):
    assert (extractor.dim, extractor.published) == (EXTRACTORS["mnist-classifier"], True) == (64, True)
    assert extractor.weights_sha256 == MNIST_CLASSIFIER_SHA256
    assert metric_name(extractor) == "FD (mnist-classifier)"
    before = torch.get_rng_state()
    get_extractor("mnist-classifier")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_it_knows_the_digits_of_mnist(extractor, mnist):
    images, labels = mnist
    assert (extractor.classify(extract(images, extractor)) == labels).mean() >= 0.99


def test_classes_from_features_are_the_networks_own(extractor):
    model = DigitClassifier()
    model.load_state_dict(load_file(SHIPPED))
    images = pixels(40, 32, 32, channels=1).transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        x = as_input(torch.from_numpy(images))
        expected, logits = model.eval().features(x).numpy(), model(x)
    features = extract(images, extractor)
    assert features.min() == 0
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)  # batch norm is folded in the extractor
    np.testing.assert_array_equal(extractor.classify(features), logits.argmax(dim=1).numpy())


def test_colour_and_other_sizes_become_grey_of_32(extractor):
    grey = pixels(6, 32, 32, channels=1).transpose(0, 3, 1, 2).copy()
    np.testing.assert_array_equal(extract(grey.repeat(3, axis=1), extractor), extract(grey, extractor))
    colour = torch.from_numpy(pixels(6, 40, 24).transpose(0, 3, 1, 2).copy())
    x = as_input(colour)
    assert x.shape == (6, 1, 32, 32)
    assert 0 <= x.min() < x.max() <= 1
    doubled = torch.from_numpy(grey).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(as_input(doubled), as_input(torch.from_numpy(grey)))
    assert extract(colour, extractor).shape == (6, 64)


def test_other_weights_are_taken_but_not_called_published(extractor, tmp_path):
    images = pixels(4, 32, 32, channels=1).transpose(0, 3, 1, 2).copy()
    tensors = load_file(SHIPPED)
    save_file(tensors | {"head.bias": tensors["head.bias"] + torch.eye(10)[3] * 1e3}, tmp_path / "own.safetensors")
    own = get_extractor("mnist-classifier", tmp_path / "own.safetensors")
    assert not own.published
    assert own.weights_sha256 != extractor.weights_sha256
    assert own.classify(extract(images, own)).tolist() == [3] * 4
    for wrong in ({"other": torch.zeros(2)}, tensors | {"head.bias": torch.zeros(9)}):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(InputError, match=r"does not hold the weights of mnist-classifier") as caught:
            get_extractor("mnist-classifier", tmp_path / "wrong.safetensors")
        assert "\n" not in str(caught.value)


def test_training_on_a_few_digits_learns(tmp_path, capsys):
    out = tmp_path / "own.safetensors"
    assert main(["digits", "--out", str(out), "--epochs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "training images: 1,617, test images: 180" in printed
    assert float(printed.split("test accuracy: ")[1].split("%")[0]) > 80
    assert hashlib.sha256(out.read_bytes()).hexdigest() in printed
    own = get_extractor("mnist-classifier", out)
    cache = prepare("digits", (32, 32), channels=1)
    found = own.classify(extract(cache.images[cache.splits["test"]], own))
    model = DigitClassifier()
    model.load_state_dict(load_file(out))
    assert (found == cache.labels[cache.splits["test"]]).mean() == accuracy(model.eval(), cache)


def test_the_same_seed_writes_the_same_file(tmp_path):
    images = pixels(140, 32, 32, channels=1)
    np.savez(
        tmp_path / "data.npz", train=images, test=images[:9], train_labels=np.arange(140) % 10, test_labels=[0] * 9
    )
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert (
            main([str(tmp_path / "data.npz"), "--out", str(tmp_path / name), "--epochs", "1", "--seed", str(seed)]) == 0
        )
    written = [(tmp_path / name).read_bytes() for name in "abc"]
    assert written[0] == written[1] != written[2]


def test_distortions_are_slight_and_seeded():
    x = torch.zeros(32, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1
    moved = distort(x, torch.Generator().manual_seed(1))
    assert torch.equal(moved, distort(x, torch.Generator().manual_seed(1)))
    assert moved.shape == x.shape
    assert (moved.sum(dim=(1, 2, 3)) / 64).sub(1).abs().max() < 0.5
    torch.testing.assert_close(moved[:, :, :6], torch.zeros(32, 1, 6, 32))
    assert not torch.equal(moved[0], moved[1])


def test_sources_it_cannot_learn_from_get_one_line(tmp_path, capsys):
    images = pixels(200, 32, 32, channels=1)
    np.savez(tmp_path / "no-labels.npz", train=images)
    np.savez(tmp_path / "large.npz", train=images, train_labels=np.arange(200) % 11)
    np.savez(tmp_path / "few.npz", train=images[:60], train_labels=np.arange(60) % 10)
    for name, words in (
        ("no-labels", "has no labels"),
        ("large", "labels from 0 to 10; the classifier knows 0 to 9"),
        ("few", "make no step of 128 images"),
    ):
        assert main([str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / "out.safetensors")]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(InputError, match="0 epochs"):
        train_classifier(prepare(tmp_path / "few.npz"), epochs=0)


def test_score_says_which_classes_both_sides_hold(extractor, tmp_path):
    for name, seed in (("real", 0), ("fake", 1)):
        np.savez(tmp_path / f"{name}.npz", train=pixels(60, 32, 32, channels=1, seed=seed))
    result = score(str(tmp_path / "real.npz"), str(tmp_path / "fake.npz"), extractor)
    assert result["distance"] == "FD (mnist-classifier)"
    assert result["metrics"]["frechet_distance"] > 0
    classes = result["classes"]
    for name in ("real", "fake"):
        assert len(classes[name]) == 10
        assert sum(classes[name]) == pytest.approx(1)
    distance = sum(abs(a - b) for a, b in zip(classes["real"], classes["fake"], strict=True)) / 2
    assert classes["total_variation"] == pytest.approx(distance)
    assert 0 <= classes["total_variation_floor"] <= 1
    same = score(str(tmp_path / "real.npz"), str(tmp_path / "real.npz"), extractor)
    assert same["classes"]["total_variation"] == 0
    json.dumps(result)


def test_histograms_of_classes_and_how_far_they_are_apart():
    even, odd = class_histogram([0, 0, 2, 2], 4), class_histogram(np.array([1, 3, 1, 3]), 4)
    assert even == [0.5, 0, 0.5, 0]
    assert (total_variation(even, odd), total_variation(even, even)) == (1, 0)
    assert total_variation(even, [0.25] * 4) == 0.5
    for labels in ([], [4], [-1], [[0]]):
        with pytest.raises(InputError, match="values from 0 to 3"):
            class_histogram(labels, 4)
