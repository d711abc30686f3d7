"""``encode`` and ``decode`` as files that run without this library: ONNX, or ``torch.export``.

Two files, ``encode`` and ``decode``, with a batch of any size, and ``export.json``, which names what goes in and what
comes out. Each file is run once against the model before it is kept.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from splitvae.errors import InputError, SplitVAEError, nearest
from splitvae.files import replacing, write_json
from splitvae.models.autoencoder import Autoencoder, Decoded

Format = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # the largest difference that an exported file may have from the model
CHECKED = (1, 5)  # batch sizes of the check; the export itself is traced with 2
OUTPUTS: dict[str, tuple[str, ...]] = {"encode": ("z",), "decode": Decoded._fields}


class _Encode(nn.Module):
    """x (B, C, H, W) in [0, 1] → z (B, D), the posterior mean."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x).mode()


class _Decode(nn.Module):
    """z (B, D) → x_hat, components and weights, see ``Decoded``."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.decode(z))


def export(model: Autoencoder, out: str | Path, form: Format = "onnx") -> dict[str, Any]:
    """Write ``encode`` and ``decode`` of a model, and ``export.json``, into the folder ``out``.

    Args:
        model: as it is used: batch norm with its running statistics, on the CPU.
        out: a folder; files of these names in it are replaced.
        form: "onnx" (``encode.onnx``, ``decode.onnx``; needs onnx, onnxscript, onnxruntime) or "torch"
            (``encode.pt2``, ``decode.pt2``, for ``torch.export.load``).

    Returns:
        the content of ``export.json``: for each file the names and shapes of its input and outputs ("batch" is free)
        and its largest difference from the model on random inputs.

    Raises:
        InputError: an unknown form, a package that is not installed, or ``out`` is a file.
        SplitVAEError: a file that differs from the model by more than 1e-4, which is not kept.
    """
    if not isinstance(model, Autoencoder):
        raise InputError(f"export takes a model of splitvae, not this {type(model).__name__}; see register_network.")
    if form not in SUFFIX:
        raise InputError(f"'{form}' is no format of an export.{nearest(form, get_args(Format))}")
    if form == "onnx" and (missing := [p for p in ("onnx", "onnxscript", "onnxruntime") if find_spec(p) is None]):
        raise InputError(f"an export to ONNX needs the package {missing[0]}: pip install 'splitvae[onnx]'.")
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder for encode{SUFFIX[form]} and decode{SUFFIX[form]}.")
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "encode": ("x", torch.rand(max(CHECKED), *model.image_shape, generator=generator)),
        "decode": ("z", torch.randn(max(CHECKED), model.latent_dim, generator=generator)),
    }
    record: dict[str, Any] = {"format": form, "image_shape": list(model.image_shape), "files": {}}
    for which, (name, example) in inputs.items():
        module = (_Encode if which == "encode" else _Decode)(model).eval()
        path = out / f"{which}{SUFFIX[form]}"
        with torch.no_grad(), replacing(path) as temporary:
            _write(module, name, example[:2], OUTPUTS[which], temporary, form)
            difference = max(_difference(module, temporary, example[:n], form) for n in CHECKED)
            if not difference <= TOLERANCE:
                raise SplitVAEError(
                    f"the exported {which} differs from the model by {difference:.1e}, more than {TOLERANCE:g}; "
                    "it is not kept. Try the other --format."
                )
            made = _outputs(module(example[:2]))
        record["files"][path.name] = {
            "input": {name: ["batch", *example.shape[1:]]},
            "outputs": {key: ["batch", *value.shape[1:]] for key, value in zip(OUTPUTS[which], made, strict=True)},
            "largest_difference": difference,
        }
    write_json(out / "export.json", record)
    return record


def _write(module: nn.Module, name: str, example: Tensor, outputs: tuple[str, ...], path: Path, form: Format) -> None:
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        if form == "torch":
            torch.export.save(program, path)
        else:
            torch.onnx.export(
                program, (), path, input_names=[name], output_names=list(outputs), dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip


def _difference(module: nn.Module, path: Path, example: Tensor, form: Format) -> float:
    """The largest difference between a file and its module on an input."""
    expected = [value.numpy() for value in _outputs(module(example))]
    if form == "torch":
        found = [value.numpy() for value in _outputs(torch.export.load(path).module()(example))]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    return max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))


def _outputs(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)
