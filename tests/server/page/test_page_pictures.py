"""The page over a network of photographs: pictures from files and from Chromium's fake camera, and what is said where there is none."""

import re

import numpy as np
import pytest
from browser import FAKE_DEVICES, WATCHED_DEVICES, launched, until, visiting
from given import asking, check_answers, check_tour, given, teach_and_undo
from PIL import Image
from playwright.sync_api import expect

from isoform.runtime.inputs import Reading
from isoform.runtime.samples.pictures.images import load_image

pytestmark = pytest.mark.xdist_group("page")
SHAPE = (3, 16, 20)


@pytest.fixture(scope="module")
def flags():
    """A fake camera."""
    return FAKE_DEVICES


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a network of RGB images."""
    with given(tmp_path_factory.mktemp("photographs"), SHAPE, (4, 4), Reading()) as served:
        yield served


@pytest.fixture
def photographs(tmp_path):
    """Four files: larger, smaller, transparent and grey."""
    rng = np.random.default_rng(2)
    paths = []
    for name, mode, size in (
        ("wide", "RGB", (61, 37)), ("small", "RGB", (9, 11)), ("clear", "RGBA", (40, 40)), ("grey", "L", (33, 20)),
    ):  # fmt: skip
        planes = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        blocks = rng.integers(0, 256, (4, 5, planes), dtype=np.uint8).squeeze()
        if mode == "RGBA":
            blocks[..., 3] = np.where(blocks[..., 3] > 127, 255, 0)
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(paths[-1])
    return paths


def test_photographs_from_files(browser, served, photographs) -> None:
    """PNG files become the runtime's own samples, are answered as it answers them, taught, and undone."""
    with visiting(browser, served.url) as page:
        asked = asking(page)
        expect(page.locator("#draw-title")).to_have_text("Give it photographs")
        expect(page.locator("#paper")).to_be_hidden()
        page.locator("#files").set_input_files(photographs)
        x = check_answers(page, served, asked, 4)
        for sample, path in zip(x, photographs, strict=True):
            assert np.allclose(sample, load_image(path, shape=SHAPE), atol=1e-5), path.name
        check_tour(page, served, x[:1])
        teach_and_undo(page, served, x, "alice", many="photographs")


def test_a_jpeg_that_lies_on_its_side(browser, served, tmp_path) -> None:
    """A JPEG is turned by its EXIF, and differs from the runtime's sample by no more than decoders round."""
    tall = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)
    image = Image.fromarray(np.stack([tall, tall[::-1], tall[:, ::-1]], axis=-1))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "side.jpg", quality=95, exif=exif)
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(tmp_path / "side.jpg")
        x = check_answers(page, served, asked, 1)
        assert np.abs(x[0] - load_image(tmp_path / "side.jpg", shape=SHAPE)).max() < 3 / 255


def test_photographs_by_the_camera(browser, served) -> None:
    """The shutter makes a sample of what the camera shows, with values from 0 to 1, and the camera can be switched off."""
    with visiting(browser, served.url, permissions=["camera"]) as page:
        asked = asking(page)
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("video")).to_be_visible()
        expect(page.get_by_role("button", name="Take a photograph")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        x = check_answers(page, served, asked, 2)
        assert 0 <= x.min() < x.max() <= 1
        print("STD", x.std(axis=(2, 3)))
        assert x.std(axis=(2, 3)).max(axis=1).min() > 0.01
        page.get_by_role("button", name="Switch it off").click()
        expect(page.locator("video")).to_be_hidden()
        assert page.evaluate("document.querySelector('video').srcObject") is None
        expect(page.get_by_role("button", name="Use the camera")).to_be_focused()


ALL_ENDED = "tracks.every((track) => track.readyState === 'ended')"
HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_the_camera_is_opened_once(browser, served) -> None:
    """Two clicks open one stream, which is off when the page is out of sight; what had the focus keeps it."""
    with visiting(browser, served.url, permissions=["camera"]) as page:
        page.evaluate(WATCHED_DEVICES)
        page.evaluate("() => { const on = document.querySelector('.photograph .on'); on.click(); on.click(); }")
        expect(page.locator("video")).to_be_visible()
        assert page.evaluate("tracks.map((track) => track.readyState)") == ["live"]
        page.locator("#people .task").focus()
        page.evaluate(HIDE, True)
        expect(page.locator("video")).to_be_hidden()
        expect(page.locator("#people .task")).to_be_focused()
        assert page.evaluate(ALL_ENDED)
        page.evaluate(HIDE, False)
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("video")).to_be_visible()
        assert page.evaluate("tracks.map((track) => track.readyState)") == ["ended", "live"]


