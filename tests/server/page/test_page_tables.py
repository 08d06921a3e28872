"""Tables by the page and by the runtime: the same odd files give the same windows, labels and places, or an error in both."""

import base64
import re

import numpy as np
import pytest
from browser import visiting
from pages import local_page
from playwright.sync_api import Error, Page

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.streamed import read_chunks

pytestmark = pytest.mark.xdist_group("page")
WINDOW = Input(what="window", shape=(2, 2))

READ = """async ([name, data, columns, stride]) => {
    const { readRecording } = await import('/page/samples/recordings.js');
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    try {
        const { samples } = await readRecording(new File([bytes], name), { shape: [2, 2], reading: { columns, stride } });
        return samples.map(({ values, from, label }) => ({ values: [...values], from, label }));
    } catch (problem) {
        if (problem.constructor !== Error) throw problem; // a defect of the page, and not what it says of a file
        return problem.message;
    }
}"""

ROWS = "1,2\n3,4\n"
TABLES = {
    # lines that are no rows
    "plain": "x,y\n" + ROWS, "no last line end": "x,y\n1,2\n3,4", "carriage returns": "x,y\r1,2\r3,4\r",
    "blank lines": "\n \nx,y\n\n1,2\n\t\n3,4\n\n", "empty rows at the end": "x,y\n" + ROWS + ",\n , \n",
    "an empty row between": "x,y\n1,2\n,\n3,4\n", "an empty row first": "x,y\n,\n" + ROWS, "an empty row of other width": "x,y\n" + ROWS + ",,\n",
    "one field too many": "x,y\n1,2,\n3,4,\n", "one field too few": "x,y\n1\n3,4\n", "no rows": "x,y\n", "only empty rows": "x,y\n,\n",
    "nothing": "", "spaces alone": "  \n \n", "one column, an empty line": "x\n1\n\n2\n",
    # comments
    "comments": "# a\nx,y\n# b\n1,2\n  # c\n3,4\n", "a comment in quotes": '"# a, b"\nx,y\n' + ROWS, "a cell that begins with #": "x,y\n#1,2\n3,4\n",
    "a quoted # in a row": 'x,y\n"#1",2\n3,4\n', "a header in a comment": "# x,y\n" + ROWS, "the last comment is the header": "# of me\n# x,y\n" + ROWS,
    "a comment of other width": "# x,y,z\n" + ROWS, "a comment of numbers": "# 1,2\n" + ROWS, "comments alone": "# x,y\n",
    # separators
    "semicolons": "x;y\n1;2\n3;4\n", "tabs": "x\ty\n1\t2\n3\t4\n", "bars": "x|y\n1|2\n3|4\n", "sep": "sep=;\nx;y\n1;2\n3;4\n",
    "sep in quotes": '"sep=;"\nx;y\n1;2\n3;4\n', "sep after a comment": "# a\n\nsep=;\nx;y\n1;2\n3;4\n", "sep of a letter": "sep=a\nxay\n1a2\n3a4\n",
    "sep behind a mark": "\ufeffsep=;\r\nx;y\r\n1;2\r\n3;4\r\n", "two separators fit": "x;,y\n1;,2\n", "spaces": "x y\n1 2\n3 4\n",
    "spaces, no header": "1 2\n3 4\n",
    "columns of write.table": '"x" "y"\n"1" 1 2\n"2" 3 4\n', "one column": "x\n1\n2\n", "words": "some words\n",
    "decimal commas, one column": "x\n1,5\n2,5\n",
    # quotes
    "quotes": '"x","y"\n"1","2"\n3,"4"\n', "spaces before quotes": 'x, "y"\n1, "2"\n3, "4"\n', "doubled quotes": 'x,"y ""q"""\n' + ROWS,
    "line ends in quotes": 'x,"y\nz"\n' + ROWS, "text behind quotes": 'x,y\n"1"0,2\n3,4\n', "space behind quotes": 'x,y\n"1" ,2\n3,4\n',
    "quotes without an end": 'x,y\n1,"2\n3,4\n', "a quote within": 'x,y"\n' + ROWS, "a separator in quotes": '"x,1",y\n' + ROWS,
    "a long field": "x,y,z\n1,2," + 140_000 * "a" + "\n", "a # line in quotes": 'x,y,label\n1,2,"a\n# b"\n3,4,"a\n# b"\n',
    # headers
    "no header": ROWS, "half a header": "x,1\n" + ROWS, "pandas' index": ",0,1\n0,1,2\n1,3,4\n", "pandas' columns": "time,day,when,0,1\n,,,1,2\n,,,3,4\n",
    "counted, not named": "0,1\n" + ROWS, "numbers of Python": "1_0,y\n" + ROWS, "nan": "nan,y\n" + ROWS, "inf": "x,-Infinity\n" + ROWS,
    "not a number": "1_,y\n" + ROWS,
    "twice": "x,x\n" + ROWS, "twice, other accents": "e\u0301,\u00e9\n" + ROWS, "twice, spaces": "x  1,x 1\n" + ROWS,
    "twice without a name": ",,x,y\n1,1,1,2\n2,2,3,4\n",
    "two marks": "\ufeff\ufeffx,y\n" + ROWS, "spaces of other scripts": "\u3000x\u2003,\xa0y\x85\n" + ROWS,
    # which columns are channels
    "row numbers": "index,x,y\n0,1,2\n1,3,4\n", "unnamed": "Unnamed: 0,x,y\n0,1,2\n1,3,4\n", "seconds": "seconds,x,y\n0,1,2\n1,3,4\n",
    "second": "Second,x,y\n0,1,2\n1,3,4\n", "milliseconds": "milliseconds,x,y\n0,1,2\n1,3,4\n", "nanosecond": "NanoSecond,x,y\n0,1,2\n1,3,4\n",
    "elapsed": "seconds_elapsed,x,y\n0,1,2\n1,3,4\n", "a time with a unit": "Time (s),x,y\n0,1,2\n1,3,4\n", "µ": "time_\u00b5s,x,y\n0,1,2\n1,3,4\n",
    "Greek µ": "time_\u03bcs,x,y\n0,1,2\n1,3,4\n", "a time that is none": "timer,x,y\n0,1,2\n1,3,4\n", "only one channel": "x\n1\n2\n",
    "classes": "x,class\n" + ROWS, "a column of labels": "x,y,Labels\n1,2,3\n3,4,5\n", "three channels": "x,y,z\n1,2,3\n4,5,6\n",
    "file": "file,x,y\na,1,2\nb,3,4\n",
    # labels and groups
    "labels": "x,y,label\n1,2,a\n3,4,a\n5,6,b\n7,8,b\n", "no window across labels": "x,y,label\n1,2,a\n3,4,b\n5,6,b\n", "Label": "x,y,LABEL\n1,2,a\n3,4,a\n",
    "labels with spaces": "x,y,label\n1,2, a  b \n3,4, a  b \n", "two spellings": "x,y,label\n1,2,a b\n3,4,a  b\n",
    "accents": "x,y,label\n1,2,e\u0301\n3,4,e\u0301\n",
    "two spellings of an accent": "x,y,label\n1,2,e\u0301\n3,4,\u00e9\n", "an invisible character": "x,y,label\n1,2,\u200ba\n3,4,\u200ba\n",
    "an empty label": "x,y,label\n1,2,a\n3,4,\n", "nan as a label": "x,y,label\n1,2,nan\n3,4,nan\n", "NA": "x,y,label\n1,2,NA\n3,4,NA\n",
    "<NA>": "x,y,label\n1,2,a\n3,4,<NA>\n", "Nan is a name": "x,y,label\n1,2,Nan\n3,4,Nan\n",
    "a long label": f"x,y,label\n1,2,{'a' * 257}\n3,4,{'a' * 257}\n",
    "256 characters": f"x,y,label\n1,2,{'😀' * 256}\n3,4,{'😀' * 256}\n", "two columns of labels": "x,y,label,Label\n1,2,a,a\n3,4,a,a\n",
    "groups": "x,y,group\n1,2,a\n3,4,a\n5,6,b\n7,8,b\n", "an empty group": "x,y,group\n1,2,a\n3,4,\n",
    "groups and labels": "x,y,label,group\n1,2,a,1\n3,4,a,2\n5,6,a,2\n",
    # numbers
    "spaces about numbers": "x,y\n 1 ,\t2\n3\xa0,4\n", "exponents": "x,y\n1e2,-.5E-1\n+3.,4\n", "no number": "x,y\n1,two\n3,4\n",
    "an empty field": "x,y\n1,\n3,4\n",
    "nan as a number": "x,y\n1,nan\n3,4\n", "inf as a number": "x,y\n1,inf\n3,4\n", "too large": "x,y\n1,1e39\n3,4\n",
    "hardly too large": "x,y\n1,3.40282347e38\n3,4\n",
    "the largest": "x,y\n1,3.4028234663852886e38\n3,4\n", "an underscore": "x,y\n1,1_0\n3,4\n", "hexadecimal": "x,y\n1,0x10\n3,4\n",
    "digits": "x,y\n0.1,1e-46\n16777217,0.30000001\n",
    "decimal commas": "x;y\n1,5;2\n3,25;4\n", "thousands": "x;y\n1,500;2\n3,250;4\n", "commas and points": "x;y\n1,5;2.5\n3;4\n",
    "both in one": "x;y\n1,234.5;2\n3;4\n",
    "commas in quotes": 'x,y\n"1,5",2\n3,4\n', "a decimal comma alone": "x;y\n,5;2\n3;4\n",
    # recordings that are short
    "too short": "x,y\n1,2\n", "a label too short": "x,y,label\n1,2,a\n3,4,b\n5,6,b\n", "all too short": "x,y,label\n1,2,a\n3,4,b\n",
}  # fmt: skip
"""Tables of two channels, as text."""

