"""The command line, as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import ISOFORM, isoform, isoform_here

from isoform.runtime import cli
from isoform.runtime.formats import tensors
from isoform.runtime.formats.signature import Signature


def test_help_is_light() -> None:
    """``isoform --help`` imports no numpy, no onnxruntime and no stage, so that it is instant."""
    code = (
        "import sys; from isoform.runtime.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = result.stdout.splitlines()[-1]
    assert "'isoform.runtime.cli'" in modules
    for heavy in ("numpy", "onnxruntime", "torch", "flask", "isoform.train", "isoform.compile", "isoform.server"):
        assert f"'{heavy}'" not in modules


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_an_example(verb) -> None:
    """Every ``--help`` ends with an example, and the top-level help lists the verb."""
    assert "example:\n  isoform " in isoform_here(verb, "--help").stdout
    assert f"  {verb}" in isoform_here("--help").stdout


def test_version() -> None:
    """The version is the package's."""
    import importlib.metadata

    assert isoform("--version").stdout.strip() == f"isoform {importlib.metadata.version('isoform')}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required"),
        (["fly"], "invalid choice: 'fly'"),
        (["predict"], "required"),
        (["predict", "x", "y", "--top", "many"], "invalid int value"),
        (["predict", "no-bundle", "no.png"], "is not a directory"),
        (["inspect", "no-file"], "does not exist"),
        (["train", "no-recipe", "-o", "x"], "recipe no-recipe cannot be read"),
        (["train", "digits", "-o", "no/folder/bundle"], "is not a folder"),
        (["train", "digits", "-o", "x", "--steps", "many"], "steps is 'many', but a whole number was expected"),
        (["compile", "no-bundle"], "is not a directory"),
        (["serve", "no-bundle"], "is not a directory"),
        (["figure", "no-bundle", "-o", "x.png"], "is not a directory"),
        (["data", "fetch", "imagenet"], "no data set 'imagenet'"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_and_exit_2(words, message, tmp_path) -> None:
    """Every mistake is one line on stderr, exit code 2, nothing on stdout, nothing written."""
    result = isoform_here(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def digit(samples, tmp_path):
    """A real digit as a PNG file, and its label."""
    path = tmp_path / "digit.png"
    Image.fromarray(np.round(255 * samples[0][0, 0]).astype(np.uint8)).save(path)
    return path


def test_predict(compiled, digit) -> None:
    """One JSON object per image, with the label, probabilities that sum to at most 1, and the signature's digest."""
    result = isoform("predict", compiled, digit, digit, "--task", "plain", "--top", "10")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0]["image"] == str(digit)
    assert lines[0]["label"] == lines[0]["top"][0]["label"]
    assert sum(entry["probability"] for entry in lines[0]["top"]) == pytest.approx(1, abs=1e-4)
    assert len(lines[0]["signature"]) == 64


def test_predict_with_a_signature_file(compiled, digit, runtime, tmp_path) -> None:
    """A signature file predicts like the base it was taken from."""
    runtime.signature("edges").keep("mixture").save(tmp_path / "me.safetensors")
    mine = json.loads(isoform("predict", compiled, digit, "--signature", tmp_path / "me.safetensors").stdout)
    base = json.loads(isoform("predict", compiled, digit, "--task", "edges").stdout)
    assert mine["top"] == base["top"]
    assert mine["signature"] != base["signature"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "choose one with --task: plain, inverted, blurred, edges"),
        (["--task", "klingon"], "no task 'klingon'"),
        (["--task", "plain", "--top", "0"], "--top is 0"),
        (["--task", "plain", "--threads", "-1"], "threads is -1"),
        (["--task", "plain", "--signature", "x"], "not allowed with"),
    ],
)
def test_predict_misuse(words, message, compiled, digit) -> None:
    """Each mistake is named."""
    result = isoform_here("predict", compiled, digit, *words)
    assert result.returncode == 2
    assert message in result.stderr


