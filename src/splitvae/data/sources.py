"""Where pictures come from: scikit-learn's digits, a directory of parquet shards, a folder, an .npz, the hub.

Each source answers three questions: what identifies it cheaply, which splits it has, and what its i-th picture is.
Nothing is decoded here.
"""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from splitvae.errors import InputError, SplitVAEError

PICTURE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2",
}  # fmt: skip
EMBEDDED = "digits"  # comes with scikit-learn
TEST_NAMES = ("test", "validation", "valid", "val")  # the first that exists is the test split
SPLIT_NAMES = ("train", *TEST_NAMES)
COLUMN_RULE = 2  # of ``_image_column``: what was prepared by another rule may be other pictures
MASK_WORDS = ("mask", "annotation", "segment", "label", "alpha", "depth")  # in names of columns beside the images


@dataclass(frozen=True)
class Split:
    """Pictures in order. ``items[i]`` is a path, encoded bytes, or a (H, W) or (H, W, 3) uint8 array."""

    items: Sequence[Any] | np.ndarray
    names: Sequence[str] | None = None
    labels: np.ndarray | None = None  # (N,) int64


@dataclass(frozen=True)
class Source:
    """A set of pictures.

    Attributes:
        name: what the person wrote.
        identity: found cheaply, before anything is read: (relative paths, sizes, times) or a hub name.
        load: reads the splits: "train" always, "test" where the source has one.
        skipped: files that are not pictures.
        column: reads the pictures of another column, such as masks: encoded, None where a row has none, one sequence
            for each split in the order of ``load``; None = the source has no columns.
    """

    name: str
    identity: Any
    load: Callable[[], dict[str, Split]] = field(repr=False)
    skipped: Sequence[str] = ()
    column: Callable[[str], list[Sequence[Any]]] | None = field(default=None, repr=False)


def find_source(name: str) -> Source:
    """Turn what a person wrote into a source: "digits" (a folder of that name is ./digits), a path, a hub name."""
    if name == EMBEDDED:
        return Source(name, "scikit-learn digits", _read_digits)
    path = Path(name).expanduser()
    if path.is_dir():
        return _parquet(name, path) if list(path.glob("train-*.parquet")) else _folder(name, path)
    if path.exists():
        if path.suffix == ".npz":
            return Source(name, _stat(path, path.parent), lambda: _read_npz(path))
        raise InputError(f"{name} is a file; a source is a folder of images, of parquet shards, or an .npz.")
    if name.endswith(".npz") or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise InputError(f"{name} does not exist.")
    return _tabular(name, f"hub:{name}", lambda: _open_hub(name))


def _stat(path: Path, root: Path) -> list:
    status = path.stat()
    return [path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns]


def _read_digits() -> dict[str, Split]:
    """1,797 handwritten digits of 8×8 in 17 grey levels, scaled to 0…255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return {"train": Split(images, labels=digits.target.astype(np.int64))}


def _parquet(name: str, path: Path) -> Source:
    files = sorted(path.glob("*.parquet"))
    identity = [_stat(file, path) for file in files]
    shards = {split: [str(file) for file in files if file.name.startswith(f"{split}-")] for split in SPLIT_NAMES}

    def open_shards() -> Any:
        datasets = _quiet_datasets()
        try:
            return datasets.load_dataset("parquet", data_files={k: v for k, v in shards.items() if v})
        except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
            raise InputError(f"{name}: cannot read its parquet shards: {error.__cause__ or error}") from error

    return _tabular(name, identity, open_shards)


def _tabular(name: str, identity: Any, open_data: Callable[[], Any]) -> Source:
    """A source of rows and columns: ``open_data`` gives a ``datasets.DatasetDict``."""
    return Source(
        name,
        [COLUMN_RULE, identity],
        load=lambda: _from_dataset(name, open_data()),
        column=lambda column: _column_of(name, open_data(), column),
    )


def _quiet_datasets() -> Any:
    """The ``datasets`` library without bars and retry notices: progress and errors are told in our own words."""
    import datasets
    from huggingface_hub.utils import logging

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.set_verbosity_error()
    return datasets


def _open_hub(name: str) -> Any:
    """The hub's ``datasets.DatasetDict`` of that name."""
    datasets = _quiet_datasets()
    from huggingface_hub.errors import HFValidationError

    try:
        return datasets.load_dataset(name, download_config=datasets.DownloadConfig(max_retries=1))
    except (HFValidationError, datasets.exceptions.DatasetNotFoundError) as error:
        raise InputError(f"{name} is neither an existing path nor a data set on the hub; name a local copy.") from error
    except (ConnectionError, TimeoutError) as error:
        raise SplitVAEError(
            f"{name} is no existing path, and the hub could not be reached ({type(error).__name__}); "
            "name a local copy (parquet shards, a folder of images, or an .npz)."
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SplitVAEError(
            f"{name} could not be loaded from the hub ({(str(error).splitlines() or ['?'])[0][:150]}); "
            "name a local copy (parquet shards, a folder of images, or an .npz)."
        ) from error


class _EncodedColumn(Sequence):
    """The encoded bytes of a data set's image column."""

    def __init__(self, rows: Any, column: str) -> None:
        self.rows, self.column = rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):  # one read of the Arrow table for many rows
            return [_content(row) for row in self.rows[index][self.column]]
        return _content(self.rows[index][self.column])


