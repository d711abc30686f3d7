"""Promises about the command: what it writes, and one clear line for every mistake."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import pixels, tiny_options
from PIL import Image

from splitvae import cli
from splitvae.commands.app import app
from splitvae.errors import Interrupted
from splitvae.presets import PRESETS

Call = Callable[..., tuple[int, str, str]]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def run(npz: Path, tmp_path: Path, splitvae: Call) -> Path:
    path = tmp_path / "run"
    status, out, err = splitvae("train", "--data", npz, "--out", path, *tiny_options())
    assert (status, err) == (0, "")
    assert "48 training and 12 test images of 3×16×16" in out
    assert "latents inactive" in out
    return path


def test_info_prints_the_papers_counts(splitvae: Call):
    for preset, counts in {
        "mnist": ("12,793,667", "12,799,299"),
        "cifar10": ("13,055,511", "13,061,143"),
        "celeba": ("28,981,683", "28,989,363"),
    }.items():
        status, out, _ = splitvae("info", preset)
        assert status == 0
        assert f"parameters: {counts[0]} trainable, {counts[1]} with batch-norm statistics" in out
        assert "encoder.stem" in out
        assert "training step" in out


def test_info_without_a_name_lists_every_preset(splitvae: Call):
    status, out, _ = splitvae("info")
    assert status == 0
    assert "SplitVAE" in out
    for name in PRESETS:
        assert name.removesuffix("-small") in out.replace(",", " ").replace(".", " ").split()


def test_info_describes_a_run(run: Path, splitvae: Call):
    status, out, _ = splitvae("info", run)
    assert status == 0
    assert "3×16×16" in out


@pytest.mark.parametrize(
    ("output", "names"),
    [("x_hat", ["x_hat"]), ("all", ["mask", "x1", "x2", "x_hat"]), ("mask", ["mask"]), ("components", ["x1", "x2"])],
)
def test_sample_writes_grids_arrays_and_files(output, names, run: Path, tmp_path: Path, splitvae: Call):
    assert splitvae("sample", run, "--n", 6, "--output", output, "--out", tmp_path / "s.png")[0] == 0
    assert size_of(tmp_path / "s.png")[0] > 32
    assert splitvae("sample", run, "--n", 6, "--output", output, "--out", tmp_path / "s.npz")[0] == 0
    arrays = np.load(tmp_path / "s.npz")
    assert arrays.files == names
    assert all(arrays[name].shape == (6, 1 if name == "mask" else 3, 16, 16) for name in names)
    assert all(arrays[name].dtype == np.uint8 for name in names)
    assert splitvae("sample", run, "--n", 6, "--output", output, "--out", tmp_path / "folder")[0] == 0
    assert len(list((tmp_path / "folder").glob("*.png"))) == 6 * len(names)


def test_at_no_temperature_all_samples_are_one(run: Path, tmp_path: Path, splitvae: Call):
    for temperature, spread in ((1e-6, range(2)), (1.0, range(2, 256))):
        out = tmp_path / f"{temperature}.npz"
        splitvae("sample", run, "--temperature", temperature, "--n", 4, "--out", out)
        assert int(np.ptp(np.load(out)["x_hat"].astype(int), axis=0).max()) in spread


def test_samples_depend_on_the_seed_alone(run: Path, tmp_path: Path, splitvae: Call):
    for name, seed, n in (("a", 1, 4), ("b", 1, 4), ("c", 2, 4)):
        splitvae("sample", run, "--n", n, "--seed", seed, "--output", "mix", "--out", tmp_path / f"{name}.npz")
    a, b, c = (np.load(tmp_path / f"{name}.npz")["mix"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_encode_writes_codes_in_the_order_of_the_source(
    run: Path, npz: Path, folder: Path, tmp_path: Path, splitvae: Call
):
    assert splitvae("encode", run, npz, "--out", tmp_path / "codes.npz")[0] == 0
    codes = np.load(tmp_path / "codes.npz")
    assert codes["mean"].shape == codes["logvar"].shape == (60, 4)
    assert codes["labels"].tolist() == [i % 3 for i in range(60)]
    assert splitvae("encode", run, folder, "--out", tmp_path / "f.npz")[0] == 0
    assert np.load(tmp_path / "f.npz")["names"][:2].tolist() == ["00.png", "01.png"]
    assert splitvae("encode", run, npz, "--split", "test", "--out", tmp_path / "t.npz")[0] == 0
    assert np.array_equal(np.load(tmp_path / "t.npz")["mean"], codes["mean"][48:])
    assert splitvae("encode", run, "digits", "--out", tmp_path / "d.npz")[0] == 0  # grey, of another size
    assert np.load(tmp_path / "d.npz")["mean"].shape == (1797, 4)
    (tmp_path / "one").mkdir()
    shutil.copy(folder / "00.png", tmp_path / "one")
    assert splitvae("encode", run, tmp_path / "one", "--out", tmp_path / "one.npz")[0] == 0  # too few to train on
    assert np.load(tmp_path / "one.npz")["mean"].shape == (1, 4)


def test_a_fitted_mixture_is_sampled_without_the_data(run: Path, npz: Path, tmp_path: Path, splitvae: Call):
    status, out, err = splitvae("fit", run, "--density", "gmm", "--n-components", 2, "--covariance", "diag")
    assert (status, err) == (0, "")
    assert "GaussianMixture on 48 train codes" in out
    assert splitvae("fit", run, "--density", "gmm-per-class", "--n-components", 1)[0] == 0
    assert splitvae("fit", run, "--split", "test", "--n-components", 1)[0] == 0
    names = sorted(path.stem for path in (run / "densities").iterdir())
    assert names == ["gmm", "gmm-per-class", "gmm-test"]
    npz.unlink()
    assert splitvae("sample", run, "--density", "gmm", "--n", 3, "--out", tmp_path / "g.npz")[0] == 0
    assert np.load(tmp_path / "g.npz")["x_hat"].shape == (3, 3, 16, 16)
    labelled = ("--density", "gmm-per-class", "--label", 1, "--n", 3, "--out", tmp_path / "l.png")
    assert splitvae("sample", run, *labelled)[0] == 0
    for arguments, words in (
        (("--density", "gm"), "has no density 'gm': it has normal, gmm, gmm-per-class, gmm-test"),
        (("--density", "gmm", "--label", "1"), "needs a class-wise density"),
        (("--density", "gmm-per-class", "--label", "7"), "label 7 does not occur; choose from 0, 1, 2"),
    ):
        status, _, err = splitvae("sample", run, *arguments, "--out", tmp_path / "x.png")
        assert status == 2
        assert words in err
    assert splitvae("fit", run, "--n-components", "0")[0] == 2


def test_decompose_shows_files_or_the_runs_own_test_images(run: Path, folder: Path, tmp_path: Path, splitvae: Call):
    files = sorted(folder.glob("*.png"))[:3]
    assert splitvae("decompose", run, *files, "--out", tmp_path / "d.npz")[0] == 0
    arrays = np.load(tmp_path / "d.npz")
    assert arrays.files == ["x", "mask", "x1", "x2", "x_hat"]
    mask, x1, x2 = (arrays[name].astype(float) for name in ("mask", "x1", "x2"))
    assert np.abs(mask / 255 * x1 + (1 - mask / 255) * x2 - arrays["x_hat"]).max() <= 2  # each was rounded
    assert splitvae("decompose", run, "--n", 4, "--out", tmp_path / "d.png")[0] == 0
    width, height = size_of(tmp_path / "d.png")
    assert height > width


def test_titles_stand_on_the_left_and_leave_the_rows_as_they_are(run: Path, tmp_path: Path, splitvae: Call):
    for command in (["decompose"], ["recombine", "--component", 1], ["sample", "--output", "all"]):
        for extra in ([], ["--titles"]):
            options = ["--n", 4, *extra, "--out", tmp_path / f"{len(extra)}.png"]
            assert splitvae(command[0], run, *command[1:], *options)[0] == 0
        plain, titled = (np.asarray(Image.open(tmp_path / f"{i}.png")) for i in (0, 1))
        left = titled.shape[1] - plain.shape[1]
        assert np.array_equal(titled[:, left:], plain)
        assert titled[:, :left].min() < 100  # letters
    for output, name, words in (
        ("all", "d.npz", "beside the rows of a .png, which d.npz is not"),
        ("x_hat", "d.png", "there is one only"),
    ):
        status, _, err = splitvae("sample", run, "--output", output, "--titles", "--out", tmp_path / name)
        assert (status, words in err) == (2, True)


def test_layers_are_written_for_files_test_images_and_samples(run: Path, folder: Path, tmp_path: Path, splitvae: Call):
    files = sorted(folder.glob("*.png"))[:2]
    status, out, err = splitvae("layers", run, *files, "--out", tmp_path / "layers")
    assert (status, out, err) == (0, f"4 layers in {tmp_path / 'layers'}\n", "")
    names = ["00-layer1-x2.png", "00-layer2-x1.png", "01-layer1-x2.png", "01-layer2-x1.png"]
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == names
    assert splitvae("decompose", run, *files, "--out", tmp_path / "d.npz")[0] == 0
    for i, x_hat in enumerate(np.load(tmp_path / "d.npz")["x_hat"].astype(int)):
        bottom, top = (Image.open(tmp_path / "layers" / name) for name in names[2 * i : 2 * i + 2])
        over = np.asarray(Image.alpha_composite(bottom, top)).transpose(2, 0, 1)
        assert np.abs(over[:3] - x_hat).max() <= 2
        assert (over[3] == 255).all()
    assert splitvae("layers", run, "--top", 2, "--n", 3, "--out", tmp_path / "t.npz")[0] == 0
    arrays = np.load(tmp_path / "t.npz")
    assert {name: arrays[name].shape for name in arrays.files} == {
        "layer1-x1": (3, 4, 16, 16), "layer2-x2": (3, 4, 16, 16),
    }  # fmt: skip
    for name in ("a", "b"):  # of a saved model there are samples only
        assert splitvae("layers", run / "model", "--n", 2, "--out", tmp_path / f"{name}.npz")[0] == 0
    assert splitvae("layers", run, "--density", "normal", "--n", 2, "--out", tmp_path / "c.npz")[0] == 0
    drawn = [np.load(tmp_path / f"{name}.npz")["layer2-x1"] for name in "abc"]
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / files[0].name
    twin.write_bytes(files[1].read_bytes())
    assert splitvae("layers", run, files[0], twin, "--out", tmp_path / "twins")[0] == 0
    assert len(list((tmp_path / "twins").iterdir())) == 4  # neither took the place of the other


def test_a_component_is_laid_over_the_rest_of_another_image(run: Path, folder: Path, tmp_path: Path, splitvae: Call):
    first, second = sorted(folder.glob("*.png"))[:2]
    names = ["foreground", "mask", "layer", "background", "rest", "recombined"]
    status, _, err = splitvae("recombine", run, first, second, "--component", 2, "--out", tmp_path / "r.npz")
    assert (status, err) == (0, "")
    arrays = np.load(tmp_path / "r.npz")
    assert arrays.files == names
    mask, layer, rest = (arrays[name].astype(float) for name in ("mask", "layer", "rest"))
    assert np.abs(mask / 255 * layer + (1 - mask / 255) * rest - arrays["recombined"]).max() <= 2  # each was rounded
    splitvae("decompose", run, first, second, "--out", tmp_path / "d.npz")
    parts = np.load(tmp_path / "d.npz")
    assert np.array_equal(arrays["layer"][0], parts["x2"][0])
    assert np.array_equal(arrays["rest"][0], parts["x1"][1])
    single = ("--component", 1, "--output", "recombined", "--out", tmp_path / "one")
    assert splitvae("recombine", run, first, second, *single)[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["00000.png"]
    for source in ([run], [run, "--density", "normal"], [run / "model"]):  # pairs of test images, or of samples
        assert splitvae("recombine", *source, "--component", 1, "--n", 3, "--out", tmp_path / "p.npz")[0] == 0
        arrays = np.load(tmp_path / "p.npz")
        assert arrays["recombined"].shape == (3, 3, 16, 16)
        assert not np.array_equal(arrays["foreground"], arrays["background"])
    assert splitvae("recombine", run, "--component", 1, "--n", 3, "--out", tmp_path / "p.png")[0] == 0
    width, height = size_of(tmp_path / "p.png")
    assert height > width


def test_mistakes_with_layers_get_one_line(run: Path, folder: Path, npz: Path, tmp_path: Path, splitvae: Call):
    image = folder / "00.png"
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "notes").write_text("hello")
    assert splitvae("train", "--data", npz, "--out", tmp_path / "vae", *tiny_options(model="vae"))[0] == 0
    out = ["--out", tmp_path / "never"]
    for arguments, words in (
        (["layers", run, tmp_path / "missing.png", *out], "missing.png: No such file"),
        (["layers", run, tmp_path / "notes.txt", *out], "notes.txt: not an image"),
        (["layers", run, image, "--top", 3, *out], "--top must lie in 1 … 2, not 3"),
        (["layers", run, image, "--top", 0, *out], "--top must lie in 1 … 2, not 0"),
        (["layers", run, image, "--out", tmp_path / "notes"], "notes is a file; use"),
        (["layers", run, image, "--out", tmp_path / "l.png"], "use a name that ends in .npz, or a folder"),
        (["layers", run, image, "--out", tmp_path / "l.psd"], "cannot write l.psd"),
        (["layers", run, "--n", 0, *out], "--n must be at least 1"),
        (["layers", run, image, "--density", "normal", *out], "or a --density to draw samples from, not both"),
        (["layers", run, "--density", "gmm", *out], "has no density 'gmm'"),
        (["layers", tmp_path / "vae", image, *out], "has one component, so no layers"),
        (["layers", tmp_path / "nowhere", image, *out], "nowhere does not exist"),
        (["recombine", run, image, "--component", 1, *out], "name two image files, or none"),
        (["recombine", run, image, tmp_path / "notes.txt", "--component", 1, *out], "notes.txt: not an image"),
        (["recombine", run, image, tmp_path / "gone.png", "--component", 1, *out], "gone.png: No such file"),
        (["recombine", run, image, image, "--component", 3, *out], "--component must lie in 1 … 2, not 3"),
        (["recombine", run, image, image, *out], "--component"),
        (["recombine", run, image, image, "--component", 1, "--out", tmp_path / "notes"], "notes is a file; use"),
        (["recombine", tmp_path / "vae", image, image, "--component", 1, *out], "has one component, so no layers"),
        (["recombine", run, image, image, "--component", 1, "--device", "gpu", *out], "there is no device 'gpu'"),
    ):
        status, _, err = splitvae(*arguments)
        assert status == 2, arguments
        assert words in err
        assert err.count("\n") == 1
        assert not (tmp_path / "never").exists()
    status, _, err = splitvae("layers", run, image, "--out", tmp_path / "notes" / "layers")
    assert (status, err.count("\n")) == (1, 1)


def test_train_resumes_from_the_command_line(run: Path, splitvae: Call):
    status, out, _ = splitvae("train", "--resume", run)
    assert status == 0
    assert "is finished" in out
    status, out, _ = splitvae("train", "--resume", run, "--epochs", 2)
    assert status == 0
    assert "resumed from step-000000006" in out
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    status, _, err = splitvae("train", "--resume", run, "--latent-dim", 9)
    assert status == 2
    assert "cannot become 9" in err


def test_a_vae_and_a_non_square_folder_train(folder: Path, tmp_path: Path, splitvae: Call):
    options = tiny_options(model="vae", image_size="12x10")
    assert splitvae("train", "--data", folder, "--out", tmp_path / "vae", *options, "--quiet") == (0, "", "")
    assert splitvae("sample", tmp_path / "vae", "--n", 2, "--out", tmp_path / "v.npz")[0] == 0
    assert np.load(tmp_path / "v.npz")["x_hat"].shape == (2, 3, 12, 10)
    status, _, err = splitvae("sample", tmp_path / "vae", "--n", 2, "--output", "mask", "--out", tmp_path / "m.png")
    assert status == 2
    assert "one component" in err


def test_splits_of_many_components_have_a_row_each(npz: Path, tmp_path: Path, splitvae: Call):
    assert splitvae("train", "--data", npz, "--out", tmp_path / "k", *tiny_options(num_components=3))[0] == 0
    assert splitvae("sample", tmp_path / "k", "--n", 2, "--output", "all", "--out", tmp_path / "k.npz")[0] == 0
    assert np.load(tmp_path / "k.npz").files == ["mask1", "mask2", "mask3", "x1", "x2", "x3", "x_hat"]
    assert splitvae("layers", tmp_path / "k", "--top", 2, "--n", 2, "--out", tmp_path / "l.npz")[0] == 0
    assert np.load(tmp_path / "l.npz").files == ["layer1-x1", "layer2-x3", "layer3-x2"]
    assert splitvae("recombine", tmp_path / "k", "--component", 3, "--n", 2, "--out", tmp_path / "r.npz")[0] == 0
    assert np.load(tmp_path / "r.npz")["recombined"].shape == (2, 3, 16, 16)


MISTAKES = [
    (["trian"], "Did you mean \"train\"?"),
    (["train", "digits"], "no run directory: pass --out RUN."),
    (["train", "mnits", "--out", "OUT"], "unknown preset 'mnits'. Did you mean 'mnist'?"),
    (["train", "digits", "--out", "OUT", "--latnt-dim", "3"], "Did you mean --latent-dim?"),
    (["train", "digits", "--out", "OUT", "--latent-dim", "0"], "latent_dim must be at least 1, not 0."),
    (["train", "digits", "--out", "OUT", "--num-components", "0"], "num_components must be at least 1, not 0."),
    (["train", "digits", "--out", "OUT", "--epochs", "many"], "unable to convert \"many\" into int"),
    (["train", "digits", "--out", "OUT", "--gamma-rule", "fixd"], "fixd"),
    (["train", "digits", "--out", "OUT", "--gamma-init", "0"], "gamma_init must be positive"),
    (["train", "digits", "--out", "OUT", "--image-size", "3"], "at least 8"),
    (["train", "--out", "OUT"], "no data: pass --data"),
    (["train", "digits", "--out", "OUT", "--gamma-rule", "fixed"], "gamma_rule fixed needs its value"),
    (["train", "--data", "./nowhere", "--out", "OUT"], "./nowhere does not exist."),
    (["train", "--resume", "nowhere"], "nowhere is no directory"),
    (["sample", "nowhere", "--out", "x.png"], "nowhere"),
    (["info", "mnits"], "Did you mean 'mnist'?"),
    (["train", "digits", "--out"], "train needs --out with a value; see splitvae train --help."),
    (["evaluate"], "evaluate needs RUN; see splitvae evaluate --help."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_gets_one_line_and_status_2(arguments, words, tmp_path: Path, splitvae: Call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = splitvae(*["run" if a == "OUT" else a for a in arguments])
    assert status == 2
    assert words in err
    assert err.startswith("splitvae: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_mistakes_with_a_run_get_one_line(run: Path, folder: Path, tmp_path: Path, splitvae: Call):
    (tmp_path / "notes.txt").write_text("hello")
    for arguments, words in (
        (["sample", run, "--n", "0", "--out", "s.png"], "--n must be at least 1"),
        (["sample", run, "--out", tmp_path / "s.jpg"], "ends in .png or .npz"),
        (["sample", run, "--temperature", "0", "--out", "s.png"], "--temperature must be positive"),
        (["decompose", run, tmp_path / "notes.txt", "--out", "d.png"], "notes.txt: not an image"),
        (["decompose", run, tmp_path / "missing.png", "--out", "d.png"], "missing.png: No such file"),
        (["encode", run, folder, "--out", tmp_path / "c.txt"], "ends in .npz"),
        (["train", "--resume", tmp_path], "holds no config.json"),
        (["decompose", run, "--n", "0", "--out", "d.png"], "--n must be at least 1"),
        (["fit", run, "--name", "normal"], "'normal' is a line of every table"),
        (["fit", run, "--name", "../up"], "must be letters"),
        (["fit", run, "--device", "gpu"], "there is no device 'gpu' here; choose from: cpu"),
        (["sample", "runs/digts", "--out", "s.png"], "runs/digts does not exist"),
        (["sample", run, "--n", "2", "--out", folder], "is not empty; choose another folder"),
        (["sample", run, "--seed", 10**20, "--out", "s.png"], "--seed must be from 0 to"),
        (["evaluate", run / "model"], "is a saved model and no run"),
        (["train", str(folder), "--out", tmp_path / "new"], "is no preset; to train on what lies there, pass --data"),
    ):
        status, _, err = splitvae(*arguments)
        assert status == 2, arguments
        assert words in err
        assert err.count("\n") == 1
    (run / "model").rename(run / "aside")
    status, _, err = splitvae("sample", run, "--out", tmp_path / "s.png")
    assert status == 2
    assert f"{run} has no model yet; go on with: splitvae train --resume {run}" in err
    (run / "aside").rename(run / "model")
    model = (run / "model" / "config.json").read_text()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"colour": "red"}))
    assert "unknown key 'colour'" in splitvae("info", run)[2]
    config["config"]["colour"] = "red"
    (run / "config.json").write_text(json.dumps(config))
    assert "unknown option 'colour'" in splitvae("info", run)[2]
    (run / "config.json").write_text("{")
    assert "not valid JSON" in splitvae("info", run)[2]
    status, _, err = splitvae("sample", run, "--out", tmp_path / "notes.txt" / "s.png")
    assert (status, err.count("\n")) == (1, 1)
    assert "notes.txt/s.png: File exists. Free some space or choose another place." in err
    (run / "model" / "config.json").write_text("[]")
    assert "describes no model; copy the file anew" in splitvae("sample", run, "--out", tmp_path / "s.png")[2]
    (run / "model" / "config.json").write_text(model)
    (run / "model" / "model.safetensors").write_bytes(b"x")
    assert "truncated or foreign" in splitvae("sample", run, "--out", tmp_path / "s.png")[2]


def test_options_are_checked_together_with_the_presets_values(tmp_path: Path, splitvae: Call):
    np.savez(tmp_path / "plain.npz", train=pixels(24))
    common = ["--data", tmp_path / "plain.npz", "--epochs", "1", "--batch-size", "8", "--base-channels", "2", "--quiet"]
    for preset, options in (
        ("mnist-rae-gp-small", ["--lr-schedule", "plateau"]),  # which the default model cannot have
        ("mnist-beta-vae-small", ["--gamma-rule", "fixed"]),  # the value is the preset's
    ):
        status, _, err = splitvae("train", preset, "--out", tmp_path / preset, *common, *options)
        assert (status, err) == (0, "")
    arguments = ["--resume", tmp_path / "mnist-rae-gp-small", "--epochs", "2", "--lr-schedule", "plateau"]
    assert splitvae("train", *arguments)[0] == 0
    status, _, err = splitvae("fit", tmp_path / "mnist-rae-gp-small", "--density", "gmm-per-class")
    assert status == 2
    assert "plain.npz has no labels, which gmm-per-class needs; fit gmm instead" in err


def test_help_tells_every_option_and_an_example(splitvae: Call):
    status, out, _ = splitvae("train", "--help")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    assert "--latent-dim" in text
    assert "Number of latent variables" in text
    assert "splitvae train digits --out runs/digits" in text
    for command in ("sample", "encode", "decompose", "info"):
        assert f"Example: splitvae {command}" in " ".join(splitvae(command, "--help")[1].split())


def test_every_example_of_the_help_is_a_command_that_is_understood():
    seen = set()
    for name in app:
        if name.startswith("-"):
            continue
        for line in (app[name].help_epilogue or "").replace("\n", " ").split("Example: ")[1:]:
            words = shlex.split(line.partition(" > ")[0])
            assert words[:2] == ["splitvae", name]
            app.parse_args(words[1:], exit_on_error=False, print_error=False)
            seen.add(name)
    assert len(seen) >= 20


def test_wrong_usage_answers_without_loading_pytorch():
    call = "run(['train', 'mnits', '--out', 'x'])"
    code = f"import sys; from splitvae.cli import run; print({call}, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["2", "False"]


def test_debug_shows_the_traceback(splitvae: Call):
    from splitvae import InputError

    with pytest.raises(InputError):
        splitvae("info", "mnits", "--debug")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_of_several_processes_tells_that_they_were_ended(rank: str, lines: int, monkeypatch, capsys):
    def ended(*_: object, **__: object) -> None:
        raise Interrupted("terminated; what was written before is untouched.", signal.SIGTERM)

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli, "app", ended)
    handler = signal.getsignal(signal.SIGTERM)
    assert cli.run(["info"]) == 128 + signal.SIGTERM
    signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err.count("splitvae: terminated") == lines
