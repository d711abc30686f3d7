"""Promises about the web page's functions and its server, without a browser."""

import base64
import io
import json
import re
import threading
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from splitvae.app.uploads import read_upload
from splitvae.compositing import recombine
from splitvae.errors import InputError
from splitvae.evaluation.digit_classifier import SHIPPED, DigitClassifier
from splitvae.evaluation.verify import read_metrics
from splitvae.explorer import AXES, Explorer
from splitvae.models.pretrained import read_tensors
from splitvae.models.vae import VAE, SplitVAE
from splitvae.packaged import packaged_run

pytest.importorskip("gradio", reason="the extra `app` is not installed")
from splitvae.app import show
from splitvae.app.decompose import blend_again, take_apart
from splitvae.app.edit import ALL, assembled, moved, parts_of, traversed
from splitvae.app.edit import moving as rows_moving
from splitvae.app.interpolate import joined
from splitvae.app.page import build_page, report_of, serving
from splitvae.app.recombine import laid_over


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(packaged_run().path, title="packaged")


def huge_png(width: int, height: int) -> bytes:
    """The beginning of a PNG of this size: what it claims is seen before anything is decoded."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in parts
    )


# What the model does.


def test_the_same_numbers_draw_the_same_images(explorer):
    z, decoded = explorer.sample(6, "gmm", seed=3, temperature=0.7)
    again = explorer.sample(6, "gmm", seed=3, temperature=0.7)
    assert torch.equal(decoded.x_hat, again[1].x_hat)
    assert not torch.equal(z, explorer.sample(6, "gmm", seed=4, temperature=0.7)[0])
    assert z.shape == (6, 32)


def test_a_class_is_drawn_where_the_density_knows_classes(explorer):
    assert explorer.classes("gmm-per-class") == list(range(10))
    assert explorer.classes("gmm") == explorer.classes("normal") == []
    classifier = DigitClassifier().eval()
    classifier.load_state_dict(read_tensors(SHIPPED))
    _, drawn = explorer.sample(40, "gmm-per-class", 0, label=4)
    with torch.inference_mode():
        assert (classifier(drawn.x_hat).argmax(dim=1) == 4).float().mean() > 0.9
    with pytest.raises(InputError, match="knows no classes"):
        explorer.sample(2, "gmm", 0, label=4)


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"n": 10**9}, {"seed": -1}, {"seed": 2**70}, {"temperature": 99.0}, {"temperature": float("nan")},
     {"density": "../../etc"}, {"density": "gmmm"}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_in_one_line(explorer, wrong):
    with pytest.raises(InputError) as told:
        explorer.sample(**{"n": 4, "density": "gmm", "seed": 0} | wrong)
    assert "\n" not in str(told.value)


def test_sliders_are_the_most_informative_latents(explorer):
    kl = np.array(read_metrics(packaged_run())["latents"]["kl_per_dimension"])
    assert [axis.index for axis in explorer.axes] == np.argsort(-kl)[:AXES].tolist()
    assert all(axis.low < -1 and axis.high > 1 for axis in explorer.axes)


def test_traversing_changes_one_latent_and_with_it_the_image(explorer):
    z = explorer.sample(1, "gmm", 0)[0][0]
    images = traversed(explorer, [z.tolist()] * 3, [0, 1, 2], steps=5)
    assert images.shape == (AXES, 5, 1, 32, 32)
    assert all((row[0] - row[-1]).abs().mean() > 0.01 for row in images)


def test_a_slider_moves_one_component_while_the_others_stand(explorer):
    z = explorer.sample(1, "gmm", 0)[0][0]
    parts = parts_of(explorer, z.tolist())
    before = assembled(explorer, [torch.tensor([part]) for part in parts])
    values = [z[axis.index].item() for axis in explorer.axes]
    assert moved(explorer, parts, [0, 1, 2], values) == parts  # sliders that stand where the latents are change nothing
    values[0] += 2

    def edited(parts: list[list[float]], component: int, with_masks: bool = False) -> tuple[list[list[float]], Any]:
        parts = moved(explorer, parts, rows_moving(explorer, component, with_masks), values)
        return parts, assembled(explorer, [torch.tensor([part]) for part in parts])

    first, one = edited(parts, 0)
    assert torch.equal(one.components[:, 1], before.components[:, 1])
    assert torch.equal(one.weights, before.weights)
    assert not torch.equal(one.components[:, 0], before.components[:, 0])
    assert not torch.equal(edited(parts, 0, with_masks=True)[1].weights, before.weights)
    _, both = edited(first, 1)  # the one edited before stays as it was edited
    assert torch.equal(both.components[:, 0], one.components[:, 0])
    _, everything = edited(parts, ALL)
    torch.testing.assert_close(both.components, everything.components)
    z[explorer.axes[0].index] += 2
    torch.testing.assert_close(everything.x_hat, explorer.decode(z[None]).x_hat)

    rows = traversed(explorer, parts, [1], steps=5)
    assert rows.shape == (AXES, 5, 1, 32, 32)
    assert all((row[0] - row[-1]).abs().mean() > 0.003 for row in rows[:3])


def test_a_layer_of_one_image_lies_over_the_rest_of_another(explorer):
    first, second = (show.to_uint8(explorer.examples[i]).tolist() for i in (0, 9))
    for component, weight in ((0, "<b>σ</b>"), (1, "<b>1 − σ</b>")):
        html = laid_over(explorer, first, second, component)
        assert html.count("<figure>") == 6
        assert weight in html
        names = re.findall(r'download="([^"]+)"', html)
        assert names == [f"layer1-x{2 - component}.png", f"layer2-x{component + 1}.png"]
        bottom, top = (
            Image.open(io.BytesIO(base64.b64decode(data)))
            for data in re.findall(r'href="data:image/png;base64,([^"]+)" download', html)
        )
        both = np.asarray(Image.alpha_composite(bottom, top).convert("L")).astype(float) / 255
        parts = [explorer.decode(explorer.encode(explorer.examples[i : i + 1])) for i in (0, 9)]
        expected = recombine(*parts, component).x_hat[0, 0].numpy()
        assert np.abs(both - expected).max() < 2.5 / 255
    with pytest.raises(InputError, match="component must lie in"):
        laid_over(explorer, first, second, 7)


def test_taking_apart_tells_the_error_that_the_model_makes(explorer):
    pixels = show.to_uint8(explorer.examples[0]).tolist()
    decoded, html = take_apart(explorer, pixels)
    x = explorer.examples[:1]
    mse = float((packaged_run().model.reconstruct(x) - x).square().mean())
    assert f"mse {mse:.4f}" in html
    assert html.count("<figure>") == html.count("</figure>") == 6
    assert html.count("<div") == html.count("</div>")
    blended, _ = blend_again(decoded, [1.0, 1.0], False, 1.0)
    assert torch.allclose(blended.x_hat, decoded.components[:, 0])
    blended, _ = blend_again(decoded, [1.0, 1.0], True, -1.0)
    assert torch.allclose(blended.x_hat, decoded.components[:, 1])  # all x̂₂, whatever mask it has


def test_an_animation_goes_from_one_image_to_the_other(explorer):
    first, second = (show.to_uint8(explorer.examples[i]).tolist() for i in (0, 9))
    moving, strips = joined(explorer, first, second, 12, "great-circle")
    assert "data:image/gif" in moving
    assert strips.count("<img") == 4 * 9
    frames = explorer.between(explorer.examples[0], explorer.examples[9], 12, "line").x_hat
    ends = explorer.decode(explorer.encode(explorer.examples[[0, 9]])).x_hat
    torch.testing.assert_close(frames[[0, -1]], ends, atol=1e-5, rtol=0)


def test_the_report_names_no_folder(explorer):
    html = report_of(explorer)
    assert "FD (mnist-classifier)" in html
    assert str(explorer.path.parent) not in html


@pytest.mark.parametrize(
    ("make", "shape"),
    [(VAE, (1, 16, 16)), (SplitVAE, (3, 16, 24)), (lambda *a, **k: SplitVAE(*a, 3, **k), (3, 16, 16))],
)
def test_any_model_has_its_page(make, shape, tmp_path: Path):
    latents = TINY["latent_dim"]
    model = make(shape, latents, **{k: v for k, v in TINY.items() if k != "latent_dim"}).eval()
    model.save_pretrained(tmp_path / "model-of-mine")
    explorer = Explorer(tmp_path / "model-of-mine")
    assert explorer.densities == ["normal"]
    assert len(explorer.axes) == latents
    assert len(explorer.examples) == 20
    build_page(explorer)
    pixels = show.to_uint8(explorer.examples[0]).tolist()
    assert take_apart(explorer, pixels)[1].count("<figure>") == {1: 3, 2: 6, 3: 9}[model.num_components]
    if model.num_components > 1:
        html = laid_over(explorer, pixels, show.to_uint8(explorer.examples[1]).tolist(), model.num_components - 1)
        assert (html.count("<figure>"), html.count("download=")) == (6, model.num_components)
    with pytest.raises(InputError, match="without its run"):
        report_of(explorer)


def test_a_run_that_was_not_evaluated_has_its_page(tmp_path: Path, npz: Path, splitvae):
    from conftest import tiny_options

    assert splitvae("train", "--data", npz, "--out", tmp_path / "run", *tiny_options())[0] == 0
    explorer = Explorer(tmp_path / "run")
    assert explorer.examples.shape == (12, 3, 16, 16)  # its test images
    html = report_of(explorer)
    assert "Not evaluated yet" in html
    assert str(tmp_path) not in html


# Pictures that people drop.


def test_any_ordinary_picture_becomes_what_the_model_takes(tmp_path: Path):
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.jpg")
    x = read_upload(tmp_path / "a.jpg", (1, 32, 32))
    assert (x.shape, x.dtype, x.min()) == ((1, 32, 32), np.uint8, 255)
    assert read_upload(tmp_path / "a.jpg", (1, 32, 32), invert=True).max() == 0


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"just words", "not an image"),
        (huge_png(20_000, 20_000), "decompression bomb"),
        (huge_png(20_000, 10), "20,000×10 pixels"),
        (huge_png(200, 200), "damaged"),
        (b"", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(21_000_000), "21 MB; the page takes 20 MB"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_no_path(content, line, tmp_path: Path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(InputError, match=line) as told:
        read_upload(tmp_path / "picture.png", (1, 32, 32))
    assert "\n" not in str(told.value)
    assert str(tmp_path) not in str(told.value)


# The server.


class Served(SimpleNamespace):
    """A page that is served: its address, and the numbers of its functions."""

    def call(self, name: str, data: list[Any], session: str | None = None) -> dict[str, Any]:
        """What the page's JavaScript does: join the queue, wait for the answer."""
        session = session or uuid.uuid4().hex
        number = next(i for i, fn in self.page.fns.items() if fn.name == name)
        body = {"data": data, "fn_index": number, "session_hash": session, "event_data": None}
        request = urllib.request.Request(
            f"{self.url}gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).read()
        with urllib.request.urlopen(f"{self.url}gradio_api/queue/data?session_hash={session}", timeout=120) as events:
            for line in events:
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])
                    if message["msg"] == "process_completed":
                        return message
        raise AssertionError("the queue never answered")


