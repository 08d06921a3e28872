"""What the commands say of a user's files: taken, left out, in one line on stderr, whatever the files are called."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from support import ROOT, isoform

from isoform.runtime.cli import main
from isoform.runtime.commands.figures.stream import read_history
from isoform.runtime.errors import InputError
from isoform.runtime.learn.labels import label_indices
from isoform.runtime.samples.names import as_known, hint
from isoform.train.data.formats.digits import digits

pytestmark = pytest.mark.trust
BUNDLE = ROOT / "docs" / "examples" / "bundle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two digits of each class in folders, with a hidden file and one that is no image."""
    place = tmp_path_factory.mktemp("digits")
    images, labels = digits()
    for label in range(10):
        (place / str(label)).mkdir()
        for number in np.flatnonzero(labels == label)[:2]:
            Image.fromarray(np.uint8(255 * images[number, 0])).save(place / str(label) / f"{number}.png")
    (place / "3" / "._1.png").write_bytes(b"x")
    (place / "3" / "y.nef").write_bytes(b"x")
    return place


LEFT = "left out: 1 hidden file, 1 file that is no image (.nef); for .nef: convert to PNG or JPEG"


def test_personalize_says_what_it_took(folder, tmp_path) -> None:
    """A line on stderr, and the same in the JSON."""
    words = ["--task", "plain", "--steps", "1", "-o", tmp_path / "me.safetensors"]
    done = isoform("personalize", BUNDLE, "--data", folder, *words)
    assert f"{folder}: 20 images in 10 classes; {LEFT}\n" in done.stderr
    data = json.loads(done.stdout)["data"]
    assert data == {
        "taken": {"image": 20}, "left_out": {"hidden file": 1, "file that is no image": 1}, "files": 20, "notes": {},
    }  # fmt: skip


def test_predict_takes_folders_by_the_same_rule(folder) -> None:
    """A folder stands for its images, however many they are; a file that is named is read whatever its name is."""
    many = isoform(
        "predict",
        BUNDLE,
        folder,
        "--task",
        "plain",
        env={**os.environ, "ISOFORM_MAX_DATA_BYTES": str(10 * 32 * 32 * 4)},
    )
    assert len(many.stdout.splitlines()) == 20
    assert many.stderr == f"20 images in 10 classes; {LEFT}\n"
    done = isoform("predict", BUNDLE, folder / "3", "--task", "plain")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == f"2 images; {LEFT}\n"
    refused = isoform("predict", BUNDLE, folder / "3" / "._1.png", "--task", "plain", check=False)
    assert refused.returncode == 2
    assert "is not an image that can be read" in refused.stderr


def test_names_that_are_no_text(folder, tmp_path) -> None:
    """Data, outputs and histories under names that are not UTF-8 are read and written, and the JSON is valid text."""
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(place)
    image = next((folder / "3").glob("[0-9]*.png"))
    odd = os.path.join(place, os.fsdecode(b"\xff.png"))
    with open(odd, "wb") as file:
        file.write(image.read_bytes())
    out, history = os.path.join(place, "here.safetensors"), os.path.join(place, "here.json")
    done = isoform("adapt", BUNDLE, "--data", place, "--task", "plain", "-o", out, "--history", history)
    assert json.loads(done.stdout)["signature"].endswith("/caf\\xe9/here.safetensors")
    assert read_history(history)["signature"].endswith("/caf\\xe9/here.safetensors")
    said = json.loads(isoform("predict", BUNDLE, odd, "--signature", out).stdout)
    assert said["image"].endswith("/caf\\xe9/\\xff.png")
    assert said["image"].encode()


@pytest.mark.parametrize("name", [b"caf\xe9", b"a$\\frac{$", b"two\nlines"])
def test_a_figure_of_a_file_of_any_name(name, tmp_path) -> None:
    """A signature is drawn under its file's name, also where that is no text, or looks like a formula."""
    path = tmp_path / os.fsdecode(name + b".safetensors")
    path.write_bytes((BUNDLE / "compiled" / "signatures" / "plain.safetensors").read_bytes())
    main(["figure", str(BUNDLE), "--signature", str(path), "-o", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_labels_that_adapt_does_not_know_are_said(folder, tmp_path) -> None:
    """Where labels are other than the network's, nothing is counted, and that is said."""
    x = digits()[0][:4]
    np.savez(tmp_path / "a.npz", x=x, labels=np.array(["zero", "one", "0", "1"]))
    done = isoform("adapt", BUNDLE, "--data", tmp_path / "a.npz", "--task", "plain", "-o", tmp_path / "a.safetensors")
    assert "label 'one' is not one of the classes, so accuracy is not reported" in done.stderr


def test_labels_in_another_spelling() -> None:
    """A decomposed or padded label is the class that it names; upper case is another, of which the error reminds."""
    accented = unicodedata.normalize("NFD", "café")
    assert as_known([accented, " thé", "x"], ["café", "thé"]) == ["café", "thé", "x"]
    assert as_known(["café"], [accented]) == [accented]
    assert as_known(["a"], ["a ", " a"]) == ["a"]
    assert hint("CAFÉ", ["café"]) == "; did you mean 'café'?"
    assert hint("tea", ["café"]) == ""


def test_the_hint_reaches_the_user() -> None:
    """A label that differs in case only is refused with the class that was meant."""
    accented = unicodedata.normalize("NFD", "café")
    assert label_indices(np.array([accented, "thé "]), ["café", "thé"], samples=2).tolist() == [0, 1]
    with pytest.raises(InputError, match="'Thé' is not one of the classes .*; did you mean 'thé'"):
        label_indices(np.array(["café", "Thé"]), ["café", "thé"], samples=2)
