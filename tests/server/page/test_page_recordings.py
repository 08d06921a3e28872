"""The page over a network of sensor recordings: files cut into windows, a chart of them, and what is said of files that do not fit."""

import numpy as np
import pytest
from browser import visiting
from given import asking, check_answers, check_tour, given, teach_and_undo
from playwright.sync_api import expect

from isoform.runtime.inputs import Reading
from isoform.runtime.samples.recordings.windows import windows

pytestmark = pytest.mark.xdist_group("page")
SHAPE = (3, 1, 32)
STRIDE = 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a network of three channels, read by name, in overlapping windows."""
    reading = Reading(columns=("x", "y", "z"), stride=STRIDE)
    with given(tmp_path_factory.mktemp("recordings"), SHAPE, (1, 4), reading) as served:
        yield served


def recording(rows: int, seed: int = 0) -> np.ndarray:
    """Three channels that differ in their ranges, shape (3, rows), float32."""
    t = np.arange(rows)
    rng = np.random.default_rng(seed)
    waves = [np.sin(t / 5), 9.81 + np.cos(t / 9), 40 * np.sin(t / 3) * np.exp(-t / rows)]
    return (np.stack(waves) + rng.normal(0, 0.1, (3, rows))).astype(np.float32)


def table(values, path, *, order="zxy", separator=",", decimal=".", label=None):
    """Write a recording with its columns in some order, a time before them, and a label behind them."""
    places = ["xyz".index(name) for name in order]
    lines = [separator.join(["time", *order, *(["label"] if label else [])])]
    for i, row in enumerate(values.T):
        cells = [repr(float(row[place])).replace(".", decimal) for place in places]
        lines.append(separator.join([str(i), *cells, *([label[i]] if label else [])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_windows_of_a_file(browser, served, tmp_path) -> None:
    """Columns are taken by name, windows begin a stride apart, each is answered, and they are taught and undone."""
    values = recording(100)
    wanted = windows(values.T, 32, STRIDE)[0][:, :, None]
    with visiting(browser, served.url) as page:
        asked = asking(page)
        expect(page.locator("#draw-title")).to_have_text("Give it recordings")
        page.locator("#files").set_input_files(table(values, tmp_path / "walk.csv"))
        x = check_answers(page, served, asked, len(wanted))
        assert np.array_equal(x, wanted)
        expect(page.locator("#tray .about")).to_have_text("8 of 100 rows of walk.csv left out: too few for a window")
        check_tour(page, served, x[:1])
        teach_and_undo(page, served, x, "alice", many="windows")


def test_the_chart(browser, served, tmp_path) -> None:
    """The chart has the channels' names and where the windows are, and a click in it chooses one; the arrows choose, too."""
    with visiting(browser, served.url) as page:
        page.locator("#files").set_input_files(table(recording(100), tmp_path / "walk.csv"))
        chart = page.get_by_role(
            "img", name="walk.csv: 100 rows, 4 windows, of which number 1 is chosen; 3 channels: x, y, z"
        )
        box = chart.bounding_box()
        pixels = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
        assert page.locator("#chart canvas").evaluate(pixels) > 20
        chart.click(position={"x": 0.9 * box["width"], "y": box["height"] / 2})
        expect(page.locator("#chart figcaption")).to_have_text(
            "walk.csv: 100 rows, 4 windows, of which number 4 is chosen"
        )
        expect(page.locator(".samples input").nth(3)).to_be_checked()
        page.locator(".samples input").nth(3).focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#chart figcaption")).to_contain_text("number 3 is chosen")


def test_tables_as_others_write_them(browser, served, tmp_path) -> None:
    """Semicolons and decimal commas, tabs, quotes and comments are read as the runtime reads them."""
    values = recording(32, seed=1)
    one = table(values, tmp_path / "comma.csv", separator=";", decimal=",")
    two = table(values, tmp_path / "tabs.tsv", order="xyz", separator="\t")
    quoted = ['"time";"x";"y";"z";"a;b"', "# a comment", *(f'{i};"{x!r}";{y!r};{z!r};" ""q""\n"' for i, (x, y, z) in enumerate(values.T.tolist()))]  # fmt: skip
    three = tmp_path / "quoted.csv"
    three.write_text("sep=;\r\n" + "\r\n".join(quoted) + "\r\n", encoding="utf-8-sig")
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files([one, two, three])
        x = check_answers(page, served, asked, 3)
        assert np.array_equal(x, np.repeat(values[None, :, None], 3, axis=0))


def test_labels_in_the_file(browser, served, tmp_path) -> None:
    """No window lies across two labels, and all windows are kept with the labels of their file."""
    values = recording(90, seed=2)
    label = ["c1"] * 40 + ["c2"] * 50
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(table(values, tmp_path / "both.csv", label=label))
        x = check_answers(page, served, asked, 2)
        assert np.array_equal(x, np.stack([values[:, None, :32], values[:, None, 40:72]]))
        page.get_by_role("button", name="Keep all").click()
        expect(page.locator(".collected li b")).to_have_text(["c1", "c2"])
        page.get_by_role("button", name="Keep all").click()
        expect(page.locator(".count")).to_have_text("2 to teach.")


def test_a_long_recording(browser, served, tmp_path) -> None:
    """Of 399 windows the first 200 are shown and answered, and the rest is counted; what is given later is left out until these are cleared."""
    values = recording(8000)
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(table(values, tmp_path / "long.csv"))
        x = check_answers(page, served, asked, 200)
        assert np.array_equal(x, windows(values.T, 32, STRIDE)[0][:200, :, None])
        expect(page.locator("#tray .about")).to_contain_text("199 more left out: at most 200 are shown")
        page.locator("#files").set_input_files(table(values[:, :32], tmp_path / "short.csv"))
        expect(page.locator("#tray .about")).to_contain_text("1 more left out: at")
        page.get_by_role("button", name="Clear these").click()
        page.locator("#files").set_input_files(table(values[:, :32], tmp_path / "again.csv"))
        check_answers(page, served, asked, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,x,y\n0,1,2\n", "no column z, which the network was trained with; it has time, x, y"),
        ("x,y,z\n" + "1,2,3\n" * 40 + "1,two,3\n", 'line 42, column y, holds "two", but a finite number was expected'),
        ("x,y,z\n" + "1,2,3\n" * 9, "has no recording of at least 32 rows, the length of a window; it has 9 rows"),
        ("1,2,3\n4,5,6\n", "has no header: its first line holds 1, 2, 3"),
        ("x,y,z\n1,2\n", "line 2, has 2 fields, but the header has 3"),
        ("x,y,x\n1,2,3\n", "has two columns named x"),
        ("x,y,z\n", "has a header, but no rows"),
        ("x;y;z\n" + "1,234;2;3\n" * 40, 'holds "1,234", which could be thousands; write decimal points'),
        ("x;y;z\n" + "1,5;2.5;3\n" * 40, "use a decimal point, or a decimal comma, throughout"),
        ("", "is empty, but a header and at least one row were expected"),
        ("x;,y\n1;,2\n", 'could be separated by "," or ";"; use only one of them'),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(browser, served, tmp_path, text, said) -> None:
    """What is wrong, and in which file and line, is one line on the page."""
    (tmp_path / "odd.csv").write_text(text)
    with visiting(browser, served.url) as page:
        page.locator("#files").set_input_files(tmp_path / "odd.csv")
        expect(page.locator("#problem")).to_contain_text("odd.csv")
        expect(page.locator("#problem")).to_contain_text(said)
        expect(page.locator("#tray")).to_be_hidden()
