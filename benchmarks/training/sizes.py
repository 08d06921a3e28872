"""How large a network should be: what templates, layers and channels cost in bytes and milliseconds, and what they gain for a user.

    python benchmarks/training/sizes.py --data DIR [--quick] [--json PATH] [--steps 400]

MotionSense (``bench/learning/motion.py``): networks of several sizes are trained and compiled by recipes, which are printed, without a third of
the people. Each of those learns from 10 windows per activity of one occasion, and is tested on another:

shared      the network for everybody
own file    a signature of less than 1 KiB (``isoform personalize``)
own layer   the rival: a logits layer of one's own on the same network

Bytes are those of everybody's templates, of a user's file, and of a complete network per user, which is what sharing saves. Milliseconds are
of one window on one thread by ONNX Runtime, the median of 300.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

import numpy as np
from bench.harness import machine, parser, print_table, write_json
from bench.learning.held_out import BASE, KILOBYTE, measure, train_without
from bench.learning.motion import Trials

from isoform.compile.export.network import network_file
from isoform.runtime import Runtime

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SIZES = {
    "small": {"channels": 12, "layers": 4, "templates": 4},
    "half as deep": {"channels": 24, "layers": 4, "templates": 4},
    "the default": {"channels": 24, "layers": 8, "templates": 4},
    "more templates": {"channels": 24, "layers": 8, "templates": 16},
    "wider": {"channels": 40, "layers": 8, "templates": 4},
}
"""Name → fields of [network]."""
SHOTS = 10
LAYER = "head"
"""The rival, as ``Motion.ways`` names it."""


def main() -> None:
    """Train, learn, print, write."""
    arguments = _arguments()
    quick = arguments.quick
    study, steps = Trials(arguments.data), 30 if quick else arguments.steps
    chosen = ("small", "the default") if quick else tuple(SIZES)
    figures: dict[str, object] = {**machine(), "quick": quick, "steps": steps}
    rows = []
    with tempfile.TemporaryDirectory(prefix="isoform-sizes-") as name:
        for size in chosen:
            found = _measured(study, size, Path(name) / size.replace(" ", "-"), steps=steps, users=2 if quick else None)
            figures[size] = found
            network = SIZES[size]
            rows.append(
                (
                    size,
                    ", ".join(str(value) for value in network.values()),
                    *(f"{found[way]:.1f}" for way in ("shared", "own_file", "own_layer")),
                    *(
                        f"{found[what]:,.0f}"
                        for what in ("template_bytes", "file_bytes", "layer_bytes", "network_bytes")
                    ),
                    f"{found['milliseconds']:.2f}",
                )
            )
    people = "2 people" if quick else "8 people"
    print_table(
        f"MotionSense, {steps} steps, {people} on another occasion, {SHOTS} windows per activity: accuracy in %, bytes, ms per window",
        ("network", "C, L, K", "shared", "own file", "own layer", "templates", "file", "layer", "own network", "ms"), rows,
    )  # fmt: skip
    write_json(arguments.json, figures)


def _measured(study: Trials, size: str, path: Path, *, steps: int, users: int | None) -> dict[str, float]:
    """Train a network of a size, and measure it."""
    began = time.monotonic()
    bundle = train_without(study, 0, path, steps=steps, network=SIZES[size])
    results = [
        *measure(
            study,
            bundle,
            study.held_out(0)[:users],
            ways={KILOBYTE: (SHOTS,), LAYER: (SHOTS,)},
            steps=20 if users else 200,
        )
    ]
    print(f"{size}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def mean(way: str, place: int) -> float:
        return float(np.mean([result[place] for result in results if result[0] == way]))

    return {
        "shared": mean(KILOBYTE, 3), "own_file": mean(KILOBYTE, 4), "own_layer": mean(LAYER, 4),
        "file_bytes": max(result[5] for result in results if result[0] == KILOBYTE),
        "layer_bytes": max(result[5] for result in results if result[0] == LAYER),
        "template_bytes": (path / "templates.safetensors").stat().st_size,
        "network_bytes": len(network_file(bundle, bundle.base(BASE))), "milliseconds": _milliseconds(path, study),
    }  # fmt: skip


def _milliseconds(path: Path, study: Trials) -> float:
    x, _ = study.testing(study.held_out(0)[0])
    took = []
    with Runtime.open(path, engine="onnx") as runtime:
        base = runtime.signature(BASE)
        for number in range(330):
            began = time.perf_counter()
            runtime.predict(x[number % len(x)][None], base)
            took.append(time.perf_counter() - began)
    return 1e3 * float(np.median(took[30:]))


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--steps", type=int, default=400, help="of training (default: 400)")
    made.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    return made.parse_args()


if __name__ == "__main__":
    main()
