"""Data sets as disks have them: other files among the published ones, and files that promise more than they hold."""

import gzip
import json
import resource
import tracemalloc

import h5py
import numpy as np
import pytest
from PIL import Image
from support import isoform

from isoform.runtime.errors import DataError
from isoform.train.data.formats.idx import read_idx
from isoform.train.data.load import load_task
from isoform.train.recipe import DataRecipe, TaskRecipe

pytestmark = pytest.mark.trust


def load(root, **task):
    """One task's data at a small size."""
    return load_task(TaskRecipe(**task), DataRecipe(input_shape=(1, 8, 8)), root=root)


def idx(*shape, data=None) -> bytes:
    """An IDX file's bytes, of zeros unless said otherwise."""
    content = bytes(int(np.prod(shape))) if data is None else bytes(data)
    return bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + content


def test_hidden_files_beside_idx_files(tmp_path) -> None:
    """What a Mac leaves beside IDX files is no data set; packed copies and other files are counted."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(8, 8, 8))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(8, 8, 8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(8, data=[0, 1] * 4))
    for name in ("._train-images-idx3-ubyte", "._train-labels-idx1-ubyte", ".DS_Store", "README.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = load(tmp_path, data="idx").account
    text = "8 images in 2 classes; left out: 3 hidden files, 1 packed copy, 1 file of another name (.txt)"
    assert found.sentence() == text
    assert found.files + found.left.total() == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            idx(60_000, 4000, 4000, data=b""),
            r"declares 960,000,000,000 bytes .* at most 268,435,456 are read.*ISOFORM_MAX_DATA_BYTES",
        ),
        (idx(2, 8, 8)[:9], "is not an IDX file"),
        (idx(2, 8, 8) + b"x", "declares 128 bytes .* holds more than 128"),
        (idx(1, data=b"x")[:8] + bytes(60 << 20), "declares 1 bytes .* holds more than 1"),
    ],
    ids=["960 GB", "cut short", "too long", "60 MB too long"],
)
def test_what_idx_promises_is_not_believed(content, message, tmp_path) -> None:
    """Neither what a header declares, nor what a packed file unpacks to, is taken before it is there."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, compresslevel=1))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=message):
        load(tmp_path, data="idx")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


