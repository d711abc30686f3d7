"""Promises about data: every kind of picture, every kind of source, one cache, no loss."""

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED, pixels
from PIL import Image

from splitvae import InputError, SplitVAEError, prepare, train
from splitvae.config import TrainConfig
from splitvae.data import cache as cache_module
from splitvae.data.decode import CELEBA_BOX, Header, Transform, choose_transform, decode
from splitvae.data.loader import ImageLoader
from splitvae.doctor.originals import look_at_originals


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


# Pictures


def test_every_mode_becomes_grey_or_rgb_without_loss(tmp_path: Path):
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    grey, colour = Transform(1, (16, 16)), Transform(3, (16, 16))
    expected = np.repeat(ramp[None], 3, 0)

    deep = Image.fromarray(ramp.astype(np.uint16) * 257)  # 16 bits: convert("L") would clip nearly all to white
    assert np.array_equal(decode(save(tmp_path / "deep.png", deep), grey)[0], ramp)
    assert np.array_equal(decode(save(tmp_path / "grey.png", Image.fromarray(ramp)), colour), expected)
    palette = Image.fromarray(ramp).convert("P")
    assert np.array_equal(decode(save(tmp_path / "palette.gif", palette), colour), expected)
    cmyk = Image.fromarray(expected.transpose(1, 2, 0)).convert("CMYK")
    assert decode(save(tmp_path / "cmyk.tif", cmyk), colour).shape == (3, 16, 16)
    assert decode(save(tmp_path / "bits.png", Image.fromarray(ramp > 99)), grey).max() == 255

    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, 8:] = (10, 20, 30, 255)  # the left half is transparent black
    shown = decode(save(tmp_path / "alpha.png", Image.fromarray(rgba)), colour)
    assert (shown[:, :, 0] == 255).all()
    assert shown[:, 0, 15].tolist() == [10, 20, 30]


