"""Every file in ``examples/`` runs as it stands, in a process of its own and at tiny size."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import tiny_options

EXAMPLES = Path(__file__).parents[1] / "examples"
ARGUMENTS = {
    "diffusers_autoencoder_kl.py": ["1"],
    "onnx_decode.py": ["run/export", "samples.png"],
    "pythae_model.py": ["1"],
    "sklearn_anomalies.py": ["1"],
    "split_any_vae.py": ["1"],
}
LEAVES = {
    "diffusers_autoencoder_kl.py": "runs/kl-split/metrics.json",
    "onnx_decode.py": "samples.png",
    "pythae_model.py": "runs/pythae/report.html",
    "sklearn_anomalies.py": "anomalies.png",
    "split_any_vae.py": "runs/own-split/metrics.json",
}
NEEDS = {"diffusers_autoencoder_kl.py": "diffusers", "onnx_decode.py": "onnxruntime", "pythae_model.py": "pythae"}


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(example: str, tmp_path: Path):
    if find_spec(NEEDS.get(example, "torch")) is None:
        pytest.skip(f"{example} needs the optional package {NEEDS[example]}")

    def python(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    if example == "onnx_decode.py":
        command = ("-m", "splitvae")
        python(*command, "train", "digits", "--out", "run", *tiny_options(batch_size=200))
        python(*command, "export", "run")
        # Without the libraries that it says it does without.
        code = "import runpy, sys; sys.modules.update(torch=None, splitvae=None); sys.argv = sys.argv[1:]; "
        python("-c", f"{code}runpy.run_path(sys.argv[0])", str(EXAMPLES / example), *ARGUMENTS[example])
    else:
        python(str(EXAMPLES / example), *ARGUMENTS[example])
    assert (tmp_path / LEAVES[example]).exists()
