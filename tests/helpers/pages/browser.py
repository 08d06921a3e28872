"""Helpers for tests of the page: a real server as a process, a real Chromium, and hands that draw in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Page, Request, expect, sync_playwright

from isoform.runtime.arrays import Array

PAPER = "#paper"
expect.set_options(timeout=30_000)  # a busy machine is no defect of the page

WATCHED_DEVICES = """() => {
    window.tracks = [];
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        if (window.asks) await new Promise((resolve) => (window.allow = resolve));
        const stream = await open(wanted);
        window.tracks.push(...stream.getTracks());
        return stream;
    };
}"""
"""Script that notes every track of camera and microphone; while ``asks`` is set, a device is opened only when ``allow`` is called."""
FAKE_DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""Flags of Chromium: a camera with a moving picture and a microphone that beeps, allowed without a question."""


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """A headless Chromium; tests are skipped where there is none."""
    with sync_playwright() as playwright, launched(playwright.chromium, *flags) as browser:
        yield browser


@contextlib.contextmanager
def launched(kind: BrowserType, *flags: str) -> Iterator[Browser]:
    """The same, where a test has another browser open already: ``kind`` is that one's ``browser_type``."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium here; apt-get install chromium")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    browser = kind.launch(executable_path=program, args=[*arguments, *flags])
    yield browser
    browser.close()


@contextlib.contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page in a window of its own; at the end nothing went wrong in it, and nothing was asked of another host."""
    wrong: list[str] = []
    with browser.new_context(**options) as window:
        yield watched(window, url, wrong)
    assert wrong == []


def watched(window: BrowserContext, url: str, wrong: list[str]) -> Page:
    """Open the page in a window; ``wrong`` gets warnings and errors of its console, and addresses on other hosts."""
    page = window.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda problem: wrong.append(str(problem)))
    page.on("request", lambda request: None if request.url.startswith(f"{url}/") else wrong.append(request.url))
    page.goto(url)
    expect(page.locator("body[data-ready]")).to_be_attached()
    return page


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true; the page's own policy forbids ``wait_for_function``, which evaluates texts in it."""
    end = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} is not true"
        time.sleep(0.05)


def examples(page: Page) -> list[list[list[list[float]]]]:
    """The page's own ten digits, as strokes."""
    found: list[list[list[list[float]]]] = page.evaluate(
        "async () => (await import('/page/drawing/examples.js')).EXAMPLES"
    )
    assert len(found) == 10
    return found


def draw(page: Page, strokes: list[list[list[float]]]) -> None:
    """Draw with the mouse, stroke by stroke, with every second of the points."""
    page.locator(PAPER).scroll_into_view_if_needed()
    box = page.locator(PAPER).bounding_box()
    assert box is not None
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in [*stroke[:-1:2], stroke[-1]]]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()


def sent(request: Request, shape: tuple[int, int, int]) -> Array:
    """The samples of a request for a prediction: shape (n, *shape), float32."""
    body = request.post_data_buffer
    assert body is not None
    head = int(request.headers["inference-header-content-length"])
    inputs = json.loads(body[:head])["inputs"]
    return np.frombuffer(body[head:], "<f4").reshape(inputs[0]["shape"]).reshape(-1, *shape)


def shown(page: Page) -> list[float]:
    """The ten probabilities as the page has them."""
    return [float(text) for text in page.eval_on_selector_all(".bars data", "all => all.map((each) => each.value)")]


def collect(page: Page, name: str, digits: Iterable[int]) -> None:
    """Draw digits and keep each as the digit after it, for a user."""
    strokes = examples(page)
    for digit in digits:
        draw(page, strokes[digit])
        page.locator("#teach .label").select_option(str((digit + 1) % 10))
        page.locator("#teach .keep").click()
    page.locator("#teach .name").fill(name)


def kept_back(page: Page) -> list[bool]:
    """Of every sample that was kept, whether it is kept back."""
    script = "all => all.map((each) => each.classList.contains('checks'))"
    return [bool(each) for each in page.eval_on_selector_all(".collected li", script)]


def heat(page: Page, name: str) -> Array:
    """A heat map by its caption's beginning: shape (layers, templates), by number."""
    panel = page.locator(".heat").filter(has=page.locator("caption", has_text=re.compile(f"^{name}"))).first
    rows = panel.locator("tbody tr").all()
    found = {
        int(row.locator("th").inner_text()): [float(c.get_attribute("data-share")) for c in row.locator("td").all()]
        for row in rows
    }
    return np.array([found[k] for k in sorted(found)]).T