def test_the_cameras_rotation_is_applied(tmp_path: Path):
    image = Image.fromarray(pixels(1, height=10, width=20)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = save(tmp_path / "turned.png", image, exif=exif)
    assert decode(path, Transform(3, (20, 10))).shape == (3, 20, 10)
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert np.array_equal(decode(path, Transform(3, (20, 10))), expected)


def test_mnist_is_padded_by_2_and_celeba_originals_get_the_papers_crop():
    digit = np.arange(784, dtype=np.uint8).reshape(28, 28)
    transform = choose_transform([Header((28, 28), "L")], (32, 32), "auto", "crop")
    padded = decode(digit, transform)
    assert np.array_equal(padded[0, 2:-2, 2:-2], digit)
    assert padded[0, :2].max() == padded[0, :, -2:].max() == 0

    face = pixels(1, height=218, width=178)[0]
    transform = choose_transform([Header((178, 218), "RGB")], (64, 64), "auto", "crop")
    assert transform.crop == CELEBA_BOX
    crop = Image.fromarray(face[45:173, 25:153]).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(decode(face, transform), np.asarray(crop).transpose(2, 0, 1))
    assert choose_transform([Header((178, 218), "RGB")], (64, 64), "none", "crop").crop is None
    with pytest.raises(InputError, match="but one is 10×10; pass --crop none"):
        choose_transform([Header((178, 218), "RGB"), Header((10, 10), "RGB")], None, "celeba", "crop")


def test_other_shapes_are_cut_in_the_centre_or_stretched():
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255
    assert decode(wide, Transform(3, (16, 16))).min() == 255
    assert decode(wide, Transform(3, (16, 16), fit="stretch")).min() == 0


# Sources


def test_a_folder_of_mixed_pictures_is_resized_and_its_text_files_are_skipped_by_name(tmp_path: Path):
    for i, (mode, size) in enumerate([("RGB", (40, 20)), ("L", (16, 30)), ("RGBA", (33, 33)), ("P", (8, 90))] * 6):
        save(tmp_path / "mixed" / f"{i}.png", Image.fromarray(pixels(1, 90, 90, seed=i)[0]).resize(size).convert(mode))
    (tmp_path / "mixed" / "notes.txt").write_text("not a picture")
    cache = prepare(tmp_path / "mixed", (24, 32))
    assert cache.images.shape == (24, 3, 24, 32)
    assert cache.meta["not_images"] == {"count": 1, "first": ["notes.txt"]}
    assert prepare(tmp_path / "mixed").shape == (3, 64, 64)  # mixed sizes, none asked for


def test_all_grey_folders_have_one_channel_and_keep_a_common_size(tmp_path: Path):
    for i in range(12):
        save(tmp_path / "grey" / f"{i}.png", Image.fromarray(pixels(1, 20, 24, 1, seed=i)[0, ..., 0]))
    assert prepare(tmp_path / "grey").shape == (1, 20, 24)


def test_train_and_test_folders_and_class_folders_are_understood(tmp_path: Path):
    images = pixels(12)
    for i, image in enumerate(images):
        split = "train" if i < 9 else "test"
        save(tmp_path / "sets" / split / f"class{i % 3}" / f"{i}.png", Image.fromarray(image))
    cache = prepare(tmp_path / "sets")
    assert [len(cache.splits[s]) for s in ("train", "test")] == [9, 3]
    assert cache.labels is not None
    assert sorted(cache.labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert cache.names is not None
    assert cache.names[0] == "class0/0.png"


def test_other_names_of_train_and_test_are_understood_and_a_lone_test_folder_is_not_trained_on(tmp_path: Path):
    for i, split in enumerate(("Training", "Testing")):
        for j in range(4):
            save(tmp_path / "both" / split / f"{j}.png", Image.fromarray(pixels(1, seed=10 * i + j)[0]))
    cache = prepare(tmp_path / "both")
    assert cache.meta["test_split"] == "of the source"
    assert [len(cache.splits[split]) for split in ("train", "test")] == [4, 4]
    assert look_at_originals(tmp_path / "both", cache).unused == 0
    save(tmp_path / "lone" / "1.png", Image.fromarray(pixels(1)[0]))
    (tmp_path / "both" / "Testing").rename(tmp_path / "lone" / "test")
    with pytest.raises(InputError, match=r"apart from them, a folder test; put the others into .*train"):
        prepare(tmp_path / "lone")


@pytest.mark.parametrize("classes", ["Bus Car Train", "running training walking", "invalid valid", "cat dog test"])
def test_classes_may_be_called_like_splits(classes: str, tmp_path: Path):
    for i, name in enumerate(classes.split()):
        for j in range(4):
            save(tmp_path / "classes" / name / f"{j}.png", Image.fromarray(pixels(1, seed=10 * i + j)[0]))
    cache = prepare(tmp_path / "classes")
    count = len(classes.split())
    assert len(cache.images) == 4 * count
    assert sorted(set(cache.labels.tolist())) == list(range(count))


def test_digits_are_scikit_learns_whatever_lies_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "digits" / "mine.png", Image.fromarray(pixels(1)[0]))
    assert len(prepare("digits").images) == 1797
    assert len(prepare("./digits").images) == 1


def test_labels_of_one_split_alone_are_refused(tmp_path: Path):
    images = pixels(6)
    np.savez(tmp_path / "half.npz", train=images[:4], test=images[4:], train_labels=np.arange(4))
    with pytest.raises(InputError, match="has labels of train and none of the other split"):
        prepare(tmp_path / "half.npz")


@pytest.mark.parametrize("damage", ["truncated", "removed", "no meta", "no json"])
def test_a_damaged_cache_is_made_again(damage: str, folder: Path):
    cache = prepare(folder)
    before, images = np.array(cache.images), cache.path / "images.npy"
    if damage == "truncated":
        images.write_bytes(images.read_bytes()[:200])
    elif damage == "removed":
        images.unlink()
    elif damage == "no meta":
        (cache.path / "meta.json").unlink()
    else:
        (cache.path / "meta.json").write_text("{")
    assert np.array_equal(prepare(folder).images, before)
    assert not [path for path in cache.path.parent.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_a_cache_that_cannot_be_read_just_now_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch):
    cache = prepare(folder)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
        patch.setattr(
            np, "load", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        )
        prepare(folder)
    assert (cache.path / "images.npy").exists()


def test_a_class_has_the_same_number_in_train_and_test(tmp_path: Path):
    for split, names in (("train", "cat dog owl"), ("test", "dog owl")):
        for i, name in enumerate(names.split()):
            save(tmp_path / "sets" / split / name / "1.png", Image.fromarray(pixels(1, seed=i + len(names))[0]))
    labels = prepare(tmp_path / "sets").labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 1, 2]
    (tmp_path / "empty" / "train").mkdir(parents=True)
    save(tmp_path / "empty" / "test" / "1.png", Image.fromarray(pixels(1)[0]))
    with pytest.raises(InputError, match="its folder train holds no images"):
        prepare(tmp_path / "empty")


