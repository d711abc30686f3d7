"""Promises about the doctor: what is wrong is found and named with its remedy, what is healthy is left in peace."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, pixels
from PIL import Image
from rich.console import Console
from torch import nn

from splitvae import InputError, Run, train
from splitvae.densities.fit import fit_density
from splitvae.doctor import Finding, doctor, examine, examine_run, examine_source, show
from splitvae.doctor.probe import Probe, check_overfitting
from splitvae.models.distributions import DiagonalGaussian
from splitvae.models.vae import SplitVAE


def named(findings: list[Finding], check: str) -> Finding:
    """The finding of that name; the first where there are several."""
    return next(finding for finding in findings if finding.check == check)


def warnings(findings: list[Finding]) -> list[str]:
    return [finding.check for finding in findings if finding.level == "warning"]


# Sources


@pytest.fixture
def sourced(tmp_path: Path) -> Callable[..., list[Finding]]:
    """Findings of an .npz with 300 training and 210 test images of 16×16, of which arrays are replaced."""

    def examined(**arrays: np.ndarray) -> list[Finding]:
        images = pixels(510)
        healthy = {"train": images[:300], "test": images[300:], "train_labels": np.arange(300) % 3}
        path = tmp_path / "data.npz"
        np.savez(path, **{**healthy, "test_labels": np.arange(len(arrays.get("test", images[300:]))) % 3, **arrays})
        return examine_source(path)

    return examined


def test_a_healthy_source_gets_no_warning(sourced):
    findings = sourced()
    assert warnings(findings) == []
    assert [f.check for f in findings if f.level == "note"] == ["test images"]  # 210 are few for a FID
    assert "KID" in named(findings, "test images").remedy
    assert named(findings, "training images").text == "300"
    assert named(findings, "labels").text == "3 classes of 100 training images"
    assert named(findings, "size").text == "16×16 (height × width), used as they are"
    assert all(finding.text and "\n" not in finding.text for finding in findings)
    assert all(finding.remedy for finding in findings if finding.level == "warning")


def test_too_few_images_are_told(tmp_path: Path):
    np.savez(tmp_path / "few.npz", train=pixels(60))
    findings = examine_source(tmp_path / "few.npz")
    assert warnings(findings) == ["training images", "test images"]
    assert "54: too few" in named(findings, "training images").text
    assert "held out by a hash of each image" in named(findings, "test images").text


def test_images_that_were_divided_by_255_are_found(sourced):
    finding = named(
        sourced(train=(pixels(300) > 127).astype(np.uint8), test=(pixels(210) > 127) * np.uint8(1)), "values"
    )
    assert finding.level == "warning"
    assert finding.text.startswith("0 to 1 of 255")
    assert "divided by 255" in finding.remedy


def test_images_of_a_few_grey_levels_stored_unscaled_are_found(sourced):
    finding = named(sourced(train=pixels(300) // 16, test=pixels(210) // 16), "values")
    assert (finding.level, "stretch the values" in finding.remedy) == ("warning", True)


def test_images_of_one_colour_and_images_that_are_all_alike_are_found(sourced):
    images = pixels(300)
    images[7] = 90
    finding = named(sourced(train=images), "contrast")
    assert finding.level == "note"
    assert "1 image (0.2 %) of a single colour, such as train image 7" in finding.text
    same = np.repeat(pixels(1), 510, axis=0) + np.arange(510, dtype=np.uint8)[:, None, None, None] % 2
    assert "nearly the same" in named(sourced(train=same[:300], test=same[300:]), "contrast").text


def test_copies_and_overlap_are_counted_and_named(sourced):
    images = pixels(510)
    images[10:20] = images[3]
    findings = sourced(train=images[:300], test=np.concatenate([images[200:230], images[300:480]]))
    assert warnings(findings) == ["copies", "overlap"]
    assert "10 training images (3.3 %) repeat another, such as train image 10 and train image 3" in str(findings)
    assert "30 test images (14 %) are training images too, such as test image 0, which is train image 200" in str(
        findings
    )
    one = named(sourced(test=np.concatenate([images[:1], images[300:509]])), "overlap")
    assert one.level == "note"


def test_images_saved_anew_are_near_copies_of_each_other(tmp_path: Path):
    for i, image in enumerate(pixels(60, 32, 32)):
        path = tmp_path / "set" / ("test" if i >= 50 else "train") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if i in (4, 5):
            brighter = Image.fromarray(image).point(lambda value: value * 0.8 + 30)
            brighter.save(tmp_path / "set" / "test.jpg", quality=60)
            (tmp_path / "set" / "test").mkdir(exist_ok=True)
            shutil.move(tmp_path / "set" / "test.jpg", tmp_path / "set" / "test" / f"again{i}.jpg")
    findings = examine_source(tmp_path / "set")
    finding = named(findings, "near copies")
    assert finding.level == "note"
    assert finding.text == "2 of 12 test images nearly equal a training image, such as test/again4.jpg and train/4.png"
    assert named(findings, "overlap").level == "ok"


def test_uneven_classes_and_classes_without_training_images_are_found(sourced):
    uneven = named(sourced(train_labels=(np.arange(300) < 6).astype(int), test_labels=np.zeros(210, int)), "labels")
    assert uneven.level == "warning"
    assert "2 classes of 6 (class 1) to 294 (class 0) training images: the largest is 49 times" in uneven.text
    unseen = named(sourced(test_labels=np.full(210, 9)), "labels")
    assert "class 9 occurs in the test split only" in unseen.text


def test_grey_images_stored_in_colour_are_noted(sourced):
    grey = np.repeat(pixels(510, channels=1), 3, axis=3)
    assert named(sourced(), "channels").level == "ok"
    assert named(sourced(train=grey[:300], test=grey[300:]), "channels").level == "note"


def test_a_folder_with_every_fault_is_examined_all_the_same(tmp_path: Path):
    root = tmp_path / "[red] mixed"
    for i, image in enumerate(pixels(40, 12, 24)):
        path = root / ("train" if i < 25 else "test" if i < 35 else "extra") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((24 + i % 5, 12)).save(path)
    (root / "train" / "broken.jpg").write_bytes(b"\xff\xd8" * 50)
    (root / "notes.txt").write_text("no image")
    findings = examine_source(root)
    files = [(finding.level, finding.text) for finding in findings if finding.check == "files"]
    assert [level for level, _ in files] == ["warning", "note", "note"]
    assert files[0][1].startswith("1 of 36 images cannot be read, such as broken.jpg")
    assert files[1][1].startswith("5 images lie outside")
    assert files[2][1] == "1 file passed over for being no image, such as notes.txt"
    assert named(findings, "size").level == "warning"
    assert "mixed, from 12×24 to 12×28, median 12×26" in named(findings, "size").text
    assert "--image-size 12" in named(findings, "size").remedy
    assert "--image-size 64x136" in named(findings, "shape").remedy
    assert named(findings, "format").text.startswith("JPEG 100 %")
    smaller = examine_source(root, (8, 16))
    assert [named(smaller, check).level for check in ("size", "format")] == ["ok", "note"]
    assert "shape" not in [finding.check for finding in smaller]


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run of some seconds, which the tests copy."""
    path = tmp_path_factory.mktemp("doctor")
    images = pixels(360, channels=1)
    np.savez(path / "data.npz", train=images[:300], test=images[300:])
    with pytest.MonkeyPatch.context() as patch:  # this fixture comes before the one that does so for each test
        patch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        options = TINY | {"epochs": 8, "batch_size": 20, "lr": 3e-3, "beta": 2.0, "gamma_init": 0.04, "log_every": 5}
        train(data=path / "data.npz", out=path / "run", **options, precision="fp32", quiet=True, device="cpu")
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the healthy run, with its own copy of the data."""
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copy2(trained / "data.npz", tmp_path / "data.npz")
    rewrite(tmp_path / "run", data=str(tmp_path / "data.npz"))
    return tmp_path / "run"


def rewrite(run: Path, **config: Any) -> None:
    """Change fields of the configuration in a run's record."""
    record = json.loads((run / "config.json").read_text())
    record["config"] |= config
    (run / "config.json").write_text(json.dumps(record))


