"""What we call of TensorRT, and which of it each version of its bindings has.

    python tests/helpers/tensorrt_api.py WHEEL …      reads wheels of bindings, and writes tests/runtime/engines/tensorrt/tensorrt_api.json

Names are looked for in the compiled module: pybind11 keeps every name that Python may use as a text.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from pathlib import Path

__all__ = ["RECORD", "called"]

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "tests" / "runtime" / "engines" / "tensorrt" / "tensorrt_api.json"
OBJECTS = {
    "trt",
    "builder",
    "network",
    "parser",
    "config",
    "profile",
    "error",
    "flags",
    "cache",
    "kept",
    "_runtime",
    "_engine",
    "_context",
    "context",
    "_trt",
    "module",
}
"""Names of variables and attributes that hold TensorRT's objects, in ``runtime/engines/tensorrt``."""
OURS = {"name", "close", "split"}


def called() -> set[str]:
    """Every attribute of TensorRT's objects that the engine's modules use."""
    found: set[str] = set()
    for path in (ROOT / "runtime" / "engines" / "tensorrt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _is_theirs(node.value):
                found.add(node.attr)
    return found - OURS - OBJECTS


def _is_theirs(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _is_theirs(node.func)
    if isinstance(node, ast.Name):
        return node.id in OBJECTS
    return isinstance(node, ast.Attribute) and (node.attr in OBJECTS or _is_theirs(node.value))


def main() -> None:
    """Write the record."""
    record = {}
    for wheel in sys.argv[1:]:
        name, version = Path(wheel).name.split("-")[:2]
        with zipfile.ZipFile(wheel) as content:
            modules = [entry for entry in content.namelist() if re.search(r"tensorrt[^/]*\.so$", entry)]
            texts = {
                text.decode()
                for entry in modules
                for text in re.findall(rb"[A-Za-z_][A-Za-z0-9_]+", content.read(entry))
            }
            sources = [entry for entry in content.namelist() if entry.endswith("__init__.py")]
            texts |= {text for entry in sources for text in re.findall(r"\w+", content.read(entry).decode())}
        record[f"{name} {version}"] = sorted(called() & texts)
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
