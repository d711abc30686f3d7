"""What README and the documents show works as it stands."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_first_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, *_ = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "my-model" / "model.safetensors").exists()


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.name)
def test_python_on_the_pages_runs_and_says_what_is_printed(page: Path):
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
            if words[:1] == ["splitvae"]:
                words = [word.replace("$beta", "1") for word in words]
                app.parse_args(words[1:], exit_on_error=False, print_error=False)
                seen += 1
    assert seen or "splitvae" not in "".join(blocks(page, "sh"))


def test_every_file_of_the_package_stands_in_the_tree():
    text = README.read_text(encoding="utf-8")
    files = {path.name for path in (README.parent / "src").rglob("*.py") if not path.name.startswith("__")}
    assert {name for name in files if name not in text} == set()