def test_inspect_every_artefact(compiled) -> None:
    """Every file of a bundle, and the bundle itself, can be inspected."""
    whole = json.loads(isoform("inspect", compiled, "--json").stdout)
    assert whole["what"] == "bundle"
    assert list(whole["tasks"]) == ["plain", "inverted", "blurred", "edges"]
    files = [path for path in sorted(compiled.rglob("*")) if path.is_file()]
    assert len(files) == 37
    found = {path.relative_to(compiled).as_posix(): cli_json(path) for path in files}
    assert found["signatures/plain.safetensors"]["what"] == "signature"
    assert found["compiled/signatures/plain.safetensors"]["parent"] == found["signatures/plain.safetensors"]["digest"]
    assert found["templates.safetensors"]["what"] == "tensors"
    assert found["compiled/fast/plain.onnx"]["outputs"] == {"logits": "tensor(float) ['n', 10]"}
    assert (
        found["compiled/fast/plain.onnx"]["metadata"]["signature"]
        == found["compiled/signatures/plain.safetensors"]["digest"]
    )
    assert found["compiled/portable.onnx"]["what"] == "graph without weights"
    assert found["compiled/training/block_vjp.onnx"]["outputs"]["x.gradient"] == "tensor(float) [16, 24, 8, 8]"
    assert found["bundle.json"]["what"] == found["compiled/report.json"]["what"] == "JSON"


def test_inspect_decodes_a_signature_once(compiled, monkeypatch) -> None:
    """Of a signature file the tensors are decoded, and so copied, once."""
    decoded, decode = [], tensors.decode
    monkeypatch.setattr(tensors, "decode", lambda data, **rest: decoded.append(len(data)) or decode(data, **rest))
    path = compiled / "signatures" / "plain.safetensors"
    assert cli_json(path)["size_bytes"] == path.stat().st_size
    assert decoded == [path.stat().st_size]


def cli_json(path) -> dict:
    """What ``isoform inspect --json`` says, without a process for each."""
    from isoform.runtime.commands.inspecting.facts import described, opened

    return described(opened(path))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure(ending, compiled, runtime, tmp_path) -> None:
    """The picture is written in each format, the same bytes each time, with a user's signature beside the bundle's."""
    pytest.importorskip("matplotlib")
    runtime.signature("plain").keep("mixture").save(tmp_path / "alice.safetensors")
    pictures = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.{ending}"
        isoform("figure", compiled, "-o", path, "--signature", tmp_path / "alice.safetensors")
        pictures.append(path.read_bytes())
    assert len(pictures[0]) > 5000
    assert pictures[0] == pictures[1]


def test_figure_refuses_other_endings(compiled, tmp_path) -> None:
    """A picture in no known format is refused before anything is written."""
    result = isoform_here("figure", compiled, "-o", tmp_path / "a.xyz")
    assert result.returncode == 2
    assert ".png, .svg or .pdf was expected" in result.stderr


def test_a_missing_extra_names_the_command() -> None:
    """Without torch, ``isoform train`` says what to install."""
    code = "import sys; sys.modules['sklearn'] = None; from isoform.runtime.cli import main; sys.exit(main(['train', 'digits', '-o', 'x-bundle']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'isoform[train]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_quiet(compiled) -> None:
    """``isoform inspect … | head`` does not end in a traceback."""
    command = f"{' '.join(ISOFORM)} inspect {compiled} | head -c 10"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


def test_a_round_trip_through_the_shell(runtime, tmp_path) -> None:
    """A signature saved by the library is the one that ``isoform inspect`` describes."""
    signature = runtime.signature("blurred").to("float16")
    signature.save(tmp_path / "half.safetensors")
    found = json.loads(isoform("inspect", tmp_path / "half.safetensors", "--json").stdout)
    assert (found["digest"], found["precision"]) == (signature.digest, "float16")
    assert Signature.load(tmp_path / "half.safetensors") == signature