def _content(row: dict | None) -> bytes | Path | None:
    """Encoded bytes, or the path of the file that holds them; None where the row has no picture."""
    if row is None or (row["bytes"] is None and row["path"] is None):
        return None
    return row["bytes"] if row["bytes"] is not None else Path(row["path"])


def _from_dataset(name: str, data: Any) -> dict[str, Split]:
    """Splits of a ``datasets.DatasetDict``: its image column, and its class labels where it has some."""
    import datasets

    chosen = _splits_of(name, data)
    features = data["train"].features
    images = _image_columns(features)
    if not images:
        raise InputError(f"{name} has no column of images; its columns are {', '.join(features)}.")
    image = _image_column(images)
    label = next((c for c, f in features.items() if isinstance(f, datasets.ClassLabel) or c == "label"), None)

    columns = {} if label is None else {split: data[original][label][:] for split, original in chosen.items()}
    labels = _numbered(columns)
    splits = {}
    for split, original in chosen.items():
        splits[split] = Split(_encoded(data[original], image), labels=labels.get(split))
    return splits


def _splits_of(name: str, data: Any) -> dict[str, str]:
    """Our names of the splits → those of a ``datasets.DatasetDict``."""
    if "train" not in data:
        raise InputError(f"{name} has no split named train; it has {', '.join(data)}.")
    test = next((name for name in TEST_NAMES if name in data), None)
    return {"train": "train"} if test is None else {"train": "train", "test": test}


def _image_column(columns: list[str]) -> str:
    """Of several columns of pictures the one that is called so, else the first that is not called a mask."""
    called = [column for column in ("image", "img", "photo", "picture") if column in columns]
    others = [column for column in columns if not any(word in column.lower() for word in MASK_WORDS)]
    return [*called, *others, *columns][0]


def _image_columns(features: Any) -> list[str]:
    import datasets

    return [c for c, f in features.items() if isinstance(f, datasets.Image) or _holds_bytes(f)]


def _encoded(rows: Any, column: str) -> _EncodedColumn:
    import datasets

    return _EncodedColumn(rows.cast_column(column, datasets.Image(decode=False)).select_columns([column]), column)


def _column_of(name: str, data: Any, column: str) -> list[Sequence[Any]]:
    """See ``Source.column``.

    Raises:
        InputError: no such column, or not one of pictures.
    """
    splits = _splits_of(name, data).values()
    known = _image_columns(data["train"].features)
    if column not in known:
        held = f"its columns of pictures are {', '.join(known)}" if known else "it has no column of pictures"
        raise InputError(f"{name} has no column {column} of pictures; {held}.")
    if column == _image_column(known):
        raise InputError(f"{name}'s column {column} is what is taken for the images; call those 'image'.")
    return [_encoded(data[split], column) for split in splits]


def _numbered(columns: dict[str, Any]) -> dict[str, np.ndarray]:
    """Labels as numbers, the same in every split: integers as they are, words by their order; others are left out.

    Words that are all numbers, as the names of class folders 0 … 9, are those numbers.
    """
    arrays = {split: np.asarray(column) for split, column in columns.items()}
    kinds = {array.dtype.kind for array in arrays.values()}
    if kinds <= set("iub"):
        return {split: array.astype(np.int64) for split, array in arrays.items()}
    if kinds != {"U"}:
        return {}
    words = np.unique(np.concatenate(list(arrays.values())))
    if all(word.isdecimal() and len(word) < 10 for word in words.tolist()):
        return {split: array.astype(np.int64) for split, array in arrays.items()}
    return {split: np.searchsorted(words, array).astype(np.int64) for split, array in arrays.items()}