BYTES = {
    "marked": b"\xef\xbb\xbfx,y\n1,2\n3,4\n", "latin-1": "x,y,\xe9\n1,2,3\n".encode("latin-1"), "utf-16": ("x,y\n" + ROWS).encode("utf-16"),
    "utf-16 unmarked": ("x,y\n" + ROWS).encode("utf-16-le"), "utf-16 unmarked, big": ("x,y\n" + ROWS).encode("utf-16-be"),
    "utf-16 cut": ("x,y\n" + ROWS).encode("utf-16")[:-1],
    "utf-32": ("x,y\n" + ROWS).encode("utf-32"), "utf-32 big": b"\x00\x00\xfe\xff" + ("x,y\n" + ROWS).encode("utf-32-be"),
    "utf-32 cut": ("x,y\n" + ROWS).encode("utf-32")[:-1],
    "a surrogate": b"x,y,label\n1,2,\xed\xa0\x80\n3,4,\xed\xa0\x80\n", "zeros": b"x,y\n1,2\x00\n3,4\n", "a mark alone": b"\xef\xbb\xbf",
}  # fmt: skip
"""Tables in other encodings."""

NAMED = {
    "the order of training": ("time,y,z,x\n0,2,9,1\n1,4,9,3\n", ["x", "y"]), "accents": ("e\u0301,y\n" + ROWS, ["\u00e9", "y"]),
    "spaces": ("x  1,y\n" + ROWS, ["x 1", "y"]), "missing": ("x,z\n" + ROWS, ["x", "y"]), "other case": ("X,y\n" + ROWS, ["x", "y"]),
    "a time": ("time,x\n" + ROWS, ["time", "x"]), "class": ("x,y,class\n1,2,a\n3,4,b\n", ["x", "y"]), "three": ("x,y,z\n1,2,3\n", ["x", "y", "z"]),
    "a file": ("x,y,file\n1,2,a\n3,4,b\n", ["x", "y"]), "texts beside": ("x,y,z\n1,2,a\n3,4,b\n", ["x", "y"]),
}  # fmt: skip
"""Tables, and the columns that the bundle names."""


