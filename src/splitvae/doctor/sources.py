"""Checks of a source of images: enough of them, of the right size and range, no copies between train and test."""

from pathlib import Path

import numpy as np

from splitvae.data.cache import ImageCache, prepare, refuse_few
from splitvae.doctor.findings import Finding, Level, counted
from splitvae.doctor.originals import check_files, check_format, check_shape, check_size, look_at_originals
from splitvae.doctor.scan import Scan, near_copies, scan
from splitvae.errors import InputError

FEW_TO_TRAIN, FEW_TO_SCORE = 200, 200
INCEPTION_FEATURES = 2_048  # of FID's extractor: its covariance needs more images than that
SMALLEST_RANGE = 64  # of 255 grey levels between the darkest and the brightest value
SHARE_OF_COPIES = 0.005  # of the training or test images, above which copies are a warning
UNEVEN_CLASSES = 10  # times the smallest class


def examine_source(
    source: str | Path,
    image_size: tuple[int, int] | None = None,
    quiet: bool = True,
) -> list[Finding]:
    """Examine images as training would prepare them; the prepared form is kept and is what training then finds.

    Args:
        source: whatever ``train`` takes as its data.
        image_size: (H, W); None = as ``train`` without ``image_size``.
        quiet: no progress bars.

    Raises:
        InputError: no such source, or one that ``train`` would refuse for anything but damaged files.
    """
    try:
        cache = prepare(source, image_size, quiet=quiet)
    except InputError:
        # Perhaps for damaged files, which get their own line; any other reason is raised again.
        cache = prepare(source, image_size, skip_damaged=True, quiet=quiet)
    refuse_few(cache)
    originals = look_at_originals(source, cache)
    found = scan(cache, quiet)
    return [
        check_training_images(cache),
        check_test_images(cache),
        *check_files(cache, originals),
        *check_size(cache, originals),
        *check_shape(cache, originals),
        *check_format(cache, originals),
        check_channels(cache, found),
        check_values(found),
        check_contrast(cache, found),
        check_copies(cache, found),
        check_overlap(cache, found),
        check_near_copies(cache, found),
        check_labels(cache),
    ]


def check_training_images(cache: ImageCache) -> Finding:
    """Whether there are enough to learn from."""
    n = len(cache.splits["train"])
    if n < FEW_TO_TRAIN:
        return Finding(
            "training images", "warning", f"{n:,}: too few to learn more than these very images",
            "collect at least some hundreds, better thousands; --flip doubles them where left and right are alike",
        )  # fmt: skip
    return Finding("training images", "ok", f"{n:,}")


def check_test_images(cache: ImageCache) -> Finding:
    """Whether there are enough to score against, and who chose them."""
    n, own = len(cache.splits["test"]), cache.meta["test_split"] == "of the source"
    text = f"{n:,}, {'a split of the source' if own else 'held out by a hash of each image, whatever the seed'}"
    if n < FEW_TO_SCORE:
        return Finding(
            "test images", "warning", f"{text}: too few to score, distances of so few are mostly noise",
            "add test images; until then judge by eye and by the mse",
        )  # fmt: skip
    if n <= INCEPTION_FEATURES:
        remedy = "read the KID, which the number does not bias"
        if n > 1_280:
            remedy += ", or take --extractor efficientnet-lite0 (1,280 features)"
        return Finding(
            "test images", "note", f"{text}: not more than the {INCEPTION_FEATURES:,} features of the FID, "
            "which comes out too high", remedy,
        )  # fmt: skip
    if not own:
        return Finding(
            "test images", "note", text,
            "to compare with published numbers, use the published test split (a folder test/, test-*.parquet)",
        )  # fmt: skip
    return Finding("test images", "ok", text)


def check_channels(cache: ImageCache, found: Scan) -> Finding:
    """Grey or colour, and whether colour is there at all."""
    if cache.shape[0] == 1:
        return Finding("channels", "ok", "1 (grey)")
    if found.grey:
        return Finding(
            "channels", "note", "3, but every image is grey: the model spends effort on two copies",
            "save the images as grey ones (mode L), which trains one channel",
        )  # fmt: skip
    return Finding("channels", "ok", "3 (colour)")


def check_values(found: Scan) -> Finding:
    """Range, mean and deviation of all values."""
    values, counts = np.arange(256), found.histogram / found.histogram.sum()
    low, high = (int(v) for v in np.flatnonzero(found.histogram)[[0, -1]])
    mean = float(values @ counts)
    deviation = float(np.sqrt((values - mean) ** 2 @ counts))
    text = f"{low} to {high} of 255, mean {mean:.1f}, standard deviation {deviation:.1f}"
    if high <= 1:
        return Finding(
            "values", "warning", f"{text}: the images are black but for rounding",
            "they were probably divided by 255 and then stored as whole numbers: store floats in [0, 1], or 0 to 255",
        )  # fmt: skip
    if high - low < SMALLEST_RANGE:
        return Finding(
            "values", "warning", f"{text}: hardly any contrast",
            "stretch the values over 0 to 255; images of a few grey levels are often stored unscaled",
        )  # fmt: skip
    return Finding("values", "ok", text)


