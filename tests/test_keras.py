"""Weights of the official TensorFlow code become a run: the same numbers, whatever its layers are called."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED, TINY

from splitvae import VAE, InputError, Run, SplitVAE, train
from splitvae.convert.adopt import adopt
from splitvae.convert.keras import convert_keras

h5py = pytest.importorskip("h5py", reason="the package h5py is not installed")

FIXTURE = SHARED / "fixtures/keras/keras_32x32x1.h5"
needs_fixture = pytest.mark.skipif(not FIXTURE.exists(), reason="the Keras fixture lies beside the checkout")
Weights = dict[str, list[tuple[str, np.ndarray]]]  # nested model → ("conv2d_3/kernel", values), in Keras' order


def keras_weights(model: SplitVAE) -> Weights:
    """A model of ours as the official code would save it: the converter's inverse, written from Keras' layouts."""

    def layers(*modules: torch.nn.Module) -> list[torch.nn.Module]:
        return [leaf for module in modules for leaf in module.modules() if not list(leaf.children())]

    count: dict[str, int] = {}

    def named(modules: list[torch.nn.Module]) -> list[tuple[str, np.ndarray]]:
        found = []
        for m in modules:
            kind = {"Linear": "dense", "Upsample": "conv2d_transpose"}.get(type(m).__name__, "conv2d")
            state = {name: value.numpy() for name, value in m.state_dict().items()}
            if "running_mean" in state:
                kind = "batch_normalization"
                state = {"gamma": state["weight"], "beta": state["bias"], "moving_mean": state["running_mean"],
                         "moving_variance": state["running_var"]}  # fmt: skip
            else:
                kernel = state["weight"].T if state["weight"].ndim == 2 else state["weight"].transpose(2, 3, 1, 0)
                state = {"kernel": kernel, "bias": state["bias"]}
            number = count[kind] = count.get(kind, 6) + 1  # numbers start anywhere
            found += [(f"{kind}_{number}/{part}", value) for part, value in state.items()]
        return found

    network = model.network
    C, h, w = network.decoder.start
    order = torch.arange(C * h * w).reshape(C, h, w).permute(1, 2, 0).flatten()
    dense = torch.nn.Linear(1, 1)
    dense.weight.data, dense.bias.data = network.decoder.dense.weight[order], network.decoder.dense.bias[order]
    down = [m for pair in zip(network.encoder.scales, network.encoder.downsamples, strict=True) for m in pair]
    up = [m for pair in zip(network.decoder.upsamples, network.decoder.scales, strict=True) for m in pair]
    return {
        "model_4": named(layers(network.encoder.stem, *down, network.encoder.dense_block)),
        "model_5": named([network.mean, network.logvar, network.embedding]),
        "model_7": named([dense, *layers(*up, network.decoder.head)]),
    }


def write_h5(path: Path, weights: Weights) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["input_5", *weights, "tf.math.subtract"]
        for name in file.attrs["layer_names"]:
            group = file.create_group(name)
            entries = weights.get(name, [])
            group.attrs["weight_names"] = [f"{weight}:0" for weight, _ in entries]
            for weight, value in entries:
                group[f"{weight}:0"] = value
    return path


def scrambled(model: SplitVAE) -> SplitVAE:
    """All weights and statistics random, so that each of them matters."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.network.state_dict().items():
        if value.is_floating_point():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator) + ("running_var" in name))
            value.abs_() if "running_var" in name else None
    return model.eval()


@needs_fixture
def test_keras_weights_give_keras_numbers(splitvae: Callable, tmp_path: Path):
    out = tmp_path / "run"
    status, said, _ = splitvae("convert", "keras", FIXTURE, "--out", out)
    assert status == 0
    assert "SplitVAE of 1×32×32, 4 latents, 2 components, 161," in said
    expected = {k: torch.from_numpy(v) for k, v in np.load(FIXTURE.with_suffix(".npz")).items()}
    model = Run.open(out).model
    with torch.no_grad():
        posterior = model.encode(expected["x"].permute(0, 3, 1, 2))
        decoded = model.decode(expected["z"])
    ours = {
        "mu": posterior.mean,
        "logvar": posterior.logvar,
        "mask": decoded.weights[:, 0].permute(0, 2, 3, 1),
        "x1": decoded.components[:, 0].permute(0, 2, 3, 1),
        "x2": decoded.components[:, 1].permute(0, 2, 3, 1),
        "x_hat": decoded.x_hat.permute(0, 2, 3, 1),
    }
    for name, value in ours.items():
        error = (value - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 1e-5, name


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((3, 32, 32), {"scale_blocks": 1, "blocks_per_scale": 2, "depth_per_block": 3, "num_scales": 3}),
        ((2, 64, 64), {"num_components": 3}),
        ((1, 16, 16), {"num_components": 1, "num_scales": 2}),
    ],
)
def test_the_network_is_told_by_shapes_whatever_its_size(shape, changes, tmp_path: Path):
    model = scrambled(SplitVAE(shape, **(TINY | {"padding": "tf-same", "num_scales": 4} | changes)))
    found = convert_keras(write_h5(tmp_path / "weights.h5", keras_weights(model)))
    assert type(found) is (VAE if changes.get("num_components") == 1 else SplitVAE)
    x = torch.rand(2, *shape)
    with torch.no_grad():
        for ours, theirs in zip(found.decode(found.encode(x).mean), model.decode(model.encode(x).mean), strict=True):
            assert torch.equal(ours, theirs)


