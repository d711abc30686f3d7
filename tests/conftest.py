"""Small real data and models that the tests share; nothing here touches a person's own cache."""

import os

# Before anything reads them: no test fetches, and on the CPU the same run gives the same bits.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splitvae import cli
from splitvae.config import REGISTERED
from splitvae.models import registry

SHARED = Path(__file__).parents[2] / "shared"  # real data and fixtures, where the machine has them

# The real classes at tiny size: a step takes milliseconds.
TINY = {"base_channels": 4, "embedding_dim": 16, "num_scales": 2, "latent_dim": 4}


@pytest.fixture(autouse=True, scope="session")
def _small_machine() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every process that these tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("splitvae.commands.reproducing.RESULTS", Path("no/results"))  # what the checkout has measured


@pytest.fixture(autouse=True)
def _forget_networks() -> Iterator[None]:
    """Networks that a test registers are its own."""
    yield
    REGISTERED.clear()
    registry.OTHERS.clear()


def pixels(n: int, height: int = 16, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    """n smooth random images (n, height, width, channels) uint8; all different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, channels)).astype(np.uint8)
    images = [
        np.asarray(Image.fromarray(c.squeeze()).resize((width, height), Image.Resampling.BILINEAR)) for c in coarse
    ]
    return np.stack(images).reshape(n, height, width, channels)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """48 training and 12 test images of 16×16 in colour, with labels."""
    path = tmp_path / "data.npz"
    images = pixels(60)
    labels = np.arange(60) % 3
    np.savez(path, train=images[:48], test=images[48:], train_labels=labels[:48], test_labels=labels[48:])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 PNG files of 20×16."""
    path = tmp_path / "pictures"
    path.mkdir()
    for i, image in enumerate(pixels(24, height=16, width=20)):
        Image.fromarray(image).save(path / f"{i:02d}.png")
    return path


@pytest.fixture
def splitvae(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: ``splitvae("info", "mnist")`` → (status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def tiny_options(**changes: object) -> list[str]:
    """TINY and ``changes`` as command-line options."""
    options: list[str] = []
    for name, value in (TINY | {"epochs": 1, "batch_size": 8, "log_every": 2, "precision": "fp32"} | changes).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    return options