@torch.no_grad()
def spoil(run: Path, change: Callable[[SplitVAE], Any]) -> list[Finding]:
    """Change the run's model on disk and examine."""
    model = Run.open(run).model
    change(model)
    model.save_pretrained(run / "model")
    return examine_run(run)


def test_a_healthy_run_gets_no_warning(run: Path):
    findings = examine(run)
    assert warnings(findings) == []
    checks = ["training", "versions", "log", "data", "balance", "batch norm", "over-fitting", "output", "latents"]
    assert [finding.check for finding in findings] == [*checks, "variance law", "components"]
    assert named(findings, "training").text.startswith("finished: 8 epochs, 120 steps")
    assert named(findings, "data").text == "the 360 images that it was trained on"
    assert named(findings, "latents").text.startswith("all 4 in use")


def test_stale_batch_norm_is_found(run: Path):
    def reset(model: SplitVAE) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
                module.running_mean.add_(1)  # this network is so shallow that 0 and 1 nearly do

    finding = named(spoil(run, reset), "batch norm")
    assert finding.level == "warning"
    assert "--resume RUN --epochs 9" in finding.remedy


def test_a_collapsed_posterior_is_found(run: Path):
    def silence(model: SplitVAE, latents: int) -> None:
        for layer in (model.network.mean, model.network.logvar):
            layer.weight[:latents] = 0
            layer.bias[:latents] = 0

    finding = named(spoil(run, lambda model: silence(model, 3)), "latents")
    assert finding.level == "warning"
    assert "1 of 4 in use" in finding.text
    assert "--latent-dim 2" in finding.remedy
    findings = spoil(run, lambda model: silence(model, 4))
    assert "posterior collapse" in named(findings, "latents").text
    assert "smaller --beta (now 2)" in named(findings, "latents").remedy


