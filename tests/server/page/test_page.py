"""The page at ``/``, in headless Chromium, over a server that really runs: what a visitor does, and that it is true."""

import re

import numpy as np
import pytest
from browser import collect, draw, examples, heat, kept_back, sent, shown, watched
from playwright.sync_api import expect
from scipy import ndimage
from serving import serving

from isoform.runtime.arrays import softmax
from isoform.runtime.formats.signature import Signature
from isoform.train.data.domains import transform

pytestmark = pytest.mark.xdist_group("page")
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def url(compiled, tmp_path_factory):
    """The address of a server that lets everybody in."""
    with serving(compiled, "--store", tmp_path_factory.mktemp("page") / "s.db", "--open") as server:
        yield server.url


@pytest.fixture
def wrong() -> list[str]:
    """What went wrong in the page: warnings and errors in its console, and addresses on other hosts."""
    return []


@pytest.fixture
def open_page(browser, url, wrong):
    """Opens the page in a fresh window of any size; at the end nothing went wrong in it."""
    windows = []

    def opened(**options):
        window = browser.new_context(**options)
        windows.append(window)
        return watched(window, url, wrong)

    yield opened
    for window in windows:
        window.close()
    assert wrong == []


@pytest.fixture
def page(open_page):
    """The page in a window of ordinary size."""
    return open_page()


def settled(page) -> None:
    """Wait until what was drawn is answered."""
    expect(page.locator(".bars")).to_have_attribute("aria-busy", "false")


def test_a_drawing_is_answered_as_the_runtime_answers(page, runtime) -> None:
    """What is drawn with the mouse is sent as pixels, and shown is exactly what the runtime makes of them, and whose network it was."""
    asked = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith("/plain/infer") else None)
    draw(page, examples(page)[4])
    expect(page.locator(".verdict strong")).to_be_visible()
    settled(page)
    x = next(found for r in reversed(asked) if len(found := sent(r, SHAPE)) == 1)
    assert 0.1 < x.mean() < 0.6
    assert (x.min(), x.max()) >= (0, 0.9)
    wanted = softmax(runtime.predict(x, runtime.signature("plain")))[0]
    assert np.allclose(shown(page), wanted, atol=1e-6)
    assert page.locator(".verdict strong").inner_text() == str(wanted.argmax())
    assert runtime.signature("plain").digest[:12] in page.locator(".whose").inner_text()
    page.locator("#clear").click()
    expect(page.locator(".verdict")).to_have_text("Draw a digit")


def test_pixels_and_domains_are_those_of_training(page, samples) -> None:
    """The page's scan and its four domains give the numbers of the training's own code, on real digits."""
    x = samples[0][7]
    script = """async (pixels) => {
        const [{ scanned }, { DOMAINS }] = [await import('/page/drawing/framing.js'), await import('/page/drawing/domains.js')];
        const x = Float32Array.from(pixels);
        const all = Object.entries(DOMAINS).map(([name, { render }]) => [name, [...render(x, 32, 32)]]);
        return { scan: [...scanned(x, 32, 32, 4)], ...Object.fromEntries(all) };
    }"""
    found = page.evaluate(script, x.ravel().tolist())
    small = x[0].astype(np.float64).reshape(8, 4, 8, 4).mean((1, 3))
    scan = np.clip(ndimage.zoom(small, 4, order=3, mode="nearest", grid_mode=True), 0, 1)
    assert np.allclose(found.pop("scan"), scan.ravel(), atol=1e-5)
    assert list(found) == ["plain", "inverted", "blurred", "edges"]
    for name, pixels in found.items():
        assert np.allclose(pixels, transform(x[None], domain=name).ravel(), atol=1e-5), name


def put(page, url, user, signature) -> None:
    """Give a user a signature, and let the page know."""
    assert page.request.put(f"{url}/v1/models/plain/signatures/{user}", data=signature.encode()).ok
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()


