"""Weights of the official TensorFlow code (``split_vae.py``, arXiv 2202.02738) as a model of ours.

That code saves the weights of one model with three models nested in it: the encoder up to the embedding, the dense
layers around the latents, and the decoder. In an .h5 file layers have names, whose numbers depend on what the process
built before; in a checkpoint they have none. So only structure, shapes and order count: within a nested model the
layers stand in the order of the data, and everything about the network follows from the shapes of their weights.
"""

import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from splitvae.errors import InputError
from splitvae.models.networks import SplitVAENetwork
from splitvae.models.vae import VAE, SplitVAE

Kind = Literal["convolution", "dense", "norm"]
Layer = dict[str, Tensor]  # the weights of one layer by Keras' names: kernel and bias, or gamma, beta, moving_…
Group = dict[Kind, list[Layer]]  # the layers of one nested model, by kind, in the order of the data

PARTS = {"kernel", "bias"}, {"gamma", "beta", "moving_mean", "moving_variance"}


def convert_keras(path: str | Path, beta: float = 3.0) -> SplitVAE:
    """A model of ours with the weights of the official code.

    Args:
        path: an .h5 file (needs h5py), or the name of a checkpoint, with or without ``.index`` (needs TensorFlow).
        beta: weight of the KL term, which weights do not tell; the paper's is 8 for MNIST, 3 for CIFAR-10 and CelebA.

    Returns:
        a SplitVAE in evaluation mode, or a VAE where there is one component. Its γ is 1, as at the start of a training.

    Raises:
        InputError: no such file, or weights of another network.
    """
    path = Path(path).expanduser()
    encoder, latent, decoder = _roles(_read(path), path)
    arguments = _arguments(encoder, latent, decoder, path)
    K = arguments.pop("num_components")
    common = {**arguments, "beta": beta, "padding": "tf-same", "batch_norm_momentum": 0.001}
    model = VAE(**common) if K == 1 else SplitVAE(num_components=K, **common)

    network: SplitVAENetwork = model.network
    assert network.logvar is not None
    down = [m for pair in zip(network.encoder.scales, network.encoder.downsamples, strict=True) for m in pair]
    up = [m for pair in zip(network.decoder.upsamples, network.decoder.scales, strict=True) for m in pair]
    _copy(encoder, [network.encoder.stem, *down, network.encoder.dense_block], "encoder", path)
    _copy(latent, [network.mean, network.logvar, network.embedding], "latent", path)
    _copy(decoder, [network.decoder.dense, *up, network.decoder.head], "decoder", path)

    # Keras reshapes to (rows, columns, channels), we to (channels, rows, columns).
    C, h, w = network.decoder.start
    order = torch.arange(C * h * w).reshape(h, w, C).permute(2, 0, 1).flatten()
    dense = network.decoder.dense
    dense.weight.data, dense.bias.data = dense.weight.data[order], dense.bias.data[order]
    return model.eval()


def _roles(groups: list[Group], path: Path) -> tuple[Group, Group, Group]:
    """Which nested model is the encoder, the latent one and the decoder: the decoder's dense layer widens."""
    dense_only = [g for g in groups if g["dense"] and not g["convolution"] and not g["norm"]]
    others = [g for g in groups if g["dense"] and g["convolution"]]
    latent = [g for g in dense_only if len(g["dense"]) == 3]
    encoder = [g for g in others if len(g["dense"]) > 1]
    decoder = [g for g in others if len(g["dense"]) == 1]
    for role, found in (("an encoder", encoder), ("mean, logvar and embedding", latent), ("a decoder", decoder)):
        if len(found) != 1:
            raise InputError(
                f"{path} holds no weights of the official Split-VAE code: of nested models with {role} there are "
                f"{len(found)}, expected 1."
            )
    return encoder[0], latent[0], decoder[0]


