"""What commands print for a person, kept as text files; ``python tests/helpers/kept/snapshots.py`` writes them anew.

All are of the bundle that is checked in, and computed by the numpy engine, so that they are the same on every machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run alone, it finds the other helpers too

from support import ROOT, isoform_here

from isoform.compile.report import report_lines

KEPT = ROOT / "tests" / "runtime" / "commands" / "snapshots"
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
    "compile": (),
    "evaluate": ("evaluate", BUNDLE, "--task", "plain", "--task", "edges", "--engine", "reference", "--data"),
}
"""Name → the command; ``evaluate`` is followed by a file of sixty digits of three people."""


def shown(name: str) -> str:
    """Run a command, and return what it prints; of ``compile``, what it prints of the report that is checked in."""
    if name == "compile":
        report = json.loads((ROOT / BUNDLE / "compiled" / "report.json").read_text())
        columns = {"sequence": "templates by layer", "mean_max_xi_before": "max ξ"}  # newer than that report
        return "\n".join(report_lines({"columns": columns, **report})) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        words = WORDS[name]
        if words[-1] == "--data":
            words = (*words, _digits(Path(folder)))
        done = isoform_here(*words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _digits(folder: Path) -> Path:
    from isoform.train.data.formats.digits import digits

    images, labels = digits()
    people = np.array([f"person {number % 3}" for number in range(60)])
    np.savez(folder / "digits.npz", x=images[:60], labels=labels[:60].astype(str), groups=people)
    return folder / "digits.npz"


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    KEPT.mkdir(exist_ok=True)
    for name in WORDS:
        (KEPT / f"{name}.txt").write_text(shown(name), encoding="utf-8")
        print(f"wrote {(KEPT / f'{name}.txt').relative_to(ROOT)}")