def test_templates_and_users(page, url, runtime) -> None:
    """Switching users shows that user's mixture and asks that user's network; a name that nobody has is answered by the base."""
    spec, base = runtime.bundle.spec, runtime.signature("plain")
    logits = np.random.default_rng(1).normal(size=(spec.layers, spec.templates)).astype(np.float32)
    kept = base.keep("mixture")
    mine = Signature(parts={"mixture": logits}, template=kept.template, task="plain", base=kept.base)
    put(page, url, "carol", mine)
    expect(page.locator(".heat")).to_have_count(4)
    assert np.allclose(heat(page, "plain"), softmax(base.parts["mixture"]), atol=1e-12)
    draw(page, examples(page)[3])
    page.locator("#people .user").select_option("carol")
    expect(page.locator("#draw .whose")).to_contain_text(f"carol’s network, revision 1 · {mine.digest[:12]}")
    expect(page.locator(".current caption")).to_have_text("carol, revision 1")
    assert np.allclose(heat(page, "carol"), softmax(logits), atol=1e-12)
    page.locator("#people .name").fill("nobody-yet")
    page.locator("#people .name").press("Enter")
    expect(page.locator("#draw .whose")).to_contain_text(
        f"the base network of plain; nobody-yet has none yet · {base.digest[:12]}"
    )
    page.locator("#people .task").select_option("edges")
    expect(page.locator("#draw .whose")).to_contain_text(
        f"the base network of edges; nobody-yet has none yet · {runtime.signature('edges').digest[:12]}"
    )
    page.locator("#people .name").fill("no/name")
    page.locator("#people .name").press("Enter")
    expect(page.locator("#problem")).to_contain_text("a name has 1 to 64 letters")


def show_example(page, digit) -> None:
    """Let the page draw its own digit, and wait for the answer."""
    for _ in range(10):
        page.locator("#example").click()
        if page.locator("#said").inner_text() == f"an example of {digit}":
            break
    settled(page)


def right(page) -> list[str]:
    """How many are right, before and after."""
    return page.locator(".results .scores").first.locator("data").all_inner_texts()


def test_teach_see_it_rise_and_undo(page, url, runtime) -> None:
    """Ten drawings with labels of their own: few are right before, most after; undone, what somebody put and what was taught, every answer is what it was."""
    show_example(page, 4)
    untaught = shown(page)
    collect(page, "dora", range(10))
    expect(page.locator(".count")).to_have_text("10 to teach.")
    page.locator(".teach").click()
    expect(page.locator(".outcome")).to_contain_text("Revision 1: ", timeout=60_000)
    expect(page.locator(".results data").nth(1)).not_to_have_text("…")
    before, after = (int(text.split()[0]) for text in right(page))
    assert before <= 3
    assert after >= 8
    assert page.locator(".collected .right").count() == after
    show_example(page, 4)
    expect(page.locator("#draw .whose")).to_contain_text("dora’s network, revision 1")
    taught = shown(page)
    assert not np.allclose(taught, untaught, atol=0.01)
    assert page.request.put(f"{url}/v1/models/plain/signatures/dora", data=runtime.signature("plain").encode()).ok
    page.locator("#people .user").select_option("")
    page.locator("#people .user").select_option("dora")
    expect(page.locator("#draw .whose")).to_contain_text("dora’s network, revision 2")
    expect(page.locator(".history li")).to_have_count(2)
    expect(page.locator(".undoes")).to_have_text("Back to revision 1.")
    page.locator(".undo").click()
    expect(page.locator("#draw .whose")).to_contain_text("dora’s network, revision 3")
    expect(page.locator(".undoes")).to_have_text("Back to the base: dora’s signature is deleted.")
    settled(page)
    assert shown(page) == taught
    page.locator(".undo").click()
    expect(page.locator("#draw .whose")).to_contain_text("the base network of plain; dora has none yet")
    expect(page.locator(".undo")).to_be_disabled()
    expect(page.locator(".outcome")).to_have_text(f"Undone: {before} of 10 of the taught drawings are right.")
    settled(page)
    assert shown(page) == untaught