def check_contrast(cache: ImageCache, found: Scan) -> Finding:
    """Images of one colour, and images that hardly differ from each other."""
    thumbnails = found.thumbnails.astype(np.float32)
    between, total = float(thumbnails.var(axis=0).mean()), float(thumbnails.var())
    if total > 0 and between < 0.01 * total:
        return Finding(
            "contrast", "warning",
            f"all images are nearly the same: {100 * between / total:.2f} % of the variance is between images",
            "check that the source holds what you mean; a model has nothing to learn from one image",
        )  # fmt: skip
    constant = np.flatnonzero(found.constant)
    if len(constant):
        share = len(constant) / len(found.constant)
        return Finding(
            "contrast", "warning" if share >= 0.01 else "note",
            f"{counted(len(constant), 'image')} ({_percent(share)}) of a single colour, such as "
            f"{_name(cache, constant[0])}",
            "remove them, unless empty images belong to the data",
        )  # fmt: skip
    return Finding("contrast", "ok", "every image has some, and they differ")


def check_copies(cache: ImageCache, found: Scan) -> Finding:
    """Images that are more than once in the training split."""
    rows = cache.splits["train"]
    _, first, place = np.unique(found.digests[rows], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[place] != np.arange(len(rows)))
    if len(again) == 0:
        return Finding("copies", "ok", "no training image occurs twice")
    share = len(again) / len(rows)
    return Finding(
        "copies", _level(share),
        f"{counted(len(again), 'training image')} ({_percent(share)}) repeat another, such as "
        f"{_name(cache, rows[again[0]])} and {_name(cache, rows[first[place[again[0]]]])}",
        "remove the copies: the model sees them more often and draws them more often",
    )  # fmt: skip


def check_overlap(cache: ImageCache, found: Scan) -> Finding:
    """Test images that are training images too."""
    train, test = cache.splits["train"], cache.splits["test"]
    shared = np.flatnonzero(np.isin(found.digests[test], found.digests[train]))
    if len(shared) == 0:
        return Finding("overlap", "ok", "no test image is a training image")
    share, row = len(shared) / len(test), test[shared[0]]
    twin = train[np.flatnonzero(found.digests[train] == found.digests[row])[0]]
    return Finding(
        "overlap", _level(share),
        f"{counted(len(shared), 'test image')} ({_percent(share)}) are training images too, such as "
        f"{_name(cache, row)}, which is {_name(cache, twin)}",
        "remove them from one of the splits: scores on them tell how well the model remembers",
    )  # fmt: skip


def check_near_copies(cache: ImageCache, found: Scan) -> Finding:
    """Test images that are nearly training images: recompressed, brighter, the next frame of a film."""
    looked, pairs = near_copies(found, cache)
    of = f"of {looked:,} test images{' looked at' if looked < len(cache.splits['test']) else ''}"
    if not pairs:
        return Finding("near copies", "ok", f"none {of} nearly equals a training image")
    return Finding(
        "near copies", "note",
        f"{len(pairs):,} {of} nearly equal a training image, such as {_name(cache, pairs[0][0])} and "
        f"{_name(cache, pairs[0][1])}",
        "look at them; frames of one film or copies belong on one side: make folders train/ and test/ by hand",
    )  # fmt: skip


def check_labels(cache: ImageCache) -> Finding:
    """Classes and whether they are of like size."""
    if cache.labels is None:
        return Finding("labels", "ok", "none; only sampling of a chosen class would need them")
    classes, counts = np.unique(cache.labels[cache.splits["train"]], return_counts=True)
    small, large = int(counts.argmin()), int(counts.argmax())
    text = f"{counted(len(classes), 'class')} of {counts[small]:,}"
    if counts[small] < counts[large]:
        text += f" (class {classes[small]}) to {counts[large]:,} (class {classes[large]})"
    text += " training images"
    unseen = np.setdiff1d(cache.labels[cache.splits["test"]], classes)
    if len(unseen):
        return Finding(
            "labels", "warning", f"{text}; class {unseen[0]} occurs in the test split only",
            "put images of every class into the training split",
        )  # fmt: skip
    if counts[large] > UNEVEN_CLASSES * counts[small]:
        return Finding(
            "labels", "warning", f"{text}: the largest is {counts[large] / counts[small]:.0f} times the smallest",
            "add images of small classes, or expect blurred samples of them; a class-wise density needs some hundreds",
        )  # fmt: skip
    return Finding("labels", "ok", text)


def _level(share: float) -> Level:
    return "warning" if share >= SHARE_OF_COPIES else "note"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _name(cache: ImageCache, row: int) -> str:
    """What a person finds the image by: its file, or its number, in its split where the source has splits."""
    if cache.meta["test_split"] != "of the source":
        return f"image {row}" if cache.names is None else cache.names[row]
    n = len(cache.splits["train"])  # these come first
    split, number = ("train", row) if row < n else ("test", row - n)
    return f"{split} image {number}" if cache.names is None else f"{split}/{cache.names[row]}"
