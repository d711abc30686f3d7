"""The benchmarks run, and what they compare is the same thing; no test here asserts a time."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import density, extraction, gpu, layers, parity, render, training
from benchmarks.ceilings import ceilings
from benchmarks.environments import ENVIRONMENTS, Unavailable, Worker, environment
from benchmarks.timing import take_turns
from splitvae import SplitVAE

CPU = torch.device("cpu")


def in_keras() -> Worker:
    """The Keras network, where a machine has its environment."""
    try:
        return Worker(environment("keras", ENVIRONMENTS, create=False), "keras_worker", threads=1)
    except Unavailable as why:
        pytest.skip(str(why))


def test_competitors_take_turns_and_the_first_round_is_dropped():
    called: list[str] = []

    def contestant(name: str, seconds: float) -> float:
        called.append(name)
        return seconds + len(called)

    turns = {name: lambda name=name: contestant(name, 0.0) for name in ("a", "b")}
    assert take_turns(turns, rounds=2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert called == ["a", "b"] * 3


def test_a_step_has_all_its_parts_and_who_is_missing_is_told_why():
    found = training.compare(32, base_channels=2, batch=4, rounds=1, threads=1, environments=None)
    assert found["skipped"] == {"keras": "left out", "pythae": "left out"}
    parts = {"load", "forward", "backward", "optimiser", "step", "sampling"}
    assert found["ours-float32"].keys() == parts
    step = found["ours-float32"]["step"]
    assert step["rounds"] == 1
    assert step["median_s"] == pytest.approx(
        sum(found["ours-float32"][p]["median_s"] for p in parts - {"step", "sampling"})
    )


def test_the_measured_step_trains():
    torch.manual_seed(0)
    ours = training.Ours(32, 4, 8, "float32", CPU)
    gamma = float(ours.model.variance.value())
    ours.step()
    first = ours.terms["loss"].item()
    ours.run(30)
    assert ours.terms["loss"].item() < first
    assert float(ours.model.variance.value()) < gamma


def test_layers_of_a_step_are_all_there():
    rows = layers.profile(32, base_channels=2, batch=2, rounds=1, bf16=False, device=CPU)
    model = SplitVAE((1, 32, 32), 32, base_channels=2)
    counted = [m for m in model.modules() if isinstance(m, layers.SHOWN)]
    assert sum(row["count"] for row in rows) == len(counted)
    assert [row["total_ms"] for row in rows] == sorted((row["total_ms"] for row in rows), reverse=True)


def test_a_result_becomes_a_table_in_its_page(tmp_path: Path):
    result = {
        "machine": {
            "hardware": "a machine", "cpu_capability": "AVX2", "threads": 1, "versions": {"torch": torch.__version__},
            "precision": ["fp32", "asked for"],
        },
        "parts": {
            name: {"result": found}
            for name, found in {
                "ceilings": ceilings(CPU, 16, 2, 4, 4),
                "training-32": training.compare(32, 2, 4, 1, 1, None),
                "density": density.compare(200, 4, 2, 1),
                "layers": {"32": layers.profile(32, 2, 2, 1, False, CPU)},
                "parity": parity.curves(10, 2, 50, False, 1, None),
            }.items()
        },
    }  # fmt: skip
    result = json.loads(json.dumps(result))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    for _ in range(2):
        render.insert_table(page, result)
        text = page.read_text()
        assert text.startswith(f"before\n{render.BEGIN}\na machine (AVX2)")
        assert text.endswith(f"{render.END}\nafter\n")
        assert "old" not in text
    assert "**step of 4**, 1×32×32" in text
    assert "Not measured: keras: left out." in text
    assert "beside scikit-learn" in text
    render.draw_parity(result, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").stat().st_size > 5_000


def test_a_worker_that_fails_says_why(tmp_path: Path):
    with pytest.raises(Unavailable, match="No module named"):
        Worker(Path(sys.executable), "no_such_worker", 1)("build")
    with pytest.raises(Unavailable, match="python -m benchmarks --only training"):
        environment("keras", tmp_path, create=False)


@pytest.mark.slow
def test_extraction_gives_torch_fidelitys_features():
    assert extraction.compare(4, 1, CPU)["largest_relative_difference"] < 1e-4


@pytest.mark.slow
def test_everything_for_a_gpu_runs_at_a_small_size():
    result = gpu.measure(CPU, gpu.SIZES["tiny"], say=lambda line: None)
    assert {name: part["failed"] for name, part in result.items() if "failed" in part} == {}
    assert all(aim["reached"] > 0 for aim in result["aims"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "latent_dim", "total"), [((1, 32, 32), 32, 12_799_299), ((3, 64, 64), 150, 28_989_363)]
)
def test_the_keras_transcription_has_the_papers_parameters(shape, latent_dim, total):
    keras = in_keras()
    built = keras("build", image_shape=shape, latent_dim=latent_dim, batch=1)
    ours = SplitVAE(shape, latent_dim)
    assert (built["trainable"], built["total"]) == (sum(p.numel() for p in ours.parameters()), total)
    keras.close()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
def test_the_keras_transcription_gives_our_numbers(shape, tmp_path: Path):
    keras = in_keras()
    torch.manual_seed(0)
    model = SplitVAE(shape, 5, base_channels=4, embedding_dim=24, padding="tf-same")
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    x, z = torch.rand(6, *shape), torch.randn(6, 5)
    np.savez(tmp_path / "weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    np.savez(tmp_path / "x.npz", x=x.numpy(), z=z.numpy())
    options = {"base_channels": 4, "embedding_dim": 24, "batch": 2, "weights": str(tmp_path / "weights.npz")}
    keras("build", image_shape=shape, latent_dim=5, **options)
    keras("outputs", images=str(tmp_path / "x.npz"), out=str(tmp_path / "out.npz"))
    keras.close()
    with torch.no_grad():
        posterior, decoded = model.eval().encode(x), model.decode(z)
    maps = torch.cat([decoded.weights[:, 0], decoded.components.flatten(1, 2)], dim=1)
    ours = {"mean": posterior.mean, "logvar": posterior.logvar, "maps": maps, "x_hat": decoded.x_hat}
    theirs = np.load(tmp_path / "out.npz")
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value.numpy(), atol=1e-5 * float(value.abs().max()), err_msg=name)


@pytest.mark.slow
def test_keras_trains_as_our_loop_does():
    in_keras().close()
    found = parity.curves(30, 4, 50, False, 1, ENVIRONMENTS)
    assert len(found["losses"]["Keras, float32"]) == 30
    assert found["losses"]["ours, float32"][-1] < 0.9 * found["losses"]["ours, float32"][0]
    assert found["largest_relative_difference"]["Keras, float32"] < 1e-3
