"""Promises about what people are used to: completion, recipe files, quiet, colours, Ctrl-C, devices."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, tiny_options
from PIL import Image, ImageDraw

from splitvae import Run, cli
from splitvae.codes import encode_rows
from splitvae.data.loader import fixed_rows
from splitvae.packaged import packaged_run
from splitvae.pictures import to_uint8
from splitvae.presets import PRESETS, resolve
from splitvae.presets.recipe_file import read_recipe, write_recipe

PACKAGED = packaged_run().path


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> list[Path]:
    """Pictures of a folder of their own: rings from narrow to wide."""
    folder = tmp_path_factory.mktemp("drawings")
    files = [folder / f"{width}.png" for width in range(2, 8)]
    for width, path in enumerate(files, start=2):
        image = Image.new("L", (32, 32))
        ImageDraw.Draw(image).ellipse((16 - width, 7, 16 + width, 24), outline=255, width=3)
        image.save(path)
    return files


def complete(words: list[str], tmp_path: Path, splitvae) -> list[str]:
    """What bash offers after these words, the last of which is being typed."""
    script = tmp_path / "completion.bash"
    script.write_text(splitvae("completion", "bash")[1], encoding="utf-8")
    line = " ".join(words)
    asked = f"""
        source {script}
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
        COMP_LINE='{line}'; COMP_POINT={len(line)}
        $(complete -p splitvae | sed 's/.*-F \\([^ ]*\\).*/\\1/') splitvae '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_their_values(tmp_path, splitvae):
    assert complete(["splitvae", "inter"], tmp_path, splitvae) == ["interpolate"]
    assert complete(["splitvae", "train", "--lr-s"], tmp_path, splitvae) == ["--lr-schedule"]
    found = complete(["splitvae", "fit", "--density", "g"], tmp_path, splitvae)
    assert found == ["gmm", "gmm-per-class"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_too(shell, splitvae):
    status, script, _ = splitvae("completion", shell)
    assert status == 0
    assert {"decompose", "interpolate", "serve"} <= set(re.findall(r"\w+", script))


# Recipe files.


def test_a_printed_recipe_is_read_again_as_it_is(tmp_path, splitvae):
    for preset in ("digits", "mnist-rae-gp-small", "cifar10-2s-vae-small", "celeba"):
        status, text, err = splitvae("train", preset, "--print-config", "--lr", "2e-4")
        assert (status, err) == (0, "")
        assert yaml.safe_load(text)["lr"] == 2e-4
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        assert splitvae("train", "--config", tmp_path / "recipe.yaml", "--print-config")[1] == text


def test_a_run_from_a_recipe_file_equals_one_from_options(npz, tmp_path, splitvae):
    assert splitvae("train", "--data", npz, "--out", tmp_path / "a", *tiny_options())[0] == 0
    values = TINY | {"epochs": 1, "batch_size": 8, "log_every": 2, "precision": "fp32", "data": str(npz)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({key.replace("_", "-"): value for key, value in values.items()}))
    assert splitvae("train", "--config", recipe, "--out", tmp_path / "b")[0] == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    own = tmp_path / "a" / "config.json"  # that of a run is a recipe too
    record = json.loads(own.read_text())
    record["config"]["head"] = "shared"  # as an option that is gone was left alone
    own.write_text(json.dumps(record))
    assert splitvae("train", "--config", own, "--out", tmp_path / "c") == (0, ANY, "")
    assert (tmp_path / "c" / "model" / "model.safetensors").read_bytes() == weights[0]
    own.write_text(json.dumps(record | {"config": record["config"] | {"heads": "many"}}))
    assert "unknown option 'heads' in --config" in splitvae("train", "--config", own, "--out", tmp_path / "d")[2]


def test_the_command_line_goes_before_the_file(tmp_path, splitvae):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: digits\nlr: 1e-4\nepochs: 3\n")  # 1e-4 is a word to YAML
    told = yaml.safe_load(splitvae("train", "--config", recipe, "--epochs", 7, "--print-config")[1])
    assert (told["preset"], told["lr"], told["epochs"]) == ("digits", 1e-4, 7)
    assert told["latent_dim"] == 16  # the preset's


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("epoks: 3", r"unknown option 'epoks' in --config .*Did you mean 'epochs'\?"),
        ("epochs: many", "epochs must be int"),
        ("epochs: [1", r"--config .*line \d+ is not YAML"),
        ("just words", "holds no options"),
        ("preset: cifar10", "is of the preset cifar10, not mnist"),
        ("preset: [1]", "must be a name"),
    ],
)
def test_a_wrong_recipe_file_gets_one_line(content, line, tmp_path, splitvae):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content + "\n")
    status, _, err = splitvae("train", "mnist", "--config", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert re.search(line, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_is_not_there_or_not_text_gets_one_line(drawings, tmp_path, splitvae):
    for path in (tmp_path / "none.yaml", tmp_path, drawings[0]):
        status, _, err = splitvae("train", "--config", path, "--print-config")
        assert (status, err.count("\n")) == (2, 1)
        assert "config" in err
    assert "leave out --config" in splitvae("train", "--resume", tmp_path, "--config", drawings[0])[2]


def test_every_preset_is_read_again_as_it_was_printed(tmp_path):
    for name in PRESETS:
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(write_recipe(name, resolve(name)), encoding="utf-8")
        preset, changes = read_recipe(recipe)
        assert (preset, resolve(preset, **changes)) == (name, resolve(name))


# Quiet, colours, signals, devices.


def test_quiet_prints_nothing_but_errors(tmp_path, splitvae):
    assert splitvae("sample", "--n", 4, "--out", tmp_path / "s.png", "--quiet") == (0, "", "")
    assert (tmp_path / "s.png").exists()
    assert splitvae("--quiet", "info", "digits") == (0, "", "")
    status, out, err = splitvae("info", "nothing", "--quiet")
    assert (status, out) == (2, "")
    assert err.startswith("splitvae: ")


def test_there_are_no_colours_where_there_is_no_terminal(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR")}
    for arguments in (["--help"], ["train", "--help"], ["info", "digits"], ["nonsense"]):
        done = subprocess.run(
            [sys.executable, "-m", "splitvae", *arguments], capture_output=True, text=True, env=environment
        )
        assert "\x1b" not in done.stdout + done.stderr
        assert done.stdout or done.stderr


def test_ctrl_c_while_libraries_are_loaded_is_one_line(monkeypatch, capsys):
    from splitvae.__main__ import main

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "splitvae.cli")
    monkeypatch.setattr("builtins.__import__", _raising_at("splitvae.cli", KeyboardInterrupt))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "splitvae: interrupted; what was written before is untouched.\n"


def _raising_at(module: str, error: type[BaseException]):
    original = __import__

    def imported(name: str, *arguments: object, **options: object):
        if name == module:
            raise error
        return original(name, *arguments, **options)

    return imported


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_any_command_is_one_line(tmp_path):
    """Whenever it comes: 130, one line, no half-written file."""
    for delay in (1.5, 4.0, 6.0):
        out = tmp_path / f"{delay}.npz"
        process = subprocess.Popen(
            [sys.executable, "-m", "splitvae", "sample", "--n", "400000", "--out", str(out)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == "splitvae: interrupted; what was written before is untouched.\n"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_page_says_where_it_is_and_ends_with_ctrl_c():
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "splitvae", "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert re.match(r"http://127\.0\.0\.1:\d+/  \(Ctrl-C ends it\)", process.stdout.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "the page is closed\n", "")  # the ordinary end of a page


def test_a_port_that_is_taken_and_a_missing_run_get_one_line(splitvae, tmp_path):
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = splitvae("serve", "--port", port)
        assert (status, err.count("\n")) == (2, 1)
        assert f"port {port}" in err
    assert splitvae("serve", "--port", 99999)[2] == "splitvae: --port must lie in 1 … 65535, not 99999.\n"
    assert "does not exist" in splitvae("serve", tmp_path / "none")[2]
    assert "holds no model" in splitvae("serve", tmp_path)[2]


def test_commands_on_images_take_a_device(drawings, tmp_path, splitvae):
    calls = {
        "sample": (PACKAGED, "--n", 2, "--out", tmp_path / "s.npz"),
        "decompose": (PACKAGED, drawings[0], "--out", tmp_path / "d.npz"),
        "interpolate": (PACKAGED, *drawings[:2], "--out", tmp_path / "i.npz"),
        "encode": (PACKAGED, drawings[0].parent, "--out", tmp_path / "e.npz"),
        "traverse": (PACKAGED, drawings[0], "--steps", 2, "--out", tmp_path / "t.npz"),
        "edit": (PACKAGED, drawings[0], "--set", "5=2", "--out", tmp_path / "c.npz"),
    }
    for command, arguments in calls.items():
        assert splitvae(command, *arguments, "--device", "cpu")[0] == 0
        status, _, err = splitvae(command, *arguments, "--device", "cuda:99")
        assert status == 2
        assert re.match(r"splitvae: there is no device 'cuda:99' here; choose from: cpu", err)


def as_input(*paths: Path) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))[:, None].float() / 255


def test_interpolate_writes_an_animation_and_a_grid(drawings, tmp_path, splitvae):
    assert splitvae("interpolate", PACKAGED, *drawings[:2], "--frames", 6, "--out", tmp_path / "m.gif")[0] == 0
    with Image.open(tmp_path / "m.gif") as gif:
        assert (gif.n_frames, gif.size) == (10, (256, 256))  # forth and back
    assert splitvae("interpolate", PACKAGED, *drawings[:2], "--frames", 6, "--out", tmp_path / "m.npz")[0] == 0
    arrays = np.load(tmp_path / "m.npz")
    assert arrays["x_hat"].shape == (6, 1, 32, 32)
    model = packaged_run().model
    x = as_input(*drawings[:2])
    ends_decoded = (model.reconstruct(x) * 255).round().numpy()
    np.testing.assert_allclose(arrays["x_hat"][[0, -1]], ends_decoded, atol=1)
    status, _, err = splitvae("interpolate", PACKAGED, *drawings[:2], "--frames", 1, "--out", tmp_path / "m.gif")
    assert (status, err) == (2, "splitvae: a way takes at least 2 steps, not 1.\n")


def test_traverse_moves_one_latent_in_each_row(drawings, tmp_path, splitvae):
    status, out, err = splitvae("traverse", "--titles", "--out", tmp_path / "t.png")
    assert (status, err) == (0, "")
    told = re.findall(r"z(\d+) ([\d.]+) nats \((\S+) … (\S+)\)", out)
    assert len(told) == 8
    assert [float(kl) for _, kl, _, _ in told] == sorted((float(kl) for _, kl, _, _ in told), reverse=True)
    chosen = ("--latent", 3, "--latent", 7, "--steps", 4, "--out", tmp_path / "t.npz")
    status, out, _ = splitvae("traverse", PACKAGED, drawings[0], *chosen)
    assert status == 0
    arrays = np.load(tmp_path / "t.npz")
    assert {name: arrays[name].shape for name in arrays.files} == {"z3": (4, 1, 32, 32), "z7": (4, 1, 32, 32)}
    assert splitvae("traverse", "--image", drawings[0], *chosen)[0] == 0  # of the packaged model
    model, x = packaged_run().model, as_input(drawings[0])
    with torch.no_grad():
        z = model.encode(x).mode()
        z[0, 3] = float(re.search(r"z3 \S+ nats \((\S+) …", out)[1])
        first = to_uint8(model.decode(z).x_hat)
    np.testing.assert_allclose(arrays["z3"][0].astype(int), first[0].astype(int), atol=1)


def test_traverse_says_what_it_knows_of_each_kind_of_model(tmp_path, splitvae):
    def told(model: str, *options: object) -> tuple[str, list[tuple[int, float, float]]]:
        run = tmp_path / model
        if not run.exists():
            arguments = ("--data", "digits", "--out", run, *tiny_options(model=model))
            assert splitvae("train", *arguments)[0] == 0
        status, out, err = splitvae("traverse", run, "--n", 2, *options, "--out", tmp_path / "t.npz")
        assert (status, err) == (0, "")
        found = re.findall(r"z(\d+) (?:sd )?[\d.e+-]+(?: nats)? \((\S+) … (\S+)\)", out)
        return out, [(int(i), float(low), float(high)) for i, low, high in found]

    words, _ = told("splitvae")
    assert " nats (" in words
    assert "own samples" not in words
    # An encoder without noise has no nats, and its codes lie wherever it put them.
    words, axes = told("ae", "--density", "normal")
    assert " nats" not in words
    run = Run.open(tmp_path / "ae")
    codes = encode_rows(run.model, run.data, fixed_rows(run.data, "test", 256)).mean
    assert [i for i, _, _ in axes] == codes.std(dim=0).argsort(descending=True)[:2].tolist()
    for i, low, high in axes:
        quantiles = codes[:, i].quantile(torch.tensor([0.005, 0.995]))
        torch.testing.assert_close(torch.tensor([low, high]), quantiles, atol=1e-9, rtol=0.06)  # two digits
    # The ends are those of the density that is named.
    assert splitvae("fit", tmp_path / "splitvae", "--n-components", 1)[0] == 0
    assert told("splitvae", "--density", "normal")[1] != told("splitvae", "--density", "gmm")[1]
    words = splitvae("traverse", tmp_path / "splitvae" / "model", "--out", tmp_path / "t.npz")[1]
    assert "known from the model's own samples only, for want of its data)" in words


def test_edit_changes_all_of_an_image_or_one_component_while_the_others_stand(drawings, tmp_path, splitvae):
    def edited(*options: object) -> dict[str, np.ndarray]:
        out = tmp_path / "e.npz"
        assert (
            splitvae("edit", PACKAGED, *drawings[:2], "--set", "5=2", "--set", "z8=-1", *options, "--out", out)[0] == 0
        )
        with np.load(out) as arrays:
            return {name: arrays[name].astype(int) for name in arrays.files}

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return np.abs(a - b).max() <= 1

    assert splitvae("decompose", PACKAGED, *drawings[:2], "--out", tmp_path / "d.npz")[0] == 0
    was = {name: array.astype(int) for name, array in np.load(tmp_path / "d.npz").items()}
    whole, first, moved = edited(), edited("--component", 1), edited("--component", 1, "--with-mask")
    assert list(whole) == ["before", "mask", "x1", "x2", "x_hat"]
    for found in (whole, first, moved):
        assert same(found["before"], was["x_hat"])
        assert same(found["x1"], whole["x1"])
        assert not same(found["x1"], was["x1"])
    assert not same(whole["x2"], was["x2"])
    assert same(first["x2"], was["x2"])
    assert same(first["mask"], was["mask"])
    assert same(moved["x2"], was["x2"])
    assert same(moved["mask"], whole["mask"])
    assert not same(moved["mask"], was["mask"])
    assert list(edited("--output", "x_hat")) == ["x_hat"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("traverse", "--component", 3), "--component must lie in 1 … 2, not 3"),
        (("traverse", "--with-mask"), "--with-mask says what a --component takes along"),
        (("traverse", "--latent", 32), "there is no latent 32; they are 0 … 31"),
        (("traverse", "--steps", 1), "--steps must be at least 2"),
        (("traverse", "--n", 0), "--n must be at least 1"),
        (("traverse", PACKAGED, "--density", "gmmm"), "has no density 'gmmm'"),
        (
            ("traverse", "--density", "gmmm"),
            "the model that comes with splitvae has no density 'gmmm'. Did you mean 'gmm'?",
        ),
        (
            ("sample", "--density", "gmmm"),
            "the model that comes with splitvae has no density 'gmmm'. Did you mean 'gmm'?",
        ),
        (("traverse", "--data", "digits"), "--data is where a run's data is; name the run"),
        (("traverse", PACKAGED / "model", "--data", "digits"), "is a saved model and no run"),
        (("traverse", "--seed", 2**63), "--seed must be from 0 to"),
        (("edit", PACKAGED), "nothing to change; --set 5=2.7 gives z5 that value. latents, what they carry, and where"),
        (("edit", PACKAGED, "--set", "5"), "such as 12=2, not '5'"),
        (("edit", PACKAGED, "--set", "five=1"), "such as 12=2, not 'five=1'"),
        (("edit", PACKAGED, "--set", "5=nan"), "the value must be a number between"),
        (("edit", PACKAGED, "--set", "5=1e300"), "the value must be a number between"),
        (("edit", PACKAGED, "--set=-1=1"), "there is no latent -1; they are 0 … 31"),
        (("edit", PACKAGED, "gone.png", "--set", "5=1"), "gone.png: No such file"),
    ],
)
def test_mistakes_with_latents_get_one_line(arguments, told, tmp_path, splitvae):
    status, _, err = splitvae(*arguments, "--out", tmp_path / "never.png")
    assert (status, err.count("\n")) == (2, 1)
    assert told in err
    assert not (tmp_path / "never.png").exists()


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "splitvae", "--version"], capture_output=True, text=True)
    from splitvae import __version__

    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_the_cache_lies_where_it_is_said(tmp_path, folder, splitvae, monkeypatch):
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "elsewhere"))
    assert splitvae("train", "--data", folder, "--out", tmp_path / "run", *tiny_options())[0] == 0
    metas = list((tmp_path / "elsewhere").rglob("meta.json"))
    assert metas
    assert json.loads(metas[0].read_text())["counts"]["total"] == 24
    assert cli.run(["sample", str(tmp_path / "run"), "--n", "2", "--out", str(tmp_path / "s.png")]) == 0


def test_a_kind_of_split_on_the_command_line_goes_before_the_files_knobs(tmp_path, splitvae):
    path = tmp_path / "recipe.yaml"
    path.write_text(splitvae("train", "mnist-small", "--print-config")[1])
    asked = yaml.safe_load(splitvae("train", "--config", path, "--split", "semantic", "--print-config")[1])
    assert (asked["split"], asked["mask_scale"]) == ("semantic", 4)
