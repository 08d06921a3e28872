"""Reading data: the embedded digits, domains, and the standard formats on disk, made and real."""

import bz2
import gzip

import h5py
import numpy as np
import pytest
from PIL import Image

from isoform.runtime.errors import DataError, RecipeError
from isoform.train.data.domains import DOMAINS, NEW_USERS, transform
from isoform.train.data.formats.digits import digits
from isoform.train.data.formats.idx import read_idx
from isoform.train.data.load import load_task
from isoform.train.recipe import DataRecipe, TaskRecipe


def load(root, *, shape=(1, 8, 8), **task):
    """One task's data at a small size."""
    return load_task(TaskRecipe(**task), DataRecipe(input_shape=shape), root=root)


def test_digits_are_the_real_ones() -> None:
    """1,797 scans with the published number of each digit, ink bright, in [0, 1]."""
    images, labels = digits()
    assert images.shape == (1797, 1, 32, 32)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.min() >= 0
    assert images.max() <= 1
    assert images[:, :, 12:20, 8:24].mean() > 2 * images[:, :, :, :4].mean()


def test_digits_are_those_of_scikit_learn(monkeypatch) -> None:
    """Its file is read without importing it; where the file is not, scikit-learn is asked, for the same numbers."""
    images, labels = digits()
    monkeypatch.setattr("isoform.train.data.formats.digits.importlib.util.find_spec", lambda _: None)
    asked = digits.__wrapped__()
    assert np.array_equal(asked[0], images)
    assert np.array_equal(asked[1], labels)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_treats_every_image_alone(domain, samples) -> None:
    """A transform keeps shape, type and range, changes nothing of its input, and never mixes samples."""
    x = samples[0][:5]
    before = x.copy()
    whole = transform(x, domain=domain)
    assert np.array_equal(x, before)
    assert (whole.shape, whole.dtype) == (x.shape, np.float32)
    assert whole.min() >= -1e-6
    assert whole.max() <= 1 + 1e-6
    alone = np.concatenate([transform(x[i : i + 1], domain=domain) for i in range(5)])
    np.testing.assert_allclose(whole, alone, atol=1e-6)


def test_domains_do_what_they_say(samples) -> None:
    """Inverting twice is nothing, thick strokes have more ink, low contrast spans 0.2, slanting moves the top from the bottom."""
    x = samples[0][:50]
    assert np.allclose(1 - transform(x, domain="inverted"), x, atol=1e-6)
    assert transform(x, domain="thick").mean() > 1.3 * x.mean()
    assert np.ptp(transform(x, domain="low_contrast")) <= 0.2 + 1e-6
    line = np.zeros((1, 1, 32, 32), np.float32)
    line[..., 16] = 1
    columns = transform(line, domain="slanted")[0, 0].argmax(axis=1)
    assert abs(int(columns[2]) - int(columns[29])) == pytest.approx(0.6 * 27, abs=1.5)
    assert transform(np.full((1, 1, 8, 8), 0.5, np.float32), domain="edges").max() == 0
    assert set(NEW_USERS) < set(DOMAINS)
    with pytest.raises(RecipeError, match="domain is 'upside-down'"):
        transform(x, domain="upside-down")


def test_the_split_is_stratified_and_fixed() -> None:
    """A quarter of every class is held back, the same samples every time, none in both halves."""
    one, two = load(None, data="digits"), load(None, data="digits")
    assert one.digest() == two.digest()
    assert len(one.train.labels) + len(one.test.labels) == 1797
    np.testing.assert_allclose(np.bincount(one.test.labels) / np.bincount(digits()[1]), 0.25, atol=0.01)
    train = {image.tobytes() for image in one.train.images}
    assert not any(image.tobytes() in train for image in one.test.images)


def test_a_limit_is_even_over_classes() -> None:
    """``limit`` keeps so many training samples, as even as can be, and leaves the test half whole."""
    limited = load(None, data="digits", limit=25)
    assert sorted(np.bincount(limited.train.labels)) == [2] * 5 + [3] * 5
    assert len(limited.test.labels) == len(load(None, data="digits").test.labels)


def idx(array) -> bytes:
    """An IDX file's bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def images():
    """Twelve random 8×8 images of three classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 8, 8)).astype(np.uint8), np.arange(12) % 3


def test_idx(images, tmp_path) -> None:
    """IDX pairs are read plain and gzipped, with their own test half."""
    x, y = images
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(y))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(x[:4]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y[:4])))
    found = load(tmp_path, data="idx")
    assert found.classes == ("0", "1", "2")
    assert np.array_equal(found.train.images[:, 0], x.astype(np.float32) / 255)
    assert np.array_equal(found.train.labels, y)
    assert len(found.test.labels) == 4


