"""Virtual environments for what must not be installed beside ours, and processes that run in them."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import splitvae

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".bench"  # not tracked

# Name: (module that must import, packages for pip, whether our own packages are seen from inside).
KINDS = {
    "keras": ("tensorflow", ["tensorflow-cpu>=2.16"], False),
    # pythae asks for `dataclasses`, which is a part of Python and cannot be installed: so without its dependencies,
    # of which those that its import needs are named. Nothing is unpickled here: only timings come back, as JSON.
    "pythae": ("pythae.trainers", ["pydantic>=2", "imageio", "cloudpickle", "--no-deps", "pythae>=0.1.2"], True),
}


class Unavailable(Exception):
    """An environment cannot be had; the message says why."""


def environment(name: str, folder: Path | None = ENVIRONMENTS, create: bool = True) -> Path:
    """The interpreter of an environment of ``KINDS``, which is made where it is missing.

    Args:
        name: of ``KINDS``.
        folder: where environments are; None = there shall be none.
        create: whether to make it.

    Raises:
        Unavailable: it is missing and cannot, or shall not, be made.
    """
    if folder is None:
        raise Unavailable("left out")
    module, packages, layered = KINDS[name]
    home = folder / name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not _imports(python, module):
        if not create:
            raise Unavailable(f"there is no environment {name}; make it with: python -m benchmarks --only training")
        print(f"making the environment {home} ({', '.join(packages)}) …", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        if layered:
            _layer_over_ours(python)
        for part in _pip_calls(packages):
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *part]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"pip cannot install {' '.join(part)}: {_last_line(done.stderr)}")
        if not _imports(python, module):
            raise Unavailable(f"{module} does not import in {home}")
    return python


def _pip_calls(packages: list[str]) -> list[list[str]]:
    """What precedes --no-deps, and from there on."""
    if "--no-deps" not in packages:
        return [packages]
    at = packages.index("--no-deps")
    return [packages[:at], packages[at:]]


def _layer_over_ours(python: Path) -> None:
    """Let an environment see our packages, so that both run the same torch."""
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    target = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    seen = [path for path in sys.path if "site-packages" in path] + [str(Path(splitvae.__file__).parents[1])]
    (target / "ours.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")


def _imports(python: Path, module: str) -> bool:
    if not python.exists():
        return False
    return subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, env=_quiet()).returncode == 0


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _quiet() -> dict[str, str]:
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


class Worker:
    """A process that answers calls, in another environment.

    Args:
        python: its interpreter.
        module: of this package, which ends in ``serve``.
        threads: cores that it may use.
    """

    def __init__(self, python: Path, module: str, threads: int) -> None:
        env = _quiet() | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "BENCH_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True, cwd=ROOT,
        )  # fmt: skip

    def __call__(self, name: str, **arguments: Any) -> Any:
        """Call a handler by its name, and return its result.

        Raises:
            Unavailable: it failed, or the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"call": name, "with": arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, errors = self.process.communicate()
            raise Unavailable(_last_line(errors))
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        self.process.communicate()  # closes its stdin, on which it ends
