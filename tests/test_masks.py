"""Promises about given masks: how they are read, what they mean, and that a model learns from them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, pixels, tiny_options
from PIL import Image

from splitvae import Decoded, DiagonalGaussian, InputError, Run, SplitVAE, train
from splitvae.config import TrainConfig
from splitvae.data.cache import ImageCache, prepare
from splitvae.data.loader import ImageLoader
from splitvae.data.masks import read_masks
from splitvae.evaluation.mask_iou import iou, iou_of_model, iou_of_run, iou_words
from splitvae.evaluation.verify import verify
from splitvae.models.split_terms import UNKNOWN, SplitTerms
from splitvae.training.batches import Batches


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """100 training and 20 test images, dark on the left and bright on the right; masks say where the dark ends."""
    rng = np.random.default_rng(0)
    ends = rng.integers(4, 13, 120)
    masks = (np.arange(16)[None, None] >= ends[:, None, None]).repeat(16, axis=1)
    images = np.where(masks, 200, 40) + rng.integers(-20, 20, (120, 16, 16))
    path = tmp_path / "halves.npz"
    parts = {"train": images[:100], "test": images[100:], "train_masks": masks[:100], "test_masks": masks[100:]}
    np.savez(path, **{name: part.astype(np.uint8) for name, part in parts.items()})
    return path


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for name, mask in masks.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder


@pytest.fixture
def named(tmp_path: Path) -> ImageCache:
    """Twelve images of 24×24 pixels, by name, prepared at 16×16."""
    for number, image in enumerate(pixels(12, 24, 24)):
        path = tmp_path / "pictures" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return prepare(tmp_path / "pictures", (16, 16))


def test_an_npz_holds_them_in_the_order_of_the_images(halves: Path):
    cache = prepare(halves)
    masks = read_masks(halves, cache, 2)
    assert masks.values == [0, 1]
    given = np.load(halves)
    np.testing.assert_array_equal(masks.components(cache.splits["train"]), given["train_masks"])
    np.testing.assert_array_equal(masks.components(cache.splits["test"]), given["test_masks"])


def test_files_have_the_names_of_images_which_may_have_none(named: ImageCache, tmp_path: Path):
    black_and_white = np.zeros((24, 24), np.uint8)
    black_and_white[:, 12:] = 255
    source = write_masks(tmp_path / "masks", {"03.png": black_and_white, "07.png": 255 - black_and_white})
    masks = read_masks(source, named, 2)
    assert masks.values == [0, 255]
    third, seventh, none = masks.components(np.array([named.names.index(f"0{i}.jpg") for i in (3, 7, 0)]))
    assert (third[:, :8] == 0).all()
    assert (third[:, 8:] == 1).all()
    assert (seventh[:, :8] == 1).all()
    assert (none == UNKNOWN).all()
    assert masks.given.sum() == 2


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Parquet shards with a column of masks before that of the images; the third row has no mask."""
    import datasets

    features = datasets.Features({"annotation": datasets.Image(), "image": datasets.Image()})
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, count in (("train", 6), ("test", 2)):
        masks = [np.full((16, 16), 255 * (row % 2), np.uint8) for row in range(count)]
        rows = {
            "annotation": [None if row == 2 else Image.fromarray(mask) for row, mask in enumerate(masks)],
            "image": [Image.fromarray(image) for image in pixels(count)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_column_of_the_data_holds_them(shards: Path):
    cache = prepare(shards)
    assert cache.shape == (3, 16, 16)  # of the images, not of the masks that come before them
    masks = read_masks("annotation", cache, 2)
    assert masks.values == [0, 255]
    assert masks.given.tolist() == [True, True, False, True, True, True, True, True]
    assert masks.components(np.arange(8))[:, 0, 0].tolist() == [0, 1, UNKNOWN, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("annotations", "has no column annotations of pictures; its columns of pictures are annotation, image"),
        ("image", "column image is what is taken for the images; call those 'image'"),
        ("elsewhere/annotation", "elsewhere/annotation does not exist"),
    ],
)
def test_a_column_that_holds_none_is_refused(shards: Path, name: str, told: str):
    with pytest.raises(InputError, match=told):
        read_masks(name, prepare(shards), 2)


def test_a_column_called_image_or_not_called_mask_holds_the_images(tmp_path: Path):
    import datasets

    images, masks = pixels(4), [np.full((16, 16), 255 * (row % 2), np.uint8) for row in range(4)]
    rows = {"mask": [Image.fromarray(mask) for mask in masks], "shot": [Image.fromarray(image) for image in images]}
    features = datasets.Features({"mask": datasets.Image(), "shot": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    cache = prepare(tmp_path)
    assert cache.shape == (3, 16, 16)
    assert read_masks("mask", cache, 2).given.all()


def test_a_row_without_a_picture_is_a_damaged_one(tmp_path: Path):
    import datasets

    rows = {"image": [None if row == 1 else Image.fromarray(image) for row, image in enumerate(pixels(4))]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"1 of 4 images cannot be read, the first: number 1 \(no picture\)"):
        prepare(tmp_path)
    assert len(prepare(tmp_path, skip_damaged=True).images) == 3


def test_a_palette_is_read_as_it_is_seen_where_it_is_grey_and_must_be_one_where_it_has_colours(
    named: ImageCache, tmp_path: Path
):
    black_and_white = np.zeros((24, 24), np.uint8)
    black_and_white[:, 12:] = 255
    (tmp_path / "masks").mkdir()
    for name, mask in (("03", black_and_white), ("07", 255 - black_and_white)):
        of_its_own = Image.fromarray(mask).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        of_its_own.save(tmp_path / "masks" / f"{name}.png")
    masks = read_masks(tmp_path / "masks", named, 2)
    assert masks.values == [0, 255]
    rows = np.array([named.names.index(f"{name}.jpg") for name in ("03", "07")])
    assert masks.components(rows)[:, 0, 0].tolist() == [0, 1]

    (tmp_path / "coloured").mkdir()
    for name, palette in (("03", [0, 0, 0, 200, 0, 0]), ("07", [0, 0, 0, 200, 0, 0]), ("08", [0, 0, 200, 200, 0, 0])):
        mask = Image.fromarray((black_and_white > 0).astype(np.uint8), mode="P")
        mask.putpalette(palette)
        mask.save(tmp_path / "coloured" / f"{name}.png")
    with pytest.raises(InputError, match=r"08.png: its palette has another colour for 0 than a mask before"):
        read_masks(tmp_path / "coloured", named, 2)
    background = Image.fromarray(np.zeros((24, 24), np.uint8), mode="P")
    background.putpalette([0, 0, 0])  # as a program writes a mask where the thing is not
    background.save(tmp_path / "coloured" / "08.png")
    with pytest.raises(InputError, match=r"08.png: its palette is of greys or of colours, a mask's before it is not"):
        read_masks(tmp_path / "coloured", named, 2)
    (tmp_path / "coloured" / "08.png").unlink()
    assert read_masks(tmp_path / "coloured", named, 2).values == [0, 1]
    Image.fromarray(black_and_white).save(tmp_path / "coloured" / "08.gif")
    with pytest.raises(InputError, match="this format may change a mask's numbers"):
        read_masks(tmp_path / "coloured", named, 2)


def test_masks_that_teach_nothing_are_refused(halves: Path, tmp_path: Path):
    def refused(words: str, **arrays: np.ndarray) -> None:
        np.savez(tmp_path / "masks.npz", **arrays)
        with pytest.raises(InputError, match=words):
            train(out=tmp_path / "run", data=halves, masks=tmp_path / "masks.npz", quiet=True, **TINY)

    refused("holds the number 0 alone, which tells nothing apart", train_masks=np.zeros((100, 16, 16), np.uint8))
    unknown, known = np.full((100, 16, 16), 255, np.uint8), np.arange(20 * 256).reshape(20, 16, 16) % 2
    refused("has none for any training image", train_masks=unknown, test_masks=known)


def test_a_model_learns_from_a_column_and_goes_on_with_it(shards: Path, tmp_path: Path, monkeypatch):
    run = train(out=tmp_path / "run", data=shards, masks="annotation", quiet=True, batch_size=4, epochs=1, **TINY)
    assert run.config.masks == "annotation"
    assert iou_of_run(run)["images"] == 2
    (tmp_path / "annotation").mkdir()
    monkeypatch.chdir(tmp_path)  # where a folder has the column's name
    assert iou_of_run(run)["images"] == 2
    train(resume=run.path, epochs=2, quiet=True)


def test_255_beyond_the_components_is_unknown(named: ImageCache, tmp_path: Path):
    three = np.zeros((16, 16), np.uint8)
    three[4:8], three[8:] = 7, 255
    masks = read_masks(write_masks(tmp_path / "masks", {"03.png": three}), named, 2)
    row = np.array([named.names.index("03.jpg")])
    assert masks.values == [0, 7]
    assert masks.components(row)[0, :, 0].tolist() == [0] * 4 + [1] * 4 + [UNKNOWN] * 8
    masks = read_masks(tmp_path / "masks", named, 3)
    assert masks.values == [0, 7, 255]


def test_in_an_npz_an_image_that_is_unknown_everywhere_has_no_mask(halves: Path, tmp_path: Path):
    arrays = dict(np.load(halves))
    arrays["train_masks"][5:] = UNKNOWN
    arrays["test_masks"][:10] = UNKNOWN
    np.savez(tmp_path / "few.npz", **arrays)
    cache = prepare(halves)
    masks = read_masks(tmp_path / "few.npz", cache, 2)
    assert len(masks.rows(cache, "train")) == 5
    assert masks.sparse(cache, 0.4, seed=0).given[cache.splits["train"]].sum() == 2
    model = SplitVAE((1, 16, 16), **TINY)
    assert iou_of_model(model, cache, masks, guided=True)["images"] == 10
    assert masks.digest != read_masks(halves, cache, 2).digest


def test_a_mask_that_is_taken_away_is_noticed(named: ImageCache, tmp_path: Path):
    dark = np.zeros((24, 24), np.uint8)
    both = np.where(np.arange(24) < 12, 0, 255).astype(np.uint8)[None].repeat(24, axis=0)
    source = write_masks(tmp_path / "masks", {"03.png": dark, "07.png": both})
    before = read_masks(source, named, 2).digest
    (source / "03.png").unlink()
    assert read_masks(source, named, 2).digest != before


def test_images_that_are_shown_again_are_no_more_of_the_fixed_ones(halves: Path):
    cache = prepare(halves)
    own = cache.splits["train"]
    loader = ImageLoader(cache, "train", 10, 0, again=own[:3].repeat(20))
    assert loader.steps_per_epoch == 16
    assert torch.equal(loader.fixed(200), ImageLoader(cache, "train", 10, 0).fixed(200))


def test_padding_is_nobodys(tmp_path: Path):
    images = pixels(12, 28, 28, 1)
    np.savez(tmp_path / "d.npz", train=images, train_masks=np.ones((12, 28, 28), np.uint8))
    masks = read_masks(tmp_path / "d.npz", prepare(tmp_path / "d.npz", (32, 32)), 2)
    components = masks.components(np.arange(12))
    assert (components[:, 2:-2, 2:-2] == 0).all()
    assert (components[:, :2] == UNKNOWN).all()


def test_a_share_is_chosen_by_the_seed_and_spares_the_test_images(halves: Path):
    cache = prepare(halves)
    masks, train = read_masks(halves, cache, 2), cache.splits["train"]
    some = masks.sparse(cache, 0.1, seed=3)
    assert (some.given[train].sum(), some.given[cache.splits["test"]].sum()) == (10, 20)
    np.testing.assert_array_equal(some.given, masks.sparse(cache, 0.1, seed=3).given)
    assert not np.array_equal(some.given, masks.sparse(cache, 0.1, seed=4).given)
    assert masks.given[train].all()
    assert some.digest == masks.digest


def test_they_follow_the_order_and_the_mirroring_of_their_images(halves: Path):
    cache = prepare(halves)
    loader = ImageLoader(cache, "train", 20, 0, flip=True, masks=read_masks(halves, cache, 2).components)
    for epoch, index in ((0, 0), (0, 3), (1, 1)):
        x, masks = loader.batch(epoch, index), loader.batch_of_masks(epoch, index)
        assert torch.equal(x[:, 0] > 0.5, masks == 1)
        assert torch.equal(loader.batch_of_masks(epoch, index, slice(5, 9)), masks[5:9])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"03.png": np.zeros((9, 24), np.uint8)}, r"03.png: 9×24 pixels, the images 24×24 or 16×16"),
        ({"77.png": np.zeros((24, 24), np.uint8)}, "77 is no name of an image"),
        ({"03.png": np.arange(576).reshape(24, 24).astype(np.uint8)}, "256 different numbers .* 2 components"),
        ({"03.png": np.zeros((24, 24, 3), np.uint8)}, "grey or has a palette, not the mode RGB"),
        ({}, "holds no mask"),
    ],
)
def test_wrong_files_get_one_line(files, words, named: ImageCache, tmp_path: Path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=words):
        read_masks(write_masks(tmp_path / "masks", files), named, 2)


