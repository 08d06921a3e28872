"""The page over a bundle whose tasks take different inputs: pictures, recordings and texts, each with its own words, samples and parts."""

import dataclasses

import numpy as np
import pytest
from aligned import aligned, shuffled
from browser import sent, visiting
from pages import local_page
from PIL import Image
from playwright.sync_api import expect
from support import SMALL, make_bundle

from isoform.runtime.runtime import Runtime
from isoform.runtime.samples.pictures.images import load_image
from isoform.train.kinds.alignment.bundling import bundle_from_networks

pytestmark = pytest.mark.xdist_group("page")
PICTURES, RECORDINGS, TEXTS = "residual", "recurrent", "attention"


@pytest.fixture(scope="module")
def bundle():
    """Images of 3 × 8 × 8, windows of 6 × 20, and tokens."""
    return bundle_from_networks(shuffled(aligned()[0]), training={})


@pytest.fixture(scope="module")
def runtime(bundle, tmp_path_factory):
    """A runtime over the same bundle."""
    folder = tmp_path_factory.mktemp("tasks") / "bundle"
    folder.mkdir()
    bundle.write(folder)
    with Runtime.open(folder, engine="reference") as runtime:
        yield runtime


@pytest.fixture
def page(browser, bundle):
    """The page."""
    with local_page(bundle) as url, visiting(browser, url) as page:
        yield page


@pytest.fixture
def picture(tmp_path):
    """A picture file."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def table(path, names="abcdef", *, rows=45):
    """A recording of six channels, in some order of the columns; two windows of 20 rows, and five rows more. Returns the path and the windows."""
    values = np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32)
    lines = [",".join(repr(float(row["abcdef".index(name)])) for name in names) for row in values]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path, np.stack([values[:20].T, values[20:40].T])


def chosen(page, task, title) -> None:
    """Choose a task, and wait for its title."""
    page.locator("#people .task").select_option(task)
    expect(page.locator("#draw-title")).to_have_text(title)


def answered(page, count) -> None:
    """Wait until everything that was given is answered."""
    expect(page.locator(".samples .said small")).to_have_count(count)
    expect(page.locator(".samples")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false")


def test_every_task_has_its_own_kind(page, runtime, picture, tmp_path) -> None:
    """What can be given, its words and its answers are the chosen task's; samples of another input are put away, and come back to be taught."""
    chosen(page, PICTURES, "Give it photographs")
    page.locator("#files").set_input_files(picture)
    answered(page, 1)
    page.locator("#teach .keep").click()
    expect(page.locator(".count")).to_have_text("1 to teach.")
    asked = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith(f"/{RECORDINGS}/infer") else None)

    chosen(page, RECORDINGS, "Give it recordings")
    expect(page.locator("#tray")).to_be_hidden()
    expect(page.locator(".photograph")).to_be_hidden()
    expect(page.locator(".verdict")).to_have_text("Nothing is given yet")
    expect(page.locator(".count")).to_have_text("No windows yet.")
    expect(page.locator("#files")).to_have_attribute("accept", ".csv,.tsv,.txt,text/csv,text/tab-separated-values")
    path, x = table(tmp_path / "a.csv")
    page.locator("#files").set_input_files(path)
    answered(page, 2)
    assert np.array_equal(sent(asked[0], (6, 20)), x)
    signature = runtime.signature(RECORDINGS)
    wanted = [runtime.labels(signature)[i] for i in runtime.predict(x, signature).argmax(1)]
    assert [text.split()[0] for text in page.locator(".samples .said").all_inner_texts()] == wanted
    expect(page.locator("#chart")).to_be_visible()

    chosen(page, PICTURES, "Give it photographs")
    expect(page.locator("#chart")).to_be_hidden()
    expect(page.locator(".photograph")).to_be_visible()
    expect(page.locator(".count")).to_have_text("1 to teach.")
    expect(page.locator(".collected canvas")).to_have_js_property("width", 8)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_task_that_nothing_can_be_given_to(page, picture) -> None:
    """Parts for samples go and come with the task."""
    for _ in range(2):
        page.locator("#people .task").select_option(TEXTS)
        expect(page.locator("#undrawable")).to_contain_text("Samples here are 12 numbers")
        for part in ("#draw", "#teach", "#tour"):
            expect(page.locator(part)).to_be_hidden()
        page.locator("#people .task").select_option(PICTURES)
        expect(page.locator("#undrawable")).to_be_hidden()
        for part in ("#draw", "#teach", "#tour"):
            expect(page.locator(part)).to_be_visible()
    page.locator("#files").set_input_files(picture)
    answered(page, 1)
    expect(page.locator("#problem")).to_be_hidden()


