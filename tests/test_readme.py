"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_first_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, *_ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "my-model" / "model.safetensors").exists()


def test_every_file_of_the_package_stands_in_the_tree():
    text = README.read_text(encoding="utf-8")
    files = {path.name for path in (README.parent / "src").rglob("*.py") if not path.name.startswith("__")}
    assert {name for name in files if name not in text} == set()