def test_emnist_is_turned_and_named(images, tmp_path) -> None:
    """EMNIST's transposed images are turned upright, and its labels get their characters."""
    x, y = images
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx(x))
    (tmp_path / "emnist-letters-train-labels-idx1-ubyte").write_bytes(idx(y + 1))
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    found = load(tmp_path, data="idx")
    assert found.classes == ("Aa", "Bb", "Cc")
    assert any(np.array_equal(found.train.images[0, 0], image.T.astype(np.float32) / 255) for image in x)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no IDX files"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 8, 8)))}, "has no labels beside it"),
        ({"train-images-idx3-ubyte": b"", "train-labels-idx1-ubyte": b""}, "is not an IDX file"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 8, 8)))[:-1], "train-labels-idx1-ubyte": b""}, "declares 128 bytes .* holds 127"),
        ({"train-images-idx3-ubyte": b"\0\0\x0d\x01\0\0\0\0", "train-labels-idx1-ubyte": b""}, "is not an IDX file of unsigned bytes"),
        ({"train-images-idx3-ubyte.gz": b"\x1f\x8bxx", "train-labels-idx1-ubyte": b""}, "cannot be read"),
        ({"train-images-idx3-ubyte": idx(np.zeros((2, 8, 8))), "train-labels-idx1-ubyte": idx(np.zeros(3))}, "its labels \\(3,\\)"),
        ({"a-images-idx3-ubyte": idx(np.zeros((2, 8, 8))), "a-labels-idx1-ubyte": idx(np.zeros(2)),
          "b-images-idx3-ubyte": idx(np.zeros((2, 8, 8))), "b-labels-idx1-ubyte": idx(np.zeros(2))}, "more than one file of training images"),
    ],
)  # fmt: skip
def test_bad_idx_is_refused(files, message, tmp_path) -> None:
    """Each way in which IDX files can be wrong is named."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        load(tmp_path, data="idx")


def test_usps_in_three_forms(tmp_path) -> None:
    """HDF5, gzipped text and LIBSVM, which leaves zeros out, give the same samples."""
    rng = np.random.default_rng(0)
    values, labels = rng.uniform(-1, 1, (30, 256)).round(4), np.arange(30) % 10
    values[::3, ::5] = values[1] = 0
    for form in ("h5", "text", "libsvm"):
        (tmp_path / form).mkdir()
    with h5py.File(tmp_path / "h5" / "usps.h5", "w") as file:
        for group in ("train", "test"):
            file[f"{group}/data"], file[f"{group}/target"] = (values + 1) / 2, labels
    text = "\n".join(f"{label:.4f} " + " ".join(map(str, row)) for label, row in zip(labels, values, strict=True))
    svm = "\n".join(
        f"{label + 1} " + " ".join(f"{i + 1}:{v}" for i, v in enumerate(row) if v)
        for label, row in zip(labels, values, strict=True)
    )
    for name in ("zip.train.gz", "zip.test.gz"):
        (tmp_path / "text" / name).write_bytes(gzip.compress(text.encode()))
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / "libsvm" / name).write_bytes(bz2.compress(svm.encode()))
    found = [load(tmp_path, data="usps", path=form, shape=(1, 16, 16)) for form in ("h5", "text", "libsvm")]
    for other in found:
        np.testing.assert_allclose(other.train.images, ((values + 1) / 2).reshape(-1, 1, 16, 16), atol=1e-6)
        assert np.array_equal(other.test.labels, labels)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (None, b"", "has no USPS files"),
        ("usps.h5", b"nothing", "is not an HDF5 file"),
        ("zip.train.gz", b"nothing", "is not the USPS file"),
        ("zip.train.gz", gzip.compress(b"1 2 3\n4 5", mtime=0), "is not the USPS file"),
        ("zip.train.gz", gzip.compress(b"1 2 3", mtime=0), "line 1 has 2 values, but 256"),
        ("usps.bz2", bz2.compress(b"1 a:b"), "is not the USPS file"),
        ("usps.bz2", bz2.compress(b"nan 1:1"), "n digits were expected"),
        (
            "usps.bz2",
            bz2.compress(b"1 2:1\n\n1 0:1"),
            "line 3: '0:1' was found, but index:value was expected, indices from 1",
        ),
        ("usps.bz2", bz2.compress(b"1 256:1 257:1"), "line 1: '257:1' was found, .* indices from 1 to 256 and rising"),
        ("usps.bz2", bz2.compress(b"1 2:1 2:1"), "line 1: '2:1' was found"),
        ("usps.bz2", bz2.compress(b"1 3:1 2:1"), "line 1: '2:1' was found"),
        ("usps.bz2", bz2.compress(b"1 1:2:3"), "line 1: '1:2:3' was found"),
        ("usps.bz2", bz2.compress(b"1 5"), "line 1: '5' was found"),
        ("usps.bz2", bz2.compress(b"1 -1:1"), "line 1: '-1:1' was found"),
        ("usps.bz2", bz2.compress(b"1 " + b"9" * 5000 + b":1"), "line 1: '9+' was found"),
        ("usps.bz2", bz2.compress(b"1\n1 1:x"), "line 2: could not convert string to float: b'x'"),
    ],
)
def test_bad_usps_is_refused(name, data, message, tmp_path) -> None:
    """A file that is not the published one is named."""
    if name:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        load(tmp_path, data="usps")


@pytest.mark.parametrize("split", [False, True])
def test_an_image_folder(split, tmp_path) -> None:
    """A folder per class, with or without its own test half, grey or colour, becomes samples of one size."""
    rng = np.random.default_rng(0)
    for half in ("train", "test") if split else ("",):
        for name in ("cat", "dog"):
            folder = tmp_path / half / name
            folder.mkdir(parents=True)
            for index in range(8):
                Image.fromarray(rng.integers(0, 255, (10, 12, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    found = load(tmp_path, data="folder", shape=(3, 8, 8))
    assert found.classes == ("cat", "dog")
    assert found.train.images.shape == (16 if split else 12, 3, 8, 8)
    assert len(found.test.labels) == (16 if split else 4)
    assert load(tmp_path, data="folder").train.images.shape[1] == 1


def test_bad_image_folders_are_refused(tmp_path) -> None:
    """No classes, an empty class, and a file that is no image are named."""
    with pytest.raises(DataError, match="has no subfolders, but one per label"):
        load(tmp_path, data="folder")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="has no images"):
        load(tmp_path, data="folder")
    for name in ("cat", "dog"):
        for index in range(4):
            (tmp_path / name / f"{index}.png").write_bytes(b"nothing")
    with pytest.raises(
        DataError, match=r"\d.png is not an image that can be read; .* were expected; replace or remove it$"
    ):
        load(tmp_path, data="folder")


def test_missing_places_are_named(tmp_path) -> None:
    """Without ``--data``, or with a path that is not there, the error says what to do."""
    with pytest.raises(DataError, match="say where its files are with --data"):
        load(None, data="idx")
    with pytest.raises(DataError, match="leads out of"):
        load(tmp_path, data="idx", path="../..")
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path, data="idx", path="nowhere")


def test_links_in_the_data_are_followed(tmp_path) -> None:
    """``--data`` and a folder in it may be links to elsewhere; a recipe's own text cannot leave ``--data``, through a link neither."""
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "disk" / "set" / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((8, 8, 8))))
    (tmp_path / "disk" / "set" / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(8) % 2))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").symlink_to(tmp_path / "disk" / "set")
    (tmp_path / "shortcut").symlink_to(tmp_path / "data")
    for root in (tmp_path / "data", tmp_path / "shortcut"):
        for path in ("mine", str(root / "mine"), "mine/../mine"):
            assert len(load(root, data="idx", path=path).train.labels) == 6
    for path in ("../disk/set", str(tmp_path / "disk"), "mine/../.."):
        with pytest.raises(DataError, match="leads out of"):
            load(tmp_path / "data", data="idx", path=path)
    with pytest.raises(DataError, match="is no|no file|has no|expected"):
        load(tmp_path / "data", data="idx", path="mine/..")  # --data itself, not the parent of the link's target