def _holds_bytes(feature: Any) -> bool:
    """Whether a column is images written without the hub's metadata: a struct of bytes and path."""
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _folder(name: str, path: Path) -> Source:
    """A folder of pictures, with or without train/ and test/; sub-folders are classes where all pictures lie in one."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    skipped = [str(file.relative_to(path)) for file in files if file.suffix.lower() not in PICTURE_SUFFIXES]
    if not pictures:
        held = f"{len(skipped)} files, none of them an image (the first: {skipped[0]})" if skipped else "no files"
        raise InputError(f"{name} holds {held}; a source is a folder of images, of parquet shards, or an .npz.")

    roots = _roots(name, path, pictures)

    def load() -> dict[str, Split]:
        mine = {split: [file for file in pictures if file.is_relative_to(root)] for split, root in roots.items()}
        if not mine["train"]:
            raise InputError(f"{name}: its folder {roots['train'].name} holds no images.")
        names = {split: [file.relative_to(roots[split]) for file in files] for split, files in mine.items()}
        classed = all(len(file.parts) == 2 for files in names.values() for file in files)
        labels = _numbered({split: [file.parts[0] for file in files] for split, files in names.items() if classed})
        return {
            split: Split(mine[split], [file.as_posix() for file in files], labels.get(split))
            for split, files in names.items()
            if files
        }

    other_names = [root.name for root in roots.values() if root not in (path, *(path / n for n in SPLIT_NAMES))]
    return Source(name, [_stat(file, path) for file in pictures] + other_names, load, skipped)


def _roots(name: str, path: Path, pictures: list[Path]) -> dict[str, Path]:
    """Split → the folder of its pictures: train/ and test/ where there are such, else everything for training.

    Names of other spellings, as Training/ and Testing/, are splits only where no picture lies beside them: otherwise
    they are classes.
    """
    if (path / "train").is_dir():
        test = next((path / split for split in TEST_NAMES if (path / split).is_dir()), None)
        return {"train": path / "train"} if test is None else {"train": path / "train", "test": test}
    tops = {file.relative_to(path).parts[0] for file in pictures if file.parent != path}
    loose = any(file.parent == path for file in pictures)
    trained = [top for top in tops if top.lower() in ("train", "training")]
    tested = [top for top in tops if top.lower() in (*TEST_NAMES, "testing")]
    if len(trained) == len(tested) == 1 and len(tops) == 2 and not loose:
        return {"train": path / trained[0], "test": path / tested[0]}
    if tested and tops == set(tested) and loose:
        raise InputError(
            f"{name} holds images and, apart from them, a folder {tested[0]}; put the others into {path / 'train'}."
        )
    return {"train": path}


def absolute(source: str) -> str:
    """A source that is found from any directory: an existing path as a whole one, other names as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source != EMBEDDED and path.exists() else source


def _read_npz(path: Path) -> dict[str, Split]:
    """Arrays ``train``, ``test``, ``train_labels``, ``test_labels`` of an .npz; only ``train`` is needed.

    A single array is taken for ``train`` under whatever name: ``x_hat`` of `splitvae sample`, NumPy's ``arr_0``.
    """
    try:
        with open(path, "rb") as raw:
            file = np.load(raw)  # pickled objects stay refused: NumPy's own default
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds one array, not several by name; save it with numpy.savez(train=…).")
            wanted = ("train", "test", "train_labels", "test_labels")
            names, arrays = file.files, {name: file[name] for name in wanted if name in file.files}
            if len(names) == 1 and not arrays:
                names, arrays = ["train"], {"train": file[names[0]]}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a readable .npz: {error}.") from error
    if "train" not in names:
        raise InputError(f"{path} has no array named train; it has {', '.join(sorted(names)) or 'none'}.")
    present: list[str] = [split for split in ("train", "test") if split in names]
    images = {split: _as_uint8(arrays[split], f"{path}: {split}") for split in present}
    given: dict[str, np.ndarray] = {split: arrays[f"{split}_labels"] for split in present if f"{split}_labels" in names}
    for split, column in given.items():
        if column.shape != (len(images[split]),):
            raise InputError(f"{path}: {split}_labels has the shape {column.shape}, expected ({len(images[split])},).")
    if given and given.keys() != images.keys():
        raise InputError(f"{path} has labels of {min(given)} and none of the other split; give both or neither.")
    labels = _numbered(given)
    if given and not labels:
        raise InputError(f"{path}: labels must be integers or words, not {given[min(given)].dtype}.")
    return {split: Split(images[split], labels=labels.get(split)) for split in present}


def _as_uint8(images: np.ndarray, what: str) -> np.ndarray:
    """(N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1] → (N, H, W) or (N, H, W, 3) uint8."""
    if images.ndim == 4:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first == last:
            raise InputError(
                f"{what} has the shape {images.shape}: exactly one of axes 1 and 3 must be 1 or 3 channels."
            )
        images = images.transpose(0, 2, 3, 1) if first else images
        images = images[..., 0] if images.shape[3] == 1 else images
    elif images.ndim != 3:
        raise InputError(f"{what} has the shape {images.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W).")
    if len(images) == 0:
        raise InputError(f"{what} holds no images.")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{what} is of type {images.dtype}; expected uint8, or floats in [0, 1].")
    if not np.isfinite(images).all():
        raise InputError(f"{what} holds NaN or infinite values; remove or repair those images.")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise InputError(f"{what} ranges from {low:g} to {high:g}; floats must lie in [0, 1]: rescale them.")
    return np.rint(images * 255).astype(np.uint8)
