"""What a training step costs, and whether two processes train the network of one.

    python benchmarks/train.py [--quick] [--json PATH] [--batch 128] [--steps 100] [--threads 1] [--compile]

The quickstart's network: 8 layers, 4 templates, images of 32×32 pixels. A step is batches, loss and accuracy, backward pass and optimiser, as
``isoform train`` runs them. Timed in turn.

untied          the rival: the same network with 8 blocks of its own, which mixes nothing, and torch's usual loop
mixture         one task, 4 templates, mixed anew in each step; with 8 and 16 templates; with 16 layers
tasks           four tasks, whose batches are a quarter as large, and as large
torch.compile   the rival and the mixture through torch.compile, with --compile
two processes   ``torchrun --nproc-per-node 2 --no-python -- isoform train digits`` beside one: the largest difference of the loss in all
                steps, which would be 0 if sums were not rounded, and steps per second. All have one thread per process; and, but with
                --quick, one process with two threads, which is what two processes have to beat on a machine with two cores

``mixture_over_untied_step`` and ``ddp2_loss_gap`` are aimed at 1.10 and 1e-5 at most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from bench.harness import Figures, in_turn, machine, parser, print_table, write_json
from bench.training.steps import recipe_of, step_of, untied_step

SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> None:
    """Time steps, train twice, print, write."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        figures = times(arguments)
    with tempfile.TemporaryDirectory(prefix="isoform-train-") as folder:
        figures |= two_processes(
            Path(folder), steps=6 if arguments.quick else arguments.steps, threads=not arguments.quick
        )
    write_json(
        arguments.json,
        {**machine(), "torch": torch.__version__, "threads": arguments.threads, "batch": arguments.batch, **figures},
    )


def times(arguments: argparse.Namespace) -> Figures:
    """Time a step of each network."""
    batch = arguments.batch
    one = recipe_of(1, batch)
    runs = {
        "untied, 8 layers": untied_step(one),
        "mixture, 4 templates": step_of(one),
        "16 layers, 4 templates": step_of(recipe_of(1, batch, **{"network.layers": "16"})),
        "four tasks, a quarter of the batch each": step_of(recipe_of(4, batch // 4)),
    }
    if not arguments.quick:
        runs["8 templates"] = step_of(recipe_of(1, batch, **{"network.templates": "8"}))
        runs["16 templates"] = step_of(recipe_of(1, batch, **{"network.templates": "16"}))
        runs["four tasks"] = step_of(recipe_of(4, batch))
    if arguments.compile:
        runs["mixture, 4 templates, torch.compile"] = step_of(one, compiled=True)
        runs["untied, 8 layers, torch.compile"] = untied_step(one, compiled=True)
    found = in_turn(runs, seconds=5 if arguments.quick else 120, burst=2 if arguments.quick else 4)
    untied = found["untied, 8 layers"]
    rows = [(name, f"{1e3 * seconds:.1f}", f"{seconds / untied:.2f}") for name, seconds in found.items()]
    print_table(
        f"a training step, batch {batch}, {arguments.threads} thread(s)", ("network", "ms", "over untied"), rows
    )
    names = {f"step_ms.{name.replace(', ', '_').replace(' ', '_')}": 1e3 * seconds for name, seconds in found.items()}
    return {"mixture_over_untied_step": found["mixture, 4 templates"] / untied, **names}


def two_processes(folder: Path, *, steps: int, threads: bool) -> Figures:
    """Train a network by one process and by two; with ``threads``, by one with two threads as well."""
    command = [
        str(SCRIPTS / "isoform"),
        "train",
        "digits",
        "--steps",
        str(steps),
        "--seed",
        "7",
        "--network.bn_directions",
        "0",
    ]
    torchrun = (str(SCRIPTS / "torchrun"), "--standalone", "--nproc-per-node", "2", "--no-python", "--")
    starts: dict[str, tuple[Sequence[str], int]] = {"one": ((), 1), "two": (torchrun, 1)}
    if threads:
        starts["one, two threads"] = ((), 2)
    logs: dict[str, list[dict[str, float]]] = {}
    for name, (start, count) in starts.items():
        words = [
            *start,
            *command,
            "--threads",
            str(count),
            "-o",
            str(folder / name),
            "--log",
            str(folder / f"{name}.log"),
        ]
        # what one process reads of it is its recipe's number of threads
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": str(count)}
        )
        if done.returncode:
            sys.exit(f"training by {name} failed: {done.stderr[-2000:]}")
        logs[name] = [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]
    gap = max(abs(one["loss"] - two["loss"]) for one, two in zip(logs["one"], logs["two"], strict=True))
    rates = {
        name: (log[-1]["step"] - log[0]["step"]) / (log[-1]["seconds"] - log[0]["seconds"])
        for name, log in logs.items()
    }
    print_table(
        f"{steps} steps of four tasks with 32 samples each: largest difference of the loss of one process and two {gap:.1e}",
        ("processes", "steps per second", "loss at the end"),
        [(name, f"{rates[name]:.2f}", f"{log[-1]['loss']:.6f}") for name, log in logs.items()],
    )  # fmt: skip
    more = {"ddp2_speedup_over_two_threads": rates["two"] / rates["one, two threads"]} if threads else {}
    return {"ddp2_loss_gap": gap, "ddp2_speedup": rates["two"] / rates["one"], "ddp2_steps": steps, **more}


def _arguments() -> argparse.Namespace:
    result = parser(__doc__)
    result.add_argument("--batch", type=int, default=128, help="samples per step and task; a multiple of 4")
    result.add_argument("--steps", type=int, default=100, help="steps of the comparison of two processes")
    result.add_argument("--threads", type=int, default=1, help="threads of the timed steps")
    result.add_argument(
        "--compile", action="store_true", help="torch.compile too: needs a C++ compiler, and a minute each"
    )
    return result.parse_args()


if __name__ == "__main__":
    main()
