"""``isoform predict``: every form of samples in, JSON lines or CSV out, a file that is whole or as it was."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from support import ROOT, isoform_here, make_bundle

from isoform.runtime import Runtime
from isoform.runtime.arrays import softmax
from isoform.runtime.batches import slice_samples
from isoform.runtime.inputs import Input
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.streamed import Place, read_chunks
from isoform.train.data.formats.digits import digits

DIGITS = ROOT / "docs" / "examples" / "bundle"
SENSOR = NetworkSpec(
    input_shape=(2, 1, 8), adapter_kernel=(1, 2), kernel=1, layers=3, templates=2, channels=8, head_channels=16, embedding=8,
    mean=(0.0, 0.0), std=(1.0, 1.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two digits of each of three classes in folders, the pixels as they are read, and a table of them."""
    place = tmp_path_factory.mktemp("digits")
    images, labels = digits()
    lines = ["file,label"]
    for label in (1, 3, 8):
        (place / str(label)).mkdir()
        for number in sorted(np.flatnonzero(labels == label)[:2], key=str):
            Image.fromarray(np.uint8(255 * images[number, 0])).save(place / str(label) / f"{number}.png")
            lines.append(f"{label}/{number}.png,{label}")
    (place / "all.csv").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def sensor(tmp_path_factory):
    """A bundle for windows of eight rows of two channels, and a recording of 21 rows with a label."""
    place = tmp_path_factory.mktemp("sensor")
    make_bundle(SENSOR, tasks=("walk",)).write(place / "bundle")
    rows = np.random.default_rng(0).normal(size=(21, 2)).round(3)
    (place / "walks").mkdir()
    lines = ["x,y,label", *(f"{x},{y},{'c0' if row < 9 else 'c1'}" for row, (x, y) in enumerate(rows))]
    (place / "walks" / "one.csv").write_text("\n".join(lines) + "\n")
    return place, rows.astype(np.float32)


def said(*words) -> list[dict]:
    """The JSON lines of a command that succeeds."""
    done = isoform_here("predict", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of CSV."""
    return [*csv.DictReader(io.StringIO(text))]


def test_images_in_folders_of_classes(folder) -> None:
    """The folders' names are passed on as ``given``; a folder without subfolders has none to pass on."""
    lines = said(DIGITS, folder, "--task", "plain")
    assert [line["given"] for line in lines] == ["1", "1", "3", "3", "8", "8"]
    assert set(lines[0]) == {"image", "label", "top", "given", "task", "signature"}
    alone = said(DIGITS, folder / "3", "--task", "plain")
    assert [{**line, "given": "3"} for line in alone] == lines[2:4]


def test_the_splits_of_a_data_set_are_no_classes(folder, tmp_path) -> None:
    """Folders named train and test give no labels."""
    for name in ("train", "test"):
        (tmp_path / name).symlink_to(folder / "3")
    (tmp_path / "test").unlink()
    (tmp_path / "test").symlink_to(folder / "8")
    lines = said(DIGITS, tmp_path, "--task", "plain")
    assert len(lines) == 4
    assert not any("given" in line for line in lines)


def test_a_table_of_images_is_the_folder(folder) -> None:
    """A table with columns ``file`` and ``label`` predicts what the folder of classes does."""
    assert said(DIGITS, folder / "all.csv", "--task", "plain") == said(DIGITS, folder, "--task", "plain")


def test_recordings_give_a_row_per_window(sensor) -> None:
    """Each window with its file, its number in the file, its first row and the label there; as numpy predicts the rows."""
    place, rows = sensor
    lines = said(place / "bundle", place / "walks", "--engine", "reference")
    assert [(line["source"], line["window"], line["row"], line["given"]) for line in lines] == [
        (str(place / "walks" / "one.csv"), 0, 0, "c0"), (str(place / "walks" / "one.csv"), 1, 9, "c1"),
    ]  # fmt: skip
    with Runtime.open(place / "bundle", engine="reference") as runtime:
        x = np.stack([rows[line["row"] : line["row"] + 8].T[:, None] for line in lines])
        expected = softmax(runtime.predict(x, runtime.signature("walk"))).max(axis=1)
    assert [line["top"][0]["probability"] for line in lines] == pytest.approx(expected, abs=1e-5)
    table = rows_of(
        isoform_here("predict", place / "bundle", place / "walks" / "one.csv", "--engine", "reference", "--format", "csv").stdout
    )  # fmt: skip
    assert [(row["window"], row["row"], row["given"], row["label"]) for row in table] == [
        (str(line["window"]), str(line["row"]), line["given"], line["label"]) for line in lines
    ]


def test_labels_in_a_table_go_before_its_folder(sensor, tmp_path) -> None:
    """Tables with a column label may be in folders for another reason, such as a day; without one the folder is the label."""
    place, _ = sensor
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "one.csv").write_bytes((place / "walks" / "one.csv").read_bytes())
    lines = said(place / "bundle", tmp_path, "--engine", "reference")
    assert [line["given"] for line in lines] == ["c0", "c1"] * 2
    for day in ("monday", "tuesday"):
        rows = (place / "walks" / "one.csv").read_text().splitlines()
        (tmp_path / day / "one.csv").write_text("\n".join(row.rsplit(",", 1)[0] for row in rows))
    lines = said(place / "bundle", tmp_path, "--engine", "reference")
    assert [line["given"] for line in lines] == ["monday"] * 2 + ["tuesday"] * 2