@pytest.fixture(scope="module")
def page(browser):
    """The page, over a server in this process."""
    with local_page() as url, visiting(browser, url) as page:
        yield page


def compare(page: Page, path, data: bytes, *, columns: list[str] | None = None, stride: int | None = None) -> None:
    """Read a table by both."""
    path.write_bytes(data)
    reading = Reading(columns=None if columns is None else tuple(columns), stride=stride)
    wanted, problem = [], ""
    try:
        for chunk in read_chunks([path], takes=WINDOW, account=Account(), chunk=8, reading=reading):
            wanted += zip(chunk.x, chunk.places, chunk.given, strict=True)
    except InputError as error:
        problem = str(error)
    found = page.evaluate(READ, [path.name, base64.b64encode(data).decode(), columns, stride])
    if problem:
        assert isinstance(found, str), f"the runtime says: {problem}"
        lines = [re.findall(r"line \d+", text)[:1] for text in (problem, found)]
        assert lines[0] == lines[1] or [] in lines, (problem, found)
        return
    assert not isinstance(found, str), f"the page says: {found}"
    assert [(each["from"], each["label"] or "") for each in found] == [(place.row, label) for _, place, label in wanted]
    for each, (x, _, _) in zip(found, wanted, strict=True):
        assert np.array_equal(np.array(each["values"], dtype=np.float32), x.ravel())