def test_an_output_layer_that_is_stuck_is_told_from_a_collapse(run: Path):
    def blacken(model: SplitVAE) -> None:
        model.network.decoder.head.bias[1:] = -40
        for layer in (model.network.mean, model.network.logvar):
            layer.weight[:] = 0

    findings = spoil(run, blacken)
    output, latents = named(findings, "output"), named(findings, "latents")
    assert (output.level, "within 0.05 of 0 or 1" in output.text) == ("warning", True)
    assert "--output-init data-mean" in output.remedy
    assert (latents.level, latents.remedy) == ("warning", "see the check of the output")


def test_codes_far_from_the_prior_a_silent_component_and_weights_without_numbers_are_found(run: Path):
    law = named(spoil(run, lambda model: model.network.mean.weight.mul_(4)), "variance law")
    assert (law.level, "splitvae fit" in law.remedy) == ("warning", True)
    silent = named(spoil(run, lambda model: model.network.decoder.head.bias[0].fill_(30)), "components")
    assert (silent.level, silent.text.endswith("x2 is hardly ever seen")) == ("warning", True)
    findings = spoil(run, lambda model: model.network.decoder.head.bias.fill_(float("nan")))
    assert "not finite" in named(findings, "model").text


def test_a_gamma_that_never_came_down_is_found(run: Path):
    rewrite(run, gamma_init=1.0, gamma_rule="running-min")
    finding = named(spoil(run, lambda model: model.variance.gamma.fill_(0.97)), "balance")
    assert finding.level == "warning"
    assert "still near its start of 1" in finding.text
    assert "--gamma-init first-batch" in finding.remedy
    assert "γ lags" in named(spoil(run, lambda model: model.variance.gamma.fill_(0.2)), "balance").text
    assert "details outweigh" in named(spoil(run, lambda model: model.variance.gamma.fill_(0.001)), "balance").text
    rewrite(run, gamma_rule="fixed")
    assert named(examine_run(run), "balance").level == "ok"


def test_over_fitting_is_found():
    codes = DiagonalGaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    levels = [check_overfitting(Probe(codes, mse, 0.01, 0.01, torch.ones(1), 0.5)).level for mse in (0.011, 0.02, 0.05)]
    assert levels == ["ok", "note", "warning"]


