"""Which files are data: the same for every command, and whatever is left out is counted."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from support import image, training_images

from isoform.runtime.errors import DataError, InputError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.named_images import read_images
from isoform.runtime.samples.unlabelled import read_stream
from isoform.train.data.load import load_task
from isoform.train.recipe import DataRecipe, TaskRecipe

pytestmark = pytest.mark.trust
SHAPE = (1, 4, 4)


def picture(path, value=255, **options) -> None:
    """A small grey image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images each, of odd endings and in subfolders, among what systems and people leave there."""
    for label in ("cat", "dog"):
        picture(tmp_path / label / "A.PNG", format="PNG")
        picture(tmp_path / label / "b.jfif", format="JPEG")
        picture(tmp_path / label / "c.jpe", format="JPEG")
        picture(tmp_path / label / "2024" / "may" / "d.png")
        for name in (
            "._A.PNG",
            ".DS_Store",
            "Thumbs.db",
            "@eaDir/A.PNG",
            "__MACOSX/._A.PNG",
            ".ipynb_checkpoints/x.png",
        ):
            (tmp_path / label / name).parent.mkdir(exist_ok=True)
            (tmp_path / label / name).write_bytes(b"no image")
    for name in ("lost+found/x.png", "$RECYCLE.BIN/y.png", "__MACOSX/cat/._A.PNG", "desktop.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "cat" / "phone.NEF").write_bytes(b"x")
    (tmp_path / "cat" / "notes.txt").write_bytes(b"x")
    (tmp_path / "README.md").write_bytes(b"x")
    return tmp_path


EXPECTED = (
    "8 images in 2 classes; left out: 16 hidden files, 1 file beside the folders of the classes (.md), "
    "2 files that are no images (.nef, .txt); for .nef: convert to PNG or JPEG"
)


def test_every_command_takes_the_same_files(folder) -> None:
    """personalize, adapt, train and predict take the eight images, leave the rest, and say so."""
    found = read_labelled(folder, takes=image(SHAPE))
    assert found.labels == ("cat",) * 4 + ("dog",) * 4
    assert found.account.sentence() == read_stream(folder, takes=image(SHAPE)).account.sentence() == EXPECTED
    task = TaskRecipe(data="folder")
    assert load_task(task, DataRecipe(input_shape=SHAPE), root=folder).account.sentence() == EXPECTED
    account = Account()
    chunks = list(read_images([folder], shape=SHAPE, account=account, chunk=3))
    assert [len(x) for x, paths in chunks] == [len(paths) for x, paths in chunks] == [2, 3, 3]
    assert account.files == 8
    assert account.left.total() == found.account.left.total() == 19


def test_links(folder, tmp_path_factory) -> None:
    """A link to other files is followed; one back into the folder, in a circle or to nowhere is counted."""
    other = tmp_path_factory.mktemp("other")
    picture(other / "far.png")
    (other / "again").symlink_to(other)
    (folder / "cat" / "circle").symlink_to(folder)
    (folder / "cat" / "dogs").symlink_to(folder / "dog")
    (folder / "cat" / "far").symlink_to(other)
    (folder / "cat" / "file.png").symlink_to(other / "far.png")
    (folder / "cat" / "gone.png").symlink_to(other / "gone.png")
    (folder / "cat" / "self.png").symlink_to("self.png")
    os.mkfifo(folder / "cat" / "pipe.png")
    found = read_labelled(folder, takes=image(SHAPE))
    assert (found.labels.count("cat"), found.labels.count("dog")) == (5, 4)
    text = found.account.sentence()
    assert "3 links to folders that are read anyway" in text
    assert "1 link to a file that is read anyway" in text
    assert "2 links that lead nowhere" in text
    assert "1 entry that is no file" in text
    (folder / "bird").symlink_to(other / "gone")
    with pytest.raises(InputError, match=r"link .*bird is broken, but may be a class"):
        read_labelled(folder, takes=image(SHAPE))


def test_a_linked_file_has_one_label(tmp_path, tmp_path_factory) -> None:
    """A link to a file that another class has, or is linked in another, is left out and counted; one to a hidden store is read."""
    other, root = tmp_path_factory.mktemp("other"), tmp_path
    picture(root / "0" / "x.png", 10)
    picture(root / "1" / "y.png", 20)
    picture(root / ".store" / "ab12.png", 30)
    picture(other / "z.png", 40)
    for link, target in {
        "1/zz.png": "../0/x.png",
        "0/one.png": other / "z.png",
        "1/two.png": other / "z.png",
        "1/stored.png": "../.store/ab12.png",
    }.items():
        (root / link).symlink_to(target)
    found = read_labelled(root, takes=image(SHAPE))
    assert sorted((round(255 * x.max()), y) for x, y in zip(found.x, found.labels, strict=True)) == [
        (10, "0"), (20, "1"), (30, "1"), (40, "0"),
    ]  # fmt: skip
    assert "2 links to files that are read anyway" in found.account.sentence()
    trained = Account()
    assert sorted(training_images(root, shape=SHAPE, account=trained).train.labels) == [0, 0, 1, 1]
    assert trained.left == found.account.left


@pytest.mark.parametrize(
    ("links", "other"),
    [
        ({"cat": "{d}/0", "dog": "{d}/0"}, "cat"),
        ({"kitten": "bird"}, "bird"),
        ({"cat": "{d}/0", "dog": "{d}"}, "cat"),
        ({"all": "."}, ""),
    ],
)
def test_a_class_that_is_a_link_never_vanishes(links, other, tmp_path, tmp_path_factory) -> None:
    """A class that shares its folder, or one inside it, with another is refused by both names; apart they are read."""
    there = tmp_path_factory.mktemp("d")
    for place in (there / "0", there / "1", tmp_path / "bird"):
        picture(place / "x.png")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target.format(d=there))
    last = list(links)[-1]
    for read in (read_labelled, read_stream):
        with pytest.raises(
            InputError, match=rf"link .*/{last} points to .* shares samples with .*/?{other}; a sample has"
        ):
            read(tmp_path, takes=image(SHAPE))
    (tmp_path / last).unlink()
    (tmp_path / last).symlink_to(there / "1")
    assert last in read_labelled(tmp_path, takes=image(SHAPE)).labels


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("store", [".git/annex/objects", "{half}cat/.objects", "{half}dog/.objects"])
def test_files_read_from_a_hidden_store_are_not_left_out(store, split, tmp_path) -> None:
    """What links lead to, as in git-annex, is counted once: as images, wherever the store lies; the rest of it is counted as hidden."""
    places = [tmp_path / (f"{half}/" if split else "") for half in ("train", "test")[: 1 + split]]
    for number, (place, label) in enumerate((place, label) for place in places for label in ("cat", "dog")):
        stored = tmp_path / store.format(half="train/" if split else "") / f"{number}.png"
        picture(stored, number)
        picture(place / label / "plain.png")
        (place / label / "a.png").symlink_to(stored)
        (place / label / "again.png").symlink_to(stored)
    (stored.parent / "annex.log").write_bytes(b"x")
    count = 4 << split
    account = Account()
    training_images(tmp_path, shape=SHAPE, account=account)
    others = [] if split else [read(tmp_path, takes=image(SHAPE)).account for read in (read_labelled, read_stream)]
    for found in (account, *others):
        assert found.sentence() in {
            f"{count} images in 2 classes; left out: 1 hidden file, {count // 2} links to files that are read anyway",
            f"{count} images in 2 classes; left out: {count // 2} links to files that are read anyway, 1 hidden file",
        }
    (stored.parent / "annex.log").unlink()
    account = Account()
    training_images(tmp_path, shape=SHAPE, account=account)
    assert "hidden file" not in account.left


def test_a_linked_folder_of_a_hidden_store_is_not_left_out(tmp_path) -> None:
    """A class that is a link into a hidden place is read, and its files are not counted as hidden ones, either."""
    for label in ("cat", "dog"):
        picture(tmp_path / ".store" / label / "1.png")
        (tmp_path / label).symlink_to(tmp_path / ".store" / label)
    (tmp_path / ".store" / "dog" / ".hidden").write_bytes(b"x")
    assert (
        read_labelled(tmp_path, takes=image(SHAPE)).account.sentence()
        == "2 images in 2 classes; left out: 1 hidden file"
    )


def test_an_image_beside_classes_is_said(folder) -> None:
    """One stray image makes a stream of everything, without labels, and the account names it."""
    picture(folder / "stray.png")
    found = read_stream(folder, takes=image(SHAPE))
    assert (len(found.x), found.labels) == (9, None)
    assert "'stray.png' is next to folders, so all files are one stream" in found.account.sentence()


def test_a_class_inside_another_is_said(folder) -> None:
    """A folder in a class that is called like another class is read as the class it lies in, and that is said."""
    picture(folder / "cat" / "2024" / "dog" / "1.png")
    picture(folder / "cat" / "cat" / "1.png")
    found = read_labelled(folder, takes=image(SHAPE))
    trained = load_task(TaskRecipe(data="folder"), DataRecipe(input_shape=SHAPE), root=folder)
    assert found.labels.count("cat") == 6
    for account in (found.account, trained.account):
        assert "folder 'dog' in class 'cat' has the name of another class" in account.sentence()
        assert "folder 'cat'" not in account.sentence()


def test_a_class_of_nothing_readable_names_the_remedy(folder) -> None:
    """A class whose images need a plug-in is an error that says what to install or do; never a class less."""
    (folder / "bird").mkdir()
    (folder / "bird" / "1.cr2").write_bytes(b"x")
    for read in (read_labelled, read_stream):
        with pytest.raises(InputError, match=r"bird has no images .*for .cr2: convert to PNG or JPEG"):
            read(folder, takes=image(SHAPE))
    with pytest.raises(DataError, match=r"bird has no images.*for .cr2: convert to PNG or JPEG"):
        load_task(TaskRecipe(data="folder"), DataRecipe(input_shape=SHAPE), root=folder)


def test_halves_are_not_classes(tmp_path) -> None:
    """A folder of train/ and val/ is no data set of two classes; halves with other classes are refused."""
    for half in ("train", "val"):
        for label in ("cat", "dog"):
            picture(tmp_path / half / label / "1.png")
    with pytest.raises(InputError, match="train and val, the splits of a data set"):
        read_labelled(tmp_path, takes=image(SHAPE))
    with pytest.raises(DataError, match="train and val, the splits of a data set, .* was expected; give one of them$"):
        load_task(TaskRecipe(data="folder"), DataRecipe(input_shape=SHAPE), root=tmp_path)
    (tmp_path / "val").rename(tmp_path / "test")
    picture(tmp_path / "test" / "bird" / "1.png")
    with pytest.raises(DataError, match="in only one of train and test: bird"):
        load_task(TaskRecipe(data="folder"), DataRecipe(input_shape=SHAPE), root=tmp_path)


@pytest.mark.parametrize(("one", "other"), [("café", unicodedata.normalize("NFD", "café")), ("walk", "walk ")])
def test_one_name_in_two_spellings(one, other, tmp_path) -> None:
    """Folders, rows and arrays whose names differ in spaces or composed accents only are refused, both shown."""
    for name in (one, other):
        picture(tmp_path / "folder" / name / "1.png")
    (tmp_path / "a.csv").write_text(f"label,file\n{one},folder/{one}/1.png\n{other},folder/{one}/1.png\n")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, *SHAPE), np.float32), labels=np.array([one, other]))
    for name in ("folder", "a.csv", "a.npz"):
        with pytest.raises(InputError) as problem:
            read_labelled(tmp_path / name, takes=image(SHAPE))
        assert ascii(one) in str(problem.value)
        assert ascii(other) in str(problem.value)


def test_a_name_as_a_mac_writes_it(tmp_path) -> None:
    """A decomposed name of a folder is the composed label; a name that is no text is refused before anything is read."""
    picture(tmp_path / unicodedata.normalize("NFD", "café") / "1.png")
    picture(tmp_path / " thé " / "1.png")
    assert set(read_labelled(tmp_path, takes=image(SHAPE)).labels) == {"café", "thé"}
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match=r"label 'caf\\udce9', but 1 to 256 characters .* encoded as UTF-8") as problem:
        read_labelled(tmp_path, takes=image(SHAPE))
    str(problem.value).encode()


def test_an_error_is_one_line_whatever_a_file_is_called(tmp_path) -> None:
    """Line breaks and bytes that are no text are escaped in messages."""
    name = os.fsdecode(b"cat/a\nb\xe9.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(InputError) as problem:
        read_labelled(tmp_path, takes=image(SHAPE))
    assert r"a\nb\udce9.png is not an image" in str(problem.value)
    assert str(problem.value).isprintable()


def test_several_pictures_in_a_file(tmp_path) -> None:
    """Of an animation the first picture is taken, and that is said."""
    first, second = (Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "b.tiff", save_all=True, append_images=[second])
    found = read_stream(tmp_path, takes=image(SHAPE))
    assert found.x.max() == 0
    assert "the first was read (2 times)" in found.account.sentence()
