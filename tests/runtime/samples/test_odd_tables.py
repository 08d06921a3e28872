"""Tables and names as strangers have them: read as they are meant, with what is left out said, or refused in one line."""

import numpy as np
import pytest
from PIL import Image
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.streamed import read_chunks
from isoform.runtime.samples.unlabelled import read_stream

pytestmark = pytest.mark.trust
IMAGE, SENSOR = (1, 4, 4), (2, 1, 3)
ROWS = "1,2\n3,4\n5,6\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with two images."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "label",
    ["cat\u200b", "\ufeffcat", " cat \u200e", "\u2060 \ufeff cat"],
    ids=["zero-width space", "byte order mark", "direction", "several"],
)
def test_marks_that_nobody_sees(label, folder) -> None:
    """Names that differ in invisible marks at their ends, or in the kind of their spaces, are the same, and two of them are refused."""
    (folder / "a.csv").write_text(f"file,label\na.png,{label}\nb.png,{label}\n")
    assert read_labelled(folder / "a.csv", takes=image(IMAGE)).labels == ("cat", "cat")
    for one, other in (("cat", label), ("hot dog", "hot\u00a0dog"), ("hot dog", "hot  dog")):
        (folder / "a.csv").write_text(f"file,label\na.png,{one}\nb.png,{other}\n")
        with pytest.raises(InputError, match=r"line 2, and .* line 3, differ only in spaces, accents or invisible"):
            read_labelled(folder / "a.csv", takes=image(IMAGE))


@pytest.mark.parametrize("label", ["nan", " NaN", "<NA>", "NA "])
def test_a_label_that_is_missing_is_no_class(label, folder) -> None:
    """What numpy, pandas and R write for a missing label is refused with its place; a folder may have that name."""
    (folder / "a.csv").write_text(f"file,label\na.png,cat\nb.png,{label}\n")
    (folder / "b.csv").write_text(f"label,x,y\n{label},1,2\n")
    np.savez(folder / "c.npz", x=np.zeros((2, *IMAGE), np.float32), labels=np.array(["cat", label]))
    for name, shape, place in (("a.csv", IMAGE, "line 3"), ("b.csv", SENSOR, "line 2"), ("c.npz", IMAGE, "sample 1")):
        with pytest.raises(InputError, match=f"{place}.* has the label .*which means a missing value"):
            read_labelled(folder / name, takes=image(shape))
    (folder / "classes" / label).mkdir(parents=True)
    (folder / "a.png").rename(folder / "classes" / label / "a.png")
    assert read_labelled(folder / "classes", takes=image(IMAGE)).labels == (label.strip(),)


@pytest.mark.parametrize("label", ["Nan", "NAN", "Na", "na", "<na>", "nana"])
def test_names_that_resemble_a_missing_label(label, folder) -> None:
    """A grandmother, bread and sodium are classes."""
    (folder / "a.csv").write_text(f"file,label\na.png,{label}\nb.png,cat\n")
    assert read_labelled(folder / "a.csv", takes=image(IMAGE)).labels == (label, "cat")


