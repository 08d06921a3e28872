"""Arrays in .npy files, which are mapped into memory."""

import numpy as np
import pytest

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input
from isoform.runtime.samples.labelled import read_labelled


def test_arrays_that_are_mapped(tmp_path) -> None:
    """x.npy with labels beside it is the .npz of the same arrays, by its folder and by its name, and stays on disk; damaged ones are refused."""
    takes = Input(what="image", shape=(2, 1, 5))
    x, labels = np.random.default_rng(0).normal(size=(6, 2, 1, 5)).astype(np.float32), np.array(list("abcabc"))
    np.savez(tmp_path / "all.npz", x=x, labels=labels)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", x)
    np.save(tmp_path / "folder" / "labels.npy", labels)
    expected = read_labelled(tmp_path / "all.npz", takes=takes)
    for path in (tmp_path / "folder", tmp_path / "folder" / "x.npy"):
        found = read_labelled(path, takes=takes)
        np.testing.assert_array_equal(found.x, x)
        assert found.labels == expected.labels
        assert isinstance(found.x.base, np.memmap)
    data = (tmp_path / "folder" / "x.npy").read_bytes()
    for content, message in (
        (data[:-4], "needs 240 bytes, but the file has 236"),
        (b"no", "damaged"),
        (b"", "damaged"),
    ):
        (tmp_path / "bad.npy").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path / "bad.npy", takes=takes)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects, which are never unpickled"):
        read_labelled(tmp_path / "objects.npy", takes=takes)


def test_mapped_arrays_are_limited_on_devices_alone(tmp_path, monkeypatch) -> None:
    """A device reads at most ISOFORM_MAX_DATA_BYTES; training reads what there is."""
    monkeypatch.setenv("ISOFORM_MAX_DATA_BYTES", "4096")
    np.save(tmp_path / "x.npy", np.zeros((200, 1, 1, 8), np.float32))
    np.save(tmp_path / "labels.npy", np.arange(200) % 2)
    takes = Input(what="image", shape=(1, 1, 8))
    with pytest.raises(InputError, match="6,400 bytes, but at most 4,096"):
        read_labelled(tmp_path, takes=takes)
    assert len(read_labelled(tmp_path, takes=takes, limited=False).x) == 200
