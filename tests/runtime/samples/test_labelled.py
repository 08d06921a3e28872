"""Labelled samples from files: images by class, recordings, tables, arrays, and every way that they can be wrong."""

import numpy as np
import pytest
from PIL import Image
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.labelled import read_labelled

IMAGES, SENSOR = (1, 4, 4), (2, 1, 3)


def write(path, text) -> None:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_images_by_folder(tmp_path) -> None:
    """A folder per label; other files in it, and hidden folders, are ignored."""
    for label, value in (("no", 0), ("yes", 255)):
        (tmp_path / label).mkdir()
        for number in range(2):
            Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(tmp_path / label / f"{number}.png")
        write(tmp_path / label / "notes.txt", "x")
    (tmp_path / ".hidden").mkdir()
    found = read_labelled(tmp_path, takes=image(IMAGES))
    assert found.labels == ("no", "no", "yes", "yes")
    assert found.x.shape == (4, *IMAGES)
    assert found.x.dtype == np.float32
    assert found.x.mean(axis=(1, 2, 3)).tolist() == [0, 0, 1, 1]


def test_images_by_table(tmp_path) -> None:
    """Columns file and label, in any order, paths relative to the table."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / name)
    write(tmp_path / "all.csv", "label,file\nyes,a.png\nno,b.png\n")
    assert read_labelled(tmp_path / "all.csv", takes=image(IMAGES)).labels == ("yes", "no")


def test_recordings_are_cut_into_windows(tmp_path) -> None:
    """Seven rows are two windows of three; a column without a name is a row's number; a run of equal labels is a recording."""
    rows = [f"{i},{i},{10 * i}" for i in range(7)]
    write(tmp_path / "people" / "walk" / "one.csv", "\n".join([",x,y", *rows]))
    write(tmp_path / "people" / "sit" / "one.csv", "\n".join([",x,y", *rows[:3]]))
    found = read_labelled(tmp_path / "people", takes=image(SENSOR))
    assert found.labels == ("sit", "walk", "walk")
    assert found.x[1:, :, 0].tolist() == [[[0, 1, 2], [0, 10, 20]], [[3, 4, 5], [30, 40, 50]]]
    labels = ["walk"] * 4 + ["sit"] * 3
    write(tmp_path / "table.csv", "\n".join(["x,label,y", *(f"{i},{label},0" for i, label in enumerate(labels))]))
    table = read_labelled(tmp_path / "table.csv", takes=image(SENSOR))
    assert table.labels == ("walk", "sit")
    assert table.x[:, 0, 0].tolist() == [[0, 1, 2], [4, 5, 6]]


@pytest.mark.parametrize("labels", [np.array(["a", "b"]), np.array([3, 4])])
def test_arrays(tmp_path, labels) -> None:
    """An .npz with x and labels, texts or numbers."""
    x = np.zeros((2, *IMAGES), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    found = read_labelled(tmp_path / "data.npz", takes=image(IMAGES))
    assert found.labels == tuple(map(str, labels))
    assert np.array_equal(found.x, x)


@pytest.mark.parametrize(
    ("name", "content", "shape", "message"),
    [
        ("missing", None, IMAGES, "missing does not exist: a folder with a folder per label"),
        ("a.txt", "x", IMAGES, "a.txt is not supported: a folder"),
        ("empty/", None, IMAGES, "has no subfolders, but one per label"),
        ("d/a/notes.txt", "x", IMAGES, "has no images and no .csv or .tsv files"),
        ("a.csv", "x,y\n1,2\n", SENSOR, "has columns x, y, but one named label"),
        ("a.csv", "label,x,y\n", SENSOR, "has a header, but no rows"),
        ("a.csv", "label,x,y\na,1\n", SENSOR, "line 2, has 2 fields, but the header has 3"),
        ("a.csv", "label,x,y\na,1,two\n", SENSOR, "line 2, column 'y', holds 'two', but a finite number"),
        ("a.csv", "label,x\na,1\n", SENSOR, "has 1 column of numbers, but the network has 2 channels"),
        ("a.csv", "label,x,y\na,1,2\n", IMAGES, "this network's samples are images of 4 rows"),
        (
            "a.csv",
            "label,x,y\na,1,2\nb,1,2\nb,1,2\n",
            SENSOR,
            "class 'a' has no recording of at least 3 rows .*, but 1 in .*a.csv",
        ),
        ("a.csv", 'label,x,y\n"a,1,2\n', SENSOR, "is not a CSV file in UTF-8"),
        ("a.csv", "label,file\na,gone.png\n", IMAGES, "gone.png"),
        ("a.npz", "x", IMAGES, "cannot be read as numpy arrays"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, shape, message) -> None:
    """The file is named, and what was expected."""
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    elif content is not None:
        write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as problem:
        read_labelled(tmp_path / name.split("/")[0], takes=image(shape))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "has no arrays x and labels"),
        ({"x": np.zeros((2, 1)), "labels": np.array(["a"])}, "one string or integer per sample"),
        ({"x": np.zeros((1, 1)), "labels": np.array([0.5])}, "one string or integer per sample"),
        ({"x": np.zeros((1, 1)), "labels": np.array([{}], dtype=object)}, "cannot be read as numpy arrays"),
    ],
)
def test_arrays_that_do_not_belong_together(tmp_path, arrays, message) -> None:
    """Missing arrays, other lengths, other types; a pickle is never opened."""
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_labelled(tmp_path / "data.npz", takes=image(IMAGES))