def test_too_few_samples_to_split(tmp_path) -> None:
    """A class with one sample cannot be split, and is named."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 8, 8))))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 0, 1])))
    with pytest.raises(DataError, match="class '0' has 2 samples|class '1' has 1 sample,"):
        load(tmp_path, data="idx")


@pytest.mark.parametrize(
    ("task", "train", "test", "classes"),
    [
        ({"data": "idx", "path": "mnist"}, 60_000, 10_000, 10),
        ({"data": "idx", "path": "fashion-mnist"}, 60_000, 10_000, 10),
        ({"data": "idx", "path": "emnist-letters"}, 13_000, 20_800, 26),
        ({"data": "usps", "path": "usps"}, 7_291, 2_007, 10),
    ],
)
def test_real_data_sets(task, train, test, classes, shared) -> None:
    """The published data sets are read whole, with as many samples as published."""
    size = (1, 16, 16) if task["data"] == "usps" else (1, 28, 28)
    found = load(shared, shape=size, **task)
    assert (len(found.train.labels), len(found.test.labels), len(found.classes)) == (train, test, classes)
    assert np.bincount(found.train.labels).min() > 0


def test_the_usps_forms_agree_on_the_real_test_set(shared, tmp_path) -> None:
    """The HDF5 copy and the published text of USPS's test half hold the same samples."""
    (tmp_path / "zip.train.gz").write_bytes((shared / "usps" / "zip.test.gz").read_bytes())
    (tmp_path / "zip.test.gz").write_bytes((shared / "usps" / "zip.test.gz").read_bytes())
    text, h5 = load(tmp_path, data="usps", shape=(1, 16, 16)), load(shared, data="usps", path="usps", shape=(1, 16, 16))
    np.testing.assert_allclose(text.test.images, h5.test.images, atol=1e-6)
    assert np.array_equal(text.test.labels, h5.test.labels)


def test_idx_of_the_real_mnist(shared) -> None:
    """The first training digit of MNIST is the well-known 5."""
    assert read_idx(shared / "mnist" / "train-labels-idx1-ubyte.gz")[:5].tolist() == [5, 0, 4, 1, 9]
