"""Groups of samples from files: recordings, subfolders, columns and arrays say which samples are alike; a group is never a channel."""

import numpy as np
import pytest
from PIL import Image
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.unlabelled import read_stream

IMAGES, SENSOR = (1, 4, 4), (2, 1, 3)


def write(path, text) -> None:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def picture(path) -> None:
    """A white image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(path)


def table(*rows: str, header="x,y") -> str:
    """Three rows, a window, for each text; ``x`` counts the rows."""
    lines = [f"{number},0{row}" for number, row in enumerate(row for row in rows for _ in range(3))]
    return "\n".join([header, *lines]) + "\n"


def test_a_recording_is_a_group(tmp_path) -> None:
    """Each file; and in a table each run of equal labels, the same label later included."""
    write(tmp_path / "d" / "sit" / "a.csv", table("", ""))
    write(tmp_path / "d" / "sit" / "b.csv", table(""))
    write(tmp_path / "d" / "walk" / "a.csv", table(""))
    found = read_labelled(tmp_path / "d", takes=image(SENSOR))
    assert found.labels == ("sit", "sit", "sit", "walk")
    assert found.groups[0] == found.groups[1]
    assert len(set(found.groups)) == 3
    assert found.unit == "recording"
    write(tmp_path / "a.csv", table(",sit", ",walk", ",walk", ",sit", header="x,y,label"))
    runs = read_labelled(tmp_path / "a.csv", takes=image(SENSOR))
    assert runs.labels == ("sit", "walk", "walk", "sit")
    assert [runs.groups.index(group) for group in runs.groups] == [0, 1, 1, 3]


@pytest.mark.parametrize("name", ["group", "Group"])
def test_a_column_names_groups(tmp_path, name) -> None:
    """In all files, for all classes; it is no channel, a new group is a new recording, and the report counts them."""
    header = f"x,{name},y"
    rows = "\n".join(f"{row},{'monday' if row < 4 else ' tuesday'},0" for row in range(8))
    write(tmp_path / "sit" / "a.csv", f"{header}\n{rows}\n")
    write(tmp_path / "walk" / "a.csv", f"{header}\n{rows}\n")
    found = read_labelled(tmp_path, takes=image(SENSOR))
    assert found.groups == ("monday", "tuesday") * 2
    assert found.x[:, 0, 0].tolist() == [[0, 1, 2], [4, 5, 6]] * 2
    assert found.unit == "group"
    assert found.account.sentence().startswith("4 windows of 4 recordings in 2 classes of 2 groups; left out: 4 rows")
    assert read_stream(tmp_path, takes=image(SENSOR)).x.shape == (4, *SENSOR)
    assert read_stream(tmp_path / "sit" / "a.csv", takes=image(SENSOR)).x.shape == (2, *SENSOR)


def test_a_subfolder_of_every_image_is_a_group(tmp_path) -> None:
    """The one below the label, the same in every class; with a single image beside the subfolders nobody knows the groups."""
    for place in ("no/ann", "no/bob/late", "yes/bob"):
        picture(tmp_path / place / "1.png")
    found = read_labelled(tmp_path, takes=image(IMAGES))
    assert found.labels == ("no", "no", "yes")
    assert found.groups == ("ann", "bob", "bob")
    assert found.account.sentence() == "3 images in 2 classes of 2 groups"
    picture(tmp_path / "no" / "2.png")
    assert read_labelled(tmp_path, takes=image(IMAGES)).groups is None


def test_flat_images_have_no_groups(tmp_path) -> None:
    """A folder per label and nothing else."""
    for label in ("no", "yes"):
        picture(tmp_path / label / "1.png")
    found = read_labelled(tmp_path, takes=image(IMAGES))
    assert (found.groups, found.unit) == (None, "group")


def test_a_table_of_images_may_have_groups(tmp_path) -> None:
    """A column, which is not counted as another one; without it there are none."""
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    write(tmp_path / "with.csv", "group,label,file,note\nann,yes,a.png,\nbob,no,b.png,x\n")
    write(tmp_path / "without.csv", "label,file\nyes,a.png\nno,b.png\n")
    found = read_labelled(tmp_path / "with.csv", takes=image(IMAGES))
    assert found.groups == ("ann", "bob")
    assert found.account.left == {"other column": 1}
    assert read_labelled(tmp_path / "without.csv", takes=image(IMAGES)).groups is None


@pytest.mark.parametrize("groups", [np.array(["a", "b"]), np.array([3, 4])])
def test_arrays_may_have_groups(tmp_path, groups) -> None:
    """An array ``groups``, texts or numbers; a stream does not need it."""
    x = np.zeros((2, *IMAGES), dtype=np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=np.array(["no", "yes"]), groups=groups)
    found = read_labelled(tmp_path / "a.npz", takes=image(IMAGES))
    assert found.groups == tuple(map(str, groups))
    assert not found.account.left
    assert len(read_stream(tmp_path / "a.npz", takes=image(IMAGES)).x) == 2


@pytest.mark.parametrize(
    ("files", "shape", "message"),
    [
        ({"d/a/1.csv": table(",m", header="x,y,group"), "d/b/1.csv": table("")}, SENSOR, "b.1.csv has no column named group, but .*a.1.csv has; add it"),
        ({"d.csv": table(",a,m", ",b,", header="x,y,label,group")}, SENSOR, "line 5, has the group '', but 1 to 256 characters"),
        ({"d.csv": table(",a,m", ",b,nan", header="x,y,label,group")}, SENSOR, "has the group 'nan', .* fill it in, or rename the group"),
        ({"d.csv": "x,label,group\n1,a,2\n"}, SENSOR, "1 column of numbers, .* 2 channels .a column group is no channel; rename it"),
        ({"d.csv": table(",a,m,m", header="x,y,label,group,Group")}, SENSOR, "has columns group and Group, but one named group was expected"),
        ({"d.csv": "file,label,group\n1.png,a,m\n1.png,a,n\n"}, IMAGES, "the group 'm' in line 2 and 'n' in line 3; a sample has one group"),
        ({"d.csv": "file,label,group\n1.png,a,\n"}, IMAGES, "line 2, has the group ''"),
    ],
)  # fmt: skip
def test_groups_that_are_none_are_refused(tmp_path, files, shape, message) -> None:
    """Missing in some files or rows, given twice, or a channel after all: one line that says where."""
    picture(tmp_path / "1.png")
    for name, text in files.items():
        write(tmp_path / name, text)
    path = tmp_path / next(iter(files)).split("/")[0]
    with pytest.raises(InputError, match=message) as problem:
        read_labelled(path, takes=image(shape))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("groups", [np.array(["a"]), np.array([0.5, 1.5]), np.array([["a"], ["b"]])])
def test_arrays_of_groups_that_do_not_fit_are_refused(tmp_path, groups) -> None:
    """Another length, another type, another shape."""
    x = np.zeros((2, *IMAGES), dtype=np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=np.array(["no", "yes"]), groups=groups)
    with pytest.raises(
        InputError, match="holds groups of shape .* for 2 samples, but one string or integer per sample"
    ):
        read_labelled(tmp_path / "a.npz", takes=image(IMAGES))
