"""Hugging Face's data sets on disk, written to files; and tables in Parquet, which are read as CSV is."""

import io
import json
import os
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from support import isoform_here

from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Input
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.parquet import opened_table

NAMES = ["cat", "dog"]
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int) -> bytes:
    """A picture."""
    data = io.BytesIO()
    Image.new("RGB", (6, 6), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


def sound() -> bytes:
    """A WAV file."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(800))
    return data.getvalue()


def table(count: int, *, media=png, path=None, features=FEATURES, **columns):
    """Rows as the package datasets has them: media as bytes, labels as numbers, names in the metadata."""
    rows = {
        "image": pa.array([{"bytes": media(i) if media is png else media(), "path": path} for i in range(count)], MEDIA),
        "label": pa.array([i % 2 for i in range(count)]), "person": pa.array([f"p{i % 3}" for i in range(count)]), **columns,
    }  # fmt: skip
    made = pa.table(rows)
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def saved(folder, content) -> None:
    """What ``save_to_disk`` writes of a split, in two files."""
    folder.mkdir(parents=True)
    half = len(content) // 2
    names = [f"data-0000{place}-of-00002.arrow" for place in range(2)]
    for name, part in zip(names, (content.slice(0, half), content.slice(half)), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
            stream.write_table(part, max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def unpacked(*words):
    """Run the command; returns what it prints."""
    done = isoform_here("data", "unpack", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["files"]


def found(folder) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_splits_that_were_saved(tmp_path) -> None:
    """Every row's file byte for byte, below split, class and group; commands read the folder."""
    for split, count in (("train", 8), ("validation", 4)):
        saved(tmp_path / "hf" / split, table(count))
    (tmp_path / "hf" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert unpacked(tmp_path / "hf", "-o", tmp_path / "out", "--group", "person") == {"train": 8, "validation": 4}
    expected = {f"{split}/{NAMES[i % 2]}/p{i % 3}/{i:06d}.png": png(i) for split, count in (("train", 8), ("test", 4)) for i in range(count)}  # fmt: skip
    assert found(tmp_path / "out") == expected
    labelled = read_labelled(tmp_path / "out" / "train", takes=Input(what="image", shape=(3, 6, 6)))
    assert sorted(labelled.labels) == ["cat"] * 4 + ["dog"] * 4
    assert {*(labelled.groups or ())} == {"p0", "p1", "p2"}


def test_parquet_as_on_the_hub(tmp_path) -> None:
    """The split is in the file's name; a single one has no folder; sounds are told by their first bytes, names of files by their path."""
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(table(4, media=sound), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    assert unpacked(tmp_path / "hub", "-o", tmp_path / "one") == {"train": 4}
    assert found(tmp_path / "one") == {f"{NAMES[i % 2]}/{i:06d}.wav": sound() for i in range(4)}
    parquet.write_table(table(2, path="a.JPEG"), tmp_path / "one.parquet")
    unpacked(tmp_path / "one.parquet", "-o", tmp_path / "two", "--label", "person")
    assert [*found(tmp_path / "two")] == ["p0/000000.jpeg", "p1/000001.jpeg"]


@pytest.mark.parametrize(("content", "words", "message"), [
    (table(2, path="a.txt", media=lambda: b"nothing"), [], "row 0, is neither an image nor a sound by its name 'a.txt'"),
    (table(2, media=lambda: None), [], "row 0, has no bytes in column 'image'"),
    (table(2, label=pa.array([0, 7])), [], "row 1, has the label 7, but 0 to 1"),
    (table(2, label=pa.array(["../up", "b"]), features={}), [], "has '../up' as a label or group"),
    (table(2), ["--group", "plant"], "has no column 'plant', but image, label, person"),
    (pa.table({"x": [1.0]}), [], "has columns x, but one of images or sounds was expected; a table of numbers is read as it is"),
])  # fmt: skip
def test_what_cannot_be_unpacked(content, words, message, tmp_path) -> None:
    """One line, and no folder is left."""
    parquet.write_table(content, tmp_path / "a.parquet")
    done = isoform_here("data", "unpack", tmp_path / "a.parquet", "-o", tmp_path / "out", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_damaged_data_sets_are_refused(tmp_path) -> None:
    """Files that are cut off, named pipes, folders of something else, paths that lead away: one line each."""
    saved(tmp_path / "hf", table(6))
    whole = (tmp_path / "hf" / "data-00001-of-00002.arrow").read_bytes()
    (tmp_path / "hf" / "data-00001-of-00002.arrow").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none").mkdir()
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "state.json").write_text('{"_data_files": [{"filename": "../secret.arrow"}]}')
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "text.parquet").write_text("no")
    expected = {
        "hf": "00001-of-00002.arrow cannot be read", "none": "is no data set", "away": "names no data files",
        "pipe.parquet": "is not a regular file", "text.parquet": "cannot be read",
    }  # fmt: skip
    for name, message in expected.items():
        done = isoform_here("data", "unpack", tmp_path / name, "-o", tmp_path / "out")
        assert done.returncode == 2, name
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_splits_in_folders_of_numbered_files(tmp_path) -> None:
    """As the hub converts data sets: the folder is the split; two configurations are two data sets."""
    for split, count in (("train", 4), ("test", 2)):
        (tmp_path / "hub" / "default" / split).mkdir(parents=True)
        parquet.write_table(table(count), tmp_path / "hub" / "default" / split / "0000.parquet")
    assert unpacked(tmp_path / "hub", "-o", tmp_path / "out") == {"test": 2, "train": 4}
    assert len(found(tmp_path / "out" / "train")) == 4
    (tmp_path / "hub" / "other" / "train").mkdir(parents=True)
    parquet.write_table(table(2), tmp_path / "hub" / "other" / "train" / "0000.parquet")
    done = isoform_here("data", "unpack", tmp_path / "hub", "-o", tmp_path / "both")
    assert done.returncode == 2
    assert "has several data sets" in done.stderr


def test_text_that_is_none_is_one_line(tmp_path) -> None:
    """Labels that are not UTF-8, and media of other types."""
    bad = pa.array([b"\xff\xfe", b"b"]).view(pa.string())
    for name, content, message in (
        ("bad", table(2, label=bad, features={}), "bad.parquet cannot be read"),
        ("words", pa.table({"image": [{"bytes": "a", "path": "a.png"}], "label": ["a"]}), "one of images or sounds was expected"),
    ):  # fmt: skip
        parquet.write_table(content, tmp_path / f"{name}.parquet")
        done = isoform_here("data", "unpack", tmp_path / f"{name}.parquet", "-o", tmp_path / "out")
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_table_in_parquet_is_that_in_csv(tmp_path) -> None:
    """Recordings with labels: the same windows to the last bit, float32 and float64 columns alike."""
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=40).astype(np.float32), "y": rng.normal(size=40), "label": ["a"] * 20 + ["b"] * 20}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=16)
    lines = [
        "x,y,label",
        *(f"{float(x)!r},{y!r},{label}" for x, y, label in zip(*map(list, columns.values()), strict=True)),
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines).replace("np.float64(", "").replace(")", ""))
    one, other = (
        read_labelled(tmp_path / name, takes=Input(what="image", shape=(2, 1, 8))) for name in ("a.parquet", "a.csv")
    )
    np.testing.assert_array_equal(one.x, other.x)
    assert (one.labels, one.columns) == (other.labels, other.columns)


