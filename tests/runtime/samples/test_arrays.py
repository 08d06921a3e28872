"""Archives of arrays: sound ones of every kind are read, and whatever is wrong with one is one line."""

import contextlib
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from support import image

from isoform.runtime.errors import InputError
from isoform.runtime.samples.labelled import read_labelled

pytestmark = pytest.mark.trust
SHAPE = (1, 4, 4)
X, LABELS = np.arange(32, dtype=np.float32).reshape(2, *SHAPE), np.array(["a", "b"])


def npy(array) -> bytes:
    """An array's .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape, descr="<f4", version=1, pad=0) -> bytes:
    """A .npy header that says what we like."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * pad + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def archive(path, entries, method=zipfile.ZIP_STORED) -> None:
    """A zip file of names and bytes, in which names may come twice."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("x", [X, X.astype(">f8"), np.asfortranarray(X), X.astype(np.uint8), X.astype(np.float16)])
def test_sound_archives(x, method, tmp_path) -> None:
    """Every number type, byte order, order of axes and compression gives the same samples; other arrays are counted."""
    entries = [("x.npy", npy(x)), ("labels.npy", npy(LABELS)), ("deep/x.npy", npy(X)), ("notes.txt", b"x")]
    archive(tmp_path / "a.NPZ", entries, method)
    found = read_labelled(tmp_path / "a.NPZ", takes=image(SHAPE))
    assert np.array_equal(found.x, X)
    assert found.account.sentence() == (
        "2 samples in 2 classes; left out: 2 other arrays; x has values up to 31, but images read from files have 0 to 1"
    )


BAD = {
    "two of a name": ([("x.npy", npy(X)), ("x.npy", npy(X)), ("labels.npy", npy(LABELS))], "two arrays named x"),
    "objects": ([("x.npy", npy(np.array([{}, 1], dtype=object)))], "Python objects, which are never unpickled"),
    "pickle": ([("x.npy", b"\x80\x04K\x01.")], "cannot be read as numpy arrays"),
    "structured": ([("x.npy", npy(np.zeros(2, [("a", "f4")])))], "an array of numbers or strings was expected"),
    "huge": ([("x.npy", header((1 << 40, 1, 4, 4)))], r"bytes, but at most 268,435,456 are read"),
    "overflowing": ([("x.npy", header((1 << 62, 1 << 62)))], "bytes, but at most"),
    "negative": ([("x.npy", header((-2, 1, 4, 4)))], "an array of numbers or strings was expected"),
    "short": ([("x.npy", npy(X)[:-1])], "is damaged: its shape .* needs 128 bytes, but the file has 127"),
    "long": ([("x.npy", npy(X) + b"x")], "is damaged"),
    "long header": ([("x.npy", header((2, 1, 4, 4), version=2, pad=20_000))], "has a header of .* bytes"),
    "header of 4 GB": ([("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff")], "has a header of 4,294,967,295 bytes"),
    "version": ([("x.npy", header((2, 1, 4, 4), version=3))], "has .npy format 3.0"),
    "no literal": ([("x.npy", header("__import__('os')"))], "cannot be read as numpy arrays"),
    "empty": ([("x.npy", b"")], "cannot be read as numpy arrays"),
    "bytes": ([("x.npy", npy(X)), ("labels.npy", npy(LABELS.astype("S")))], "one string or integer per sample"),
    "not finite": ([("x.npy", npy(X * np.nan)), ("labels.npy", npy(LABELS))], "sample 0 of .*a.npz holds a number that is not finite"),
    "shape": ([("x.npy", npy(X[:, 0])), ("labels.npy", npy(LABELS))], r"a.npz have shape \(2, 4, 4\)"),
    "missing": ([("X.npy", npy(X))], "has no arrays x and labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_odd_archives(case, tmp_path) -> None:
    """One line for each, and no memory for what is only declared."""
    entries, message = BAD[case]
    with pytest.warns(UserWarning, match="Duplicate name") if case == "two of a name" else contextlib.nullcontext():
        archive(tmp_path / "a.npz", entries)
    with pytest.raises(InputError, match=message) as problem:
        read_labelled(tmp_path / "a.npz", takes=image(SHAPE))
    assert str(problem.value).isprintable()


@pytest.mark.parametrize("comment", [b"", b"made by hand"])
def test_a_long_list_of_files_is_not_read(comment, tmp_path) -> None:
    """An archive of 30,000 empty files takes no memory for each of them; one of a few hundred is read."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name, data in [("x.npy", npy(X)), ("labels.npy", npy(LABELS)), *((str(i), b"") for i in range(300))]:
            file.writestr(name, data)
        file.comment = comment
    assert read_labelled(tmp_path / "a.npz", takes=image(SHAPE)).account.left["other array"] == 300
    listed = (b"PK\1\2" + bytes(24) + struct.pack("<HHHHHII", 5, 0, 0, 0, 0, 0, 0) + b"empty") * 30_000
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0, len(listed), 0, len(comment)) + comment
    (tmp_path / "a.npz").write_bytes(listed + end)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="has a directory of 1,530,000 bytes, but at most 1,048,576 are read"):
            read_labelled(tmp_path / "a.npz", takes=image(SHAPE))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def zip64(place, size, said=0, comment=b"") -> bytes:
    """The end of a large archive: a record that gives its list's size, the locator that points to a record, and the end record."""
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 0, 0, size, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
    return record + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0, said, 0, len(comment)) + comment


