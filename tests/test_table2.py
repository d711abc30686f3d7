"""Promises about table 2: distances equal a separate computation, and one class is far from all where it should be."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels
from PIL import Image

from splitvae.data.cache import prepare
from splitvae.errors import InputError
from splitvae.evaluation.features import Extractor
from splitvae.evaluation.metrics import frechet_distance
from splitvae.files import write_json
from splitvae.reports.plots import save_plot
from splitvae.reproduce.table2 import CIFAR10, choose, class_names, images_in_all, table2, table2_plot

Call = Callable[..., tuple[int, str, str]]


def halves(images: torch.Tensor) -> torch.Tensor:
    """Mean colour of the left and of the right half: a mirror image has other features."""
    return torch.cat([half.float().mean(dim=(2, 3)) for half in images.chunk(2, dim=3)], dim=1)


HALVES = Extractor("halves", 6, halves, "none", "no-weights")
PLAIN = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])  # the colours of the classes


def coloured(n: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """n images (n, 8, 8, 3) of plain colours, a little uneven and brighter on the left; labels in turn."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % classes
    images = 20 + 0.8 * PLAIN[labels][:, None, None, :] + rng.normal(0, 6, (n, 1, 1, 3))
    images = np.broadcast_to(images, (n, 8, 8, 3)).copy()
    images[:, :, :4] += 12
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four classes of 40 training images each, and 60 test images."""
    path = tmp_path / "colours.npz"
    (train, train_labels), (test, test_labels) = coloured(160, 0), coloured(60, 1)
    np.savez(path, train=train, train_labels=train_labels, test=test, test_labels=test_labels)
    return path


def test_each_class_with_its_mirror_images_equals_a_separate_computation(source):
    result, data = table2(source, HALVES), np.load(source)
    real = moments(data["test"])
    assert [entry["label"] for entry in result["classes"]] == [0, 1, 2, 3]
    for entry in result["classes"]:
        own = data["train"][data["train_labels"] == entry["label"]]
        expected = frechet_distance(*moments(np.concatenate([own, own[:, :, ::-1]])), *real)
        assert entry["distance"] == pytest.approx(expected, rel=1e-4)
        assert entry["training_images"] == 40


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = np.concatenate([half.mean(axis=(1, 2)) for half in np.split(images, 2, axis=2)], axis=1)
    return features.mean(axis=0), np.cov(features.T)


def test_a_mix_is_near_and_the_distance_falls_with_every_class_that_joins(source):
    result = table2(source, HALVES)
    assert result["mix"]["mean"] < 0.02 * min(entry["distance"] for entry in result["classes"])
    curve = result["curve"]
    assert [entry["labels"] for entry in curve] == [1, 2, 3, 4]
    means = [entry["mean"] for entry in curve]
    assert means == sorted(means, reverse=True)
    assert curve[0]["distances"] == [entry["distance"] for entry in result["classes"]]
    assert curve[-1]["sd"] is None
    assert curve[-1]["mean"] == pytest.approx(result["mix"]["mean"], abs=0.02 * means[0])


def test_the_floor_is_the_distance_of_training_images_from_others_of_their_kind(source):
    result = table2(source, HALVES)
    assert result["floor"]["images_of_each"] == 80
    assert 0 < result["floor"]["distance"] < 0.02 * result["curve"][0]["mean"]
    assert table2(source, HALVES, n=9)["floor"]["images_of_each"] == 9


def test_choices_are_seeded_of_equal_number_and_from_the_classes_they_name():
    labels = np.repeat(np.arange(10), 7)
    choices = choose(labels, 14, 3, 4)
    again = choose(labels, 14, 3, 4)
    doubled = np.concatenate([labels, labels])
    assert list(choices) == [*range(1, 11), "mix"]
    assert [len(group) for group in choices.values()] == [10, 4, 4, 4, 4, 4, 4, 4, 4, 1, 3]
    for key, group in choices.items():
        assert len({choice.labels for choice in group}) == (1 if key == "mix" else len(group))
        for choice, same in zip(group, again[key], strict=True):
            assert np.array_equal(choice.rows, same.rows)
            assert len(set(choice.rows.tolist())) == 14
            assert set(doubled[choice.rows]) <= set(choice.labels)
    assert all(len(choice.labels) == k for k, group in choices.items() if k != "mix" for choice in group)
    for label, choice in enumerate(choices[1]):  # here one class is just enough: all of its images and their mirrors
        assert np.array_equal(choice.rows, np.flatnonzero(doubled == label))


def test_many_classes_have_a_curve_of_ten_points_and_few_all_their_subsets():
    many = choose(np.repeat(np.arange(100), 2), 4, 1, 3)
    assert list(many) == [1, 12, 23, 34, 45, 56, 67, 78, 89, 100, "mix"]
    few = choose(np.repeat(np.arange(4), 2), 4, 1, 100)
    assert [len(few[k]) for k in (1, 2, 3, 4)] == [4, 6, 4, 1]


def test_counts_follow_the_smallest_class_and_the_card_says_so(tmp_path):
    images, _ = coloured(100, 0)
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    np.savez(tmp_path / "uneven.npz", train=images, train_labels=labels, test=images[:30], test_labels=labels[:30])
    result = table2(tmp_path / "uneven.npz", HALVES)
    assert result["card"]["images_of_each_choice"] == 20
    assert result["card"]["test_images"] == 30
    assert any("20 images of each choice, twice the smallest class" in note for note in result["notes"])
    assert any("the classes differ in size" in note for note in result["notes"])
    assert table2(tmp_path / "uneven.npz", HALVES, n=12)["card"]["images_of_each_choice"] == 12


def test_features_are_extracted_once_and_counted(source):
    counting = Extractor("counting", 6, halves, "none", "other-weights")
    seen: list[int] = []
    first = table2(source, counting, advance=seen.append)
    cache = prepare(source)
    assert sum(seen) == images_in_all(cache) == 2 * 160 + 60
    steps: list[tuple[int, int]] = []
    assert table2(source, counting, advance=seen.append, measured=lambda *step: steps.append(step)) == first
    assert sum(seen) == 380
    assert steps == [(i, 20) for i in range(1, 21)]  # 4 classes, 6 pairs, 4 triples, all, 5 mixes


def test_the_card_tells_jpeg_from_lossless_sources(tmp_path, source):
    for kind in ("png", "jpg"):
        for split in ("train", "test"):
            for i, image in enumerate(pixels(8, seed=len(split))):
                path = tmp_path / f"cifar10-{kind}" / split / f"class{i % 2}" / f"{i}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    found = {kind: table2(tmp_path / f"cifar10-{kind}", HALVES) for kind in ("png", "jpg")}
    assert found["png"]["card"]["source_files"] == "PNG"
    assert found["jpg"]["card"]["source_files"] == "JPEG"
    assert any("lossless, as CIFAR-10 is" in note for note in found["jpg"]["notes"])
    assert not any("JPEG" in note for note in found["png"]["notes"])
    assert table2(source, HALVES)["card"]["source_files"] == "arrays"
    assert found["jpg"]["card"]["source"] == "cifar10-jpg"  # no path of this machine
    assert found["jpg"]["classes"][0]["name"] == "0"  # two classes are not CIFAR-10's ten


def test_cifar10s_classes_have_names_and_cifar100s_do_not(source, monkeypatch):
    cache = prepare(source)
    for name, expected in (("hub/cifar10", CIFAR10), ("CIFAR-10", CIFAR10), ("cifar100", tuple("0123456789"))):
        monkeypatch.setitem(cache.meta, "source", name)
        assert tuple(class_names(cache, np.arange(10))) == expected
    monkeypatch.setitem(cache.meta, "source", "cifar10")
    assert class_names(cache, np.arange(4)) == ["0", "1", "2", "3"]


def test_the_plot_has_a_bar_for_each_class_and_the_mix(source, tmp_path):
    result = table2(source, HALVES)
    figure = table2_plot(result)
    bars, curve = figure.axes
    assert [bar.get_height() for bar in bars.patches] == [
        *(entry["distance"] for entry in result["classes"]), result["mix"]["mean"],
    ]  # fmt: skip
    assert list(curve.lines[0].get_ydata()) == [entry["mean"] for entry in result["curve"]]
    save_plot(figure, tmp_path / "table2.png")
    with Image.open(tmp_path / "table2.png") as picture:
        assert picture.size == (1440, 570)


def test_the_command_writes_numbers_and_picture_and_prints_them_beside_the_papers(
    splitvae: Call, source, tmp_path, monkeypatch
):
    monkeypatch.setattr("splitvae.reproduce.table2.get_extractor", lambda *arguments: HALVES)
    status, printed, error = splitvae("reproduce", "table2", "--data", source, "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    result = json.loads((tmp_path / "out" / "table2.json").read_text())
    write_json(tmp_path / "again.json", table2(source, HALVES))
    assert result == json.loads((tmp_path / "again.json").read_text())
    assert (tmp_path / "out" / "table2.png").exists()
    assert f"{result['classes'][2]['distance']:.2f}" in printed
    assert f"{result['mix']['mean']:.2f} ± {result['mix']['sd']:.2f}" in printed
    assert next(line for line in printed.splitlines() if "mix of all classes" in line).rstrip().endswith(" 5.3")
    assert "paper: Keras ImageNet Inception-v3" in printed
    assert "80 training and mirror images against 60 test images" in printed


def test_mistakes_get_one_line(splitvae: Call, source, tmp_path):
    images = pixels(20)
    np.savez(tmp_path / "unlabelled.npz", train=images, test=images)
    np.savez(tmp_path / "one.npz", train=images, test=images, train_labels=[1] * 20, test_labels=[1] * 20)
    for arguments, line in (
        (["--data", tmp_path / "unlabelled.npz", "--out", tmp_path / "out"], "has no labels"),
        (["--data", tmp_path / "one.npz", "--out", tmp_path / "out"], "one class only"),
        (["--data", tmp_path / "none.npz", "--out", tmp_path / "out"], "does not exist"),
        (["--data", source, "--out", tmp_path / "table.json"], "--out is a folder"),
        (["--data", source, "--out", tmp_path / "out", "--extractor", "inception"], "not a known extractor"),
    ):
        status, _, error = splitvae("reproduce", "table2", *arguments)
        assert status == 2
        assert line in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="seeds ≥ 1"):
        table2(source, HALVES, seeds=0)