@pytest.mark.parametrize(
    ("content", "shape", "message"),
    [
        ("Label,label,x,y\n1,1,1,2\n", (3, 1, 3), "has columns Label and label, but one named label was expected"),
        ("File,file\na.png,b.png\n", IMAGE, "has columns File and file, but one named file was expected"),
        ("labels,x,y\n1,1,2\n", (3, 1, 3), "has a column 'labels', which is not a channel; name it label"),
        ("Class,x,y\n1,1,2\n", (3, 1, 3), "has a column 'Class', which is not a channel; name it label"),
        (
            "filename,label\na.png,cat\n",
            IMAGE,
            "has no column named file, but this network's samples are images of 4 rows",
        ),
        ("file,label\na.png,cat\n\ngone.png,cat\n", IMAGE, r"a.csv, line 4: image .*gone.png does not exist"),
        ("file,label\na\0.png,cat\n", IMAGE, r"a.csv, line 2: image .* cannot be read"),
        ("file,label\n,cat\n", IMAGE, r"a.csv, line 2: image .* cannot be read: Is a directory"),
        (f"file,label\n{'a' * 300}.png,cat\n", IMAGE, r"a.csv, line 2: image .* cannot be read: File name too long"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_columns_that_mean_something_else(content, shape, message, folder) -> None:
    """Labels are never a channel whatever their column is called, and an image that cannot be read is named with its line."""
    (folder / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_stream(folder / "a.csv", takes=image(shape))


def test_other_columns_beside_images_are_counted(folder) -> None:
    """Columns of a table of images that nobody reads are said."""
    (folder / "a.csv").write_text("width,file,label,height\n4,a.png,cat,4\n4,b.png,dog,4\n")
    for read in (read_labelled, read_stream):
        account = read(folder / "a.csv", takes=image(IMAGE)).account
        assert account.sentence() == "2 images in 2 classes; left out: 2 other columns"


@pytest.mark.parametrize(
    "content",
    [
        'label, "x", "y"\n"a, b", "1", "2"\n"a, b", 3, 4\n"a, b", 5, "6"\n',
        "\ufeff\ufefflabel,x,y\n" + "".join(f'"a, b",{row}\n' for row in ROWS.split()),
    ],
)
def test_quotes_and_marks_of_other_programs(content, tmp_path) -> None:
    """Quotes after a space, and a byte order mark twice, belong to no name."""
    (tmp_path / "a.csv").write_text(content)
    found = read_labelled(tmp_path / "a.csv", takes=image(SENSOR))
    assert found.labels == ("a, b",)
    assert found.x[0, :, 0].tolist() == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize("first", [0, 1, -1.5])
@pytest.mark.parametrize("names", ["adc", "x,y", "x,y,z"])
def test_a_commented_header_before_any_number(first, names, tmp_path) -> None:
    """``numpy.savetxt`` is read whatever number comes first, also where the first row counts the columns from 0."""
    channels = names.count(",") + 1
    values = np.arange(4 * channels).reshape(4, channels) + first
    np.savetxt(tmp_path / "a.csv", values, fmt="%g", delimiter=",", header=names)
    assert np.array_equal(read_stream(tmp_path / "a.csv", takes=image((channels, 1, 4))).x[0, :, 0].T, values)


@pytest.mark.parametrize("header", ["sensor", "my sensor", '"sensor"', "sensor (m s-2)"])
def test_spaces_that_separate_nothing(header, tmp_path) -> None:
    """A single column may have spaces in its name and around its numbers, and a list of images in the names of files."""
    (tmp_path / "a.csv").write_text(f"{header}\n 1.5\n2.5 \n")
    assert read_stream(tmp_path / "a.csv", takes=image((1, 1, 2))).x.ravel().tolist() == [1.5, 2.5]
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "a b.png")
    (tmp_path / "b.csv").write_text("file\na b.png\n")
    assert len(read_stream(tmp_path / "b.csv", takes=image((1, 4, 4))).x) == 1


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".csv", "loop", "loop.npz", "\0.csv", "\0"])
def test_paths_that_no_file_can_have(name, tmp_path) -> None:
    """A path that is too long, goes round in circles or holds a byte of zero is refused in one line by every reader."""
    for loop in ("loop", "loop.npz"):
        (tmp_path / loop).symlink_to(loop)
    for read in (read_labelled, read_stream):
        with pytest.raises(InputError, match=r"cannot be read.*(too long|levels|null byte|null char)"):
            read(tmp_path / name, takes=image(SENSOR))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_chunks([tmp_path / name], takes=image(IMAGE), account=Account(), chunk=1))


def test_an_archive_without_samples(tmp_path) -> None:
    """An .npz of no samples is refused like a folder or a table of none."""
    np.savez(tmp_path / "a.npz", x=np.zeros((0, *IMAGE), np.float32), labels=np.array([], dtype=str))
    for read in (read_labelled, read_stream):
        with pytest.raises(InputError, match="a.npz has no samples"):
            read(tmp_path / "a.npz", takes=image(IMAGE))
