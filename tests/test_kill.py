"""A run may be killed at any moment: SIGKILL, five times, and the weights at the end are those of an unbroken run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny_options
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "splitvae", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def steps_logged(run: Path) -> int:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return len(lines)


def test_five_kills_and_resumes_end_with_the_same_bits(npz: Path, tmp_path: Path):
    options = ["--data", npz, *tiny_options(epochs=20, log_every=1, checkpoint_every=7), "--device", "cpu"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start("--out", whole, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()

    rng = random.Random(int(os.environ.get("SPLITVAE_TEST_SEED", time.time_ns())))
    total, at = 120, []
    for number in range(5):
        process = start("--out", killed, *options) if number == 0 else start("--resume", killed)
        before = steps_logged(killed)
        target = rng.randrange(max(before - 7, 1), max(min(before + 22, total - 2), 2))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if steps_logged(killed) >= target and steps_logged(killed) != before:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)  # in the middle of whatever it does
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        at.append(steps_logged(killed))
    process = start("--resume", killed)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()

    print("killed after the log's line", at)
    a, b = (load_file(run / "model" / "model.safetensors") for run in (whole, killed))
    assert a.keys() == b.keys()
    assert all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a)
    assert [json.loads(line)["step"] for line in (killed / "log.jsonl").read_text().splitlines()] == list(range(1, 121))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_process_with_their_status_and_one_line(number, status, npz: Path, tmp_path: Path):
    run = tmp_path / "run"
    process = start("--out", run, "--data", npz, *tiny_options(epochs=500, log_every=1))
    while steps_logged(run) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status
    last = output.decode().strip().splitlines()[-1]
    assert last.startswith("splitvae: stopped at step ")
    assert f"splitvae train --resume {run}" in last


def test_a_killed_process_releases_its_lock(npz: Path, tmp_path: Path):
    run = tmp_path / "run"
    process = start("--out", run, "--data", npz, *tiny_options(epochs=500, log_every=1, checkpoint_every=2))
    while steps_logged(run) < 5 and process.poll() is None:
        time.sleep(0.02)
    second = start("--resume", run)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 2
    assert "in use by another process" in output.decode()
    process.kill()
    process.communicate()
    third = start("--resume", run)
    while "resumed" not in (third.stdout.readline().decode() if third.stdout else ""):
        assert third.poll() is None
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=300)
    assert third.returncode == 130