@pytest.fixture(scope="module")
def served(explorer) -> Iterator[Served]:
    page = build_page(explorer)
    with serving(page) as url:
        yield Served(page=page, url=url)


def test_twenty_requests_at_once_are_all_answered(served):
    answers: list[dict[str, Any]] = []

    def ask(seed: int) -> None:
        answers.append(served.call("generate", ["gmm", "any", 1.0, seed, 16, "x_hat"]))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["success"] for answer in answers] == [True] * 20
    pictures = {json.dumps(answer["output"]["data"][0]) for answer in answers}
    assert len(pictures) == 20  # everybody got his own


def test_what_is_out_of_range_is_told_without_a_traceback(served, capfd):
    # The page's own sliders cannot ask for these; a program can.
    for data in (["gmm", "any", 1.0, 0, 10**9, "x_hat"], ["no-such", "any", 1.0, 0, 4, "x_hat"]):
        answer = served.call("generate", data)
        assert not answer["success"]
        assert "\n" not in answer["output"]["error"].strip()
    assert "Traceback" not in capfd.readouterr().err


def test_no_file_of_this_machine_can_be_had(served, explorer, tmp_path: Path):
    for path in (explorer.path / "config.json", Path("/etc/hostname"), Path(__file__), Path("../../etc/hostname")):
        for route in ("gradio_api/file=", "file=", "file/", "gradio_api/file/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{served.url}{route}{path}", timeout=30)
            assert refused.value.code in (403, 404, 405)
    secret = tmp_path / "secret.png"
    Image.new("L", (8, 8), 255).save(secret)
    for path in (secret, explorer.path / "config.json"):
        answer = served.call("take_file", [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, False])
        assert not answer["success"]
        assert "not uploaded" in answer["output"]["error"]


