"""Recordings as spreadsheets, pandas and numpy write them: read right, or refused with the line that an editor shows."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.unlabelled import read_stream

pytestmark = pytest.mark.trust
SENSOR = (2, 1, 3)
ROWS = [(1.5, 10), (2.5, 20), (3.5, 30)]


def lines(header="x,y", rows=ROWS, separator=",", mark=".") -> str:
    """A table's text."""
    cells = [separator.join(str(cell).replace(".", mark) for cell in row) for row in rows]
    return "\n".join([header, *cells]) + "\n"


def saved(**options) -> str:
    """The same numbers as numpy writes them."""
    buffer = io.StringIO()
    np.savetxt(buffer, np.array(ROWS), **options)
    return buffer.getvalue()


def write(path, content) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    "content",
    [
        lines(),
        lines().replace("\n", "\r\n"),
        lines().replace("\n", "\r"),
        lines().encode("utf-8-sig"),
        lines().encode("utf-16"),
        lines().encode("utf-16-le"),
        lines().encode("utf-32"),
        lines("x;y", separator=";"),
        lines("x;y", separator=";", mark=","),
        lines("x\ty", separator="\t", mark=","),
        "sep=;\n" + lines("x;y", separator=";", mark=","),
        "# a phone in a pocket, 2024\n\n" + lines(),
        lines(" x , y "),
        lines("Unnamed: 0,x,y", [(i, *row) for i, row in enumerate(ROWS)]),
        lines("x,time (s),y", [(a, i / 50, b) for i, (a, b) in enumerate(ROWS)]),
        lines("timestamp,x,y", [("2024-05-01 12:00:00", *row) for row in ROWS]),
        lines(",0,1", [(i, *row) for i, row in enumerate(ROWS)]),
        lines() + ",\n,\n",
        "# x,y\n" + lines("").lstrip(),
        "# a phone, in a pocket\r\n#\tx , y\r\n\r\n" + lines("").lstrip(),
        saved(header="x\ty", delimiter="\t"),
        saved(header="recorded 2024\nx,y", delimiter=",", fmt="%.3f"),
        saved(header="x;y", delimiter=";", comments=""),
        lines().replace("2.5", '" 2.5"'),
        "# a, b\n" + lines().replace("2.5", '#9,99\n # it,"s\n2.5'),
        "sep=;\n" + lines("x;y", separator=";", mark=",").replace("2,5", "#7;8\n2,5"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_one_table_in_many_forms(content, tmp_path) -> None:
    """Every way in which programs write the same numbers gives the same window."""
    write(tmp_path / "a.csv", content)
    assert read_stream(tmp_path / "a.csv", takes=image(SENSOR)).x[0, :, 0].tolist() == [[1.5, 2.5, 3.5], [10, 20, 30]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(rows=[(1.5, 10), ("nan", 20), (3, 4)]), "line 3, column 'x', holds 'nan', but a finite number"),
        (lines(rows=[(1.5, 10), ("", 20), (3, 4)]), "line 3, column 'x', holds ''"),
        (b"\xef\xbb\xbf# note\n\nx,y\n\n1,2\n\n\n3,inf\n", "line 8, column 'y', holds 'inf'"),
        (lines("label,x,y", [('"a\nb"', 1, 2), ('"a\nb"', 1, "NA")]), "line 5, column 'y', holds 'NA'"),
        (lines(rows=[(1, 10), ("1e39", 20)]), "line 3, column 'x', holds '1e39'"),
        (lines(rows=[(1, 10), ("1_000", 20)]), "holds '1_000'"),
        (lines(rows=[(1, 10), ('"1,5"', 20)]), "holds '1,5'"),
        (lines("x;y", [(1, "1,234"), (2, "2,345")], ";"), "could be a decimal comma or a thousands separator"),
        (lines("x;y", [(1, "1,5"), (2, "2.5")], ";"), "'1,5' and .*'2.5'; use a decimal point, or a decimal comma"),
        (lines("x;y", [(1, "1.234,5")], ";"), "holds '1.234,5'"),
        ("a;b,c\n1;2,3\n", "could be separated by ',' or ';'"),
        ("1.5,10\n2.5,20\n3.5,30\n", "has no header: its first line holds '1.5, 10'"),
        ("0,1\n2,3\n4,5\n", "has no header"),
        ("# 1,2\n2,3\n4,5\n", "has no header"),
        ("# x,\n2,3\n4,5\n", "has no header"),
        ("# x,x\n2,3\n4,5\n", "two columns named 'x'"),
        ("# x,y,z\n2,3\n4,5\n", r"has no header: its first line holds '2, 3'; .*numpy.savetxt\(path, x, delimiter"),
        (saved(header="x y"), r"has columns separated by spaces; use commas .*in R write.csv\(x, path\)"),
        ("1 2\n", "has columns separated by spaces"),
        ('"x" "y"\n"1" 1.5 10\n"2" 2.5 20\n', "has columns separated by spaces; .*in R write.csv"),
        ("x y\n1,5 10\n2,5 20\n", "has columns separated by spaces"),
        ("label x y\nwalk   1  2\n", "has columns separated by spaces"),
        ('"x"\n"1" 1.5\n"2" 2.5\n', "has columns separated by spaces"),
        (
            '"x","y"\n"1",1.5,10\n',
            "line 2, has 3 fields, but .* has 2; give header and rows the same number of columns; in R use write.csv",
        ),
        ('"x"\t"y"\n"1"\t1.5\t10\n', "line 2, has 3 fields, .* in R use write.csv"),
        ("x,y\n", "a.csv has a header, but no rows"),
        ("# x,y\n", "has neither a header nor rows"),
        ("x,y\n1\n", "line 2, has 1 field, but the header has 2"),
        (lines("x,x"), "two columns named 'x'"),
        (
            lines("é,e\u0301,y", [(1, 2, 3)] * 3),
            r"two columns named '\\xe9' and 'e\\u0301', which differ only in the encoding of accents",
        ),
        ('x,y\n"#1",2\n', "line 2, column 'x', holds '#1'"),
        (lines("x,y,z", [(1, 2, 3)]), "has 3 columns of numbers, but the network has 2 channels"),
        (lines("time,y"), "has 1 column of numbers, .* 1 left out"),
        (lines() + ",\n" + "4,5\n", "line 5, is a row of empty fields"),
        (lines(rows=[(1, 2), (1, 2, 3)]), "line 3, has 3 fields, but the header has 2"),
        ("x,température\n1,2\n".encode("latin-1"), r"line 1, is not UTF-8 text \(byte 0xe9\); save it as UTF-8"),
        (lines().encode() + b"\xff,1\n", r"line 5, is not UTF-8 text"),
        (lines().encode("utf-16")[:-1], "is not UTF-16 text"),
        (b"", "has neither a header nor rows"),
        (b"\0" * 100, "a.csv"),
        (b"PK\x03\x04" + bytes(range(256)), "a.csv"),
        ("x,y\n" + "9" * 200_000 + ",1\n", "field larger than field limit"),
    ],
    ids=itertools.count(),
)
def test_what_could_be_read_wrong_is_refused(content, message, tmp_path) -> None:
    """One line with the file, the line as an editor counts it, and the column."""
    write(tmp_path / "a.csv", content)
    with pytest.raises(InputError, match=message) as problem:
        read_stream(tmp_path / "a.csv", takes=image(SENSOR)) if b"label" not in (
            tmp_path / "a.csv"
        ).read_bytes() else read_labelled(tmp_path / "a.csv", takes=image(SENSOR))
    assert str(problem.value).isprintable()


