"""The page in a real browser: from a clip to a downloaded edit, on a desk and on a phone, in light and in dark.

`HETCACHE_SHOTS=FOLDER` keeps the screenshots."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_server import Served, served
from long_runs import make_clip

pytest.importorskip("gradio", reason="the page needs its extra: pip install -r requirements-app.txt")
pytest.importorskip("playwright", reason="the browser's driver: pip install playwright")

from playwright.sync_api import sync_playwright

from hetcache.files import DATA
from hetcache.media.masks import read_mask
from hetcache.media.read import read_frames

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
WAIT_MS = 150_000
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), "--max-mib", "4") as found:
        yield found
    # The worker outlives the server; with the test it has to end.
    import signal

    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hetcache.queue" in words and str(found.folder / "queue").encode() in words:
            os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = os.environ.get("HETCACHE_SHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    make_clip(folder)
    return folder


def opened(browser: Any, server: Served, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
    """A page of a browser of its own, which notes what it asks for and what goes wrong in it."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#stage[data-ready]")
    return page


def settled(page: Any, server: Served) -> None:
    """Nothing went wrong, and nothing but this server was asked for anything."""
    assert page.wrong == []
    outside = [url for url in page.asked if not url.startswith((server.url, "data:", "blob:"))]
    assert outside == []
    page.context.close()


def drag(page: Any, box: tuple[float, float, float, float], width: int) -> None:
    """Drag over the canvas, in pixels of a clip of that width."""
    seen = page.locator("[data-canvas]").bounding_box()
    x0, y0, x1, y1 = (value * seen["width"] / width for value in box)
    page.mouse.move(seen["x"] + x0, seen["y"] + y0)
    page.mouse.down()
    page.mouse.move(seen["x"] + x1, seen["y"] + y1, steps=3)
    page.mouse.up()


def upload(page: Any, path: Path) -> None:
    page.set_input_files("[data-file]", str(path))
    page.wait_for_function(f"document.querySelector('[data-name]').textContent.startsWith('{path.name}')")


def find(page: Any) -> None:
    page.click("[data-find]:not([disabled])")
    page.wait_for_function("/ready/.test(document.querySelector('[data-words]').textContent)")


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def first_box() -> tuple[float, float, float, float]:
    """Around the example's thing in its first frame."""
    (mask,) = read_mask(DATA / "masks.mp4", 1, (480, 832))
    rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
    return columns[0] - 4, rows[0] - 4, columns[-1] + 5, rows[-1] + 5


def test_the_example_in_five_actions_with_a_reload_on_the_way(
    browser: Any, server: Served, shots: Path, tmp_path: Path
) -> None:
    page = opened(browser, server)
    page.screenshot(path=shots / "1-begin.png", full_page=True)
    page.click("[data-example]")
    page.wait_for_function("document.querySelector('[data-name]').textContent.startsWith('real.mp4')")
    assert page.is_disabled("#run")
    page.click("[data-tool=box]")  # 1
    drag(page, first_box(), 832)  # 2
    page.wait_for_selector("[data-find]:not([disabled])")
    find(page)  # 3
    page.wait_for_selector("#run:not([disabled])")
    page.locator("#plan", has_text=re.compile(r"x fewer FLOPs .* about \d+ (s|min) here")).wait_for()
    assert page.locator("#plan svg rect.full").count() > 0 and page.locator("#plan svg rect.reuse").count() > 0
    page.screenshot(path=shots / "2-plan.png", full_page=True)
    page.click("#run")  # 4
    page.wait_for_selector("#jobs li.running .steps i.full")

    page.reload()
    page.wait_for_selector("#stage[data-ready]")
    page.wait_for_function("document.querySelector('[data-name]').textContent.startsWith('real.mp4')")
    page.wait_for_selector("#jobs li[data-job='1'].running, #jobs li[data-job='1'].done")
    page.screenshot(path=shots / "3-running.png", full_page=True)
    page.click("#run:not([disabled])")
    page.wait_for_selector("#jobs li[data-job='2'].waiting, #jobs li[data-job='2'].running")
    page.click("#jobs li[data-job='2'] [data-key='2-cancel']")
    page.wait_for_selector("#jobs li[data-job='2'].cancelled")

    page.wait_for_selector("#jobs li[data-job='1'].done")
    with page.expect_download() as waited:
        page.click("#jobs [data-key='1-edit.mp4']")  # 5
    saved = tmp_path / "edit.mp4"
    waited.value.save_as(saved)
    assert waited.value.suggested_filename == "real_edit.mp4"
    edit, source = read_frames(saved), read_frames(DATA / "real.mp4", 33)
    assert edit.shape == source.shape
    inside = read_mask(DATA / "masks.mp4", 33, (480, 832))
    change = np.abs(edit.astype(int) - source).mean(-1)
    assert change[inside].mean() > 10 > 2 > change[:, :, :200].mean()

    result = page.frame_locator("[data-page]")
    result.locator("canvas[data-panel='0']").wait_for()
    assert result.locator("[data-tokens]").count() == 1 and result.locator(".timelines svg").count() >= 1
    assert "sandbox" in page.locator("[data-page]").evaluate("frame => frame.outerHTML")
    page.wait_for_timeout(500)
    page.screenshot(path=shots / "4-done.png", full_page=True)
    settled(page, server)


