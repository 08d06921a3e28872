"""``isoform recipe new``: the recipe that it writes for a folder trains as it is, and says what was found."""

import csv
import dataclasses
import tomllib
import wave

import numpy as np
import pytest
from PIL import Image
from support import isoform_here

from isoform.runtime.inputs import Sound
from isoform.train.recipe import Recipe


def pictures(folder, *, size, channels, groups=0, count=8) -> None:
    """Two classes of noise."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(count):
            place = folder / label / (f"home {number % groups}" if groups else "")
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (*size, channels) if channels > 1 else size, dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def recordings(folder, *, time="time", step=0.02, rows=90, people=4) -> None:
    """Two activities of some people, with a column of text."""
    rng = np.random.default_rng(0)
    for label in ("sit", "walk"):
        (folder / label).mkdir(parents=True)
        for person in range(people):
            with (folder / label / f"{person}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([time, "ax", "ay", "note", "group"])
                writer.writerows(
                    [step * row, *rng.normal(size=2).round(3), "fine", f"p{person}"] for row in range(rows)
                )


def sounds(folder, *, rate=8000, seconds=0.5) -> None:
    """Two words, which are tones."""
    for pitch, label in ((400, "no"), (900, "yes")):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            tone = 8000 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate + number)
            with wave.open(str(folder / label / f"{number}.wav"), "wb") as file:
                file.setparams((1, 2, rate, 0, "NONE", ""))
                file.writeframes(tone.astype("<i2").tobytes())


def arrays(folder, shape, **others) -> None:
    """Samples with labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "x.npz", x=rng.normal(size=(24, *shape)).astype(np.float32), labels=np.arange(24) % 3, **others)


def table(folder) -> None:
    """One table with a column of labels; a run of equal labels is a recording."""
    folder.mkdir()
    rows = [f"{row},{row % 7},{row % 5},{'sit' if row // 30 % 2 else 'walk'}" for row in range(240)]
    (folder / "all.csv").write_text("index,ax,ay,label\n" + "\n".join(rows) + "\n")


SORTS = {
    "colour": (lambda at: pictures(at, size=(40, 44), channels=3), {"input_shape": [3, 42, 42]}, "16 images in 2 classes (cat, dog)"),
    "grey": (lambda at: pictures(at, size=(12, 30), channels=1, groups=4), {"input_shape": [1, 12, 30]}, "of 4 groups"),
    "halves": (lambda at: [pictures(at / half, size=(8, 8), channels=3) for half in ("train", "test")], {"shift": 1}, "in train"),
    "people": (recordings, {"input_shape": [2, 1, 88], "columns": ["ax", "ay"], "split": "auto"}, "8 windows of 8 recordings"),
    "table": (table, {"input_shape": [2, 1, 24], "columns": ["ax", "ay"]}, "8 windows of 8 recordings in 2 classes"),
    "vectors": (lambda at: arrays(at, (12,)), {"input_shape": [12, 1, 1], "shift": 0}, "24 samples in 3 classes (0, 1, 2)"),
    "windows": (lambda at: arrays(at, (3, 32)), {"input_shape": [3, 1, 32]}, "24 samples"),
    "one person": (lambda at: recordings(at, people=1, rows=800), {"split": "samples"}, "class 'sit' has samples of one group only"),
    "sounds": (sounds, {"input_shape": [1, 40, 48]}, "12 windows of 12 sounds in 2 classes (no, yes)"),
}  # fmt: skip


@pytest.mark.parametrize("sort", SORTS)
def test_the_recipe_trains_as_it_is(sort, tmp_path) -> None:
    """From a folder of each sort to a bundle, by the two commands."""
    make, expected, told = SORTS[sort]
    make(tmp_path / "mine")
    words = ("--data", tmp_path / "mine")
    said = isoform_here("recipe", "new", *words, "-o", tmp_path / "r.toml")
    assert said.returncode == 0, said.stderr
    text = (tmp_path / "r.toml").read_text(encoding="utf-8")
    assert told in " ".join(text.replace("\n# ", " ").split())
    assert max(map(len, (line for line in text.splitlines() if str(tmp_path) not in line))) <= 120
    data = tomllib.loads(text)["data"]
    assert {name: data[name] for name in expected} == expected
    small = ("--steps", "3", "--threads", "1", "--network.layers", "2", "--network.channels", "8")
    trained = isoform_here("train", tmp_path / "r.toml", "-o", tmp_path / "b", *words, *small)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "b" / "bundle.json").exists()


