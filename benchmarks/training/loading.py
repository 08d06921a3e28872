"""Training on more photographs than fit into memory: peak memory, and the share of the time in which the steps wait for images.

    python benchmarks/training/loading.py [--quick] [--json PATH] [--photographs 10000] [--steps 60] [--workers 1]

Makes JPEGs of 224×224 pixels in ten classes, then trains the isometric network on a grid of 14×14 for some steps, in a process of its own each:

isoform       `isoform train` with the printed recipe: a first pass over all pictures (normalisation, digest, damaged files), the steps, BN's final
              statistics over up to 4,096 of them, and the accuracy on a quarter of all
DataLoader    files decoded by Pillow in torch's ``DataLoader``, the same network, batch, threads and number of worker processes; the steps alone

Memory is that of the process and its workers together, where what they share counts once (PSS), ten times a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

from bench.harness import Figures, machine, parser, print_table, write_json
from bench.processes import Process
from bench.training.photographs import make

RIVAL = Path(__file__).resolve().parents[1] / "bench" / "training" / "torch_rival.py"
RECIPE = """steps = {steps}
batch = 32
threads = 1

[data]
input_shape = [3, 224, 224]
shift = 0

[network]
adapter_kernel = [16, 16]
{more}
[tasks.photographs]
data = "files"
"""


NO_DIRECTIONS = "bn_directions = 0  # finding them after the last step takes most of a quick run\n"


def main() -> None:
    """Make, train, print, write."""
    arguments = _arguments()
    count, steps = (480, 12) if arguments.quick else (arguments.photographs, arguments.steps)
    with tempfile.TemporaryDirectory(prefix="isoform-loading-") as name:
        folder = Path(name)
        make(folder / "photographs", count)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(steps=steps, more=NO_DIRECTIONS if arguments.quick else ""))
        print(recipe.read_text(), file=sys.stderr)
        ours = _ours(folder, recipe, arguments.workers)
        theirs = _theirs(folder, recipe, steps, arguments.workers)
    rows = [
        (
            who,
            f"{found['peak_mb']:,.0f}",
            f"{found['busy_percent']:.1f}",
            f"{found['samples_per_s']:.0f}",
            f"{found['seconds']:.0f}",
        )
        for who, found in (("isoform train", ours), ("torch's DataLoader", theirs))
    ]
    title = f"{count:,} JPEGs of 224×224, {steps} steps of 32, {arguments.workers} worker"
    print_table(title, ("", "peak MB", "busy %", "samples/s", "seconds in all"), rows)
    write_json(
        arguments.json,
        {
            **machine(), "quick": arguments.quick, "photographs": count, "steps": steps, "isoform": ours, "torch": theirs,
            "decoded_mb": count * 3 * 224 * 224 * 4 / 1e6,
        },
    )  # fmt: skip


def _ours(folder: Path, recipe: Path, workers: int) -> Figures:
    log = folder / "log.jsonl"
    command = [
        sys.executable,
        "-m",
        "isoform.runtime.cli",
        "train",
        recipe,
        "--data",
        folder / "photographs",
        "-o",
        folder / "bundle",
    ]
    peak, seconds = _watched([*command, "--workers", workers, "--log", log], folder / "ours.txt")
    if not (folder / "bundle" / "bundle.json").exists():
        raise SystemExit(f"isoform train failed:\n{(folder / 'ours.txt').read_text()}")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    # the first step waits for the workers to start, as the rival's first one does, which it does not count
    first, last = lines[0], lines[-1]
    took = last["seconds"] - first["seconds"]
    waited = last["waiting"] * last["seconds"] - first["waiting"] * first["seconds"]
    return {
        "peak_mb": peak,
        "busy_percent": 100 * (1 - waited / took),
        "samples_per_s": 32 * (last["step"] - first["step"]) / took,
        "seconds": seconds,
    }


def _theirs(folder: Path, recipe: Path, steps: int, workers: int) -> Figures:
    printed = folder / "theirs.txt"
    peak, seconds = _watched([sys.executable, RIVAL, folder / "photographs", recipe, steps, workers], printed)
    try:
        found = json.loads(printed.read_text().splitlines()[-1])
    except (ValueError, IndexError):
        raise SystemExit(f"the rival failed:\n{printed.read_text()}") from None
    return {
        "peak_mb": peak, "busy_percent": 100 * (1 - found["waited"] / found["seconds"]),
        "samples_per_s": 32 * steps / found["seconds"], "seconds": seconds,
    }  # fmt: skip


def _watched(command: list[object], log: Path) -> tuple[float, float]:
    """Run a command to its end; returns its largest memory in MB and its seconds."""
    began, peak = time.monotonic(), 0.0
    with Process([str(word) for word in command], log=log) as running:
        while running.alive:
            peak = max(peak, running.memory_mb()[1])
            time.sleep(0.1)
    return peak, time.monotonic() - began


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--photographs", type=int, default=10_000, help="number of JPEGs (default: 10000)")
    made.add_argument("--steps", type=int, default=60, help="steps of training (default: 60)")
    made.add_argument("--workers", type=int, default=1, help="processes that decode (default: 1)")
    return made.parse_args()


if __name__ == "__main__":
    main()