def test_tsv_files_are_tables(tmp_path) -> None:
    """A .tsv file is read wherever a .csv file is: alone, as a list of images, in folders; its columns are separated by tabs."""
    labelled = lines("label\tx\ty", [("a,b", *row) for row in ROWS], "\t", ",")
    write(tmp_path / "a.TSV", labelled)
    assert (
        read_labelled(tmp_path / "a.TSV", takes=image(SENSOR)).labels
        == read_stream(tmp_path / "a.TSV", takes=image(SENSOR)).labels
        == ("a,b",)
    )
    write(tmp_path / "classes" / "walk" / "1.tsv", lines("x,y"))
    write(tmp_path / "classes" / "walk" / "2.tsv", lines("x\ty", separator="\t"))
    found = read_labelled(tmp_path / "classes", takes=image(SENSOR))
    assert (len(found.x), found.account.files) == (2, 2)
    assert len(read_stream(tmp_path / "classes" / "walk", takes=image(SENSOR)).x) == 2
    write(tmp_path / "one.tsv", "x\n0,5\n1,5\n")
    assert read_stream(tmp_path / "one.tsv", takes=image((1, 1, 2))).x.ravel().tolist() == [0.5, 1.5]
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "a, b.png")
    write(tmp_path / "images.tsv", "file\tlabel\na, b.png\tyes, no\n")
    assert read_labelled(tmp_path / "images.tsv", takes=image((1, 4, 4))).labels == ("yes, no",)


