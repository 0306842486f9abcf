"""The page in a real browser: `make test-web`."""

from __future__ import annotations

import os
import shutil
import socket
import threading

import numpy as np
import pytest
import uvicorn
from data_video_cases import write
from serving_cases import engine, service_of

from stts_jax.serving.access import Access
from stts_jax.serving.app import Readiness, make_app
from stts_jax.serving.connections import protocol_with

pytestmark = pytest.mark.web
KEY = "a key"
# Compiling may come first.
PATIENCE = 300_000


@pytest.fixture(scope="module")
def address():
    """Of a server with an untrained model, to which a key belongs."""
    with engine() as running, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = make_app(service_of(running), Access([KEY]), Readiness(), drain_seconds=1.0)
        config = uvicorn.Config(app, http=protocol_with(20.0), ws="none", loop="asyncio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write(path, np.linspace(150, 220, 40))
    return path


@pytest.fixture
def page(browser, address):
    """A page that was given the key; errors in it, and requests to elsewhere, fail the test."""
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.set_default_timeout(PATIENCE)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _is_far(request) else None)
    page.goto(address)
    page.wait_for_selector("#key-form:not([hidden])")
    page.keyboard.type(KEY)  # it has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#model:text-is('tiny')")
    yield page
    assert wrong == []
    page.close()


def _is_far(request):
    return not request.url.startswith(("http://127.0.0.1:", "blob:", "data:"))


def choose(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector("#kept:not([hidden]):not(.waiting)")


def ask(page, question):
    turns = page.locator(".turn").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector(f".turn:nth-child({turns + 1}):not(.going)")
    return page.locator(".turn").nth(turns).inner_text()


def test_a_clip_is_asked_about_twice_and_compared(page, clip):
    choose(page, clip)
    assert page.inner_text("#after") == "8"
    assert page.locator("#frames li").count() == 4
    first = ask(page, "What moves?")
    assert "What moves?" in first and "16 → 8 visual tokens" in first and "clip known" in first
    page.click("#compare")
    page.wait_for_selector(".turn.compared:not(.going)")
    assert "with all tokens" in page.inner_text(".compared")
    assert "16 visual tokens" in page.inner_text(".compared")
    assert "And then?" in ask(page, "And then?")


def wait_for_pictures(page):
    # The page allows no code from strings, which waiting for an expression would be.
    for _ in range(100):
        if page.evaluate("[...document.querySelectorAll('canvas')].every((c) => c.picture)"):
            return
        page.wait_for_timeout(50)
    raise AssertionError("the frames are not drawn")


def dark_pixels(page, frame):
    """The share of a frame that is drawn as dropped."""
    return page.evaluate(
        """(frame) => {
        const canvas = document.querySelectorAll("#frames canvas")[frame];
        const { width, height } = canvas;
        const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        let dark = 0;
        for (let i = 0; i < pixels.length; i += 4) dark += pixels[i] < 60;
        return (4 * dark) / pixels.length;
      }""",
        frame,
    )


def test_the_slider_redraws_by_keyboard_at_once_and_the_server_agrees(page, clip):
    choose(page, clip)
    wait_for_pictures(page)
    assert dark_pixels(page, 0) == 0  # of the first frame all stay
    page.focus("#ratio")
    page.keyboard.press("End")  # 95 %
    assert page.inner_text("#after") == "1"
    assert page.inner_text("#read") == "…"  # a preview, until the server has said it
    assert dark_pixels(page, 3) == 1
    assert page.locator("#chart .share").count() == 4
    page.wait_for_selector("#kept:not(.waiting)")
    assert page.inner_text("#after") == "1" and "ms" in page.inner_text("#read")


def test_a_file_that_is_no_video_is_one_sentence(page, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video" * 50)
    page.set_input_files("#file", tmp_path / "no.mp4")
    page.wait_for_selector("#status.wrong")
    assert "video" in page.inner_text("#status")
    assert page.is_hidden("#kept")


def test_it_fits_a_phone(page, clip):
    page.set_viewport_size({"width": 360, "height": 740})
    choose(page, clip)
    ask(page, "What moves?" * 20)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
