"""``isoform personalize``: files in, a file out, one line when it cannot; nothing lost, whatever interrupts it."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support import ISOFORM, isoform, isoform_here

from isoform.runtime.formats.signature import Signature
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits


@pytest.fixture(scope="module")
def slanted_folder(tmp_path_factory):
    """Slanted digits as PNG files, six per class."""
    folder = tmp_path_factory.mktemp("slanted")
    images, labels = digits()
    images = transform(images, domain="slanted")
    for label in range(10):
        (folder / str(label)).mkdir()
        for number, row in enumerate(np.flatnonzero(labels == label)[:6]):
            pixels = np.round(255 * images[row, 0]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return folder


def test_a_folder_becomes_a_signature(compiled, slanted_folder, tmp_path) -> None:
    """JSON with scores on stdout, a sentence on stderr, and a file that predicts and can be inspected."""
    out = tmp_path / "me.safetensors"
    result = isoform("personalize", compiled, "--data", slanted_folder, "-o", out, "--steps", "40")
    found = json.loads(result.stdout)
    assert found["digest"] == Signature.load(out).digest
    assert found["size_bytes"] == out.stat().st_size
    assert found["samples"] == found["held_back"] == 60
    assert found["improved"] is True
    assert found["after"]["loss"] < found["before"]["loss"]
    assert "held-out samples loss" in result.stderr
    image = next((slanted_folder / "3").iterdir())
    assert json.loads(isoform("predict", compiled, image, "--signature", out).stdout)["signature"] == found["digest"]
    again = json.loads(isoform("personalize", compiled, "--data", slanted_folder, "-o", out, "--steps", "40").stdout)
    assert again["digest"] == found["digest"]


def test_a_mixture_is_less_than_a_kilobyte(compiled, slanted_folder, tmp_path) -> None:
    """With ``--parts mixture``, from a chosen base, in half precision: a tiny file, with the start as its parent."""
    out = tmp_path / "me.safetensors"
    words = ["--parts", "mixture", "--task", "plain", "--float16", "--steps", "40"]
    found = json.loads(isoform("personalize", compiled, "--data", slanted_folder, "-o", out, *words).stdout)
    signature = Signature.load(out)
    assert found["size_bytes"] <= 1024
    assert set(signature.parts) == {"mixture"}
    assert (signature.precision, signature.parent) == ("float16", found["start"])


def test_new_labels(compiled, slanted_folder, tmp_path) -> None:
    """Labels that the bundle does not know are refused with the way out, which then works."""
    folder = tmp_path / "mine"
    for name, label in (("round", "0"), ("straight", "1")):
        (folder / name).mkdir(parents=True)
        for image in (slanted_folder / label).iterdir():
            (folder / name / image.name).write_bytes(image.read_bytes())
    out = tmp_path / "me.safetensors"
    refused = isoform("personalize", compiled, "--data", folder, "-o", out, check=False)
    assert refused.returncode == 2
    assert "label 'round' is not one of the classes" in refused.stderr
    assert "--new-labels" in refused.stderr
    assert not out.exists()
    isoform("personalize", compiled, "--data", folder, "-o", out, "--new-labels", "--steps", "10")
    assert Signature.load(out).labels == ("round", "straight")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere", "-o", "me.safetensors"], "nowhere does not exist"),
        (["--data", ".", "-o", "no/where/me.safetensors"], "no/where is not a folder"),
        (["--data", ".", "-o", "me.safetensors"], "has no subfolders, but one per label"),
        (["--data", ".", "-o", "me.safetensors", "--seed", "-1"], "--seed is -1"),
        (["--data", ".", "-o", "me.safetensors", "--task", "klingon"], "no task 'klingon'"),
        (["-o", "me.safetensors"], "--data"),
    ],
)
def test_misuse_is_one_line(compiled, tmp_path, words, message) -> None:
    """Exit code 2, one line, nothing written."""
    result = isoform_here("personalize", compiled, *words, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_writes_the_best_so_far(compiled, slanted_folder, tmp_path) -> None:
    """SIGINT in the middle: a signature file, a word about it, and exit code 130."""
    out = tmp_path / "me.safetensors"
    command = [*ISOFORM, "personalize", str(compiled), "--data", str(slanted_folder), "-o", str(out), "--steps", "5000"]
    reset = (
        "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv = sys.argv[1:]; "
    )
    code = reset + "runpy.run_module('isoform.runtime.cli', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command[2:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("this machine is done before it can be stopped")
    assert process.returncode == 130, stderr
    assert "stopped by Ctrl-C" in stderr
    assert json.loads(stdout)["digest"] == Signature.load(out).digest


@pytest.mark.timeout(200)
def test_kill_leaves_the_previous_signature(compiled, slanted_folder, tmp_path) -> None:
    """``kill -9`` at six random moments: the file is the previous one or, if it came too late, the new one; never another."""
    out, rng = tmp_path / "me.safetensors", random.Random(3)
    words = ["personalize", str(compiled), "--data", str(slanted_folder), "-o", str(out), "--steps", "10"]
    started = time.monotonic()
    isoform(*words, "--seed", "1")
    seconds = time.monotonic() - started
    old, killed = out.read_bytes(), 0
    isoform(*[word if word != str(out) else str(tmp_path / "new") for word in words])
    new = (tmp_path / "new").read_bytes()
    assert old != new
    while killed < 6:
        process = subprocess.Popen([*ISOFORM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * seconds)
            seconds *= 0.9
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        assert out.read_bytes() in (old, new)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_torch_is_not_needed(compiled, slanted_folder, tmp_path) -> None:
    """With torch, onnx and the training stages out of reach, the command personalizes all the same."""
    blocked = ("torch", "onnx", "sklearn", "scipy", "flask", "isoform.train", "isoform.compile")
    code = (
        f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
        "from isoform.runtime.cli import main\ncode = main(sys.argv[1:])\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('torch', 'onnx') and sys.modules[name]]\nsys.exit(code)"
    )
    out = tmp_path / "me.safetensors"
    words = ["personalize", str(compiled), "--data", str(slanted_folder), "-o", str(out), "--steps", "5"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert Signature.load(out).parts


def test_groups_of_the_data_are_held_out(compiled, slanted_folder, tmp_path) -> None:
    """Subfolders of every label: whole ones are held out, and it says so; the same files without them are another fit."""
    folder, out = tmp_path / "mine", tmp_path / "me.safetensors"
    for label in map(str, range(10)):
        for number, path in enumerate(sorted((slanted_folder / label).iterdir())):
            place = folder / label / f"day {number % 3}"
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_bytes(path.read_bytes())
    words = ["--task", "plain", "--parts", "head", "--steps", "10"]
    result = isoform_here("personalize", compiled, "--data", folder, "-o", out, *words)
    found = json.loads(result.stdout)
    assert (found["held_back"], found["held_back_groups"], found["classes_in_one_group"]) == (60, 3, 0)
    assert "60 images in 10 classes of 3 groups" in result.stderr
    assert "on 60 samples of 3 held-out groups" in result.stderr
    flat = json.loads(isoform_here("personalize", compiled, "--data", slanted_folder, "-o", out, *words).stdout)
    assert (flat["held_back"], flat["held_back_groups"], flat["classes_in_one_group"]) == (60, 0, 0)
    assert flat["after"] != found["after"]