def test_a_camera_that_is_allowed_when_nobody_looks(browser, served) -> None:
    """A page that is hidden before the camera is opened has none; the next click opens it."""
    with visiting(browser, served.url, permissions=["camera"]) as page:
        page.evaluate(WATCHED_DEVICES)
        page.evaluate("window.asks = true")
        page.get_by_role("button", name="Use the camera").click()
        page.evaluate(HIDE, True)
        page.evaluate(HIDE, False)
        page.evaluate("() => { window.asks = false; allow(); }")
        until(page, "tracks.length === 1 && " + ALL_ENDED)
        expect(page.locator("video")).to_be_hidden()
        expect(page.locator("#problem")).to_be_hidden()
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("video")).to_be_visible()


def test_a_camera_that_is_stopped_before_its_picture_plays(browser, served) -> None:
    """It is released at once, though the video may wait for ever; the next click opens it."""
    with visiting(browser, served.url, permissions=["camera"]) as page:
        page.evaluate(WATCHED_DEVICES)
        page.evaluate("() => { document.querySelector('video').play = () => new Promise(() => {}); }")
        page.get_by_role("button", name="Use the camera").click()
        until(page, "document.querySelector('video').srcObject !== null")
        page.evaluate(HIDE, True)
        assert page.evaluate("tracks.length === 1 && " + ALL_ENDED)
        assert page.evaluate("document.querySelector('video').srcObject") is None
        page.evaluate(HIDE, False)
        page.evaluate("delete document.querySelector('video').play")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("video")).to_be_visible()


def test_a_camera_whose_picture_cannot_be_shown(browser, served) -> None:
    """It is said, the camera is released, and the next try may go well; errors that are called aborts are said, too."""
    with visiting(browser, served.url, permissions=["camera"]) as page:
        page.evaluate(WATCHED_DEVICES)
        for name in ("NotSupportedError", "AbortError"):
            page.evaluate(
                "(name) => { const video = document.querySelector('video'); video.play = async () => { throw new DOMException('no picture', name); }; }",
                name,
            )
            page.get_by_role("button", name="Use the camera").click()
            expect(page.locator("#problem")).to_have_text("the camera’s picture cannot be shown: no picture")
            expect(page.locator("video")).to_be_hidden()
            assert page.evaluate(ALL_ENDED)
            assert page.evaluate("document.querySelector('video').srcObject") is None
            page.evaluate("document.querySelector('#problem').textContent = ''")
        page.evaluate("delete document.querySelector('video').play")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("video")).to_be_visible()
        expect(page.locator("#problem")).to_be_hidden()


def test_what_cannot_be_read_is_said(browser, served, photographs, tmp_path) -> None:
    """A file that is no picture is named in a line; the others are read."""
    (tmp_path / "notes.png").write_text("no picture")
    with visiting(browser, served.url) as page:
        page.locator("#files").focus()
        page.locator("#files").set_input_files([tmp_path / "notes.png", photographs[0]])
        expect(page.locator("#problem")).to_contain_text("notes.png is not a picture that this browser can read")
        expect(page.locator(".samples .said small")).to_have_count(1)
        expect(page.locator("#files")).to_be_focused()
        page.locator("#files").set_input_files(photographs[1])
        expect(page.locator("#problem")).to_be_hidden()
        page.get_by_role("button", name="Clear these").click()
        expect(page.locator(".verdict")).to_have_text("Nothing is given yet")


def test_a_machine_without_a_camera(browser, served) -> None:
    """Without a camera, or without leave to use it, a line says so."""
    with launched(browser.browser_type) as other, visiting(other, served.url) as page:
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#problem")).to_contain_text(re.compile("the camera was not (found|allowed)"))
        page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")  # as at an http address
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#problem")).to_contain_text(
            "the camera needs an https address, or this server on localhost"
        )


def test_grey_pictures_beside_drawings(browser, tmp_path, photographs) -> None:
    """Where images are grey, a picture from a file and a drawing take turns as what is asked about."""
    with given(tmp_path, (1, 16, 20), (4, 4), Reading()) as served, visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(photographs)
        x = check_answers(page, served, asked, 4)
        for sample, path in zip(x, photographs, strict=True):
            assert np.allclose(sample, load_image(path, shape=(1, 16, 20)), atol=1e-5), path.name
        expect(page.locator("#example")).to_be_hidden()  # its examples are digits, and these classes are none
        page.locator("#paper").click()
        expect(page.locator(".samples input:checked")).to_have_count(0)
        page.locator("#clear").click()
        page.locator("#tour").scroll_into_view_if_needed()
        expect(page.locator(".grid")).to_have_attribute("aria-busy", "false")
        expect(page.locator("#tour .example")).to_be_hidden()
        page.locator(".samples input").nth(2).check()
        check_answers(page, served, asked, 4)


def test_a_phone_with_photographs(browser, served, photographs) -> None:
    """360 pixels wide: nothing is wider than the window."""
    with visiting(browser, served.url, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        page.locator("#files").set_input_files(photographs)
        expect(page.locator(".samples .said small")).to_have_count(4)
        page.locator("#tour").scroll_into_view_if_needed()
        expect(page.locator(".grid b")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