def test_the_page_asks_nobody_else_for_anything(served):
    html = urllib.request.urlopen(served.url, timeout=30).read().decode()
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+)"', html)
    assert [address for address in loaded if not address.startswith(served.url.rstrip("/"))] == []
    assert '"analytics_enabled":true' not in html.replace(" ", "")


def test_a_density_of_the_model_before_does_not_keep_a_run_from_being_seen(tmp_path: Path, npz: Path, splitvae):
    from conftest import tiny_options

    assert splitvae("train", "--data", npz, "--out", tmp_path / "run", *tiny_options())[0] == 0
    assert splitvae("fit", tmp_path / "run", "--density", "gmm", "--n-components", 2)[0] == 0
    assert Explorer(tmp_path / "run").densities == ["normal", "gmm"]
    options = ("--density", "second-stage", "--epochs", 1, "--hidden-dim", 8, "--split", "test")
    assert splitvae("fit", tmp_path / "run", *options)[0] == 0
    assert splitvae("evaluate", tmp_path / "run", "--extractor", "mnist-classifier", "--n", 20)[0] == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for row in metrics["rows"]:
        if row["source"] == "gmm":  # the nearest of all, before the model moved away from it
            row["metrics"]["frechet_distance_train"] = 0.0
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    assert Explorer(tmp_path / "run").density == "gmm"
    assert splitvae("train", "--resume", tmp_path / "run", "--epochs", 2)[0] == 0
    explorer = Explorer(tmp_path / "run")
    assert (explorer.densities, explorer.density) == (["normal"], "normal")
    fit_again = f"splitvae fit {tmp_path / 'run'}"
    first, second = explorer.left_out
    assert first.endswith(f"{fit_again} --density gmm --name gmm")
    assert second.endswith(f"{fit_again} --density second-stage --name second-stage-test --split test")
    build_page(explorer)
