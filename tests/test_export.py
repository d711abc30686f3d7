"""Exported files give the model's numbers, for batches of any size, without this library."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from splitvae import RAE, VAE, InputError, SplitVAE, SplitVAEError
from splitvae.convert import export as exporting
from splitvae.convert.export import export

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.mark.parametrize(
    ("make", "components"),
    [
        (lambda: SplitVAE((3, 13, 24), **TINY), 2),
        pytest.param(lambda: VAE((1, 16, 16), **(TINY | {"padding": "tf-same"})), 1, marks=pytest.mark.slow),
        pytest.param(lambda: SplitVAE((1, 16, 16), num_components=3, **TINY), 3, marks=pytest.mark.slow),
        pytest.param(lambda: SplitVAE((1, 16, 16), mask_scale=4, **TINY), 2, marks=pytest.mark.slow),
        pytest.param(lambda: RAE((1, 16, 16), 4, regularizer="sn", base_channels=4), 1, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_the_models_numbers_for_any_batch(make: Callable, components: int, tmp_path: Path):
    import onnxruntime

    torch.manual_seed(0)
    model = make()
    model(torch.rand(8, *model.image_shape))  # batch norm has statistics of its own
    model.eval()
    record = export(model, tmp_path)
    assert json.loads((tmp_path / "export.json").read_text()) == record
    C, H, W = model.image_shape
    assert record["files"]["decode.onnx"]["outputs"] == {
        "x_hat": ["batch", C, H, W],
        "components": ["batch", components, C, H, W],
        "weights": ["batch", components, 1, H, W],
    }
    sessions = {name: onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("encode", "decode")}
    for n in (1, 2, 9):
        x, z = torch.rand(n, C, H, W), torch.randn(n, model.latent_dim)
        with torch.no_grad():
            mean, decoded = model.encode(x).mean, model.decode(z)
        [found] = sessions["encode"].run(["z"], {"x": x.numpy()})
        np.testing.assert_allclose(found, mean, atol=1e-4, rtol=0)
        for found, expected in zip(sessions["decode"].run(None, {"z": z.numpy()}), decoded, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_torch_export_gives_the_models_numbers_for_any_batch(splitvae: Callable, tmp_path: Path):
    model = SplitVAE((1, 16, 16), **TINY).eval()
    model.save_pretrained(tmp_path / "run" / "model")
    status, said, _ = splitvae("export", tmp_path / "run", "--format", "torch")
    assert status == 0
    assert "decode.pt2: z batch×4 → x_hat batch×1×16×16, components batch×2×1×16×16, weights batch×2×1×16×16" in said
    encode = torch.export.load(tmp_path / "run" / "export" / "encode.pt2").module()
    for n in (1, 2, 9):
        x = torch.rand(n, 1, 16, 16)
        torch.testing.assert_close(encode(x), model.encode(x).mean, atol=1e-4, rtol=0)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = exporting._write

    def spoiled(module: torch.nn.Module, *rest: object) -> None:
        other = copy.deepcopy(module)
        next(other.parameters()).data.add_(1)
        real(other, *rest)

    monkeypatch.setattr(exporting, "_write", spoiled)
    with pytest.raises(SplitVAEError, match="differs from the model by"):
        export(SplitVAE((1, 16, 16), **TINY).eval(), tmp_path / "export", "torch")
    assert list((tmp_path / "export").iterdir()) == []


def test_wrong_usage_gets_one_line(splitvae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    status, _, said = splitvae("export", tmp_path / "nowhere")
    assert (status, said.count("\n"), "does not exist" in said) == (2, 1, True)
    assert splitvae("export", tmp_path, "--format", "tflite")[0] == 2
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"is a file; name a folder for encode\.onnx"):
        export(SplitVAE((1, 16, 16), **TINY).eval(), tmp_path / "file")
    with pytest.raises(InputError, match="not this Linear"):
        export(torch.nn.Linear(2, 2), tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'splitvae\[onnx\]'"):
        export(SplitVAE((1, 16, 16), **TINY).eval(), tmp_path)