def test_a_checkpoint_has_no_layer_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = scrambled(SplitVAE((3, 16, 16), **(TINY | {"padding": "tf-same"})))
    stored = {name: np.zeros(()) for name in ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VALUE")}
    for i, entries in enumerate(keras_weights(model).values()):
        numbers = {name: j for j, name in enumerate(dict.fromkeys(weight.split("/")[0] for weight, _ in entries))}
        for weight, value in entries:
            layer, part = weight.split("/")
            key = f"layer_with_weights-{i}/layer_with_weights-{numbers[layer]}/{part}"
            stored[f"{key}/.ATTRIBUTES/VARIABLE_VALUE"] = value
    reader = SimpleNamespace(
        get_variable_to_shape_map=lambda: {name: stored[name].shape for name in sorted(stored)}, get_tensor=stored.get
    )
    # TensorFlow itself is too large for a test; its reader gives names and arrays as here.
    tensorflow, part = ModuleType("tensorflow"), ModuleType("tensorflow.train")
    part.load_checkpoint = lambda name: reader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setitem(sys.modules, "tensorflow.train", part)
    (tmp_path / "weights.index").touch()
    z = torch.randn(3, 4)
    for name in ("weights", "weights.index"):
        with torch.no_grad():
            assert torch.equal(convert_keras(tmp_path / name).decode(z).x_hat, model.decode(z).x_hat)


def test_a_converted_run_is_scored_on_data_named_later_and_trains_on_from_its_weights(
    splitvae: Callable, tmp_path: Path, npz: Path
):
    model = scrambled(SplitVAE((3, 16, 16), **(TINY | {"padding": "tf-same"})))
    file, out = write_h5(tmp_path / "weights.h5", keras_weights(model)), tmp_path / "run"
    assert splitvae("convert", "keras", file, "--out", out, "--beta", 2)[0] == 0
    assert splitvae("fit", out, "--n-components", 2)[2].startswith("splitvae: no data: pass --data")
    assert splitvae("fit", out, "--n-components", 2, "--data", npz)[0] == 0
    assert splitvae("sample", out, "--density", "gmm", "--n", 3, "--out", tmp_path / "s.png")[0] == 0
    for what in ("info", "doctor"):
        assert splitvae(what, out)[0] == 0, what
    before = Run.open(out).model.network.mean.weight
    run = train(resume=out, data=str(npz), epochs=1, lr=1e-6, quiet=True, precision="fp32")
    after = run.model.network.mean.weight
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert run.record["origin"]["from"].startswith("Keras, weights.h5, SHA-256")
    assert run.record["data"]["counts"]["train"] == 48
    assert run.config.beta == 2
    assert run.summary["gamma"] < 0.5  # the mse of the first batch: a SplitVAE that begins anew begins at 1


def test_files_that_do_not_fit_get_one_line(splitvae: Callable, tmp_path: Path, npz: Path):
    good = keras_weights(scrambled(SplitVAE((3, 16, 16), **(TINY | {"padding": "tf-same"}))))
    text = tmp_path / "text.h5"
    text.write_text("no weights")
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file["x"] = np.zeros(3)
    other = [
        (name, np.zeros((5, 5, *value.shape[2:])) if value.ndim == 4 else value) for name, value in good["model_4"]
    ]
    diverged = [(name, np.full_like(value, np.nan)) for name, value in good["model_4"]]
    extra = [*good["model_7"], ("conv2d_99/kernel", np.zeros((3, 3, 7, 7))), ("conv2d_99/bias", np.zeros(7))]
    for what, words in (
        (tmp_path / "nothing.h5", "is no file"),
        (Path("."), "is no file"),
        (text, "is no .h5 file"),
        (tmp_path / "arrays.h5", "with an encoder there are 0, expected 1"),
        (npz, "is no .h5 file"),
        ({"model_5": good["model_5"][:4]}, "with mean, logvar and embedding there are 0"),
        ({"model_4": other}, "has the shape"),
        ({"model_4": diverged}, "in the encoder of"),
        ({"model_5": [(name, np.float32(0)) for name, _ in good["model_5"]]}, "is no .h5 file with weights of Keras 2"),
        ({"model_7": extra}, "cannot be told from its layers"),
        ({"model_7": good["model_7"][2:]}, "with a decoder there are 0"),
        ({"model_4": [("lstm/kernel", np.zeros((2, 2, 2)))]}, "it has a layer lstm with ['kernel']"),
    ):
        path = write_h5(tmp_path / "weights.h5", good | what) if isinstance(what, dict) else what
        status, _, said = splitvae("convert", "keras", path, "--out", tmp_path / "run")
        assert status == 2, path
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
    (tmp_path / "weights.index").touch()
    if "tensorflow" not in sys.modules:
        status, _, said = splitvae("convert", "keras", tmp_path / "weights", "--out", tmp_path / "run")
        assert (status, "TensorFlow" in said) == (2, True)


def test_data_of_another_size_is_refused_before_a_run_is_made(tmp_path: Path, npz: Path):
    with pytest.raises(InputError, match="3×16×16, the model takes 1×16×16"):
        adopt(SplitVAE((1, 16, 16), **TINY), tmp_path / "run", npz)
    assert not (tmp_path / "run").exists()