def test_columns_of_the_bundle_are_taken(sensor, tmp_path) -> None:
    """Channels go by the names that the bundle was trained with, in any order, among any others."""
    place, rows = sensor
    content = json.loads((place / "bundle" / "bundle.json").read_text())
    (tmp_path / "bundle").mkdir()
    for name in ("templates.safetensors", "signatures"):
        (tmp_path / "bundle" / name).symlink_to(place / "bundle" / name)
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps({**content, "reading": {"columns": ["x", "y"]}}))
    lines = ["z,y,x", *(f"0,{y},{x}" for x, y in rows)]
    (tmp_path / "other.csv").write_text("\n".join(lines) + "\n")
    found = said(tmp_path / "bundle", tmp_path / "other.csv", "--engine", "reference")
    assert [(line["window"], line["row"]) for line in found] == [(0, 0), (1, 8)]
    first = said(place / "bundle", place / "walks", "--engine", "reference")[0]
    assert found[0]["top"] == first["top"]


def test_arrays(sensor, tmp_path) -> None:
    """Samples of an .npz with their row, and its labels; without labels, and in chunks, the same."""
    place, _ = sensor
    x = np.random.default_rng(1).normal(size=(70, 2, 8)).astype(np.float32)
    np.savez(tmp_path / "with.npz", x=x, labels=np.array(["c2"] * 70))
    np.savez(tmp_path / "without.npz", x=x)
    lines = said(place / "bundle", tmp_path / "with.npz", "--engine", "reference")
    assert [line["row"] for line in lines] == [*range(70)]
    assert {line["given"] for line in lines} == {"c2"}
    assert "window" not in lines[0]
    for one, other in zip(lines, said(place / "bundle", tmp_path / "without.npz", "--engine", "reference"), strict=True):  # fmt: skip
        assert other == {**{key: value for key, value in one.items() if key != "given"}, "source": other["source"]}