def test_held_out_images_depend_on_pixels_alone_and_copies_stay_together(tmp_path: Path):
    images = pixels(60)
    images[30] = images[3]

    def held_out(order: np.ndarray) -> set[bytes]:
        path = tmp_path / f"{order[0]}.npz"
        np.savez(path, train=images[order])
        cache = prepare(path)
        assert set(cache.splits["train"]).isdisjoint(cache.splits["test"])
        test = {cache.images[i].tobytes() for i in cache.splits["test"]}
        assert test.isdisjoint(cache.images[i].tobytes() for i in cache.splits["train"])
        return test

    order = np.arange(60)
    assert held_out(order) == held_out(order[::-1])
    assert 6 <= len(held_out(order)) <= 7


def test_an_npz_may_hold_uint8_or_floats_with_channels_first_or_last(tmp_path: Path):
    images = pixels(10)
    for i, array in enumerate([images, images.transpose(0, 3, 1, 2), images / 255.0, images[..., 0]]):
        np.savez(tmp_path / f"{i}.npz", train=array, test=array[:2])
        cache = prepare(tmp_path / f"{i}.npz")
        expected = images[..., :1] if i == 3 else images
        assert np.array_equal(cache.images[:10], expected.transpose(0, 3, 1, 2))


def test_a_single_array_is_taken_whatever_its_name(tmp_path: Path):
    images = pixels(20)
    np.savez(tmp_path / "samples.npz", x_hat=images)
    cache = prepare(tmp_path / "samples.npz")
    assert sorted(map(bytes, cache.images)) == sorted(map(bytes, images.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train": np.full((4, 16, 16), np.nan)}, "NaN"),
        ({"train": np.full((4, 16, 16), 1.5)}, r"ranges from 1.5 to 1.5; floats must lie in \[0, 1\]"),
        ({"train": np.zeros((16, 16), np.uint8)}, r"has the shape \(16, 16\)"),
        ({"train": np.zeros((4, 16, 16, 4), np.uint8)}, "axes 1 and 3"),
        ({"train": np.zeros((0, 16, 16), np.uint8)}, "no images"),
        ({"train": np.zeros((4, 16, 16), np.int64)}, "of type int64"),
        (dict.fromkeys(("a", "b"), np.zeros((4, 16, 16), np.uint8)), "no array named train; it has a, b"),
        ({"test": np.zeros((4, 16, 16), np.uint8)}, "no array named train; it has test"),
        ({"train": np.zeros((4, 16, 16), np.uint8), "train_labels": np.zeros(3)}, "train_labels has the shape"),
        ({"train": np.zeros((4, 5, 5), np.uint8)}, "sides must be at least 8"),
        ({"train": np.zeros((4, 16, 16), np.uint8), "train_labels": np.zeros(4)}, "labels must be integers or words"),
        ({"train": np.array([{"a": 1}], dtype=object)}, "not a readable .npz: Object arrays"),
    ],
)
def test_bad_arrays_get_one_clear_line(arrays, words, tmp_path: Path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words) as caught:
        prepare(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "words"), [(1, "1 image .* at least 2 are needed"), (9, r"9 images \(1 different\)")])
def test_too_little_to_train_on_is_refused_by_training_only(n: int, words: str, tmp_path: Path):
    np.savez(tmp_path / "few.npz", train=np.zeros((n, 16, 16), np.uint8))
    assert len(prepare(tmp_path / "few.npz").images) == n
    with pytest.raises(InputError, match=words):
        train(data=str(tmp_path / "few.npz"), out=tmp_path / "run")


