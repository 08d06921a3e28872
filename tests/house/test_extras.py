"""Optional libraries that are not installed: one line that names the library and the command that installs it."""

import ast
import json
import subprocess
import sys

import pytest
from support import ROOT

pytestmark = pytest.mark.trust

WITHOUT = """
import importlib.machinery, sys
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {missing!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
COMMAND = "from isoform.runtime.cli import main; sys.exit(main({words!r}))"
BUNDLE = str(ROOT / "docs" / "examples" / "bundle")
SERVE = ["serve", BUNDLE, "--port", "0"]


def without(missing, code, **options):
    """Run code in a process where these packages are not installed."""
    script = WITHOUT.format(missing=set(missing)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("matplotlib", "figure", ["figure", BUNDLE, "-o", "x.png"]),
        ("matplotlib", "figure", ["figure", "history.json", "-o", "x.png"]),
        ("flask", "server", SERVE),
        ("uvicorn", "server", [*SERVE, "--open", "--store", "none"]),
        ("httptools", "server", [*SERVE, "--open", "--store", "none"]),
        ("psycopg", "postgresql", [*SERVE, "--open", "--store", "postgresql+psycopg://localhost/x"]),
        ("cryptography", "server", [*SERVE, "--token-keys", "keys.json", "--token-issuer", "me", "--store", "none"]),
        ("sqlalchemy", "server", ["key", "list"]),
        ("pooch", "train", ["data", "fetch", "mnist"]),
        ("onnx", "export", ["export", BUNDLE, "--task", "plain", "-o", "x.onnx"]),
        ("matplotlib", "figure", ["evaluate", BUNDLE, "--data", "x.npz", "--plot", "x.png"]),
    ],
)
def test_a_command_names_what_it_lacks(tmp_path, package, extra, words) -> None:
    """Exit code 2, one line, nothing written."""
    call = {"samples": 1, "entropy": 0.0, "concentration": 0.0, "event": "hold"}
    (tmp_path / "history.json").write_text(json.dumps({"what": "adaptation", "calls": [call]}))
    key = {"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key]}))
    result = without([package], COMMAND.format(words=words), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    *before, line = result.stderr.splitlines()
    assert line.endswith(f"needs the package {package}; pip install 'isoform[{extra}]'")
    assert all(words[0] == "data" and entry.startswith("fetching") for entry in before)
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"history.json", "keys.json"}


API = """
from pathlib import Path
from isoform.runtime.errors import MissingExtraError
from isoform.runtime.commands.figures.signatures import draw_signatures
from isoform.runtime.commands.figures.stream import draw_stream
from isoform.train.data.formats.digits import digits
from isoform.train.data.fetch import fetch
from isoform.train.data.formats.usps import read_usps_folder
import numpy as np
Path("usps.h5").write_bytes(b"")
for call in (digits, lambda: fetch("mnist", into=Path()), lambda: read_usps_folder(Path()), lambda: draw_signatures({"a": np.eye(2)}), lambda: draw_stream({})):
    try:
        call()
    except MissingExtraError as problem:
        print(problem)
"""


def test_functions_name_what_they_lack(tmp_path) -> None:
    """The same for whoever calls Python: an error of isoform's own."""
    result = without(["sklearn", "pooch", "h5py", "matplotlib"], API, cwd=tmp_path)
    found = [line.partition(" needs the package ")[2] for line in result.stdout.splitlines()]
    trained = [f"{package}; pip install 'isoform[train]'" for package in ("sklearn", "pooch", "h5py")]
    assert found == [*trained, *["matplotlib; pip install 'isoform[figure]'"] * 2], result.stderr


def test_traces_that_cannot_be_sent_are_said(tmp_path) -> None:
    """An address for traces without the library, or without its exporter alone: a word in the log, and the server runs on."""
    code = "from isoform.server.telemetry.tracing import export_traces; print(export_traces())"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PATH": ""}
    result = without(["opentelemetry"], code, env=environment)
    assert result.stdout == "False\n"
    assert "needs the package opentelemetry; pip install 'isoform[traces]'" in result.stderr


def test_no_library_is_imported_later_without_a_word() -> None:
    """Every import inside a function of what the runtime and training can do without stands in ``with needs(...)``."""
    optional = {
        "matplotlib",
        "sklearn",
        "h5py",
        "pooch",
        "requests",
        "rich",
        "psycopg",
        "opentelemetry",
        "PIL",
        "scipy",
        "torch",
    }
    found, bare = 0, []
    for folder in ("runtime", "train", "compile", "server"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = {
                id(entry)
                for node in ast.walk(tree)
                if isinstance(node, ast.With) and _is_needs(node)
                for entry in node.body
            }
            for function in ast.walk(tree):
                for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
                    if isinstance(node, ast.Import | ast.ImportFrom) and _package(node) in optional:
                        found += 1
                        if id(node) not in named:
                            bare.append(f"{path.name}:{node.lineno}")
    assert found > 10
    assert {entry.partition(":")[0] for entry in bare} <= {"tracing.py"}, bare  # looks whether it is there


def _is_needs(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "needs"


def _package(node: ast.Import | ast.ImportFrom) -> str:
    name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
    return name.partition(".")[0]
