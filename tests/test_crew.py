"""Several processes make one evaluation: the numbers of one, and one clear line when any of them fails."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from splitvae import train
from splitvae.errors import SplitVAEError
from splitvae.evaluation.crew import Crew, crew_of_launch, own_device

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "splitvae"]


def doubled(items: np.ndarray, wrong: int) -> np.ndarray:
    """The work of these tests; fails in the process that has the item ``wrong``."""
    if wrong in items:
        raise ValueError(f"{wrong} is wrong")
    return 2 * items


def test_one_process_is_no_crew():
    with crew_of_launch() as crew:
        assert crew == Crew()
        assert crew.prepare(lambda: "made") == "made"
        assert crew.share("doubled", np.arange(3), doubled, -1).tolist() == [0, 2, 4]
        assert own_device(crew, None) is None


def _member(rank: int, port: int, failing: str, out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def make() -> int:
        if failing == f"preparation of {rank}":
            raise SplitVAEError("there is no such run.")
        return rank

    said = "went home"
    try:
        with crew_of_launch() as crew:
            assert crew.prepare(make) == rank
            if rank:
                crew.serve({"doubled": doubled})
            wrong = {"work of 0": 1, "work of 1": 4}.get(failing, -1)
            # Five items for two processes, then one, which the first does by itself.
            found = [
                crew.share("doubled", np.arange(5), doubled, wrong),
                crew.share("doubled", np.ones(1), doubled, -1),
            ]
            said = " ".join(str(value) for value in np.concatenate(found).astype(int))
    except (SplitVAEError, ValueError) as error:
        said = str(error)
    Path(out, str(rank)).write_text(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "told"),
    [
        ("nothing", "0 2 4 6 8 2"),
        ("preparation of 0", "there is no such run."),
        ("preparation of 1", "process 2 of 2 failed: there is no such run."),
        ("work of 0", "1 is wrong"),
        ("work of 1", "process 2 of 2 failed: ValueError: 4 is wrong"),
    ],
)
def test_the_first_tells_what_failed_anywhere_and_the_others_go_home(failing: str, told: str, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_member, (port, failing, str(tmp_path)), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [told, "went home"]


def evaluated(*arguments: object) -> subprocess.CompletedProcess[str]:
    options = ["evaluate", *map(str, arguments), "--extractor", "efficientnet-lite0", "--device", "cpu"]
    return subprocess.run([*TWO, *options], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(npz: Path, tmp_path: Path, splitvae, monkeypatch):
    train(out=tmp_path / "one", data=str(npz), epochs=1, **TINY, batch_size=8, precision="fp32", quiet=True)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    splitvae("evaluate", tmp_path / "one", "--extractor", "efficientnet-lite0", "--device", "cpu")
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "cache"))  # else the two would find the features of the one
    result = evaluated(tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("metrics.json") == 1
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["card"]["signature"] == two["card"]["signature"]
    assert len(one["rows"]) == len(two["rows"]) == 8
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert b["metrics"] == pytest.approx(a["metrics"], rel=1e-3, abs=1e-4)
        assert {**a, "metrics": 0} == {**b, "metrics": 0}
    assert (tmp_path / "two" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("options", "told"), [((), "nowhere"), (("--extractor-weights", "none.pth"), "none.pth")])
def test_what_is_wrong_everywhere_is_told_once(npz: Path, tmp_path: Path, options: tuple[str, ...], told: str):
    run = tmp_path / "nowhere"
    if options:
        train(out=run, data=str(npz), epochs=1, **TINY, batch_size=8, precision="fp32", quiet=True)
    result = evaluated(run, *options)
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("splitvae:")]
    assert told in line
    assert "Traceback" not in result.stderr.split("torch/distributed")[0]


@pytest.mark.slow
def test_a_wrong_option_is_told_once():
    result = subprocess.run([*TWO, "evaluate", "run", "--extractor", "inception"], capture_output=True, text=True)
    [line] = [line for line in result.stderr.splitlines() if line.startswith("splitvae:")]
    assert "inception-v3-compat" in line