def test_the_tour_asks_those_that_take_such_samples(page, runtime, picture) -> None:
    """Of three tasks one takes pictures, so the tour has one column, with its answer."""
    chosen(page, PICTURES, "Give it photographs")
    page.locator("#files").set_input_files(picture)
    answered(page, 1)
    page.locator("#tour").scroll_into_view_if_needed()
    expect(page.locator(".grid b")).to_have_count(1)
    assert page.locator(".grid thead th").all_inner_texts() == [PICTURES]
    signature, x = runtime.signature(PICTURES), load_image(picture, shape=(3, 8, 8))[None]
    assert (
        page.locator(".grid b").inner_text() == runtime.labels(signature)[int(runtime.predict(x, signature).argmax())]
    )
    expect(page.locator("#problem")).to_be_hidden()


def test_channels_without_names(page, tmp_path) -> None:
    """Where the bundle names no columns, those of later files are put in the order of the first; a file of other names is refused."""
    chosen(page, RECORDINGS, "Give it recordings")
    first, x = table(tmp_path / "first.csv")
    asked = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith(f"/{RECORDINGS}/infer") else None)
    page.locator("#files").set_input_files([first, table(tmp_path / "second.csv", "fbdcea")[0]])
    answered(page, 4)
    page.locator("#files").set_input_files(table(tmp_path / "third.csv", "edcbaf")[0])
    answered(page, 6)
    sizes = [sent(request, (6, 20)) for request in asked]
    assert np.array_equal(next(found for found in sizes if len(found) == 6), np.concatenate([x, x, x]))
    other = tmp_path / "other.csv"
    other.write_text(first.read_text().replace("a,b,c", "g,b,c"))
    page.locator("#files").set_input_files(other)
    expect(page.locator("#problem")).to_have_text(
        "other.csv has the columns g, b, c, d, e, f, but first.csv has a, b, c, d, e, f; "
        "use the same names for the same channels, or reload this page, which forgets both"
    )
    expect(page.locator(".samples li")).to_have_count(6)


def test_the_order_of_channels_is_remembered(page, tmp_path) -> None:
    """Kept windows may be of the first file still, so its order holds after the list is cleared and after another task."""
    chosen(page, RECORDINGS, "Give it recordings")
    path, x = table(tmp_path / "first.csv")
    page.locator("#files").set_input_files(path)
    answered(page, 2)
    page.get_by_role("button", name="Clear these").click()
    chosen(page, PICTURES, "Give it photographs")
    chosen(page, RECORDINGS, "Give it recordings")
    asked = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith(f"/{RECORDINGS}/infer") else None)
    page.locator("#files").set_input_files(table(tmp_path / "second.csv", "fbdcea")[0])
    answered(page, 2)
    assert np.array_equal(sent(asked[0], (6, 20)), x)


def test_tasks_of_one_input_and_other_labels(browser) -> None:
    """Words, examples and the frame of a drawing are those of the task's labels; a frame that was chosen stays while they do."""
    bundle = make_bundle(SMALL, tasks=("digits", "letters", "numbers"), classes=10)
    labels = {"digits": "0123456789", "letters": "abcdefghij", "numbers": "0123456789"}
    signatures = {name: bundle.signatures[name].replace(labels=tuple(each)) for name, each in labels.items()}
    with (
        local_page(dataclasses.replace(bundle, signatures=signatures)) as url,
        visiting(browser, url) as page,
    ):
        page.locator("#tour").scroll_into_view_if_needed()
        expect(page.locator("#tour .example")).to_be_visible()
        expect(page.locator("#framing")).to_have_value("mnist")
        chosen(page, "letters", "Draw, or give pictures")
        expect(page.locator("#tour .example")).to_be_hidden()
        expect(page.locator("#framing")).to_have_value("drawn")
        chosen(page, "numbers", "Draw a digit")
        expect(page.locator("#tour .example")).to_be_visible()
        expect(page.locator("#framing")).to_have_value("mnist")
        page.locator("#framing").select_option("digits")
        page.locator("#people .task").select_option("digits")
        expect(page.locator(".current caption")).to_have_text("digits")
        expect(page.locator("#framing")).to_have_value("digits")