def test_bad_folders_get_one_clear_line(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        prepare(tmp_path / "empty")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"1 files, none of them an image \(the first: a.txt\)"):
        prepare(tmp_path / "texts")
    with pytest.raises(InputError, match="does not exist"):
        prepare(tmp_path / "nowhere")
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros((4, 16, 16), np.uint8))
    with pytest.raises(InputError, match="holds one array, not several by name"):
        prepare(tmp_path / "array.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        prepare(tmp_path / "broken.npz")
    with pytest.raises(InputError, match="is a file"):
        prepare(tmp_path / "texts" / "a.txt")

    # A truncated JPEG, a text file with a picture's name, and a bomb: refused by name, or skipped when asked to.
    whole = save(tmp_path / "whole.jpg", Image.fromarray(pixels(1, 64, 64)[0])).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(InputError, match=r"1 of 25 images cannot be decoded, the first: cut.jpg \(damaged"):
        prepare(folder)
    (folder / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text.png \(not an image"):
        prepare(folder)
    png = save(tmp_path / "whole.png", Image.fromarray(pixels(1, 64, 64)[0])).read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) * 3 // 4])
    cache = prepare(folder, skip_damaged=True)
    assert len(cache.images) == 24
    assert cache.meta["damaged"]["count"] == 3
    assert any(line.startswith("cut.png (damaged") for line in cache.meta["damaged"]["first"])
    (folder / "cut.png").unlink()
    monkeypatch.setattr("splitvae.data.decode.MAX_PIXELS", 15 * 15)
    (folder / "cut.jpg").unlink()
    (folder / "text.png").unlink()
    with pytest.raises(InputError, match="decompression bomb of 20×16 pixels"):
        prepare(folder, fit="stretch")


def test_a_real_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    bomb = Image.new("1", (30_000, 10_000))
    save(tmp_path / "bombs" / "bomb.png", bomb)
    with pytest.raises(InputError, match="decompression bomb"):
        prepare(tmp_path / "bombs")


def test_an_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    real = Image.open

    def refuse(item: object, *arguments: object, **options: object) -> Image.Image:
        if getattr(item, "name", "") == "07.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(item, *arguments, **options)

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"1 of 24 images cannot be read, the first: 07.png \(Permission denied\)"):
        prepare(folder)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "full"))

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_decode_all", full)
        with pytest.raises(SplitVAEError, match=r"No space left on device\. Set SPLITVAE_CACHE"):
            prepare(folder)
    assert not [path for path in (tmp_path / "full").iterdir() if path.is_dir()]
    assert len(prepare(folder).images) == 24


def test_more_than_the_disk_holds_is_refused_before_anything_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=900_000))
    with pytest.raises(InputError, match=r"needs 0\.0 GB, and .* pass a smaller --image-size"):
        prepare(folder, (80, 80))
    assert prepare(folder, (8, 8)).shape[1:] == (8, 8)


def test_the_hub_out_of_reach_says_how_to_pass_a_local_copy():
    with pytest.raises(SplitVAEError, match="name a local copy"):
        prepare("ylecun/mnist")


# Cache


def test_a_source_is_decoded_once_and_again_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = prepare(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_write", lambda *_: pytest.fail("decoded twice"))
        assert prepare(folder).path == first.path
    Image.fromarray(pixels(1, 16, 20, seed=9)[0]).save(folder / "00.png")
    assert prepare(folder).meta["content_hash"] != first.meta["content_hash"]
    assert prepare(folder, (8, 8)).path != first.path
    assert prepare(folder, channels=1).shape == (1, 16, 20)
    moved = folder.rename(folder.with_name("moved"))
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_write", lambda *_: pytest.fail("decoded twice"))
        prepare(moved, (8, 8))


def test_threads_and_processes_may_ask_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "shared-cache"))
    code = f"from splitvae import prepare; print(prepare({str(folder)!r}).meta['content_hash'])"
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda _: subprocess.check_output([sys.executable, "-c", code]), range(2)))
    assert outputs[0] == outputs[1] != b""
    assert len([path for path in (tmp_path / "shared-cache").iterdir() if path.is_dir()]) == 1


