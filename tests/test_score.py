"""Promises about `splitvae score`: known answers, the card, and one line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels

from splitvae.evaluation.features import Extractor, extract
from splitvae.evaluation.metrics import frechet_from_features
from splitvae.evaluation.score import score

Call = Callable[..., tuple[int, str, str]]
COLOUR = Extractor("mean-colour", 3, lambda x: x.float().mean(dim=(2, 3)), "none", "no-weights")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    for name, seed in (("real", 0), ("fake", 1)):
        np.savez(tmp_path / f"{name}.npz", train=pixels(60, seed=seed))
    return str(tmp_path / "real.npz"), str(tmp_path / "fake.npz")


def test_a_set_scores_nothing_against_itself_and_something_against_another(pair):
    same, other = score(pair[0], pair[0], COLOUR), score(*pair, COLOUR)
    assert same["metrics"]["frechet_distance"] < 1e-6
    assert same["metrics"]["precision"] == same["metrics"]["recall"] == same["metrics"]["coverage"] == 1
    features = [
        extract(torch.from_numpy(pixels(60, seed=seed).transpose(0, 3, 1, 2).copy()), COLOUR) for seed in (1, 0)
    ]
    expected = frechet_from_features(*features)
    assert other["metrics"]["frechet_distance"] == pytest.approx(expected) != 0
    assert other["floor"]["frechet_distance"] > 0


def test_the_card_says_how_it_was_measured(pair):
    result = score(*pair, COLOUR, n=40, seed=3)
    card = result["protocol"]
    assert card["extractor"] == "mean-colour"
    assert [card[name]["images"] for name in ("real", "fake")] == [40, 40]
    assert card["real"]["content_hash"] != card["fake"]["content_hash"]
    assert card["image_size"] == [16, 16]
    assert score(*pair, COLOUR, n=40, seed=3) == result
    assert "rank-deficient" not in " ".join(result["notes"])
    assert "rank-deficient" in " ".join(score(*pair, COLOUR, n=3)["notes"])


def test_mistakes_get_one_line(pair, tmp_path: Path, splitvae: Call, monkeypatch):
    np.savez(tmp_path / "large.npz", train=pixels(9, 20, 24))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for arguments, words, status in (
        ((pair[0], tmp_path / "nowhere.npz", "--extractor", "efficientnet-lite0"), "does not exist", 2),
        ((*pair, "--extractor", "inception"), "not a known extractor", 2),
        ((*pair, "--extractor-weights", tmp_path / "w.pth"), "are not a file", 2),
        ((*pair, "--extractor", "efficientnet-lite0", "--n", 99), "must be from 2 to", 2),
        ((pair[0], tmp_path / "large.npz", "--extractor", "efficientnet-lite0"), "pass --image-size", 2),
        ((*pair, "--extractor", "efficientnet-lite0", "--out", "x.txt"), "ends in .json", 2),
    ):
        found, _, err = splitvae("score", *arguments)
        assert found == status, err
        assert words in err
        assert err.count("\n") == 1


def test_the_command_prints_and_writes_every_metric(pair, tmp_path: Path, splitvae: Call):
    out = tmp_path / "score.json"
    status, text, _ = splitvae("score", *pair, "--extractor", "efficientnet-lite0", "--n", 24, "--out", out)
    assert status == 0
    assert "FD (efficientnet-lite0)" in text
    assert "FID" not in text
    assert "rank-deficient" in text
    names = set(json.loads(out.read_text())["metrics"])
    assert {"kid", "precision", "recall", "density", "coverage"} < names