def test_wrong_sources_get_one_line(halves: Path, named: ImageCache, tmp_path: Path):
    cache = prepare(halves)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "03.png").write_text("no picture")
    np.savez(tmp_path / "none.npz", other=np.zeros(3))
    np.savez(tmp_path / "few.npz", train_masks=np.zeros((7, 16, 16), np.uint8))
    np.savez(tmp_path / "soft.npz", train_masks=np.zeros((120, 16, 16)))
    (tmp_path / "cut.npz").write_bytes(halves.read_bytes()[:5000])
    for source, opened, words in (
        ("nowhere", cache, "does not exist"),
        ("text.png", cache, "must be an .npz"),
        ("none.npz", cache, "no array train_masks"),
        ("few.npz", cache, "7 masks for 120 images"),
        ("soft.npz", cache, "whole numbers"),
        ("cut.npz", cache, "cut.npz is not a readable .npz"),
        ("m", cache, "no names"),
        ("m", named, "03.png: not an image"),
    ):
        with pytest.raises(InputError, match=words):
            read_masks(tmp_path / source, opened, 2)


def test_iou_by_hand():
    truth = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    predicted = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])
    known = torch.ones_like(truth, dtype=torch.bool)
    torch.testing.assert_close(iou(predicted == 0, truth == 0, known), torch.tensor([0.5, 1.0]))
    found = iou(predicted == 1, truth == 1, known)
    assert found[0] == pytest.approx(2 / 3)
    assert found[1].isnan()
    known[0, 0, 1] = False
    assert iou(predicted == 1, truth == 1, known)[0] == 1