def test_memory_is_that_of_a_chunk(tmp_path) -> None:
    """No more samples than a chunk are together, whatever the files; of open lengths those of one length."""
    for number in range(5):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    takes = Input(what="image", shape=(1, 4, 4))
    np.savez(tmp_path / "more.npz", x=np.zeros((6, 1, 4, 4), np.float32))
    chunks = [*read_chunks([tmp_path, tmp_path / "more.npz"], takes=takes, account=Account(), chunk=4)]
    assert [len(one.x) for one in chunks] == [4, 4, 3]
    assert chunks[1].places[:2] == (Place(tmp_path / "4.png"), Place(tmp_path / "more.npz", row=0))
    tokens = Input(what="tokens", shape=(None,), name="tokens", vocabulary=9)
    for length in (3, 5):
        np.savez(tmp_path / f"{length}.npz", x=np.ones((2, length), np.int64))
    chunks = [*read_chunks([tmp_path / "3.npz", tmp_path / "5.npz"], takes=tokens, account=Account(), chunk=4)]
    assert [one.x.shape for one in chunks] == [(2, 3), (2, 5)]


def test_csv(folder, tmp_path) -> None:
    """A header, then a row per sample with as many labels as were asked for; the same in a file."""
    words = ("predict", DIGITS, folder, "--task", "plain", "--format", "csv", "--top", "2")
    text = isoform_here(*words).stdout
    assert text.splitlines()[0] == "source,window,row,given,label,probability,label_2,probability_2"
    lines = said(DIGITS, folder, "--task", "plain")
    for row, line in zip(rows_of(text), lines, strict=True):
        assert (row["source"], row["window"], row["row"], row["given"]) == (line["image"], "", "", line["given"])
        assert (row["label"], float(row["probability"])) == (line["label"], line["top"][0]["probability"])
        assert (row["label_2"], float(row["probability_2"])) == (line["top"][1]["label"], line["top"][1]["probability"])
    done = isoform_here(*words, "-o", tmp_path / "found.csv")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "found.csv").read_text() == text


def test_a_file_is_replaced_when_all_is_done(folder, tmp_path) -> None:
    """What stood in a file stays if a sample cannot be read; on standard output the lines before it are printed."""
    many = tmp_path / "many"
    many.mkdir()
    image = next((folder / "3").iterdir())
    with Runtime.open(DIGITS) as runtime:
        chunk = slice_samples(runtime.bundle.spec, "plain", (1, 32, 32))
    for number in range(chunk + 2):
        (many / f"{number:04}.png").write_bytes(image.read_bytes())
    (many / "zz.png").write_bytes(b"none")
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    failed = isoform_here("predict", DIGITS, many, "--task", "plain", "-o", out)
    assert (failed.returncode, out.read_text()) == (2, "before")
    assert "zz.png" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "out.jsonl"]
    printed = isoform_here("predict", DIGITS, many, "--task", "plain")
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert len(lines) == chunk
    assert len({line["label"] for line in lines}) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n", "has no samples; a window needs 8 rows"),
        ("x\n1\n", "has 1 column of numbers, but the network has 2 channels"),
        ("x,y\n1,oops\n", "line 2, column 'y', holds 'oops'"),
    ],
)
def test_recordings_that_cannot_be_used(content, message, sensor, tmp_path) -> None:
    """One line, and nothing is printed, not even a header."""
    (tmp_path / "a.csv").write_text(content)
    for extra in ((), ("--format", "csv")):
        done = isoform_here("predict", sensor[0] / "bundle", tmp_path / "a.csv", "--engine", "reference", *extra)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing does not exist"),
        (["x.txt"], "x.txt is no recording: a .csv, .tsv, .parquet, .npz or .npy file of 2 channels was expected"),
        ([".", "-o", "no/folder/a.csv"], "is not a folder; create it first"),
        (["."], "has no recordings"),
        (["x.npz"], "x.npz has no array x"),
    ],
)
def test_misuse_of_predict_is_one_line(words, message, sensor, tmp_path) -> None:
    """Every mistake is named in one line."""
    np.savez(tmp_path / "x.npz", y=np.zeros(3))
    (tmp_path / "x.txt").write_text("1")
    done = isoform_here("predict", sensor[0] / "bundle", *words, "--engine", "reference", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