def test_columns_are_matched_by_name(tmp_path) -> None:
    """Another order is put right and said; other names are one line with both files; the first file's order counts."""
    write(tmp_path / "walk" / "1.csv", lines())
    write(tmp_path / "walk" / "2.csv", lines("y,x", [(b, a) for a, b in ROWS]))
    write(tmp_path / "walk" / "3.csv", lines("y;x", [(b, a) for a, b in ROWS], ";"))
    found = read_labelled(tmp_path, takes=image(SENSOR))
    assert (found.x == found.x[0]).all()
    assert "columns put in the order of the first file (2 times)" in found.account.sentence()
    write(tmp_path / "sit" / "1.csv", lines("x,z"))
    with pytest.raises(InputError, match=r"walk.1.csv has the columns x, y, but .*sit.1.csv has x, z"):
        read_labelled(tmp_path, takes=image(SENSOR))


@pytest.mark.parametrize("form", ["folder", "table.csv"])
def test_a_class_never_vanishes(form, tmp_path) -> None:
    """A class whose recordings are all shorter than a window is an error with lengths, or left out by name when asked."""
    write(tmp_path / "folder" / "walk" / "1.csv", lines(rows=ROWS * 2 + ROWS[:1]))
    write(tmp_path / "folder" / "sit" / "1.csv", lines(rows=ROWS[:2]))
    rows = [("walk", *row) for row in ROWS * 2 + ROWS[:1]] + [("sit", *row) for row in ROWS[:2]]
    write(tmp_path / "table.csv", lines("label,x,y", rows))
    for read in (read_labelled, read_stream):
        with pytest.raises(
            InputError, match=r"class 'sit' has no recording of at least 3 rows .* but 2 in .*csv.*--skip-short"
        ):
            read(tmp_path / form, takes=image(SENSOR))
        found = read(tmp_path / form, takes=image(SENSOR), skip_short=True)
        assert found.labels == ("walk", "walk")
        text = found.account.sentence()
        for part in (
            "2 windows of 1 recording in 1 class",
            "1 row at the end of a recording",
            "without a window (sit)",
        ):
            assert part in text


def test_the_images_of_a_table(tmp_path) -> None:
    """Labels of a table may be in capitals and have spaces around them; a stream's table of images needs none."""
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "a.png")
    write(tmp_path / "a.csv", "File;Label\na.png; yes\n")
    assert read_labelled(tmp_path / "a.csv", takes=image((1, 4, 4))).labels == ("yes",)
    write(tmp_path / "b.csv", "file\na.png\n")
    assert read_stream(tmp_path / "b.csv", takes=image((1, 4, 4))).labels is None
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "c.png")
    write(tmp_path / "c.csv", "file,label\na.png,yes\n# c.png,yes\nc.png,no\na.png,yes\n")
    account = read_labelled(tmp_path / "c.csv", takes=image((1, 4, 4))).account
    assert (account.files, account.left) == (2, {"commented line": 1})


@pytest.mark.parametrize("again", ["a.png", "./a.png", "sub/../a.png", "link.png", "{here}/a.png"])
def test_an_image_of_a_table_has_one_label(again, tmp_path) -> None:
    """Two rows that give one image different labels, however they write its path, are refused with both lines; equal ones are said."""
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "sub").mkdir()
    for label, message in (("no", r"label 'yes' in line 2 and 'no' in line 4; a sample has one label"), ("yes", "")):
        write(tmp_path / "a.csv", f"file,label\na.png,yes\n\n{again.format(here=tmp_path)},{label}\n")
        for read in (read_labelled, read_stream):
            if message:
                with pytest.raises(InputError, match=message):
                    read(tmp_path / "a.csv", takes=image((1, 4, 4)))
            else:
                account = read(tmp_path / "a.csv", takes=image((1, 4, 4))).account
                assert account.sentence() == "2 images in 1 class; a row repeats the image of another row"
                assert account.files == 1


