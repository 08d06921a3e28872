"""What the page keeps to teach and to check with: labels of files, recordings on one side only, nothing twice, and no more than can be sent."""

import dataclasses
import re

import numpy as np
import pytest
from browser import kept_back, sent, visiting
from given import TASK, given
from pages import local_page
from PIL import Image
from playwright.sync_api import expect
from serving import serving
from support import SMALL, make_bundle

from isoform.runtime.inputs import Reading

pytestmark = pytest.mark.xdist_group("page")
SHAPE = (1, 1, 8)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a network of one channel, in windows that overlap by half."""
    reading = Reading(columns=("x",), stride=4)
    with given(tmp_path_factory.mktemp("collected"), SHAPE, (1, 4), reading) as served:
        yield served


def recording(path, seed, *, rows=16, **columns):
    """Write a recording of random numbers, with a label, a group or both in every row; 16 rows are three windows. Returns the path."""
    values = np.random.default_rng(seed).normal(size=rows).round(4)
    lines = [",".join(map(str, (value, *(names[i] for names in columns.values())))) for i, value in enumerate(values)]
    path.write_text("\n".join([",".join(("x", *columns)), *lines]) + "\n")
    return path


def give(page, *paths) -> None:
    """Give files, one after the other."""
    for path in paths:
        page.locator("#files").set_input_files(path)
        expect(page.locator(".samples .called").last).to_contain_text(path.name)


def keep_all(page) -> None:
    """Keep everything that was given."""
    page.get_by_role("button", name="Keep all").click()


def test_labels_that_the_network_does_not_know(browser, served, tmp_path) -> None:
    """Windows of other labels are left out by "Keep all", which says how many; the spelling of a class does not matter."""
    label = ["c1"] * 8 + ["run"] * 12 + ["\u200bc2 "] * 8 + ["sit"] * 8
    with visiting(browser, served.url) as page:
        give(page, recording(tmp_path / "a.csv", 0, rows=36, label=label))
        page.locator("#teach .label").select_option("c0")
        keep_all(page)
        expect(page.locator(".collected li b")).to_have_text(["c1", "c2"])
        expect(page.locator(".told")).to_have_text("3 left out, because this network has no class run, sit.")


def test_one_window_of_another_label(browser, served, tmp_path) -> None:
    """A chosen window whose file's label is no class selects none, so that it is kept with a label that somebody selected."""
    with visiting(browser, served.url) as page:
        give(page, recording(tmp_path / "a.csv", 0, rows=16, label=["run"] * 8 + ["c1"] * 8))
        expect(page.locator(".told")).to_have_text("Its file says run, which is not a class of this network.")
        page.locator("#teach .keep").click()
        expect(page.locator(".told")).to_have_text("First select what the window is.")
        expect(page.locator(".count")).to_have_text("No windows yet.")
        page.locator("#teach .label").select_option("c2")
        page.locator("#teach .keep").click()
        expect(page.locator(".collected li b")).to_have_text(["c2"])
        expect(page.locator("#teach .label")).to_have_value("c1")  # of the next window, by its file
        expect(page.locator(".told")).to_be_hidden()


def test_a_users_own_classes(browser, served, tmp_path) -> None:
    """Labels are those of the chosen user's network, also before other tasks answer; samples of other classes are not taught."""
    base = served.runtime.signature(TASK)
    own = base.keep("logits.weight", "logits.bias").replace(labels=("run", "sit", "walk"))
    with visiting(browser, served.url) as page:
        assert page.request.put(f"{served.url}/v1/models/{TASK}/signatures/zoe", data=own.encode()).ok
        held = []
        page.route("**/second/templates", lambda route: held.append(route))
        page.reload()
        page.locator("#people .user").select_option("zoe")
        expect(page.locator("#teach .label option")).to_have_text(["run", "sit", "walk"])
        assert held
        for route in held:
            route.continue_()
        page.unroute("**/second/templates")
        give(page, recording(tmp_path / "a.csv", 0, label=["run"] * 16))
        expect(page.locator(".bars b")).to_have_text(["run", "sit", "walk"])
        keep_all(page)
        expect(page.locator(".collected li b")).to_have_text(["run"] * 3)
        page.locator("#people .user").select_option("")
        expect(page.locator("#teach .label option")).to_have_text(["c0", "c1", "c2"])
        expect(page.locator(".bars b")).to_have_text(["c0", "c1", "c2"])
        page.locator("#teach .name").fill("alice")
        page.locator(".teach").click()
        expect(page.locator("#problem")).to_have_text(
            "3 of 3 windows are kept as run, which alice’s network has no class for; remove them first"
        )


def test_recordings_are_kept_back_as_a_whole(browser, served, tmp_path) -> None:
    """Every second file of a class is kept back with all its windows; none of them is sent to learn from."""
    label = ["c1"] * 16
    paths = [recording(tmp_path / f"{i}.csv", i, label=label) for i in range(4)]
    paths.append(recording(tmp_path / "other.csv", 9, label=["c2"] * 16))
    with visiting(browser, served.url) as page:
        give(page, *paths)
        keep_all(page)
        expect(page.locator(".count")).to_have_text("9 to teach, 6 kept back.")
        assert kept_back(page) == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
        page.locator("#teach .name").fill("alice")
        with page.expect_request(re.compile("/personalize")) as asked:
            page.locator(".teach").click()
        values = [np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, dtype=np.float32) for path in paths]
        wanted = [values[i][start : start + 8] for i in (0, 2, 4) for start in (0, 4, 8)]
        assert np.array_equal(sent(asked.value, SHAPE)[:, 0, 0], wanted)
        expect(page.locator(".outcome")).to_contain_text(re.compile("Revision 1|Nothing was changed"), timeout=60_000)


