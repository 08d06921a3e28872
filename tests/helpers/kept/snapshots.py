"""What commands print for a person, kept as text files; ``python tests/helpers/kept/snapshots.py`` writes them anew.

All are of the bundle that is checked in. What the numpy engine computes is the same on every machine; of what learns, measures or is drawn
by chance, every number and digest is written as ``#``, and what is said on stderr stands first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run alone, it finds the other helpers too

from serving import serving
from support import ROOT, TINY, isoform_here

from isoform.compile.report import report_lines

KEPT = ROOT / "tests" / "runtime" / "commands" / "snapshots"
"""Its folder ``exact`` has the texts of ``WORDS``, ``masked`` those of ``CHANGING``."""
BUNDLE = "docs/examples/bundle"
WORDS = {
    "inspect-bundle": ("inspect", BUNDLE),
    "inspect-signature": ("inspect", f"{BUNDLE}/signatures/plain.safetensors"),
    "inspect-signature-of-bundle": ("inspect", f"{BUNDLE}/signatures/plain.safetensors", "--bundle", BUNDLE),
    "inspect-signatures": ("inspect", f"{BUNDLE}/compiled/signatures"),
    "inspect-graph": ("inspect", f"{BUNDLE}/compiled/training/block_vjp.onnx"),
    "inspect-graph-without-weights": ("inspect", f"{BUNDLE}/compiled/portable.onnx"),
    "inspect-templates": ("inspect", f"{BUNDLE}/templates.safetensors"),
    "inspect-report": ("inspect", f"{BUNDLE}/compiled/report.json"),
    "recipe-list": ("recipe", "list"),
    "data-list": ("data", "list"),
    "compile": (),
    "evaluate": ("evaluate", BUNDLE, "--task", "plain", "--task", "edges", "--engine", "reference", "--data", "DATA"),
}
"""Name → the command; ``DATA`` is a file of sixty digits of three people, ``OUT`` a folder for what is written."""
CHANGING = {
    "train": ("train", "digits", "-o", "OUT/bundle", *TINY, "--steps", "5"),
    "predict": ("predict", BUNDLE, "DATA", "--task", "plain", "--format", "csv"),
    "personalize": ("personalize", BUNDLE, "--data", "DATA", "--task", "edges", "--steps", "20", "-o", "OUT/me.safetensors"),
    "adapt": ("adapt", BUNDLE, "--data", "DATA", "--task", "plain", "-o", "OUT/here.safetensors"),
    "export": ("export", BUNDLE, "--task", "plain", "-o", "OUT/plain.onnx"),
    "figure": ("figure", BUNDLE, "-o", "OUT/users.svg"),
    "recipe-new": ("recipe", "new", "--data", "DATA"),
    "key-add": ("key", "add", "phone", "--scope", "write:alice", "--store", "OUT/keys.db"),
    "key-list": ("key", "list", "--store", "OUT/keys.db"),
    "serve": ("serve", BUNDLE, "--store", "none", "--open"),
}  # fmt: skip
"""The same, with numbers that are left out."""
NUMBER = re.compile(r"[0-9a-f]{16,}|iso_[\w-]+|(?<!\d)-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


def file_of(name: str) -> Path:
    """Return the file of a text."""
    return KEPT / ("exact" if name in WORDS else "masked") / f"{name}.txt"


def shown(name: str) -> str:
    """Run a command, and return what it prints; of ``compile``, what it prints of the report that is checked in."""
    if name == "compile":
        report = json.loads((ROOT / BUNDLE / "compiled" / "report.json").read_text())
        columns = {"sequence": "templates by layer", "mean_max_xi_before": "max ξ"}  # newer than that report
        return "\n".join(report_lines({"columns": columns, **report})) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        if name in WORDS:
            return _run(WORDS[name], folder).stdout
        if name == "serve":
            with serving(ROOT / BUNDLE, *CHANGING[name][2:]) as server:
                pass
            text = f"{server.errors.splitlines()[0]}\n{json.dumps(server.started)}\n"
        else:
            if name == "key-list":
                _run(CHANGING["key-add"], folder)
            done = _run(CHANGING[name], folder)
            text = done.stderr + done.stdout
        return re.sub(" +#", " #", NUMBER.sub("#", text.replace(folder, "OUT")))  # numbers are padded


def _run(words: tuple[str, ...], folder: str) -> subprocess.CompletedProcess[str]:
    data = _digits(Path(folder)) if "DATA" in words else ""
    done = isoform_here(*(word.replace("DATA", str(data)).replace("OUT", folder) for word in words), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done


def _digits(folder: Path) -> Path:
    from isoform.train.data.formats.digits import digits

    images, labels = digits()
    people = np.array([f"person {number % 3}" for number in range(60)])
    np.savez(folder / "digits.npz", x=images[:60], labels=labels[:60].astype(str), groups=people)
    return folder / "digits.npz"


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    for name in (*WORDS, *CHANGING):
        file_of(name).parent.mkdir(parents=True, exist_ok=True)
        file_of(name).write_text(shown(name), encoding="utf-8")
        print(f"wrote {file_of(name).relative_to(ROOT)}")