def test_one_column_with_decimal_commas(tmp_path) -> None:
    """What the error says helps: after a line sep=; a single column is read with decimal commas."""
    for cell, message in (
        ("0,5", "line 2, has 2 fields, but the header has 1; for decimal commas"),
        ('"0,5"', "holds"),
    ):
        write(tmp_path / "a.csv", f"x\n{cell}\n")
        with pytest.raises(
            InputError,
            match=rf"{message}.*put a line sep=; before the header($|, else give header and rows the same number of columns; in R)",
        ):
            read_stream(tmp_path / "a.csv", takes=image((1, 1, 2)))
    write(tmp_path / "a.csv", "sep=;\nx\n0,5\n-1,25\n")
    assert read_stream(tmp_path / "a.csv", takes=image((1, 1, 2))).x.ravel().tolist() == [0.5, -1.25]


def test_commented_lines_are_counted(tmp_path) -> None:
    """A line that begins with # is no row, with as many fields or not, and is counted; the file is, too."""
    write(tmp_path / "a.csv", lines("label,x,y", [("a", *row) for row in ROWS]) + "#b,1,2\n# end\n")
    account = read_labelled(tmp_path / "a.csv", takes=image(SENSOR)).account
    assert account.sentence() == "1 window of 1 recording in 1 class; left out: 2 commented lines"
    assert (account.files, account.left) == (1, {"commented line": 2})


@pytest.mark.parametrize("place", ["", "walk/"])
def test_pictures_among_recordings(place, tmp_path) -> None:
    """Where a network can have samples from both, a folder with both is refused; each alone is read."""
    sensor = (3, 1, 3)
    write(tmp_path / place / "a.csv", lines("x,y,z", [(*row, 1) for row in ROWS]))
    write(tmp_path / "walk" / "b.csv", lines("x,y,z", [(*row, 1) for row in ROWS]))
    assert len(read_stream(tmp_path, takes=image(sensor)).x) == 2
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "walk" / "plot.png")
    for read in (read_stream, read_labelled):
        with pytest.raises(InputError, match=r"images and recordings, .*plot.png and .*csv.*remove the ones"):
            read(tmp_path, takes=image(sensor))
    for path in tmp_path.rglob("*.csv"):
        path.unlink()
    assert len(read_stream(tmp_path, takes=image(sensor)).x) == 1


def test_a_folder_of_recordings_with_labels(tmp_path) -> None:
    """A column label in a folder's recordings is read as in a single file; in all or none, and as the folder's class says."""
    shape = (3, 1, 3)
    write(tmp_path / "1.csv", lines("label,x,y,z", [(1, *row, 0) for row in ROWS] + [(2, *row, 0) for row in ROWS]))
    write(tmp_path / "sub" / "2.csv", lines("x,y,z,Label", [(*row, 0, 2) for row in ROWS]))
    found = read_stream(tmp_path, takes=image(shape))
    assert (found.labels, found.x.shape, found.account.files) == (("1", "2", "2"), (3, *shape), 2)
    assert found.labels[:2] == read_stream(tmp_path / "1.csv", takes=image(shape)).labels
    write(tmp_path / "3.csv", lines("label,y,z", [(1, *row) for row in ROWS]))
    with pytest.raises(InputError, match=r"3.csv has 2 columns of numbers"):
        read_stream(tmp_path, takes=image(shape))
    write(tmp_path / "3.csv", lines("x,y,z", [(*row, 0) for row in ROWS]))
    with pytest.raises(InputError, match=r"3.csv has no column named label, but .*1.csv has"):
        read_stream(tmp_path, takes=image(shape))
    (tmp_path / "3.csv").unlink()
    (tmp_path / "1.csv").unlink()
    (tmp_path / "sub").rename(tmp_path / "2")
    assert read_labelled(tmp_path, takes=image(shape)).labels == ("2",)
    (tmp_path / "2").rename(tmp_path / "1")
    with pytest.raises(InputError, match=r"2.csv, line 2, has the label '2', but is in the folder of class '1'"):
        read_labelled(tmp_path, takes=image(shape))
