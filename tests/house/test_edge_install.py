"""The base install: a fresh environment with ``pip install .`` and nothing else predicts and inspects without torch."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT, checked_in

pytestmark = pytest.mark.xdist_group("edge")


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Path:
    """The ``bin`` folder of a fresh environment with the base package."""
    folder = tmp_path_factory.mktemp("edge") / "env"
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    # Not from the working tree itself: setuptools would leave its build folder there.
    source = tmp_path_factory.mktemp("source")
    for name in checked_in():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        binaries / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        ROOT / "constraints.txt",
        ".",
    ]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if result.returncode and not os.environ.get("CI") and "No matching distribution" in result.stderr:
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stderr
    return binaries


def test_it_is_small(edge) -> None:
    """Torch, onnx, flask, scipy and matplotlib are absent, and the few packages that a device needs are there."""
    listed = subprocess.run(
        [edge / "python", "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert {"isoform", "numpy", "onnxruntime", "safetensors", "pillow"} <= names
    assert not names & {"torch", "onnx", "flask", "scipy", "scikit-learn", "matplotlib", "rich"}


def test_it_predicts_and_inspects(edge, compiled, runtime, samples, tmp_path) -> None:
    """The installed command predicts the same as the full environment, and inspects the same bundle."""
    pixels = np.round(255 * samples[0][0, 0]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    result = subprocess.run(
        [edge / "isoform", "predict", compiled, tmp_path / "digit.png", "--task", "plain"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(result.stdout)
    logits = runtime.predict(pixels[None, None] / np.float32(255), runtime.signature("plain"))
    assert answer["label"] == str(logits.argmax())
    assert answer["signature"] == runtime.signature("plain").digest
    inspected = subprocess.run(
        [edge / "isoform", "inspect", compiled, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(inspected.stdout)["what"] == "bundle"


@pytest.mark.parametrize(
    ("verb", "extra"), [("train", "train"), ("compile", "train"), ("serve", "server"), ("figure", "figure")]
)
def test_a_missing_extra_names_its_command(verb, extra, edge, compiled, tmp_path) -> None:
    """A verb whose packages are not installed says which extra to install; every ``--help`` that needs none works."""
    words = {
        "train": ["digits", "-o", "x"], "compile": [compiled], "serve": [compiled], "figure": [compiled, "-o", "x.png"],
    }[verb]  # fmt: skip
    result = subprocess.run([edge / "isoform", verb, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"pip install 'isoform[{extra}]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
