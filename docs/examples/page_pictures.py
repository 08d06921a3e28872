"""The pictures of docs/page.md: a real server over the quickstart's bundle, a real Chromium, and a hand that slants what it draws.

    python docs/examples/page_pictures.py quickstart/bundle -o docs/images

Needs Chromium and ``pip install 'isoform[test]'``; the font is the first of page.css that is there (those in docs have Inter, Debian's
fonts-inter). The server runs on a port of its own, with a store that is thrown away. What is drawn
is the page's ten examples, sheared and a little different every time (seed 0), by the mouse; two drawings of each digit, the second of
which the page keeps back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

__all__ = ["main"]

SLANT = 0.9
PATIENCE_MS = 120_000


def main() -> None:
    """Serve, draw, teach, and write page-draw.png, page-teach.png, page-tour.png and page-phone.png."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/page.md.")
    parser.add_argument("bundle", type=Path, help="the quickstart's bundle, compiled")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("there is no Chromium here; apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "isoform.runtime.cli", "serve", arguments.bundle, "--open", "--port", "0", "--store", f"{folder}/s.db"]  # fmt: skip
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            try:
                photograph(url, program, arguments.output)
            finally:
                server.terminate()


def photograph(url: str, program: str, output: Path) -> None:
    """Do what a visitor does, and take the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": 1060, "height": 880})
        page.goto(url)
        strokes = page.evaluate("async () => (await import('/page/drawing/examples.js')).EXAMPLES")
        rng = np.random.default_rng(0)
        draw(page, strokes[5])
        settled(page)
        picture(page, output / "page-draw.png", "header", "#layers")
        page.locator("#tour").scroll_into_view_if_needed()
        expect(page.locator(".grid b")).to_have_count(16, timeout=PATIENCE_MS)
        page.locator(".next").click(click_count=3, delay=50)
        picture(page, output / "page-tour.png", "#tour", "#tour")
        page.locator("#clear").click()
        for _ in range(2):
            for digit, lines in enumerate(strokes):
                draw(page, [slanted(line, rng) for line in lines])
                page.locator("#teach .label").select_option(str(digit))
                page.locator("#teach .keep").click()
        page.locator("#teach .name").fill("alice")
        page.locator(".teach").click()
        expect(page.locator(".outcome")).to_contain_text("Revision 1", timeout=PATIENCE_MS)
        expect(page.locator(".results data").nth(1)).not_to_have_text("…", timeout=PATIENCE_MS)
        print(page.locator(".outcome").inner_text(), page.locator(".results data").all_inner_texts())
        picture(page, output / "page-teach.png", "#teach", "#teach")
        phone = browser.new_page(
            viewport={"width": 360, "height": 1130}, device_scale_factor=2, has_touch=True, color_scheme="dark"
        )
        phone.goto(url)
        phone.locator("#people .user").select_option("alice")
        draw(phone, [slanted(line, rng) for line in strokes[7]])
        settled(phone)
        phone.evaluate("scrollTo(0, 0)")
        save(phone.screenshot(), output / "page-phone.png")
        browser.close()


def slanted(line: list[list[float]], rng: np.random.Generator) -> list[list[float]]:
    """A stroke as a slanting hand draws it, a little different every time."""
    points = np.array(line) - 0.5
    turn = np.eye(2) + rng.normal(0, 0.05, (2, 2)) + np.array([[0, -SLANT], [0, 0]])
    moved = 0.8 * points @ turn.T + rng.normal(0, 0.004, points.shape) + 0.5
    found: list[list[float]] = moved.clip(0.02, 0.98).tolist()
    return found


def draw(page: Page, strokes: list[list[list[float]]]) -> None:
    """Draw with the mouse."""
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    assert box is not None
    for stroke in strokes:
        for index, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if index == 0:
                page.mouse.down()
        page.mouse.up()


def settled(page: Page) -> None:
    """Wait until what was drawn is answered."""
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
    page.wait_for_timeout(400)  # until the bars have arrived


def picture(page: Page, path: Path, first: str, last: str) -> None:
    """The page from the beginning of one element to the end of another, as wide as it is."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    top, end = page.locator(first).bounding_box(), page.locator(last).bounding_box()
    assert top is not None
    assert end is not None
    clip = {"x": 0, "y": top["y"] + 2, "width": 1060, "height": end["y"] + end["height"] - top["y"] - 2}
    save(page.screenshot(full_page=True, clip=clip), path)


def save(data: bytes, path: Path) -> None:
    """Write a screenshot with 128 colours, which its flat areas do not miss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = path.with_suffix(".raw.png")
    raw.write_bytes(data)
    with Image.open(raw) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    raw.unlink()
    print(path, f"{path.stat().st_size:,} B")


if __name__ == "__main__":
    main()