def test_kept_back_drawings_are_never_taught(page) -> None:
    """Every second drawing of a digit is shown as kept back and is not among the samples that are sent; a stopped job changes nothing."""
    collect(page, "emil", [1, 4, 7])
    for digit in (1, 4):  # by another hand: the same drawing is kept once
        draw(page, [[[x, 0.2 + 0.6 * y + 0.2 * x] for x, y in stroke] for stroke in examples(page)[digit]])
        page.locator("#teach .label").select_option(str(digit + 1))
        page.locator("#teach .keep").click()
    expect(page.locator(".count")).to_have_text("3 to teach, 2 kept back.")
    with page.expect_request(re.compile("/personalize")) as asked:
        page.locator(".teach").click()
    assert len(sent(asked.value, SHAPE)) == 3
    page.locator(".cancel").click()
    expect(page.locator(".outcome")).to_contain_text("Stopped; nothing was changed.")
    expect(page.locator(".teach")).to_be_focused()
    expect(page.locator(".undo")).to_be_disabled()
    page.locator(".collected button").first.click()
    expect(page.locator(".count")).to_have_text("2 to teach, 2 kept back.")


def test_a_job_that_ends_when_another_user_is_chosen(page) -> None:
    """Two clicks start one job; who has been chosen meanwhile is told nothing of it, but the user who learned is in the list."""
    collect(page, "hugo", [1, 4])
    asked = []
    page.on("request", lambda request: asked.append(request) if "/personalize" in request.url else None)
    page.evaluate("() => { const teach = document.querySelector('.teach'); teach.click(); teach.click(); }")
    expect(page.locator(".cancel")).to_be_visible()
    page.locator("#people .user").select_option("")
    expect(page.locator(".current caption")).to_have_text("plain")
    expect(page.locator(".cancel")).to_be_hidden(timeout=60_000)
    expect(page.locator("#people .user option", has_text="hugo")).to_be_attached()
    assert page.locator(".outcome").inner_text() == ""
    assert page.locator(".results *").count() == 0
    assert len(asked) == 1


def test_a_drawing_is_kept_once(page) -> None:
    """The same drawing is not kept again; shown to the network in another frame, it joins the first, to teach or kept back."""

    def keep(digit) -> None:
        show_example(page, digit)
        page.locator("#teach .label").select_option("5")
        page.locator("#teach .keep").click()

    for digit in (4, 7):
        keep(digit)
    for digit in (7, 4):
        keep(digit)
        expect(page.locator(".told")).to_have_text(
            "This drawing is already kept as 5; to change that, remove it first."
        )
    expect(page.locator(".count")).to_have_text("1 to teach, 1 kept back.")
    page.locator("#framing").select_option("mnist")
    for digit in (4, 7):
        keep(digit)
    assert kept_back(page) == [False, True, False, True]


def test_what_the_server_refuses_is_said_in_a_line(page, url, runtime, wrong) -> None:
    """Another write came in between: the server's own line stands on the page, and goes when the next thing goes well."""
    put(page, url, "frida", runtime.signature("plain"))
    page.locator("#people .user").select_option("frida")
    expect(page.locator(".undo")).to_be_enabled()
    expect(page.locator(".history li")).to_have_count(1)
    assert page.request.post(f"{url}/v1/models/plain/signatures/frida/rollback", data={"revision": 1}).ok
    page.locator(".undo").click()
    expect(page.locator("#problem")).to_contain_text("If-Match is ")
    expect(page.locator(".history li")).to_have_count(2)
    expect(page.locator("#problem")).to_contain_text("If-Match is ")
    assert [("412" in each) for each in wrong] == [True]
    wrong.clear()
    page.locator(".undo").click()
    expect(page.locator("#problem")).to_be_hidden()


def test_undoing_finds_its_way(page) -> None:
    """Undo goes back along the path of revisions, over rollbacks, as far as it is known."""
    script = """async ([made, complete]) => {
        const { undoOf } = await import('/page/revisions.js');
        const all = made.map(([action, digest, kept], i) => ({ revision: i + 1, action, digest, kept: kept ?? true }));
        return undoOf(all.reverse(), complete);
    }"""
    a, b, back = ["put", "a"], ["personalize", "b"], ["rollback", "a"]
    for made, complete, wanted in (
        ([], True, None), ([a], True, {}), ([a], False, None), ([a, b], True, {"revision": 1}), ([a, b, back], True, {}),
        ([a, b, back, ["adapt", "c"]], True, {"revision": 3}), ([a, b, ["put", "a"]], True, {"revision": 2}),
        ([["put", "a", False], b], True, None), ([b, back], False, {"revision": 1}),
    ):  # fmt: skip
        assert page.evaluate(script, [made, complete]) == wanted, made


