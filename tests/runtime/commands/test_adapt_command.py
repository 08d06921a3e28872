"""``isoform adapt`` on the command line, and the picture of what happened."""

import json

import numpy as np
import pytest
from PIL import Image
from support import image, isoform, isoform_here

from isoform.runtime import InputError, cli
from isoform.runtime.adapt.adapter import Adapter
from isoform.runtime.commands.figures.stream import read_history
from isoform.runtime.formats.signature import Signature
from isoform.runtime.samples.unlabelled import read_stream
from isoform.train.data.formats.digits import digits


@pytest.fixture
def images(tmp_path):
    """A folder of 40 inverted digits, without labels."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for number, digit in enumerate(digits()[0][:40]):
        Image.fromarray(np.round(255 * (1 - digit[0])).astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def test_images_to_a_signature(images, compiled, runtime, tmp_path) -> None:
    """A folder of images gives a signature that predicts, a history, a journal to go on from, and a picture."""
    words = [
        "adapt",
        compiled,
        "--data",
        images,
        "--task",
        "plain",
        "--batch",
        "8",
        "-o",
        tmp_path / "here.safetensors",
    ]
    words += ["--journal", tmp_path / "journal", "--history", tmp_path / "here.json", "--in-order"]
    done = isoform(*words)
    said = json.loads(done.stdout)
    signature = Signature.load(tmp_path / "here.safetensors")
    assert said["digest"] == signature.digest
    assert said["samples"] == 40
    assert said["accuracy"] is None
    assert sum(said["events"].values()) == 5
    assert "40 samples" in done.stderr
    assert runtime.predict(np.zeros((1, 1, 32, 32), dtype=np.float32), signature).shape == (1, 10)
    history = read_history(tmp_path / "here.json")
    assert [call["samples"] for call in history["calls"]] == [8, 16, 24, 32, 40]
    again = json.loads(isoform(*words).stdout)
    assert again["digest"] != said["digest"]
    assert again["start"] == said["start"]
    isoform("figure", tmp_path / "here.json", "-o", tmp_path / "here.png")
    assert (tmp_path / "here.png").stat().st_size > 5000


def test_labels_only_count(images, compiled, tmp_path) -> None:
    """With labels, it says what was right before and on the way; the signature is the same as without."""
    x = np.stack([1 - image for image in digits()[0][:40]]).astype(np.float32)
    labels = digits()[1][:40]
    np.savez(tmp_path / "with.npz", x=x, labels=labels)
    np.savez(tmp_path / "without.npz", x=x)
    said = []
    for name in ("with", "without"):
        words = ["--data", tmp_path / f"{name}.npz", "--task", "plain", "-o", tmp_path / f"{name}.safetensors"]
        history = ["--history", tmp_path / f"{name}.json"]
        said.append(json.loads(isoform("adapt", compiled, *words, *history).stdout))
    assert 0 <= said[0]["accuracy"]["during"] <= 1
    assert said[1]["accuracy"] is None
    assert said[0]["digest"] == said[1]["digest"]
    assert read_history(tmp_path / "with.json")["calls"][0]["accuracy"] is not None
    isoform("figure", tmp_path / "with.json", "-o", tmp_path / "with.svg")
    assert "right in %" in (tmp_path / "with.svg").read_text()


@pytest.mark.parametrize("batches", [0, 2])
def test_ctrl_c_undoes_the_batch_in_progress(batches, images, compiled, tmp_path, monkeypatch, capsys) -> None:
    """Ctrl-C after the signature has moved: file, journal, history and figures all end with the last complete batch."""
    call, done = Adapter.__call__, []

    def interrupted(self: Adapter, x: np.ndarray) -> np.ndarray:
        logits = call(self, x)
        if len(done) == batches:
            assert self.signature.digest not in done
            raise KeyboardInterrupt
        done.append(self.signature.digest)
        return logits

    monkeypatch.setattr(Adapter, "__call__", interrupted)
    words = ["adapt", compiled, "--data", images, "--task", "plain", "--batch", "8", "--journal", tmp_path / "journal"]
    words += ["-o", tmp_path / "here.safetensors", "--history", tmp_path / "here.json", "--method", "batch"]
    assert cli.main([str(word) for word in words]) == 130
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], sum(said["events"].values()), said["stopped"]) == (8 * batches, batches, "ctrl-c")
    assert [call["digest"] for call in json.loads((tmp_path / "here.json").read_text())["calls"]] == done
    last = done[-1] if done else said["start"]
    assert (tmp_path / "journal" / "head").read_text().strip() == last
    written = Signature.load(tmp_path / "here.safetensors")
    assert last in (written.digest, written.base)
    assert said["digest"] == written.digest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "magic"], "the method is 'magic', but one of auto, batch"),
        (["--batch", "0"], "--batch is 0, but 1 to 4096 was expected"),
        (["--seed", "-1"], "--seed is -1"),
        (["--history", "no/where.json"], "no is not a folder"),
    ],
)
def test_mistakes_take_one_line(words, message, images, compiled, tmp_path) -> None:
    """Exit code 2, and a line that says what was expected."""
    base = ["adapt", compiled, "--data", images, "--task", "plain", "-o", tmp_path / "x.safetensors"]
    done = isoform_here(*base, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_forms_of_a_stream(tmp_path) -> None:
    """Recordings alone, or a table without labels, are windows in order; with a label they are what personalize reads."""
    rows = np.arange(24.0).reshape(12, 2)
    text = "a,b\n" + "\n".join(f"{p},{q}" for p, q in rows)
    (tmp_path / "walk.csv").write_text(text)
    shape = (2, 1, 4)
    found = read_stream(tmp_path / "walk.csv", takes=image(shape))
    assert found.labels is None
    assert found.x.shape == (3, 2, 1, 4)
    assert found.x[0, :, 0, 1].tolist() == [2.0, 3.0]
    assert np.array_equal(read_stream(tmp_path, takes=image(shape)).x, found.x)
    (tmp_path / "labelled.csv").write_text("label," + text.replace("\n", "\nup,")[0:])
    assert read_stream(tmp_path / "labelled.csv", takes=image(shape)).labels == ("up",) * 3
    (tmp_path / "sorted" / "up").mkdir(parents=True)
    (tmp_path / "sorted" / "up" / "walk.csv").write_text(text)
    assert read_stream(tmp_path / "sorted", takes=image(shape)).labels == ("up",) * 3
    (tmp_path / "short.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has no samples; a window needs 4 rows"):
        read_stream(tmp_path / "short.csv", takes=image(shape))
    np.savez(tmp_path / "empty.npz", y=rows)
    with pytest.raises(InputError, match="has no array x"):
        read_stream(tmp_path / "empty.npz", takes=image(shape))
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as numpy arrays"):
        read_stream(tmp_path / "bad.npz", takes=image(shape))
    with pytest.raises(InputError, match="does not exist"):
        read_stream(tmp_path / "nothing", takes=image(shape))


def test_a_history_of_something_else(tmp_path) -> None:
    """A JSON file that is none is named, with what writes one."""
    for content in (
        "[]",
        "{}",
        '{"what": "adaptation", "calls": []}',
        '{"what": "adaptation", "calls": [{"samples": "1"}]}',
    ):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match="is not an adaptation history"):
            read_history(tmp_path / "x.json")