def test_a_free_model_numbers_its_components_as_it_likes(halves: Path):
    """The dark part is the second component of this one, the bright part its third; the first has next to nothing."""

    class Painter(SplitVAE):
        def decode(self, z):
            dark = (z[:, :1, None, None] > torch.arange(16)).float().expand(-1, 1, 16, 16)
            weights = torch.stack([torch.full_like(dark, 0.1), dark * 0.9, (1 - dark) * 0.9], dim=1)
            return Decoded(torch.zeros(len(z), 1, 16, 16), torch.zeros(len(z), 3, 1, 16, 16), weights)

        def encode(self, x):
            ends = (x < 0.5).float().sum(dim=3)[:, 0].mean(dim=1, keepdim=True)
            return DiagonalGaussian(ends, torch.full_like(ends, -torch.inf))

    cache, model = prepare(halves), Painter((1, 16, 16), num_components=3, **TINY)
    masks = read_masks(halves, cache, 3)
    found = iou_of_model(model, cache, masks, guided=False)
    assert found["matched"] == [2, 3]
    assert found["components"] == pytest.approx([1, 1])
    assert iou_of_model(model, cache, masks, guided=True)["foreground"] < 0.2
    never = replace(masks, values=[0, 1, 9])  # learned from training masks, and in no test mask
    found = iou_of_model(model, cache, never, guided=True)
    assert [value is None for value in found["components"]] == [False, False, True]
    json.dumps(found, allow_nan=False)
    assert "x̂3" in iou_words(found)


