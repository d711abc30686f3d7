"""The web page in a real browser, the system's Chromium: every tab is used, and the pixels that people see change.

Screenshots for the documents: ``SPLITVAE_SCREENSHOTS=docs/images python -m pytest tests/test_browser.py``.
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitvae.explorer import Explorer
from splitvae.packaged import TITLE, packaged_run

CHROMIUM = os.environ.get("SPLITVAE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("SPLITVAE_REQUIRE_BROWSER") == "1"  # set by continuous integration
WAIT = 30_000  # milliseconds
pytestmark = pytest.mark.slow

if not REQUIRED:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Page, Request, sync_playwright  # noqa: E402

from splitvae.app.page import build_page, serving  # noqa: E402


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(build_page(Explorer(packaged_run().path, title=TITLE))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        # Without a sandbox: the tests may run as root in a container, and visit nothing but our own page.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """A fresh visit; fails where the page asked another host for something, or its scripts failed."""
    page = browser.new_page(viewport={"width": 1240, "height": 960})
    asked: list[str] = []
    failures: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            asked.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#samples img", timeout=WAIT)
    yield page
    page.close()
    assert (asked, failures) == ([], [])


def seen(page: Page, selector: str) -> np.ndarray:
    """What a person sees of an element: (H, W, 3) uint8, from the screen."""
    shot = page.locator(selector).first.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def difference(before: np.ndarray, after: np.ndarray) -> float:
    """Mean difference of two screenshots, in grey levels; of other sizes they are wholly different."""
    return 255.0 if before.shape != after.shape else float(np.abs(before - after).mean())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again; fails after WAIT."""
    end = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.1)


def changed(page: Page, selector: str, before: np.ndarray, by: float = 1.0) -> np.ndarray:
    """Wait until an element looks otherwise than before; returns how it looks once it stays so."""
    wait_until(lambda: difference(before, seen(page, selector)) > by, f"{selector} changes")
    after = settled(page, selector)
    assert difference(before, after) > by
    return after