def test_parquet_that_is_no_table(tmp_path) -> None:
    """Nested columns, missing numbers, and no rows, with the line that CSV would have."""
    takes = Input(what="image", shape=(1, 1, 2))
    for name, columns, message in (
        ("nested", {"x": [[1.0]], "label": ["a"]}, "has a column 'x' of list"),
        ("none", {"x": pa.array([], pa.float64()), "label": pa.array([], pa.string())}, "no rows"),
        ("missing", {"x": [1.0, None], "label": ["a", "a"]}, r"line 3.*x"),
        ("bad", {"x": [1.0], "label": pa.array([b"\xff"]).view(pa.string())}, "cannot be read as Parquet"),
        ("bytes", {"x": [1.0], "label": pa.array([b"a"], pa.large_binary())}, "has a column 'label' of large_binary"),
        ("long", {"x": [1.0] * 9, "label": ["a" * (1 << 18)] * 9}, "has a text of 262,144 bytes in column 'label'"),
    ):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path / f"{name}.parquet", takes=takes)
    assert opened_table(tmp_path / "missing.parquet").header == ["x", "label"]


def test_times_in_parquet_are_text(tmp_path) -> None:
    """Nanoseconds, durations and dates beyond Python's, which are left out as channels are chosen by name."""
    times = {
        "at": pa.array([1, 2], pa.timestamp("ns")), "took": pa.array([1, 2], pa.duration("ns")), "day": pa.array([4_000_000, 1], pa.date32()),
        "zone": pa.array([1, 2], pa.timestamp("us", "Nowhere/None")),
    }  # fmt: skip
    for name, column in times.items():
        parquet.write_table(pa.table({name: column, "x": [1.0, 2.0]}), tmp_path / "a.parquet")
        try:
            rows = [row for _, row in opened_table(tmp_path / "a.parquet").rows()]
        except InputError as problem:
            assert "a.parquet cannot be read as Parquet" in str(problem)  # noqa: PT017 - whether Arrow knows the type is its own affair
        else:
            assert [row[1] for row in rows] == ["1", "2"]