def _arguments(encoder: Group, latent: Group, decoder: Group, path: Path) -> dict[str, Any]:
    """Arguments of SplitVAE, from the shapes of Keras' kernels: (3, 3, in, out), and (3, 3, out, in) transposed."""

    def whole(a: float, b: float, what: str) -> int:
        if b == 0 or a % b or a < b:
            raise InputError(f"{path} is not of the official network: {what} cannot be told from its layers.")
        return int(a // b)

    kernels = [layer["kernel"].shape for layer in encoder["convolution"]]
    _, _, C, base_channels = kernels[0]
    num_scales = 1 + sum(kernel[2] != kernel[3] for kernel in kernels[1:])  # a reduction doubles the channels
    # Of the encoder: num_scales − 1 scales of B blocks, each with d × [norm, convolution] and one more convolution.
    norms = len(encoder["norm"]) - (len(encoder["dense"]) - 1)
    blocks = len(kernels) - num_scales - norms
    blocks_per_scale = whole(blocks, num_scales - 1, "the number of blocks at a scale")
    depth = whole(norms, blocks, "the number of convolutions in a block")

    # Of the decoder: n × [transposed convolution, B blocks], and the last convolution.
    layers = len(decoder["convolution"])
    n = whole(layers - 1 - len(decoder["norm"]), 1 + blocks_per_scale, "the number of up-samplings")
    widest, start = decoder["convolution"][0]["kernel"].shape[3], decoder["dense"][0]["kernel"].shape[1]
    side = math.isqrt(start // widest)
    whole(start, widest * side**2, "the size of the images, which must be square,")
    out_channels = decoder["convolution"][-1]["kernel"].shape[3]
    K = whole(out_channels + 1, C + 1, f"the number of components in {out_channels} output channels of {C} each")
    embedding_dim, latent_dim = latent["dense"][0]["kernel"].shape
    return {
        "image_shape": (C, side * 2**n, side * 2**n), "latent_dim": latent_dim, "num_components": K,
        "base_channels": base_channels, "num_scales": num_scales, "blocks_per_scale": blocks_per_scale,
        "depth_per_block": depth, "embedding_dim": embedding_dim,
    }  # fmt: skip


def _copy(group: Group, parts: list[nn.Module], role: str, path: Path) -> None:
    """Copy a nested model's weights into the modules of ``parts``, in the order of the data within each kind."""
    leaves = [leaf for part in parts for leaf in part.modules() if not list(leaf.children())]
    classes: dict[Kind, Any] = {
        "convolution": nn.Conv2d | nn.ConvTranspose2d, "dense": nn.Linear, "norm": nn.BatchNorm1d | nn.BatchNorm2d,
    }  # fmt: skip
    for kind, cls in classes.items():
        modules = [leaf for leaf in leaves if isinstance(leaf, cls)]
        if len(modules) != len(group[kind]):
            raise InputError(
                f"{path} is not of the official network: its {role} has {len(group[kind])} layers of the kind {kind}, "
                f"expected {len(modules)}."
            )
        for i, (module, layer) in enumerate(zip(modules, group[kind], strict=True)):
            if kind == "norm":
                pairs = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
                new = {name: layer[theirs] for name, theirs in pairs.items()} | {
                    "running_var": layer["moving_variance"]
                }
            else:
                kernel = layer["kernel"]
                new = {"weight": kernel.T if kind == "dense" else kernel.permute(3, 2, 0, 1), "bias": layer["bias"]}
            for name, value in new.items():
                target = getattr(module, name)
                if target.shape != value.shape:
                    raise InputError(
                        f"{path} is not of the official network: the {name} of {kind} {i + 1} in its {role} has the "
                        f"shape {tuple(value.shape)}, expected {tuple(target.shape)}."
                    )
                if not value.isfinite().all():
                    raise InputError(
                        f"the {name} of {kind} {i + 1} in the {role} of {path} is not finite: the file is damaged, or "
                        "its training diverged."
                    )
                target.data.copy_(value)


def _read(path: Path) -> list[Group]:
    """The nested models of a file or checkpoint."""
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if Path(f"{prefix}.index").exists():
        return _read_checkpoint(prefix)
    if not path.is_file():
        raise InputError(f"{path} is no file; pass an .h5 file, or a checkpoint's name without its .index.")
    return _read_h5(path)


def _read_h5(path: Path) -> list[Group]:
    try:
        import h5py
    except ImportError as error:
        raise InputError("an .h5 file needs the package h5py: pip install 'splitvae[keras]'.") from error
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)  # of a whole model that was saved
            nested = []
            for name in root.attrs.get("layer_names", ()):
                stored = root[_text(name)]
                layers: dict[str, dict[str, np.ndarray]] = {}
                for weight in map(_text, stored.attrs["weight_names"]):
                    layer, _, part = weight.removesuffix(":0").rpartition("/")
                    layers.setdefault(layer, {})[part] = stored[weight][:]
                nested.append(layers)
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:  # h5py has no error of its own
        raise InputError(f"{path} is no .h5 file with weights of Keras 2, or a damaged one.") from error
    return [_group(layers, path) for layers in nested]


def _read_checkpoint(prefix: Path) -> list[Group]:
    try:
        from tensorflow.train import load_checkpoint
    except ImportError as error:
        raise InputError("a checkpoint needs TensorFlow; install it, or save the weights as .h5 there.") from error
    try:
        reader = load_checkpoint(str(prefix))
        names = reader.get_variable_to_shape_map()
    except Exception as error:  # TensorFlow has its own
        raise InputError(f"{prefix} cannot be read as a checkpoint; copy all of its files anew.") from error
    nested: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for name in names:
        # The first nested model, its tenth layer; what else there is, such as an optimiser's, has other names.
        if found := re.fullmatch(r"layer_with_weights-(\d+)/layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/.*", name):
            layers = nested.setdefault(int(found[1]), {})
            layers.setdefault(int(found[2]), {})[found[3]] = reader.get_tensor(name)
    return [_group({str(i): layers[i] for i in sorted(layers)}, prefix) for _, layers in sorted(nested.items())]


def _group(layers: dict[str, dict[str, np.ndarray]], path: Path) -> Group:
    """Layers in the order of the data, by kind, which the names and dimensions of their weights tell."""
    group: Group = {"convolution": [], "dense": [], "norm": []}
    for name, weights in layers.items():
        dimensions = getattr(weights.get("kernel"), "ndim", None)
        kind: Kind | None = {2: "dense", 4: "convolution", None: "norm"}.get(dimensions)  # type: ignore[assignment]
        if set(weights) not in PARTS or kind is None:
            raise InputError(f"{path} is not of the official network: it has a layer {name} with {sorted(weights)}.")
        group[kind].append({part: torch.from_numpy(np.asarray(value)) for part, value in weights.items()})
    return group


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