@pytest.mark.parametrize("comment", [b"", b"made by hand"])
def test_large_archives_are_read(comment, tmp_path, monkeypatch) -> None:
    """An archive that ends as numpy writes one above 2 GiB is read; one whose zip64 records give a long list is refused."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        archive(tmp_path / "a.npz", [("x.npy", npy(X)), ("labels.npy", npy(LABELS))])
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
            file.comment = comment
    assert b"PK\6\6" in (tmp_path / "a.npz").read_bytes()
    assert np.array_equal(read_labelled(tmp_path / "a.npz", takes=image(SHAPE)).x, X)
    listed, long = bytes(2 << 20), (1 << 20) + 1
    pointed = zip64(0, long)[:56] + listed + zip64(0, 5, comment=comment)
    ends = [zip64(len(listed), long, comment=comment), zip64(1 << 63, long, comment=comment), zip64(0, 5, long)]
    for content in (pointed, *(listed + end for end in ends)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match="has a directory of 1,048,577 bytes, but at most 1,048,576 are read"):
            read_labelled(tmp_path / "a.npz", takes=image(SHAPE))
    for cut in range(len(ends[0])):
        (tmp_path / "a.npz").write_bytes(ends[0][cut:])
        with pytest.raises(InputError, match=r"has a directory of|cannot be read as|has no arrays"):
            read_labelled(tmp_path / "a.npz", takes=image(SHAPE))


def test_encrypted_and_unknown_compression(tmp_path) -> None:
    """A password, or a method that Python does not have, is named."""
    archive(tmp_path / "a.npz", [("x.npy", npy(X)), ("labels.npy", npy(LABELS))])
    data = (tmp_path / "a.npz").read_bytes()
    for place, value, message in ((8, 1, "is encrypted"), (10, 99, "compression")):
        changed = bytearray(data)
        for sign in (b"PK\x01\x02", b"PK\x03\x04"):
            at = changed.index(sign) + place - 2 * (sign[2] == 3)
            changed[at] = value
        (tmp_path / "b.npz").write_bytes(changed)
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path / "b.npz", takes=image(SHAPE))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives_never_surprise(method, tmp_path) -> None:
    """Whatever byte is damaged, or wherever it is cut: samples, or one line."""
    archive(tmp_path / "a.npz", [("x.npy", npy(X)), ("labels.npy", npy(LABELS))], method)
    data, rng = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(0)
    for number in range(300):
        damaged = bytearray(data if number % 4 else data[: rng.integers(len(data))])
        for place in rng.integers(len(damaged) or 1, size=rng.integers(1, 4))[: len(damaged)]:
            damaged[place] = rng.integers(256)
        (tmp_path / "b.npz").write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert read_labelled(tmp_path / "b.npz", takes=image(SHAPE)).x.shape == X.shape