def test_a_size_is_a_side_or_both_in_every_place(tmp_path: Path):
    np.savez(tmp_path / "data.npz", train=pixels(4))
    assert prepare(tmp_path / "data.npz", 8).path == prepare(tmp_path / "data.npz", (8, 8)).path
    assert TrainConfig().with_changes({"image_size": (8, 12)}).parsed_size() == (8, 12)


def test_parquet_shards_load_as_from_the_hub(tmp_path: Path):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = pixels(20)
    for split, part in (("train", slice(0, 16)), ("test", slice(16, 20))):
        rows = {"img": [Image.fromarray(i) for i in images[part]], "label": [0, 1] * (len(images[part]) // 2)}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    cache = prepare(tmp_path)
    assert np.array_equal(cache.images, images.transpose(0, 3, 1, 2))
    assert [len(cache.splits[s]) for s in ("train", "test")] == [16, 4]
    assert cache.labels is not None
    assert cache.labels[:4].tolist() == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the real data sets lie beside the checkout, in ../shared")
@pytest.mark.parametrize(
    ("name", "size", "shape", "counts"),
    [
        ("mnist", (32, 32), (1, 32, 32), (60_000, 10_000)),
        ("celeba64", (64, 64), (3, 64, 64), (37_540, 4_640)),
    ],
)
def test_real_data_sets_have_their_counts(name, size, shape, counts):
    cache = prepare(SHARED / "data" / name, size)
    assert cache.shape == shape
    assert (len(cache.splits["train"]), len(cache.splits["test"])) == counts


# Loader


def test_order_depends_on_seed_and_epoch_only_and_covers_every_image(npz: Path):
    cache = prepare(npz)
    loader = ImageLoader(cache, "train", 8, seed=3)
    epoch = torch.cat([loader.batch(2, i) for i in range(loader.steps_per_epoch)])
    assert loader.steps_per_epoch == 6
    assert len(torch.unique(epoch.flatten(1), dim=0)) == 48
    again = ImageLoader(cache, "train", 8, seed=3)
    again.batch(0, 1)
    assert torch.equal(again.batch(2, 4), loader.batch(2, 4))
    assert not torch.equal(ImageLoader(cache, "train", 8, seed=4).batch(2, 4), loader.batch(2, 4))
    parts = [loader.batch(2, 4, slice(i, i + 2)) for i in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), loader.batch(2, 4))


def test_an_epoch_may_show_some_images_more_often(npz: Path):
    cache = prepare(npz)
    often = cache.splits["train"][:4]
    loader = ImageLoader(cache, "train", 6, seed=3, again=np.tile(often, 2))
    assert loader.steps_per_epoch == (48 + 8) // 6
    shown = np.concatenate([(loader.batch(1, i) * 255).round().numpy() for i in range(loader.steps_per_epoch)])
    counts = [sum(np.array_equal(image, cache.images[row]) for image in shown) for row in (*often, *range(10, 20))]
    assert sum(counts[:4]) >= 10  # of 12, two images of the last partial batch are dropped
    assert max(counts[4:]) == 1


def test_flips_mirror_about_half_of_the_images(npz: Path):
    cache = prepare(npz)
    plain = ImageLoader(cache, "train", 48, seed=0).batch(0, 0)
    flipped = ImageLoader(cache, "train", 48, seed=0, flip=True).batch(0, 0)
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(3) == flipped).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 10 < int(mirrored.sum()) < 38


def test_batches_are_floats_in_the_unit_interval(npz: Path):
    cache = prepare(npz)
    x = ImageLoader(cache, "test", 4, seed=0).fixed(100)
    assert x.shape == (12, 3, 16, 16)
    assert x.dtype == torch.float32
    assert {(i * 255).round().byte().numpy().tobytes() for i in x} == {i.tobytes() for i in cache.images[48:]}


def test_meta_tells_what_was_done(folder: Path):
    meta = json.loads((prepare(folder, (8, 8)).path / "meta.json").read_text())
    assert meta["shape"] == [3, 8, 8]
    assert meta["counts"] == {"total": 24, "train": 22, "test": 2}
    assert meta["transform"]["resize"] == "Pillow bilinear, antialiased"
    assert meta["original_sizes"] == [[20, 16]]
