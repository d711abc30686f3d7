"""Promises about the model that comes with the package."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image

from splitvae.densities.store import density_names, load_density
from splitvae.evaluation.evaluate import chosen
from splitvae.evaluation.verify import read_metrics
from splitvae.packaged import DENSITY, packaged_run
from splitvae.packaged.pack import LARGEST_BYTES, pack

FOLDER = packaged_run().path


def test_it_is_small_and_names_no_place_on_anybodys_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_BYTES
    for path in files:
        assert not re.search(rb"/(home|root|tmp|work|Users|mnt)/", path.read_bytes()), path


def test_its_densities_and_numbers_belong_to_its_model():
    run = packaged_run()
    assert density_names(run.path) == ["gmm", "gmm-per-class"]
    for name in density_names(run.path):
        load_density(name, run.path, run.model.latent_dim)  # refuses those of another model
    metrics = read_metrics(run)
    assert metrics["card"]["model_sha256"] == run.model_hash
    assert chosen(metrics["rows"])["source"] == DENSITY


def test_its_card_tells_the_numbers_of_its_files():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [row for row in read_metrics(packaged_run())["rows"] if row["output"] == "x_hat"]
    for row in rows:
        assert f"| {row['source']} | {row['metrics']['frechet_distance']:.2f} |" in card
    assert "make packaged-model" in card


def test_no_image_of_the_data_set_comes_along():
    kinds = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    assert kinds == {".md", ".json", ".jsonl", ".safetensors"}


def test_it_reconstructs_its_samples_as_its_summary_says():
    run = packaged_run()
    density, _ = load_density("gmm", run.path, run.model.latent_dim)
    x = run.model.decode(density.sample(20, generator=torch.Generator().manual_seed(0))).x_hat.detach()
    mse = float((run.model.reconstruct(x) - x).square().mean())
    assert mse < run.summary["mse"]


def test_sample_without_a_run_shows_digits(tmp_path: Path, splitvae):
    assert splitvae("sample", "--n", 16, "--out", tmp_path / "s.npz")[0] == 0
    images = np.load(tmp_path / "s.npz")["x_hat"]
    assert images.shape == (16, 1, 32, 32)
    assert images.max() > 200
    assert images.mean() < 80
    splitvae("sample", "--n", 16, "--out", tmp_path / "again.npz")
    np.testing.assert_array_equal(images, np.load(tmp_path / "again.npz")["x_hat"])


def test_a_figure_without_a_run_is_of_the_model_that_comes_along(tmp_path: Path, splitvae, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said, _ = splitvae("figure", 1)
    assert (status, said.startswith("figure-1.png: ")) == (0, True)
    with Image.open(tmp_path / "figure-1.png") as picture:
        assert picture.width > picture.height > 100


def test_sample_without_a_run_draws_the_class_that_is_asked_for(tmp_path: Path, splitvae):
    from splitvae.evaluation.digit_classifier import SHIPPED, DigitClassifier
    from splitvae.models.pretrained import read_tensors

    classifier = DigitClassifier().eval()
    classifier.load_state_dict(read_tensors(SHIPPED))
    assert splitvae("sample", "--n", 40, "--label", 3, "--out", tmp_path / "s.npz")[0] == 0
    images = torch.from_numpy(np.load(tmp_path / "s.npz")["x_hat"])
    with torch.inference_mode():
        found = classifier(images.float() / 255).argmax(dim=1)
    assert (found == 3).float().mean() > 0.9
    status, _, err = splitvae("sample", "--density", "gmm", "--label", 3, "--out", tmp_path / "s.npz")
    assert (status, err) == (2, "splitvae: --label needs a class-wise density: --density gmm-per-class\n")


@pytest.mark.slow
def test_packing_a_run_gives_what_is_committed(tmp_path: Path, splitvae):
    """The packaged run, with its data beside it again, packs to itself."""
    if not (SHARED / "data" / "mnist").exists():
        pytest.skip("MNIST is not on this machine")
    run = packaged_run().at(str(SHARED / "data" / "mnist"))
    record = run.record["machine"]
    record.setdefault("system", "somewhere")
    pack(run, tmp_path / "packed")
    for path in FOLDER.rglob("*"):
        if path.is_file():
            assert (tmp_path / "packed" / path.relative_to(FOLDER)).read_bytes() == path.read_bytes(), path
