"""What README and the documents show works as it stands."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import splitvae

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_first_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, *_ = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].model.sample(16).shape == (16, 1, 16, 16)  # as it says
    assert (tmp_path / "my-model" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_second_python_example_runs_on_modules_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, code = blocks(README, "python")
    network = splitvae.VAE((1, 16, 16), latent_dim=16, base_channels=4).network
    decoder = nn.Sequential(nn.Linear(16, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))
    encoder = nn.Sequential(network)
    monkeypatch.setattr(network, "forward", network.encode, raising=False)
    monkeypatch.setattr(splitvae, "train", partial(splitvae.train, epochs=1, quiet=True), raising=False)
    monkeypatch.chdir(tmp_path)
    names = {"splitvae": splitvae, "encoder": encoder, "decoder": decoder, "z": torch.randn(2, 16)}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].model.decode(names["z"]).components.shape == (2, 2, 1, 16, 16)


def test_every_public_name_is_in_the_reference_and_in_code_that_was_run():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    run = "".join("".join(blocks(page, "python")) for page in PAGES)
    run += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py"))
    for name in splitvae.__all__:
        assert f".{name}\n" in reference, name
        doctest = getattr(splitvae, name).__doc__ or ""
        assert re.search(rf"\b{name}\b", run) or f"{name}(" in doctest.partition(">>>")[2], name


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.name)
def test_python_on_the_pages_runs_and_says_what_is_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, "python"):
        names: dict = {}
        *_, last = code.strip().split("\n")
        exec(compile(code, page.name, "exec"), names)
        if last.startswith("# ("):  # what the expression above it gives
            *_, expression, comment = code.strip().split("\n")
            found = eval(expression, names)
            shapes = tuple(map(tuple, found)) if isinstance(found[0], tuple) else tuple(found)
            assert repr(shapes).strip("()") == comment.removeprefix("# ").strip("()")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.name)
def test_commands_on_the_pages_have_the_options_that_they_show(page: Path):
    import splitvae.cli  # noqa: F401  the commands register themselves
    from splitvae.commands.app import app

    seen = 0
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|\||;", line):
            words = shlex.split(command, comments=True)
            if "torchrun" in words:
                words = words[words.index("-m") + 1 :]
            if words[:1] == ["splitvae"]:
                words = [word.replace("$beta", "1").replace("$run", "split") for word in words]
                app.parse_args(words[1:], exit_on_error=False, print_error=False)
                seen += 1
    assert seen or "splitvae" not in "".join(blocks(page, "sh"))


def test_every_file_of_the_package_stands_in_the_tree():
    text = README.read_text(encoding="utf-8")
    files = {path.name for path in (README.parent / "src").rglob("*.py") if not path.name.startswith("__")}
    assert {name for name in files if name not in text} == set()