@pytest.mark.parametrize("name", TABLES)
def test_odd_tables(page, tmp_path, name) -> None:
    """Rows, comments, separators, quotes, headers, channels, labels and numbers are the runtime's."""
    compare(page, tmp_path / "odd.csv", TABLES[name].encode())


@pytest.mark.parametrize("name", BYTES)
def test_encodings(page, tmp_path, name) -> None:
    """UTF-8, UTF-16 and UTF-32 are read as the runtime reads them, and what is none is refused."""
    compare(page, tmp_path / "odd.csv", BYTES[name])


@pytest.mark.parametrize("name", NAMED)
def test_named_columns(page, tmp_path, name) -> None:
    """Channels that the bundle names are found by their normal form, in the order of training."""
    text, columns = NAMED[name]
    compare(page, tmp_path / "odd.csv", text.encode(), columns=columns)


def test_tabs_by_the_ending(page, tmp_path) -> None:
    """A .tsv file has tabs, also where other separators fit."""
    for text in ("x,\ty,\n1\t2\n3\t4\n", "x;\ty\n1;\t2\n", "x,y\n1,2\n3,4\n", "x y\n1 2\n"):
        compare(page, tmp_path / "odd.tsv", text.encode())


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_strides(page, tmp_path, stride) -> None:
    """Windows begin a stride apart, in every recording of a file anew."""
    text = "x,y,label\n" + "".join(f"{i},{i * i},{'aab'[i // 3]}\n" for i in range(9))
    compare(page, tmp_path / "odd.csv", text.encode(), stride=stride)


def test_files_that_are_too_large(page) -> None:
    """A table and a sound of more than 200 MB are refused alike, before they are read."""
    script = """async () => {
        const [{ readTable }, { decoded }] = [await import('/page/samples/table.js'), await import('/page/devices/decode.js')];
        const file = { name: 'large', size: 200_000_001 };
        return Promise.all([readTable(file), decoded(file, 8000)].map((found) => found.catch((problem) => problem.message)));
    }"""
    wanted = "large has 201 MB, but at most 200 are read here; cut it, or use 'isoform predict'"
    assert page.evaluate(script) == [wanted, wanted]


def test_the_comparison_can_fail(page, tmp_path) -> None:
    """A page that reads otherwise is found out, and so is one whose own code fails."""
    page.evaluate("() => { window.kept = Float32Array.prototype.set; Float32Array.prototype.set = () => {}; }")
    with pytest.raises(AssertionError):
        compare(page, tmp_path / "odd.csv", TABLES["plain"].encode())
    page.evaluate("() => { Float32Array.prototype.set = null; }")
    with pytest.raises(Error, match="TypeError"):
        compare(page, tmp_path / "odd.csv", TABLES["plain"].encode())
    page.evaluate("() => { Float32Array.prototype.set = window.kept; }")
