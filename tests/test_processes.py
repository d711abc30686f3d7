"""Two processes train one model and write one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny_options

pytestmark = pytest.mark.slow


def test_two_processes_reach_the_mse_of_one(tmp_path: Path):
    common = ["train", "digits", "--epochs", "1", "--precision", "fp32"]
    # `accelerate launch --cpu` itself starts several processes through MPI only (accelerate issue 2741).
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = {
        "one": [sys.executable, "-m", "splitvae", *common, "--device", "cpu"],
        "two": [sys.executable, *launch, "-m", "splitvae", *common, "--device", "cpu"],
    }
    for name, command in commands.items():
        result = subprocess.run([*command, "--out", str(tmp_path / name)], capture_output=True, text=True, timeout=400)
        assert result.returncode == 0, result.stdout + result.stderr
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in commands)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["machine"]["processes"] == 2
    assert two["steps"] == one["steps"]
    assert two["mse"] == pytest.approx(one["mse"], rel=0.02)


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "splitvae"]
ALONE = [sys.executable, "-m", "splitvae"]


def training(processes: int, *options: object) -> subprocess.Popen[bytes]:
    command = [*(LAUNCH if processes == 2 else ALONE), "train", *map(str, options), "--device", "cpu"]
    # A group of its own: a kill must reach the launcher and both of its processes.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def finished(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    return output.decode()


def losses(run: Path) -> list[float]:
    log = run / "log.jsonl"
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()] if log.exists() else []


def test_the_first_30_losses_of_two_processes_are_those_of_one(tmp_path: Path):
    # The paper's layers at a quarter of their width, each process with half of every batch.
    options = ["digits", "--epochs", 1, "--base-channels", 16, "--log-every", 1, "--precision", "fp32"]
    for processes in (1, 2):
        finished(training(processes, *options, "--out", tmp_path / str(processes)))
    one, two = losses(tmp_path / "1")[:30], losses(tmp_path / "2")[:30]
    assert len(one) == 30
    assert one[-1] < 0.9 * one[0]
    assert two == pytest.approx(one, rel=1e-4)


def test_a_run_goes_on_after_a_kill_with_one_process_and_then_with_two(npz: Path, tmp_path: Path):
    options = ["--data", npz, *tiny_options(epochs=30, log_every=1, checkpoint_every=3)]
    whole, run = tmp_path / "whole", tmp_path / "run"
    finished(training(1, *options, "--out", whole))
    total = len(losses(whole))
    for number, (processes, until) in enumerate([(2, total // 4), (1, total // 2)]):
        process = training(processes, *(options if number == 0 else ()), "--out" if number == 0 else "--resume", run)
        deadline = time.monotonic() + 120
        while len(losses(run)) < until and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0].decode()
        if number == 0:  # one of the two dies; the launcher then ends the other
            ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
            os.kill(int(ranks[-1]), signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
        assert process.returncode != 0
        assert until <= len(losses(run)) < total
    assert "resumed from step-" in finished(training(2, "--resume", run))
    assert json.loads((run / "config.json").read_text())["machine"]["processes"] == 2
    assert len(losses(run)) == total
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)


def test_accelerate_launch_works_as_it_is_and_tells_how_to_get_two(tmp_path: Path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "splitvae"]
    options = ["train", "digits", "--epochs", "1", "--base-channels", "4", "--precision", "fp32"]
    result = subprocess.run(
        [*command, *options, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "torchrun --nproc-per-node 2" in result.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def _one_of_two(rank: int, port: int, out: str) -> None:
    import torch
    import torch.distributed as dist

    from splitvae.training.sync_norm import synchronise

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 5, 5)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.BatchNorm1d(75))
    synchronise(model)
    mine = x[4 * rank : 4 * rank + 4].requires_grad_()
    y = model(mine)
    y.pow(3).sum().backward()
    torch.save({"y": y.detach(), "grad": mine.grad, "state": model.state_dict()}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_synchronised_batch_norm_equals_batch_norm_of_the_whole_batch(tmp_path: Path):
    import socket

    import torch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one_of_two, (port, str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    torch.manual_seed(0)
    x = torch.randn(8, 3, 5, 5).requires_grad_()
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.BatchNorm1d(75))
    y = model(x)
    y.pow(3).sum().backward()
    torch.testing.assert_close(torch.cat([half["y"] for half in halves]), y.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([half["grad"] for half in halves]), x.grad, atol=1e-4, rtol=1e-3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(halves[0]["state"][name], value, atol=1e-5, rtol=1e-4)