def test_the_tour(page, runtime) -> None:
    """Every task's network answers every domain of the drawing as the runtime does; the guide goes round."""
    asked = []
    page.on("request", lambda r: asked.append(r) if r.url.endswith("/edges/infer") else None)
    draw(page, examples(page)[5])
    settled(page)
    assert asked == []  # nobody is asked for what nobody sees
    page.locator("#tour").scroll_into_view_if_needed()
    expect(page.locator(".grid b")).to_have_count(16)
    expect(page.locator(".grid")).to_have_attribute("aria-busy", "false")
    views = sent(asked[-1], SHAPE)
    tasks = ["plain", "inverted", "blurred", "edges"]
    assert page.locator(".grid thead th").all_inner_texts() == tasks
    for view, task in zip(views, tasks, strict=True):
        assert np.allclose(view, transform(views[:1], domain=task)[0], atol=1e-5)
    wanted = np.stack([runtime.predict(views, runtime.signature(task)).argmax(1) for task in tasks], axis=1)
    assert page.locator(".grid b").all_inner_texts() == [str(label) for label in wanted.ravel()]
    texts = []
    for _ in range(4):
        texts.append(page.locator(".stop").inner_text())
        page.locator(".next").click()
    assert len(set(texts)) == 4
    assert page.locator(".stop").inner_text() == texts[0]


def test_keyboard_alone(page) -> None:
    """From the address bar: Tab to the paper, draw a 1, keep it, draw another, teach; what has the focus can be seen."""
    keys = page.keyboard
    for _ in range(12):
        keys.press("Tab")
        if page.evaluate("document.activeElement.id") == "paper":
            break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    def line(arrow):
        keys.press("Space")
        for _ in range(9):
            keys.press(arrow)
        keys.press("Space")

    line("ArrowDown")
    expect(page.locator("#said")).to_contain_text("pen up, 50 % across, 81 % down")
    expect(page.locator(".verdict strong")).to_be_visible()
    keys.press("1")
    expect(page.locator("#said")).to_have_text("kept as a drawing of 1")
    line("ArrowRight")
    line("ArrowUp")
    keys.press("Backspace")
    expect(page.locator("#said")).to_have_text("last stroke taken back")
    keys.press("7")
    expect(page.locator(".count")).to_have_text("2 to teach.")
    reached = set()
    for _ in range(40):
        keys.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.id"))
        if page.evaluate("document.activeElement.matches('#teach .name')"):
            keys.type("greta")
            keys.press("Enter")
            break
    assert {"clear", "back", "example", "framing", "label", "keep-back"} <= reached
    expect(page.locator(".outcome")).to_contain_text(re.compile("Revision 1|Nothing was changed"), timeout=60_000)


def test_a_phone(open_page) -> None:
    """360 pixels wide, drawn with a finger: nothing is wider than the window, and no button smaller than a finger's tip can hit."""
    page = open_page(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
        color_scheme="dark",
        reduced_motion="reduce",
    )
    hand = page.context.new_cdp_session(page)
    page.locator("#paper").scroll_into_view_if_needed()
    for digit in (2, 7):
        box = page.locator("#paper").bounding_box()
        for stroke in examples(page)[digit]:
            for i, (x, y) in enumerate(stroke):
                point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
                hand.send(
                    "Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": [point]}
                )
            hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(page.locator(".verdict strong")).to_be_visible()
        if digit == 2:
            page.locator("#teach .keep").tap()
            page.locator("#paper").scroll_into_view_if_needed()
    page.locator("#tour").scroll_into_view_if_needed()
    expect(page.locator(".grid b")).to_have_count(16)
    page.locator("#keys summary").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = "all => all.filter((each) => each.getBoundingClientRect().right > 360.5).map((each) => each.outerHTML.slice(0, 80))"
    assert page.eval_on_selector_all("body *", wide) == []
    small = "all => all.filter((each) => each.offsetParent && Math.min(each.offsetWidth, each.offsetHeight) < 24).map((each) => each.outerHTML)"
    assert page.eval_on_selector_all("button, select, input:not([type=checkbox])", small) == []