IMAGES, LABELS, HALF = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", idx(8, data=[0, 1] * 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({IMAGES: idx(8, 0, 0), LABELS: HALF}, r"has shape \(8, 0, 0\)"),
        ({IMAGES: idx(8, 8, 8), LABELS: idx(8)}, "has 1 class, but at least two"),
        ({IMAGES: idx(8, 8, 8), LABELS: HALF, "m-mapping.txt": b"0 233\n1 101 769\n"}, "differ only in"),
        ({IMAGES: idx(8, 8, 8), LABELS: HALF, "m-mapping.txt": b"0 32\n1 65\n"}, "has the label ' '"),
        ({IMAGES: idx(8, 8, 8), LABELS: HALF, "m-mapping.txt": b"0 " + b"9" * 5000}, "a label and character codes were"),
        ({IMAGES: idx(8, 8, 8), LABELS: HALF, "m-mapping.txt": b"0 65\n" * 300_000}, "larger than the 1,048,576 bytes"),
        ({IMAGES: idx(8, 8, 8), LABELS: HALF, "t10k-images-idx3-ubyte": idx(2, 8, 8), "t10k-labels-idx1-ubyte": idx(2, data=[0, 5])},
         "class '5' .* has no sample to train on"),
    ],
    ids=["no pixels", "one class", "same names", "space", "long number", "long mapping", "untaught class"],
)  # fmt: skip
def test_data_that_nothing_can_learn(files, message, tmp_path) -> None:
    """Images without pixels, one class, names that are the same, and classes that only the test half has are refused."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path, data="idx")


def test_a_limit_never_takes_a_class(tmp_path) -> None:
    """A limit of fewer samples than classes is refused, and so are paths that no folder can have."""
    (tmp_path / IMAGES).write_bytes(idx(8, 8, 8))
    (tmp_path / LABELS).write_bytes(HALF)
    assert len(load(tmp_path, data="idx", limit=2).train.labels) == 2
    with pytest.raises(DataError, match="class '[01]' .* has no sample to train on; .* raise the task's limit"):
        load(tmp_path, data="idx", limit=1)
    for path in ("a" * 300, "a\0"):
        with pytest.raises(DataError, match="is not a folder|a byte of zero"):
            load(tmp_path, data="idx", path=path)


def test_packed_copies_and_a_lone_test_half_are_said(tmp_path) -> None:
    """Where labels or images are there twice, the plain ones are read; a test half alone is split, and both are said."""
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(8, 8, 8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(HALF)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(8, data=[0, 7] * 4)))
    found = load(tmp_path, data="idx")
    assert found.classes == ("0", "1")
    assert found.account.sentence() == (
        "8 images in 2 classes; left out: 1 packed copy; there is no training half: the test half is split"
    )


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_have_a_limit(packed, tmp_path, monkeypatch) -> None:
    """A file that holds all that it declares, but more than the limit, is refused unread; one within it takes little more memory."""
    content = idx(40 << 10, 32, 32)
    name = tmp_path / f"train-images-idx3-ubyte{'.gz' * packed}"
    name.write_bytes(gzip.compress(content, compresslevel=1) if packed else content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(40 << 10))
    for limit, most in ((40 << 20, 50 << 20), ((40 << 20) - 1, 3 << 20)):
        monkeypatch.setenv("ISOFORM_MAX_DATA_BYTES", str(limit))
        tracemalloc.start()
        try:
            if limit == 40 << 20:
                assert read_idx(name).shape == (40 << 10, 32, 32)
            else:
                with pytest.raises(DataError, match="at most 41,943,039 are read"):
                    load(tmp_path, data="idx")
            assert tracemalloc.get_traced_memory()[1] < most
        finally:
            tracemalloc.stop()


def test_a_packed_text_takes_little_memory(tmp_path) -> None:
    """A USPS file of some kilobytes that unpacks to a line, or lines, of millions of numbers is refused before they are kept."""
    for text, message in (
        (b"0 " * (20 << 20), "line 1 has 41,943,040 bytes"),
        (b"0\n" * (20 << 20), "line 1 has 0 values"),
    ):
        (tmp_path / "zip.train.gz").write_bytes(gzip.compress(text, compresslevel=1))
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=message):
                load(tmp_path, data="usps")
            assert tracemalloc.get_traced_memory()[1] < 150 << 20
        finally:
            tracemalloc.stop()


def test_usps_of_another_range_is_refused(tmp_path) -> None:
    """Values that are not USPS's are refused, not cut to 0 and 1; a label that is no whole number is none."""
    for values, labels, message in (
        (np.full((4, 256), 200.0), np.arange(4), "values from 200 to 200 after scaling, but USPS's"),
        (np.full((4, 256), np.nan), np.arange(4), "values from nan to nan after scaling"),
        (np.zeros((4, 256)), np.arange(4) + 0.5, "n digits were expected"),
        (np.zeros((4, 255)), np.arange(4), r"train has the shapes \(4, 255\)"),
    ):
        with h5py.File(tmp_path / "usps.h5", "w") as file:
            for group in ("train", "test"):
                file[f"{group}/data"], file[f"{group}/target"] = values, labels
        with pytest.raises(DataError, match=message):
            load(tmp_path, data="usps")


def test_a_packed_text_has_a_limit(tmp_path) -> None:
    """A USPS file of some kilobytes that unpacks to 68 MB is refused."""
    (tmp_path / "zip.train.gz").write_bytes(gzip.compress(bytes(65 << 20), compresslevel=1))
    with pytest.raises(DataError, match="unpacks to more than 67,108,864 bytes"):
        load(tmp_path, data="usps")


def test_train_and_compile_say_what_they_took(tmp_path) -> None:
    """``isoform train`` and ``isoform compile`` print the same account of a folder's images."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / "data" / label / f"{number}.png")
        (tmp_path / "data" / label / "._0.png").write_bytes(b"x")
    (tmp_path / "r.toml").write_text(
        "steps = 2\nbatch = 4\nthreads = 1\n[data]\ninput_shape = [1, 8, 8]\n[network]\nlayers = 2\ntemplates = 2\nchannels = 8\n"
        'adapter_kernel = [2, 2]\nhead_channels = 16\nembedding = 8\n[tasks.pets]\ndata = "folder"\n'
    )
    expected = "16 images in 2 classes; left out: 2 hidden files"
    data = ["--data", tmp_path / "data"]
    assert f"task pets: {expected}\n" in isoform("train", tmp_path / "r.toml", "-o", tmp_path / "b", *data).stderr
    done = isoform("compile", tmp_path / "b", *data, "--max-drop", "100")
    assert f"samples of pets: {expected}\n" in done.stderr
    assert json.loads(done.stdout)["compiled"] == str(tmp_path / "b" / "compiled")
