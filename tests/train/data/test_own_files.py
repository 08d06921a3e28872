"""Training on one's own recordings, feature vectors and tables of images, by the rules of ``isoform personalize``."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from support import isoform, isoform_here

from isoform.runtime import Runtime
from isoform.runtime.errors import DataError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import Reading
from isoform.runtime.samples.labelled import read_labelled
from isoform.train.data.load import load_task, load_tasks, reading_of
from isoform.train.data.samples import Split
from isoform.train.data.splits import hold_out
from isoform.train.recipe import DataRecipe, TaskRecipe

NETWORK = (
    "[network]\nadapter_kernel = [1, 4]\nlayers = 2\ntemplates = 2\nchannels = 8\nhead_channels = 8\nembedding = 8\n"
)
FILES = '[tasks.mine]\ndata = "files"\n'
CHANNELS = ("ax", "ay", "az")


def recording(path, *, person, seed, columns=CHANNELS, rows=70, scale=1.0):
    """A file with a row per moment: a time, channels, the temperature, who it is."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns, "temperature", "group"])
        for moment in range(rows):
            values = {
                name: scale * np.sin(0.3 * (place + 1) * moment) + 0.1 * rng.normal()
                for place, name in enumerate(CHANNELS)
            }
            writer.writerow([moment, *(f"{values[name]:.4f}" for name in columns), 20, person])


@pytest.fixture
def sensors(tmp_path):
    """Two activities of six people, and a recipe."""
    for person in range(6):
        for activity, scale in (("sit", 0.2), ("walk", 2.0)):
            recording(tmp_path / "data" / activity / f"{person}.csv", person=f"p{person}", seed=person, scale=scale)
    data = f"steps = 120\nbatch = 8\nthreads = 1\n[data]\ninput_shape = [3, 1, 16]\ncolumns = {json.dumps(CHANNELS)}\n"
    (tmp_path / "recipe.toml").write_text(data + NETWORK + FILES)
    return tmp_path


def test_recordings_from_a_folder_to_a_signature(sensors) -> None:
    """Trained, compiled, evaluated and learned from by the command line; people are in one half only."""
    words = ("--data", sensors / "data")
    said = isoform("train", sensors / "recipe.toml", "-o", sensors / "b", *words)
    assert "task mine: 48 windows of 12 recordings in 2 classes of 6 groups; left out: 24 other columns" in said.stderr
    isoform("compile", sensors / "b", *words, "--max-drop", "100")
    bundle = Bundle.load(sensors / "b")
    assert bundle.reading == Reading(columns=CHANNELS)
    assert json.loads((sensors / "b" / "bundle.json").read_text())["reading"] == {"columns": [*CHANNELS]}
    recipe = DataRecipe(input_shape=(3, 1, 16), columns=CHANNELS)
    dataset = load_task(TaskRecipe(data="files"), recipe, root=sensors / "data")
    train, test = dataset.train, dataset.test
    assert not {*train.groups} & {*test.groups}
    assert {*train.groups} | {*test.groups} == {f"p{person}" for person in range(6)}
    assert 0.1 < len(test.labels) / 48 < 0.4
    told = json.loads(isoform_here("evaluate", sensors / "b", *words, "--json").stdout)["signatures"]["mine"]
    assert len(told["groups"]) == 6
    assert told["accuracy"] > 0.9
    # a person whose device writes the columns in another order, and others besides
    for activity, scale in (("sit", 0.2), ("walk", 2.0)):
        for day in (1, 2):
            recording(
                sensors / "me" / activity / f"{day}.csv",
                person=f"day {day}",
                seed=10 + day,
                scale=scale,
                columns=("az", "ax", "ay"),
            )
    said = isoform(
        "personalize", sensors / "b", "--data", sensors / "me", "-o", sensors / "me.safetensors", "--steps", "5"
    )
    assert "columns put in the order of training" in said.stderr
    takes = bundle.network.input
    x = read_labelled(sensors / "me", takes=takes, reading=bundle.reading).x
    for place, scale in ((0, 0.2), (-1, 2.0)):
        moments = np.arange(16) if place == 0 else np.arange(48, 64)
        wave = np.stack([scale * np.sin(0.3 * (channel + 1) * moments) for channel in range(3)])
        assert np.abs(x[place, :, 0] - wave).max() < 0.6
    with Runtime.open(sensors / "b") as runtime:
        signature = runtime.signature("mine")
        assert np.array_equal(runtime.predict(x[:, :, 0], signature), runtime.predict(x, signature))