def test_nothing_is_kept_twice(browser, served, tmp_path) -> None:
    """What was given twice, also under another name, is kept once; a window that is kept again joins its recording."""
    paths = [recording(tmp_path / f"{i}.csv", i, label=["c1"] * 16) for i in range(3)]
    copy = tmp_path / "copy.csv"
    copy.write_bytes(paths[2].read_bytes())
    with visiting(browser, served.url) as page:
        give(page, *paths)
        keep_all(page)
        expect(page.locator(".count")).to_have_text("6 to teach, 3 kept back.")
        page.get_by_role("button", name="Clear these").click()
        page.locator(".collected button").last.click()
        give(page, copy, *paths[:2])
        keep_all(page)
        expect(page.locator(".told")).to_have_text("8 already kept.")
        expect(page.locator(".count")).to_have_text("6 to teach, 3 kept back.")
        page.locator(".samples input").first.check()
        page.locator("#teach .label").select_option("c0")
        page.locator("#teach .keep").click()
        expect(page.locator(".told")).to_have_text(
            "This window is already kept as c1; to change that, remove it first."
        )
        expect(page.locator(".collected li")).to_have_count(9)


def test_groups_are_on_one_side(browser, served, tmp_path) -> None:
    """Recordings of one group, in whichever file, are taught together or kept back together."""
    label, groups = ["c1"] * 16, [["ann"] * 8 + ["bob"] * 8, ["bob"] * 8 + ["ann"] * 8]
    with visiting(browser, served.url) as page:
        give(page, *(recording(tmp_path / f"{i}.csv", i, label=label, group=group) for i, group in enumerate(groups)))
        keep_all(page)
        assert kept_back(page) == [False, True, True, False]


def test_more_than_a_request_can_hold(browser, tmp_path) -> None:
    """More samples to teach than 16 MiB are refused in a line that says how many fit, and nothing is asked of the server; those that fit are sent."""
    shape = (3, 512, 512)
    bundle = make_bundle(
        dataclasses.replace(SMALL, input_shape=shape, adapter_kernel=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
    )
    rng, paths = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    with local_page(bundle) as url, visiting(browser, url) as page:
        page.locator("#files").set_input_files(paths)
        expect(page.locator(".samples .said small")).to_have_count(6)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator("#teach .keep-back").uncheck()
        for i in range(6):
            page.locator("#teach .label").select_option(f"c{i % 2}")
            page.locator("#teach .keep").click()
        page.locator("#teach .name").fill("alice")
        page.locator(".teach").click()
        expect(page.locator("#problem")).to_have_text(
            "at most 5 samples of this size fit into a request of 16 MiB, but there are 6; remove some"
        )
        assert not [url for url in asked if "/personalize" in url]
        page.locator(".collected button").first.click()
        with page.expect_response(re.compile("/personalize")) as answer:
            page.locator(".teach").click()
        assert answer.value.status == 202
        expect(page.locator(".outcome")).to_contain_text("the reference engine cannot learn", timeout=60_000)


def test_samples_of_another_size(browser, served) -> None:
    """A sample that is not of the network's size is refused in a line, whatever it is for."""
    script = """async ([task, size, shape]) => {
        const { infer, lesson } = await import('/page/api.js');
        const samples = [new Float32Array(8), new Float32Array(size)];
        const said = (problem) => problem.message;
        return [await infer(task, null, samples, shape).catch(said), await lesson(task, 'alice', samples, ['c0', 'c1'], shape).catch(said)];
    }"""
    with visiting(browser, served.url) as page:
        for size in (7, 9, 0, 800):
            wanted = f"a sample has {size} numbers, but the network takes 1 × 1 × 8; give it again"
            assert page.evaluate(script, [TASK, size, SHAPE]) == [wanted, wanted]


def test_no_samples(browser, served) -> None:
    """Of no samples there are no answers."""
    script = "async ([task, shape]) => (await import('/page/api.js')).infer(task, null, [], shape)"
    with visiting(browser, served.url) as page:
        assert page.evaluate(script, [TASK, SHAPE]) == {"whose": {}, "answers": []}


def test_a_server_that_reads_less(browser, compiled, tmp_path) -> None:
    """What fits into a request is what the server was told; more samples than that are answered by several requests."""
    script = """async () => {
        const { infer, lesson } = await import('/page/api.js');
        const samples = Array.from({ length: 300 }, () => new Float32Array(1024));
        const { answers } = await infer('plain', null, samples, [1, 32, 32]);
        return [answers.length, await lesson('plain', 'alice', samples, samples.map(() => '1'), [1, 32, 32]).catch((problem) => problem.message)];
    }"""
    words = ("--open", "--store", tmp_path / "s.db", "--max-body-mb", "1")
    with serving(compiled, *words) as server, visiting(browser, server.url) as page:
        wanted = "at most 255 samples of this size fit into a request of 1 MiB, but there are 300; remove some"
        assert page.evaluate(script) == [300, wanted]
