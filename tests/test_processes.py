"""Two processes train one model and write one run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
