"""From your own files to a network of one's own on a device: the same eight commands for photographs, recordings, sounds and feature vectors.

    python docs/examples/own_data.py --data everybody/ --learn me/learn/ --test me/test/ -o own_data
    python docs/examples/own_data.py --data recordings/ --learn ada/learn/ --test ada/test/ -o own_data --window '2.5 s' --stride '1 s'

    everybody/<label>/…        what the shared network is trained on: .jpg, .csv, .wav, …; or a table, or an .npz (docs/data.md)
    me/learn/<label>/…         a few samples of one person, for their signature
    me/test/<label>/…          others of theirs, to see what it is worth

recipe new → train → compile → evaluate → personalize → evaluate → export → the exported file alone in ONNX Runtime. Every command is printed before
it runs. At the end stand the accuracies, the bytes, and how far the exported network's answers are from the runtime's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from isoform.runtime import Runtime, Signature
from isoform.runtime.samples.unlabelled import read_stream


def main() -> None:
    """Run every step; any failure ends with an error and an exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="labelled samples of many people")
    parser.add_argument("--learn", type=Path, required=True, help="a few labelled samples of one person")
    parser.add_argument("--test", type=Path, required=True, help="other labelled samples of the same person")
    parser.add_argument("-o", "--output", type=Path, default=Path("own_data"), help="folder for all that is made")
    parser.add_argument("--window", help="rows of a recording in a sample, or seconds: '2.5 s'")
    parser.add_argument("--stride", help="the same between the beginnings of two windows")
    parser.add_argument("--steps", type=int, help="steps of training (default: as many as 'recipe new' proposes)")
    arguments = parser.parse_args()
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    recipe, bundle, me = out / "recipe.toml", out / "bundle", out / "me.safetensors"
    asked = {"--window": arguments.window, "--stride": arguments.stride}
    lengths = [word for flag, value in asked.items() if value for word in (flag, value)]
    isoform("recipe", "new", "--data", arguments.data, "-o", recipe, "--force", *lengths)
    steps = ["--steps", arguments.steps] if arguments.steps else []
    trained = isoform("train", recipe, "--data", arguments.data, "-o", bundle, *steps)
    isoform("compile", bundle, "--data", arguments.data)
    before = isoform("evaluate", bundle, "--data", arguments.test, "--json")
    isoform("personalize", bundle, "--data", arguments.learn, "-o", me)
    after = isoform("evaluate", bundle, "--data", arguments.test, "--signature", me, "--json")
    isoform("export", bundle, "--signature", me, "-o", out / "me.onnx")
    difference = alone(bundle, me, out / "me.onnx", arguments.test)
    shared, own = (next(iter(found["signatures"].values()))["accuracy"] for found in (before, after))
    found = {
        "accuracy_held_out": next(iter(trained["test_accuracy"].values())), "shared": shared, "own": own,
        "signature_bytes": me.stat().st_size, "onnx_bytes": (out / "me.onnx").stat().st_size, "largest_difference": difference,
    }  # fmt: skip
    print(json.dumps(found, indent=2))


def isoform(*words: object) -> Any:
    """Print a command and run it; returns what it prints if that is JSON."""
    command = ["isoform", *map(str, words)]
    print(f"\n$ {shlex.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "isoform.runtime.cli", *command[1:]], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    try:
        return json.loads(done.stdout)
    except ValueError:
        print(done.stdout, file=sys.stderr)
        return None


def alone(bundle: Path, signature: Path, exported: Path, data: Path) -> float:
    """Return the largest difference between the exported file's logits, in plain ONNX Runtime, and the runtime's, over the largest of these."""
    with Runtime.open(bundle) as runtime:
        mine = Signature.load(signature)
        x = read_stream(data, takes=runtime.input_of(mine.task), reading=runtime.bundle.reading).x
        expected = runtime.predict(x, mine)
        name = runtime.input_of(mine.task).name
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: x})
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


if __name__ == "__main__":
    main()