def test_what_was_trained_on_must_be_there(sensors) -> None:
    """One line with the name of the column; and as many columns as the network has channels."""
    recording(sensors / "odd" / "sit" / "1.csv", person="p", seed=0)
    (sensors / "odd" / "walk").mkdir()
    (sensors / "odd" / "walk" / "1.csv").write_text("ax,ay,group\n" + "1,2,p\n" * 20)
    recipe = DataRecipe(input_shape=(3, 1, 16), columns=CHANNELS)
    with pytest.raises(
        DataError, match=r"1.csv has no column 'az', which the network was trained with; it has ax, ay, group"
    ):
        load_task(TaskRecipe(data="files", path="odd"), recipe, root=sensors)
    recipe = DataRecipe(input_shape=(3, 1, 16), columns=("ax", "ay"))
    with pytest.raises(DataError, match="2 columns are named, but the network has 3 channels"):
        load_task(TaskRecipe(data="files", path="data"), recipe, root=sensors)


def test_tasks_have_their_columns_in_the_order_of_the_first(tmp_path) -> None:
    """Whatever the order in their own files."""
    for task, columns in (("one", ("ax", "ay", "az")), ("two", ("az", "ay", "ax"))):
        for activity in ("sit", "walk"):
            for person in range(3):
                path = tmp_path / task / activity / f"{person}.csv"
                recording(path, person=f"p{person}", seed=person, columns=columns)
                text = path.read_text().replace(",20,p", ",p").replace(",temperature", "")
                path.write_text(text)
    tasks = {name: TaskRecipe(data="files", path=name) for name in ("one", "two")}
    found = load_tasks(tasks, DataRecipe(input_shape=(3, 1, 16)), root=tmp_path)
    assert reading_of(DataRecipe(), found) == Reading(columns=("ax", "ay", "az"))
    np.testing.assert_allclose(found["one"].train.images, found["two"].train.images)


