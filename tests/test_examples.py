"""Every file in ``examples/`` runs as it stands, in a process of its own and at tiny size."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, pixels, tiny_options

from splitvae import SplitVAE

EXAMPLES = Path(__file__).parents[1] / "examples"
# example → what it is run with, a file that it leaves, the optional package that it is about
EXPECTED = {
    "diffusers_autoencoder_kl.py": (["1"], "runs/kl-split/metrics.json", "diffusers"),
    "hub_round_trip.py": (["1"], "hub/me/digits/densities/gmm.safetensors", None),
    "keras_weights.py": (["weights.h5", "digits.npz"], "official.png", "h5py"),
    "onnx_decode.py": (["run/export", "samples.png"], "samples.png", "onnxruntime"),
    "pythae_model.py": (["1"], "runs/pythae/report.html", "pythae"),
    "sklearn_anomalies.py": (["1"], "anomalies.png", None),
    "split_any_vae.py": (["1"], "runs/own-split/metrics.json", None),
    "trackers.py": (["tensorboard", "1"], "runs/tracked/splitvae", "tensorboard"),
}


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(example: str, tmp_path: Path):
    arguments, leaves, needs = EXPECTED[example]
    if needs is not None and find_spec(needs) is None:
        pytest.skip(f"{example} needs the optional package {needs}")

    def python(*command: str) -> None:
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    script = str(EXAMPLES / example)
    if example == "onnx_decode.py":
        python("-m", "splitvae", "train", "digits", "--out", "run", *tiny_options(batch_size=200))
        python("-m", "splitvae", "export", "run")
        # Without the libraries that it says it does without.
        code = "import runpy, sys; sys.modules.update(torch=None, splitvae=None); sys.argv = sys.argv[1:]; "
        python("-c", f"{code}runpy.run_path(sys.argv[0])", script, *arguments)
    else:
        if example == "keras_weights.py":
            from test_keras import keras_weights, write_h5

            model = SplitVAE((1, 16, 16), **(TINY | {"padding": "tf-same"}))
            write_h5(tmp_path / "weights.h5", keras_weights(model))
            np.savez(tmp_path / "digits.npz", train=pixels(60, channels=1), test=pixels(20, channels=1, seed=1))
        python(script, *arguments)
    assert (tmp_path / leaves).exists()