def test_settings_cancel_and_the_command_line(browser: Any, server: Served, clip: Path, shots: Path) -> None:
    page = opened(browser, server, scheme="dark")
    upload(page, clip / "v.mp4")
    page.click("[data-tool=box]")
    drag(page, (14, 18, 48, 52), 96)
    find(page)
    page.wait_for_selector("#run:not([disabled])")
    page.get_by_label("Put something else there").check()
    page.locator("#prompt :is(textarea, input)").fill("a red ball; rm -rf /")
    page.get_by_text("Advanced settings").click()
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_text("Show the command line").click()
    slider = page.locator("#form input[type=range]").first
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    command = page.locator("#command")
    command.filter(has_text="--target-speedup").wait_for()
    page.get_by_label("Fast", exact=True).check()
    steps = page.locator("#set-steps :is(textarea, input)")
    steps.fill("0")
    steps.blur()
    page.wait_for_function("/--steps 0: at least 1/.test(document.querySelector('#plan').textContent)")
    assert page.is_disabled("#run")
    steps.fill("300")
    steps.blur()
    command.filter(has_text="--steps 300").wait_for()
    words = page.inner_text("#command").replace("\n", " ")
    assert "python inference.py --mode hetcache_fast" in words and "--prompt 'a red ball; rm -rf /'" in words
    page.wait_for_selector("#run:not([disabled])")
    page.click("#run")
    page.wait_for_selector("#jobs li.running .steps i.full")
    page.screenshot(path=shots / "5-dark-running.png", full_page=True)
    page.click("#jobs li.running [data-key$='-cancel']")
    page.wait_for_selector("#jobs li.cancelled")
    settled(page, server)


def test_bad_files_are_told_and_the_clip_stays(browser: Any, server: Served, clip: Path, tmp_path: Path) -> None:
    page = opened(browser, server)
    upload(page, clip / "v.mp4")
    for name, data, message in (
        ("notes.mp4", b"no video at all " * 99, "notes.mp4"),
        ("empty.mp4", b"", "empty"),
        ("large.mp4", bytes(5 << 20), "larger than 4 MiB"),
    ):
        (tmp_path / name).write_bytes(data)
        page.set_input_files("[data-file]", str(tmp_path / name))
        page.locator("[data-error]:not([hidden])", has_text=message).wait_for()
        assert page.inner_text("[data-name]").startswith("v.mp4")
    settled(page, server)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_a_keyboard_and_contrast(scheme: str, browser: Any, server: Served, clip: Path, shots: Path) -> None:
    page = opened(browser, server, 390, 844, scheme)
    assert fits(page)
    upload(page, clip / "v.mp4")
    # The picture is what is worked on: the margins leave it nearly all of the width.
    assert page.locator("[data-canvas]").bounding_box()["width"] > 0.85 * 390
    page.focus("[data-canvas]")
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-find]:not([disabled])")
    page.keyboard.press(".")
    assert page.inner_text("[data-frame-name]") == "2 / 17"
    page.get_by_text("Advanced settings").click()
    page.get_by_text("Input and mask", exact=True).click()
    assert fits(page)
    page.screenshot(path=shots / f"6-phone-{scheme}.png", full_page=True)
    assert page.evaluate(CONTRAST) == []
    # Every control has a name, and is reached by the keyboard.
    nameless = page.evaluate(
        "[...document.querySelectorAll('#stage button, #stage input:not([hidden]), #jobs button, #jobs a, #run')]"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.closest('label')) || e.tabIndex < 0)"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []
    settled(page, server)