def test_feature_vectors(tmp_path) -> None:
    """(n, d) in an .npz, trained as images of one pixel; asked for as (n, d) in Python, and exported."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(3, 12))
    labels = np.arange(120) % 3
    x = (centres[labels] + rng.normal(size=(120, 12))).astype(np.float32)
    names = np.array(["a", "b", "c"])[labels]
    np.savez(tmp_path / "v.npz", x=x, labels=names, groups=np.arange(120) // 3 % 8)
    recipe = "steps = 250\nbatch = 8\nthreads = 1\n[data]\ninput_shape = [12, 1, 1]\nshift = 0\n"
    network = NETWORK.replace("[1, 4]", "[1, 1]") + "kernel = 1\n"
    (tmp_path / "r.toml").write_text(recipe + network + FILES + 'path = "v.npz"\n')
    isoform("train", tmp_path / "r.toml", "-o", tmp_path / "b", "--data", tmp_path)
    isoform("compile", tmp_path / "b", "--data", tmp_path, "--max-drop", "100")
    told = json.loads(isoform_here("evaluate", tmp_path / "b", "--data", tmp_path / "v.npz", "--json").stdout)
    assert told["signatures"]["mine"]["accuracy"] > 0.9
    with Runtime.open(tmp_path / "b") as runtime:
        signature = runtime.signature("mine")
        logits = runtime.predict(x, signature)
        assert np.mean(logits.argmax(1) == labels) == told["signatures"]["mine"]["accuracy"]
        fitted = runtime.personalize(x[:30], names[:30], signature, steps=5)
        assert runtime.predict(x[:2], fitted).shape == (2, 3)
    isoform_here("export", tmp_path / "b", "-o", tmp_path / "a.onnx", "--data", tmp_path / "v.npz")
    assert (tmp_path / "a.onnx").exists()


def test_a_table_of_images_and_halves(tmp_path) -> None:
    """Paths and labels in a .csv; ``train`` and ``test`` that somebody has made are taken as they are."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'cat' if number % 2 else 'dog'},home {number // 6}")
    (tmp_path / "list.csv").write_text("file,label,group\n" + "\n".join(rows) + "\n")
    recipe = DataRecipe(input_shape=(3, 8, 8))
    found = load_task(TaskRecipe(data="files", path="list.csv"), recipe, root=tmp_path)
    assert found.classes == ("cat", "dog")
    assert not {*found.train.groups} & {*found.test.groups}
    assert found.columns is None
    for half, numbers in (("train", range(16)), ("test", range(16, 24))):
        for number in numbers:
            place = tmp_path / "halves" / half / ("cat" if number % 2 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"{number}.png").rename(place / f"{number}.png")
    found = load_task(TaskRecipe(data="files", path="halves"), recipe, root=tmp_path)
    assert (len(found.train.labels), len(found.test.labels)) == (16, 8)
    assert found.account.sentence() == "24 images in 2 classes"
    (tmp_path / "halves" / "test" / "cat").rename(tmp_path / "halves" / "test" / "bird")
    with pytest.raises(DataError, match="has classes in only one of train and test: bird, cat"):
        load_task(TaskRecipe(data="files", path="halves"), recipe, root=tmp_path)
    with pytest.raises(DataError, match=r"nothing.csv .*does not exist"):
        load_task(TaskRecipe(data="files", path="nothing.csv"), recipe, root=tmp_path)


def grouped(groups, labels) -> Split:
    """Samples that know their number."""
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return Split(
        images=images, labels=np.array(labels), groups=None if groups is None else np.array(groups), unit="person"
    )


def test_whole_groups_are_held_out() -> None:
    """The same ones for a seed, other ones for another; near the share; every class in both halves."""
    rng = np.random.default_rng(0)
    groups, labels = np.repeat([f"p{i}" for i in range(20)], 10), rng.integers(0, 3, 200)
    half, chosen = grouped(groups, labels), []
    for seed in (0, 0, 1):
        rest, held = hold_out(half, "abc", 0.25, DataRecipe(split_seed=seed), what="testing")
        assert len(held.labels) == 50
        assert not {*rest.groups} & {*held.groups}
        assert {*rest.labels} == {*held.labels} == {0, 1, 2}
        assert sorted([*rest.images.ravel(), *held.images.ravel()]) == [*range(200)]
        chosen.append({*held.groups})
    assert chosen[0] == chosen[1] != chosen[2]
    _, held = hold_out(half, "abc", 0.25, DataRecipe(split="samples"), what="testing")
    assert len({*held.groups}) > 15


def test_groups_that_cannot_be_held_out() -> None:
    """One line with the class, and what to do."""
    with pytest.raises(
        DataError, match=r"class 'b' has samples of one person only, which cannot be held out for testing"
    ):
        hold_out(grouped(["x", "y", "z"], [0, 0, 1]), "ab", 0.3, DataRecipe(), what="testing")
    with pytest.raises(DataError, match="no choice of persons for testing leaves every class in both halves"):
        hold_out(grouped(["x", "y", "y", "z", "z", "x"], [0, 0, 1, 1, 2, 2]), "abc", 0.3, DataRecipe(), what="testing")
    with pytest.raises(DataError, match="data.split is 'groups', but the data name none"):
        hold_out(grouped(None, [0, 1, 0, 1]), "ab", 0.5, DataRecipe(split="groups"), what="testing")