def settled(page: Page, selector: str) -> np.ndarray:
    """How an element looks once it stays as it is."""
    last = seen(page, selector)

    def still() -> bool:
        nonlocal last
        time.sleep(0.4)
        before, last = last, seen(page, selector)
        return difference(before, last) == 0

    wait_until(still, f"{selector} stands still")
    return last


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def set_slider(page: Page, selector: str, value: float) -> None:
    """Move a slider as a person does with the keyboard's number field beside it."""
    field = page.locator(f"{selector} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def keep(page: Page, name: str) -> None:
    """A screenshot for the documents, where one is asked for."""
    folder = os.environ.get("SPLITVAE_SCREENSHOTS")
    if folder:
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement && document.activeElement.blur()")
        time.sleep(0.5)
        page.evaluate("window.scrollTo(0, 0)")
        panel = page.locator("[role=tabpanel]:visible").bounding_box()
        height = min(panel["y"] + panel["height"] + 24, 1400)
        page.set_viewport_size({"width": 1240, "height": int(height)})
        time.sleep(0.3)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_generate_draws_other_images_for_another_seed_class_and_output(page):
    first = settled(page, "#samples")
    assert page.locator("#samples img").count() == 64
    assert first.std() > 40  # digits, not an empty plane
    keep(page, "serve-generate")

    page.locator("#new-seed").click()
    second = changed(page, "#samples", first, by=5)

    page.get_by_role("radio", name="σ", exact=True).check()
    masks = changed(page, "#samples", second, by=30)
    assert masks.mean() > second.mean() + 60  # masks are white around the digits


def test_generate_draws_the_class_that_is_chosen(page):
    before = settled(page, "#samples")
    page.get_by_label("Class").click()
    page.get_by_role("option", name="1", exact=True).click()
    ones = changed(page, "#samples", before, by=5)
    assert ones.mean() < before.mean()  # ones have the least ink


def test_a_click_on_a_sample_takes_it_to_edit(page):
    settled(page, "#samples")
    tile = seen(page, "#samples button:nth-child(3) img")
    page.locator("#samples button").nth(2).click()
    page.wait_for_selector("#edited img", timeout=WAIT)
    wait_until(lambda: page.locator("#edited figure").last.is_visible(), "the tab edit opens")
    settled(page, "#edited")

    def same() -> bool:
        blend = page.locator("#edited figure img").last.screenshot()
        small = Image.open(io.BytesIO(blend)).convert("RGB").resize(tile.shape[1::-1], Image.Resampling.BOX)
        return difference(tile, np.asarray(small).astype(int)) < 12

    wait_until(same, "the sample that was clicked is shown in edit")


def test_edit_moves_every_part_with_the_slider_and_back(page):
    open_tab(page, "Edit")
    page.wait_for_selector("#ranges img", timeout=WAIT)
    before, ranges = settled(page, "#edited"), settled(page, "#ranges")
    parts = [page.locator("#edited figure img").nth(i).get_attribute("src") for i in range(4)]
    keep(page, "serve-edit")

    slider = page.locator("#axis-0 input[type=range]")
    slider.focus()
    for _ in range(3):
        slider.press("PageDown")
    after = changed(page, "#edited", before)
    now = [page.locator("#edited figure img").nth(i).get_attribute("src") for i in range(4)]
    assert all(old != new for old, new in zip(parts, now, strict=True))  # σ, x̂₁, x̂₂ and x̂

    page.locator("#reset").click()
    wait_until(lambda: difference(before, seen(page, "#edited")) < 0.5, "reset brings the image back")
    page.locator("#another").click()
    changed(page, "#edited", before, by=3)
    changed(page, "#ranges", ranges)
    assert difference(before, after) > 1


def test_decompose_shows_the_parts_and_blends_them_anew(page, tmp_path):
    open_tab(page, "Decompose")
    page.wait_for_selector("#again img", timeout=WAIT)
    apart, again = settled(page, "#apart"), settled(page, "#again")
    assert page.locator("#apart figure").count() == 6
    assert "mse" in page.locator("#apart").inner_text()

    set_slider(page, "#shift", 1)
    first = changed(page, "#again", again)  # x̂₁ alone: the mask is white
    mask = seen(page, "#again figure:nth-child(1) img")
    assert mask[8:-8, 8:-8].min() > 250
    set_slider(page, "#shift", -1)
    second = changed(page, "#again", first)  # x̂₂ alone: the mask is black, the strokes are fatter
    assert seen(page, "#again figure:nth-child(1) img")[8:-8, 8:-8].max() < 5
    keep(page, "serve-decompose")
    set_slider(page, "#strength-2", 0.5)
    changed(page, "#again", second)

    page.locator("#decompose-examples button").nth(16).click()
    other = changed(page, "#apart", apart, by=3)

    picture = Image.new("L", (120, 90), 255)  # a dark stroke on white paper, of another size
    picture.paste(0, (52, 15, 66, 75))
    picture.save(tmp_path / "one.png")
    page.locator("#decompose-file input[type=file]").set_input_files(tmp_path / "one.png")
    dropped = changed(page, "#apart", other, by=10)
    page.locator("#decompose-invert input").check()
    inverted = changed(page, "#apart", dropped, by=10)
    x = seen(page, "#apart figure:nth-child(1) img")
    assert x[:, : x.shape[1] // 4].mean() < 20  # white on black now

    page.locator("#edit-latents").click()
    page.wait_for_selector("#axis-0", state="visible", timeout=WAIT)
    assert difference(inverted, apart) > 3


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("words.png", b"just words", "This picture cannot be used: not an image"),
        ("words.txt", b"just words", "Invalid file type"),
        ("large.png", None, "This picture cannot be used: it has 20,000×12 pixels"),
    ],
)
def test_a_bad_file_gets_one_line(page, tmp_path, name, content, line):
    open_tab(page, "Decompose")
    page.wait_for_selector("#apart img", timeout=WAIT)
    before = settled(page, "#apart")
    if content is None:
        Image.new("1", (20_000, 12)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    page.locator("#decompose-file input[type=file]").set_input_files(tmp_path / name)
    page.get_by_text(line).first.wait_for(timeout=WAIT)
    text = page.locator("body").inner_text()
    assert "Traceback" not in text
    assert str(tmp_path) not in text
    assert difference(before, seen(page, "#apart")) == 0  # what was there stays


def test_edit_moves_one_component_while_the_others_stand(page):
    open_tab(page, "Edit")
    page.wait_for_selector("#ranges img", timeout=WAIT)
    before = settled(page, "#edited")
    settled(page, "#ranges")
    images = page.locator("#edited figure img")

    def sources() -> list[str]:
        return [images.nth(i).get_attribute("src") for i in range(4)]  # σ, x̂₁, x̂₂, x̂

    def nudge(key: str) -> None:
        slider = page.locator("#axis-0 input[type=range]")
        slider.focus()
        for _ in range(3):
            slider.press(key)

    parts = sources()
    assert not page.locator("#with-masks").is_visible()
    page.get_by_role("radio", name="x̂₁ only").check()
    page.locator("#with-masks").wait_for(timeout=WAIT)
    assert difference(before, settled(page, "#edited")) == 0  # choosing alone changes nothing
    nudge("PageDown")
    first = changed(page, "#edited", before, by=0.2)
    now = sources()
    assert [old == new for old, new in zip(parts, now, strict=True)] == [True, False, True, False]
    keep(page, "serve-edit-one")

    page.locator("#with-masks input").check()
    settled(page, "#ranges")
    nudge("PageDown")
    second = changed(page, "#edited", first, by=0.2)
    moved = sources()
    assert [old == new for old, new in zip(now, moved, strict=True)] == [False, False, True, False]

    page.get_by_role("radio", name="x̂₂ only").check()
    page.locator("#with-masks input").uncheck()
    settled(page, "#ranges")
    nudge("PageUp")
    changed(page, "#edited", second, by=0.2)
    last = sources()
    assert [old == new for old, new in zip(moved, last, strict=True)] == [True, True, False, False]  # x̂₁ stays edited

    page.locator("#reset").click()
    wait_until(lambda: difference(before, seen(page, "#edited")) < 0.5, "reset brings the image back")


def test_recombine_lays_a_component_over_the_rest_of_another_image(page):
    open_tab(page, "Recombine")
    page.wait_for_selector("#laid-over img", timeout=WAIT)
    before = settled(page, "#laid-over")
    assert page.locator("#laid-over figure").count() == 6
    keep(page, "serve-recombine")

    page.locator("#behind-examples button").nth(0).click()
    behind = changed(page, "#laid-over", before)
    recombined = seen(page, "#laid-over figure:nth-child(6) img")
    assert "1 − σ" in page.locator("#laid-over").inner_text()  # x̂₂ lies in front: it covers less than x̂₁
    page.locator("#component").get_by_role("radio", name="x̂₁").check()
    changed(page, "#laid-over", behind)
    changed(page, "#laid-over figure:nth-child(6) img", recombined)
    assert "1 − σ" not in page.locator("#laid-over").inner_text()

    layers = []
    for name in ("layer1-x2.png", "layer2-x1.png"):
        with page.expect_download() as saved:
            page.locator(f"#laid-over a[download='{name}']").click()
        assert saved.value.suggested_filename == name
        layers.append(Image.open(saved.value.path()))
    assert [layer.mode for layer in layers] == ["RGBA", "RGBA"]
    over = np.asarray(Image.alpha_composite(*layers).convert("L").resize((64, 64))).astype(int)
    shown = Image.fromarray(seen(page, "#laid-over figure:nth-child(6) img")[4:-4, 4:-4].astype(np.uint8))
    assert difference(over, np.asarray(shown.convert("L").resize((64, 64))).astype(int)) < 12


def test_interpolate_moves_from_one_image_to_the_other(page):
    open_tab(page, "Interpolate")
    page.wait_for_selector("#way img", timeout=WAIT)
    before = settled(page, "#way")
    still = seen(page, "#animation img")
    wait_until(lambda: difference(still, seen(page, "#animation img")) > 1, "it moves by itself")
    keep(page, "serve-interpolate")

    page.locator("#second-examples button").nth(0).click()
    to_zero = changed(page, "#way", before)
    page.get_by_role("radio", name="on a line").check()
    changed(page, "#way", to_zero, by=0.1)
    link = page.locator("#animation a").get_attribute("href")
    assert link.startswith("data:image/gif;base64,")
    ends = [page.locator("#way .strip").last.locator("img").nth(i).get_attribute("src") for i in (0, 8)]
    assert ends[0] != ends[1]


def test_report_shows_the_tables_and_pictures_of_the_run(page):
    open_tab(page, "Report")
    frame = page.frame_locator("#report iframe")
    frame.get_by_text("FD (mnist-classifier), lower is better").wait_for(timeout=WAIT)
    assert "gmm-per-class" in frame.locator("table").first.inner_text()
    pictures = frame.locator("figure img")
    assert pictures.count() >= 4
    for i in range(pictures.count()):
        assert pictures.nth(i).evaluate("image => image.naturalWidth") > 100
    wait_until(
        lambda: page.locator("#report iframe").bounding_box()["height"] > 1500, "the report is as high as it needs"
    )
    assert seen(page, "#report iframe").std() > 10
    keep(page, "serve-report")


def test_the_page_is_dark_where_people_like_it_dark(browser, address):
    context = browser.new_context(color_scheme="dark", viewport={"width": 1240, "height": 960})
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#samples img", timeout=WAIT)
    assert settled(page, "body")[:40].mean() < 60
    keep(page, "serve-dark")
    context.close()


def test_the_page_fits_a_telephone(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#samples img", timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 392
    assert page.locator("#samples").bounding_box()["width"] > 300
    context.close()