def test_masks_of_many_sizes_are_those_of_their_own_images(tmp_path: Path):
    for number in range(14):
        height, width = 20 + number, 24 + number
        picture, mask = pixels(1, height, width, seed=number)[0], np.zeros((height, width), np.uint8)
        mask[:, width // 2 :] = 255
        for folder, image in (("pictures", picture), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{number:02d}.png")
    cache = prepare(tmp_path / "pictures", (16, 16))
    assert (read_masks(tmp_path / "masks", cache, 2).components(np.arange(14))[:, 2:14, [1, 14]] == [0, 1]).all()
    Image.fromarray(np.zeros((33, 37), np.uint8)).save(tmp_path / "masks" / "00.png")  # the size of the last
    with pytest.raises(InputError, match=r"00\.png: 33×37 pixels, the images 20×24 or 16×16"):
        read_masks(tmp_path / "masks", cache, 2)


def test_masks_may_move_but_not_change(halves: Path, tmp_path: Path, splitvae):
    source = tmp_path / "masks.npz"
    source.write_bytes(halves.read_bytes())
    run = tmp_path / "run"
    assert splitvae("train", "--data", halves, "--masks", source, "--out", run, *tiny_options())[0] == 0
    moved = source.rename(tmp_path / "moved.npz")
    status, out, err = splitvae("evaluate", run, "--extractor", "mnist-classifier", "--n", 20)
    assert (status, err) == (0, "")
    assert "not compared with the run's masks" in out.replace("\n", " ")
    assert splitvae("evaluate", run, "--extractor", "mnist-classifier", "--n", 20, "--masks", moved)[0] == 0
    assert "does not exist" in splitvae("train", "--resume", run, "--epochs", 2)[2]
    assert splitvae("train", "--resume", run, "--epochs", 2, "--masks", moved)[0] == 0
    assert splitvae("evaluate", run, "--extractor", "mnist-classifier", "--n", 20)[0] == 0
    checks = verify(run)
    assert all(check.agrees for check in checks)
    assert any(check.what == "masks: components" for check in checks)

    arrays = dict(np.load(moved))
    arrays["train_masks"][0] = 1 - arrays["train_masks"][0]
    np.savez(moved, **arrays)
    assert "holds other masks than those" in splitvae("train", "--resume", run, "--epochs", 3)[2]
    arrays["test_masks"][0] = 7
    np.savez(moved, **arrays)
    with pytest.raises(InputError, match="holds 7, the model has learned 0, 1"):
        iou_of_run(Run.open(run))


def test_a_model_paints_the_masks_that_it_was_given(halves: Path, tmp_path: Path, splitvae):
    options = tiny_options(epochs=15, beta=0.1, lr=3e-3)
    status, out, _ = splitvae("train", "--data", halves, "--masks", halves, "--out", tmp_path / "run", *options)
    assert status == 0
    assert "masks of 100 training images; components 1 … 2 are their 0, 1" in out
    guided = iou_of_run(Run.open(tmp_path / "run"))
    assert guided["images"] == 20
    assert guided["matched"] == [1, 2]
    assert guided["foreground"] > 0.8
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["split"] > 0

    options = tiny_options(epochs=1)
    assert splitvae("train", "--data", halves, "--out", tmp_path / "free", *options)[0] == 0
    free = Run.open(tmp_path / "free")
    assert iou_of_run(free) is None
    assert iou_of_run(free, halves)["foreground"] < guided["foreground"]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 5), (5, 1), (2, 2)])
