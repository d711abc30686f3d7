"""Models on disk: ``config.json`` (class, format version, arguments) and ``model.safetensors``; nothing is pickled."""

from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from splitvae.config import without_retired
from splitvae.errors import InputError, SplitVAEError
from splitvae.files import read_json, replacing, write_json
from splitvae.run import is_run

FORMAT_VERSION = 2  # 1 had no field for the network


class Pretrained:
    """Gives a module ``save_pretrained`` and ``from_pretrained``; the module keeps its arguments in ``config``."""

    config: dict[str, Any]

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into the directory ``path``, beside the old and renamed.

        Raises:
            InputError: ``path`` holds a run, whose record has the same name as the model's.
            SplitVAEError: the files cannot be written; what was there before is untouched.
        """
        assert isinstance(self, nn.Module)
        path = Path(path).expanduser()
        if is_run(path):
            raise InputError(f"{path} is a run, whose model is in {path / 'model'}; choose another directory.")
        write_tensors(path / "model.safetensors", self.state_dict())
        header = {"class": type(self).__name__, "format_version": FORMAT_VERSION}
        write_json(path / "config.json", header | self.config)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load a model in evaluation mode.

        Args:
            path: a directory that holds ``config.json`` and ``model.safetensors``, a run with a ``model/``
                directory, or a repository on the Hugging Face hub ("user/name").

        Raises:
            InputError: another class, an unknown key, another format version, a truncated or foreign file.
        """
        directory = _locate(path)
        where = directory / "config.json"
        config = _read_header(where)
        name, version = config.pop("class", None), config.pop("format_version", None)
        if name != cls.__name__:
            raise InputError(f"{where} holds a {name}, not a {cls.__name__}; use splitvae.load_model for either.")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{where} has format version {version}, this splitvae reads {FORMAT_VERSION}; use the version that "
                "wrote it, or train again."
            )
        try:
            model = cls(**without_retired(config))
        except (InputError, TypeError) as error:
            raise InputError(f"{where} does not describe a {name} of this splitvae: {error}") from error
        assert isinstance(model, nn.Module)
        load_strictly(model, read_tensors(directory / "model.safetensors"), directory / "model.safetensors")
        return model.eval()


def load_model(path: str | Path) -> Any:
    """Load whichever model class is saved at ``path`` (a directory, a run, or a hub name), in evaluation mode."""
    from splitvae.models.rae import RAE
    from splitvae.models.vae import VAE, SplitVAE

    directory = _locate(path)
    name = _read_header(directory / "config.json").get("class")
    classes: dict[str, Any] = {"SplitVAE": SplitVAE, "VAE": VAE, "RAE": RAE}
    if name not in classes:
        raise InputError(
            f"{directory / 'config.json'} names the class '{name}'; this splitvae knows {', '.join(classes)}."
        )
    return classes[name].from_pretrained(directory)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically; tensors that share memory or are not contiguous are copied."""
    with replacing(path) as temporary:
        try:
            own = {name: value.detach().contiguous().cpu().clone() for name, value in tensors.items()}
            save_file(own, temporary, metadata)
        except SafetensorError as error:  # the Rust writer reports a full disk as its own error
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else f"truncated or foreign ({error})"
        raise InputError(f"cannot read the weights in {path}: {reason}. Copy the file anew.") from error


def load_strictly(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load ``tensors`` into ``model``; every name and shape must agree."""
    expected = model.state_dict()
    wrong = [f"'{name}' is missing" for name in expected.keys() - tensors.keys()]
    wrong += [f"'{name}' is unknown" for name in tensors.keys() - expected.keys()]
    wrong += [
        f"'{name}' has the shape {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{where} does not fit the model that its config.json describes: {min(wrong)}{more}.")
    model.load_state_dict(tensors)


def _read_header(where: Path) -> dict[str, Any]:
    """A model's ``config.json``."""
    header = read_json(where, "not a saved model")
    if not isinstance(header, dict):
        raise InputError(f"{where} describes no model; copy the file anew.")
    return header


def _locate(path: str | Path) -> Path:
    """The directory that holds the model: ``path`` itself, a run's ``model/``, or a download from the hub."""
    directory = Path(path).expanduser()
    if (directory / "model" / "config.json").exists():
        return directory / "model"
    if directory.exists():
        if not (directory / "config.json").exists():
            raise InputError(f"{directory} holds no model: there is no config.json in it or in its model/ folder.")
        if "preset" in _read_header(directory / "config.json"):  # a run's own record
            raise InputError(f"{directory} has no model yet; go on with: splitvae train --resume {directory}")
        return directory
    if str(path).count("/") != 1 or str(path).startswith((".", "~", "/")):
        raise InputError(f"{path} does not exist.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(path), allow_patterns=["config.json", "model.safetensors"]))
    except HFValidationError as error:
        raise InputError(f"{path} neither exists here nor is a name on the hub.") from error
    except Exception as error:  # the hub raises its own, httpx's and OS errors alike
        raise SplitVAEError(
            f"{path} does not exist here and could not be fetched from the hub ({type(error).__name__}); "
            "pass a directory with config.json and model.safetensors, or set HF_TOKEN if it is private."
        ) from error