def test_a_log_that_diverged_is_found(run: Path):
    log = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(log + '{"step": 125, "loss": NaN, "mse": NaN, "kl": NaN}\n{"step": 1')
    finding = named(examine_run(run), "log")
    assert finding.level == "warning"
    assert "loss is nan at step 125" in finding.text
    assert "--lr 0.0003" in finding.remedy
    last = json.loads(log.splitlines()[-1])
    risen = [json.dumps(last | {"step": 120 + i, "mse": 3 * last["mse"]}) for i in range(1, 9)]
    (run / "log.jsonl").write_text(log + "\n".join(risen))
    finding = named(examine_run(run), "log")
    assert (finding.level, "has risen since" in finding.text) == ("warning", True)


def test_data_that_changed_or_went_is_found(run: Path):
    path = run.parent / "data.npz"
    arrays = dict(np.load(path))
    arrays["train"][0, 0, 0] ^= 1
    np.savez(path, **arrays)
    finding = named(examine_run(run), "data")
    assert finding.level == "warning"
    assert "changed since: trained on 300 + 60 images of 1×16×16, now 300 + 60 of 1×16×16" in finding.text
    np.savez(path, train=pixels(80, 20, 20, 1))
    assert [finding.check for finding in examine_run(run)] == ["training", "versions", "log", "data"]
    os.remove(path)
    assert "not found" in named(examine_run(run), "data").text


def test_a_density_of_another_model_is_found(run: Path):
    fit_density(Run.open(run), "gmm", n_components=1)
    fitting = named(examine_run(run), "density gmm")
    assert (fitting.level, fitting.text) == ("ok", "GaussianMixture on 300 codes of this model")
    other = named(spoil(run, lambda model: model.network.mean.bias.add_(1e-4)), "density gmm")
    assert (other.level, "splitvae fit" in other.remedy) == ("warning", True)
    (run / "densities" / "gmm.safetensors").write_bytes(b"x")
    assert named(examine_run(run), "density gmm").level == "warning"


def test_a_run_without_its_end_is_examined_as_far_as_it_went(run: Path):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "model")
    findings = examine_run(run)
    assert warnings(findings) == ["training"]
    assert "ends in epoch 8 of 8" in named(findings, "training").text
    assert f"splitvae train --resume {run}" in named(findings, "training").remedy
    assert named(findings, "latents").text.startswith("4 of 4 in use near step 120")
    (run / "log.jsonl").unlink()
    assert "ends before its first line of 8" in named(examine_run(run), "training").text


def test_other_versions_are_noted(run: Path):
    record = json.loads((run / "config.json").read_text())
    record["versions"]["torch"] = "2.0.0"
    (run / "config.json").write_text(json.dumps(record))
    finding = named(examine_run(run), "versions")
    assert finding.level == "note"
    assert "torch 2.0.0 (now " in finding.text


# The command


@pytest.mark.parametrize("what", ["nowhere", "nowhere.npz", "mnist"])
def test_what_does_not_exist_gets_one_line(what: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"does not exist|is a recipe") as error:
        examine(what if what == "mnist" else tmp_path / what)
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_own_size(run: Path):
    with pytest.raises(InputError, match="leave out --image-size"):
        examine(run, 32)


def test_findings_are_lines_for_grep_and_wrapped_on_a_terminal(npz: Path, capsys: pytest.CaptureFixture[str]):
    doctor(str(npz), 16)
    lines = capsys.readouterr().out.splitlines()
    assert "! training images  48: too few to learn more than these very images" in lines
    assert lines[-1].endswith("fine.")
    assert all(line == line.rstrip() for line in lines)

    findings = [Finding("size", "ok", "8×8 [red]"), Finding("near copies", "warning", "word " * 30, "--fit stretch")]
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60, markup=False)
    show(findings, screen)
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "✓ size         8×8 [red]"
    assert max(map(len, lines)) <= 60
    assert lines[-3] == " " * 15 + "→ --fit stretch"
    assert lines[-1] == "1 check to look at, 1 fine."
    show(findings[:1], screen)
    assert "Nothing to worry about in 1 check." in screen.file.getvalue()  # type: ignore[attr-defined]