def test_guidance_does_not_depend_on_how_a_batch_is_shared(halves: Path, processes: int, accumulate: int):
    cache = prepare(halves)
    masks = replace(read_masks(halves, cache, 2), given=np.arange(len(cache.images)) % 7 == 0)
    loader = ImageLoader(cache, "train", 20, 0, masks=masks.components)
    terms = SplitTerms(guidance=3.0)

    def guidance(processes: int, accumulate: int) -> float:
        config = TrainConfig(batch_size=20, accumulate=accumulate)
        parts = [
            part
            for process in range(processes)
            for part in Batches(loader, config, (2,), processes, process)(3)
        ]  # fmt: skip
        found = []
        for x, _, own, guided_images in parts:
            left = x[:, None].sigmoid()  # weights that differ from image to image
            found.append(terms(torch.cat([left, 1 - left], dim=1), x, own, guided_images))
        return float(torch.stack(found).mean())

    whole = guidance(1, 1)
    assert whole > 0
    assert guidance(processes, accumulate) == pytest.approx(whole, rel=1e-5)


def test_a_guided_run_goes_on_as_if_it_had_not_stopped(halves: Path, tmp_path: Path, splitvae):
    options = ["--data", halves, "--masks", halves, "--mask-share", 0.5, "--flip", "--lr-schedule", "constant"]
    assert splitvae("train", *options, *tiny_options(epochs=2), "--out", tmp_path / "whole")[0] == 0
    assert splitvae("train", *options, *tiny_options(), "--out", tmp_path / "parts")[0] == 0
    assert splitvae("train", "--resume", tmp_path / "parts", "--epochs", 2)[0] == 0
    whole, parts = (Run.open(tmp_path / name).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_images_with_masks_are_shown_more_often(halves: Path, tmp_path: Path, splitvae):
    options = ["--data", halves, "--masks", halves, "--mask-share", 0.1, "--mask-repeat", 21]
    assert splitvae("train", *options, *tiny_options(batch_size=20), "--out", tmp_path / "run")[0] == 0
    run = Run.open(tmp_path / "run")
    images = len(run.data.splits["train"])
    assert run.summary["steps"] == (images + images // 10 * 20) // 20


def test_masks_neither_come_nor_go_when_a_run_goes_on(halves: Path, tmp_path: Path, splitvae):
    for given, later, words in (
        ([], halves, "was trained without masks, and cannot go on with them"),
        (["--masks", halves], None, "was trained with masks, and cannot go on without them"),
    ):
        run = tmp_path / f"{len(given)}"
        assert splitvae("train", "--data", halves, *given, "--out", run, *tiny_options())[0] == 0
        with pytest.raises(InputError, match=words):
            train(resume=run, masks=later, epochs=2)


def test_wrong_masks_are_refused_before_a_run_is_made(halves: Path, tmp_path: Path, splitvae):
    status, _, err = splitvae(
        "train", "--data", halves, "--masks", tmp_path / "none", "--out", tmp_path / "run", *tiny_options()
    )
    assert (status, err.count("\n")) == (2, 1)
    assert not (tmp_path / "run" / "config.json").exists()
    status, _, err = splitvae(
        "train", "--data", halves, "--masks", halves, "--num-components", 1, "--out", tmp_path / "run", *tiny_options()
    )
    assert "one component has no masks" in err