def test_windows_in_seconds(tmp_path) -> None:
    """By the column of times, whatever its unit; in rows without one; the stride likewise."""
    for name, time, step in (("s", "time", 0.02), ("ms", "Time (ms)", 20), ("days", "timestamp", 0)):
        recordings(tmp_path / name, time=time, step=step)
        words = ("recipe", "new", "--data", tmp_path / name, "--window", "0.6 s", "--stride", "0.2 s")
        said = isoform_here(*words)
        if name == "days":
            assert said.returncode == 2
            assert "have no column of times whose unit is known; give a number of rows" in said.stderr
            continue
        data = tomllib.loads(said.stdout)["data"]
        assert (data["input_shape"], data["stride"]) == ([2, 1, 32], 10)
    data = tomllib.loads(isoform_here("recipe", "new", "--data", tmp_path / "s", "--window", "25").stdout)["data"]
    assert (data["input_shape"], "stride" in data) == ([2, 1, 25], False)


def test_the_sound_table_has_the_fields_of_sounds(tmp_path) -> None:
    """All of them, at the rate of the files; a window in seconds becomes frames."""
    sounds(tmp_path / "words", rate=8000, seconds=1.0)
    said = isoform_here("recipe", "new", "--data", tmp_path / "words", "--window", "0.3 s")
    value = tomllib.loads(said.stdout)
    assert value["data"]["sound"] == dataclasses.asdict(Sound(rate=8000, window=200, hop=80))
    assert Recipe.from_json(value).data.input_shape == (1, 40, 30)


def test_names_do_not_break_the_recipe(tmp_path) -> None:
    """Names of folders, classes and columns may have quotes, breaks and what else people write."""
    rows = "\n".join(f"{row},{row}" for row in range(20))
    for label in ('the "first"', "s\necond = 1"):
        (tmp_path / "odd 'folder' ü" / label).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "odd 'folder' ü" / label / f"{number}.csv").write_text(f'"a ""x""",b = 2\n{rows}\n')
    said = isoform_here("recipe", "new", "--data", tmp_path / "odd 'folder' ü")
    recipe = Recipe.from_json(tomllib.loads(said.stdout))
    assert recipe.data.columns == ('a "x"', "b = 2")
    assert list(recipe.tasks) == ["odd-folder"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: None, "does not exist; a folder, a .csv or .tsv with a column label, an .npz or an .npy with labels.npy beside it was expected"),
        (lambda at: at.mkdir(), "has 0 folders, but at least two, one per class"),
        (lambda at: (at / "cat").mkdir(parents=True), "cat has no images, recordings (.csv, .tsv) or sounds (.wav)"),
        (lambda at: [pictures(at / "a", size=(4, 4), channels=3), recordings(at)], "holds 16 images, such as"),
        (lambda at: [pictures(at / half, size=(4, 4), channels=1) for half in ("train", "test")] and (at / "test" / "cat").rename(at / "test" / "owl"),
         "has classes in only one of train and test: cat, owl"),
        (lambda at: pictures(at, size=(4, 4), channels=3, count=1), "class 'cat' has 1 sample, too few to hold out 25%"),
        (lambda at: arrays(at, (1, 2, 3, 4)), "(n, channels, steps) or (n, channels, height, width) was expected"),
        (lambda at: [at.mkdir(), (at / "t.csv").write_text("a,b\n1,2\n")], "but one named label was expected"),
        (lambda at: [sounds(at), (at / "no" / "1.wav").write_bytes(b"RIFF")], "the length of"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_looked_at(make, message, tmp_path) -> None:
    """One line that says what was expected; nothing is written."""
    make(tmp_path / "data")
    said = isoform_here("recipe", "new", "--data", tmp_path / "data", "-o", tmp_path / "r.toml")
    assert said.returncode == 2
    assert message in said.stderr
    assert len(said.stderr.splitlines()) == 2  # after what it looks at
    assert not (tmp_path / "r.toml").exists()


def test_flags_that_do_not_fit(tmp_path) -> None:
    """Windows of pictures, and lengths that are none, are refused; so is a file that exists, unless it may be replaced."""
    pictures(tmp_path / "data", size=(8, 8), channels=3)
    recordings(tmp_path / "sensors")
    for words, message in (
        (("data", "--window", "4"), "--window and --stride are for recordings and sounds, but these are images"),
        (("sensors", "--window", "soon"), "--window is 'soon', but a number of rows such as 128"),
        (("sensors", "--window", "0"), "--window is 0 rows, but 1 to 65536 was expected"),
    ):
        assert message in isoform_here("recipe", "new", "--data", tmp_path / words[0], *words[1:]).stderr
    (tmp_path / "r.toml").write_text("mine")
    words = ("recipe", "new", "--data", tmp_path / "data", "-o", tmp_path / "r.toml")
    assert "r.toml exists; choose another --output, or replace it with --force" in isoform_here(*words).stderr
    assert (tmp_path / "r.toml").read_text() == "mine"
    assert isoform_here(*words, "--force").returncode == 0
    assert "input_shape" in (tmp_path / "r.toml").read_text()
