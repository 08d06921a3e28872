"""Arrays in .npy files, which are mapped into memory."""

import dataclasses

import numpy as np
import pytest

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import read_labelled
from isoform.train.data.formats.files import read_files
from isoform.train.data.load import load_tasks
from isoform.train.loop import train
from isoform.train.recipe import Recipe
from isoform.train.suggest.survey import surveyed


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


@pytest.mark.filterwarnings("error")
def test_training_reads_mapped_arrays(tmp_path) -> None:
    """Halves in folders, which stay on disk, and one folder that is split; the recipe for them trains to the network of the same .npz."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 40), ("test", 12)):
        (tmp_path / "halves" / half).mkdir(parents=True)
        np.save(tmp_path / "halves" / half / "x.npy", rng.normal(size=(count, 9, 1, 1)).astype(np.float32))
        np.save(tmp_path / "halves" / half / "labels.npy", np.arange(count) % 2)
    account = Account()
    halves = read_files(tmp_path / "halves", shape=(9, 1, 1), account=account, reading=Reading())
    assert halves.test is not None
    assert isinstance(halves.train.images.base, np.memmap)
    assert len(halves.test.labels) == 12
    whole = read_files(tmp_path / "halves" / "train", shape=(9, 1, 1), account=account, reading=Reading())
    assert whole.test is None
    np.testing.assert_array_equal(whole.train.images, halves.train.images)
    for data in (tmp_path / "halves", tmp_path / "halves" / "train"):
        found = surveyed(data)
        assert (found.shape, found.halves) == ((9, 1, 1), data.name == "halves")
    recipe = Recipe.from_json({
        "steps": 3, "batch": 8, "threads": 1, "data": {"input_shape": [9, 1, 1], "shift": 0},
        "network": {"adapter_kernel": [1, 1], "kernel": 1, "layers": 2, "channels": 8}, "tasks": {"a": {"data": "files"}},
    })  # fmt: skip
    made = []
    for root in (tmp_path / "halves", tmp_path / "copies"):
        datasets = load_tasks(recipe.tasks, recipe.data, root=tmp_path / "halves")
        if root.name == "copies":
            datasets = {
                "a": dataclasses.replace(
                    datasets["a"], train=_copied(datasets["a"].train), test=_copied(datasets["a"].test)
                )
            }
        made.append(
            train(recipe, datasets, checkpoint=tmp_path / root.name / "state" if root.exists() else tmp_path / "state")
        )
    assert made[0].digest == made[1].digest


def _copied(half):
    return dataclasses.replace(half, images=np.array(half.images))
