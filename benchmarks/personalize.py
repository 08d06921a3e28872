"""Personalizing on the device beside torch: a step's time, a process's memory, and what it is worth to people who were never seen.

    python benchmarks/personalize.py [--quick] [--json PATH]
    python benchmarks/personalize.py people [--quick] [--json PATH] [--plot PATH]
    python benchmarks/personalize.py domains [--quick] [--json PATH] --bundle quickstart/bundle

step      random weights, small (C = 24, L = 16, 32×32, stem 4, K = 4), batch 16, one thread each: fitting mixture, BN affine and logits
          layer by numpy and ONNX Runtime, beside torch eager doing the same in its fastest form; times are medians, in turn
people    MotionSense, 24 people, each held out once: templates trained on two thirds; 1, 5, 10 and 20 windows per activity of a held-out
          person's first half of each recording to learn from, the second half to test on; beside it, all of the network in torch
domains   digits in domains that the quickstart's bundle never saw: 10 samples per class, the mean of 5 draws, for every choice of parts
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread each; numpy reads it when it is imported

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench import domains, motion
from bench.harness import Figures, in_turn, machine, parser, print_table, write_json
from bench.networks import SPECS, make_bundle
from bench.people_table import SHOTS, WAYS, Result, measure_people, plot_people, progress, train_on_people
from bench.torch_rival import signature_step

from isoform.runtime.bundle import Bundle
from isoform.runtime.learn.fit import Fit
from isoform.runtime.learn.layout import BATCH
from isoform.runtime.learn.learner import Learner, Point
from isoform.runtime.learn.personalize import PARTS

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    figures: dict[str, object] = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-personalize-") as folder:
        {"step": step, "people": people, "domains": of_domains}[arguments.what](arguments, figures, Path(folder))
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("what", nargs="?", choices=("step", "people", "domains"), default="step")
    arguments.add_argument("--plot", type=Path, help="people: where to draw the figures, such as people.svg")
    arguments.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="people: the folder with motion-sense in it"
    )
    arguments.add_argument(
        "--bundle", type=Path, default=Path("quickstart/bundle"), help="domains: the quickstart's bundle"
    )
    return arguments.parse_args()


def step(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Time of a step, and memory of a process that takes 50."""
    bundle = make_bundle(SPECS["small"], folder / "small")
    figures.update(step_times(bundle, seconds=10 if arguments.quick else 40))
    for what, prefix in (("isoform", ""), ("torch", "torch_")):
        found = child(what, bundle, 50)
        figures[f"{prefix}peak_rss_mb"], figures[f"{prefix}fifty_steps_seconds"] = (
            found["peak_rss_mb"],
            found["seconds"],
        )
    title = f"a step of 16 samples, one thread, {figures['machine']}, ONNX Runtime {figures['onnxruntime']}, {figures['date']}"
    rows = [[key, f"{value:.4g}"] for key, value in figures.items() if isinstance(value, float)]
    print_table(title, ["figure", "small"], rows)


def step_times(bundle: Bundle, *, seconds: float) -> Figures:
    """Milliseconds of a step, ours and torch's, and of ours in its parts."""
    rng, base = np.random.default_rng(0), bundle.base("base")
    x = rng.uniform(0, 1, (BATCH, *bundle.spec.input_shape)).astype(np.float32)
    labels = rng.integers(0, 10, BATCH)
    learner, point = Learner(bundle, bundle.require_compiled().training(), threads=1), Point(bundle.resolve(base))
    moving = tuple(name for names in PARTS.values() for name in names)
    fit = Fit(learner, point, x, labels, moving=moving, seed=0)
    runs = {
        "step": fit.step, "torch_eager": signature_step(bundle, base, x, labels), "forward": lambda: learner.logits(point, x),
    }  # fmt: skip
    found = in_turn(runs, seconds=seconds, burst=6)
    return {
        **{f"{name}_ms": 1e3 * value for name, value in found.items()},
        "step_over_torch_eager": found["step"] / found["torch_eager"], "step_over_forward": found["step"] / found["forward"],
    }  # fmt: skip


def child(what: str, bundle: Bundle, steps: int) -> dict[str, float]:
    """A process of its own."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "bench" / "learning_child.py"),
        what,
        str(bundle.path),
        str(steps),
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def people(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out people."""
    started, results = time.perf_counter(), list[Result]()
    recordings = motion.read_recordings(arguments.data)
    ways = dict.fromkeys(WAYS, SHOTS)
    if arguments.quick:
        ways = {"mixture + BN + head": SHOTS, "mixture": (5,), "head": (5,)}
    for third in range(1 if arguments.quick else 3):
        bundle = train_on_people(recordings, third, folder / str(third), steps=200 if arguments.quick else 1600)
        progress(f"trained without third {third}", started)
        results += measure_people(recordings, bundle, third, ways=ways, steps=20 if arguments.quick else 100)
        progress(f"personalized third {third}", started)
    figures.update(_summary(results))
    figures["results"] = results
    title = f"MotionSense, held-out people: mean accuracy in %, {figures['machine']}, {figures['date']}"
    print_table(title, ["what moves", "bytes", *(f"{shots} per activity" for shots in SHOTS)], _rows(results))
    chosen = [r for r in results if r[0] == "mixture + BN + head"]
    persons = sorted({r[2] for r in chosen})
    found = {(r[1], r[2]): r for r in chosen}
    print_table(
        "each person: mixture + BN + head", ["person", "base", *(f"{shots} per activity" for shots in SHOTS)],
        [[str(p), f"{found[1, p][3]:.1f}", *(f"{found[s, p][4]:.1f}" for s in SHOTS)] for p in persons],
    )  # fmt: skip
    if arguments.plot:
        plot_people(results, arguments.plot)


def _summary(results: list[Result]) -> dict[str, object]:
    """The figures that the project is held to."""
    gains = {way: {s: [r[4] - r[3] for r in results if r[:2] == (way, s)] for s in SHOTS} for way in WAYS}
    default = gains["mixture + BN + head"]
    sizes = {way: max((r[5] for r in results if r[0] == way), default=0) for way in WAYS}
    return {
        "people": len({r[2] for r in results}), "base_accuracy": float(np.mean([r[3] for r in results if r[0] == "mixture + BN + head"])),
        "mean_gain_points": {str(s): round(float(np.mean(values)), 3) for s, values in default.items()},
        "worst_person_points": round(min(min(values) for values in default.values()), 3),
        "mixture_gain_points": {str(s): round(float(np.mean(v)), 3) for s, v in gains["mixture"].items() if v},
        "head_gain_points": {str(s): round(float(np.mean(v)), 3) for s, v in gains["head"].items() if v},
        "signature_bytes": {way: size for way, size in sizes.items() if size},
    }  # fmt: skip


def _rows(results: list[Result]) -> list[list[str]]:
    rows = []
    base = float(np.mean([r[3] for r in results if r[0] == "mixture + BN + head"]))
    rows.append(["base signature", "", *[f"{base:.1f}"] * len(SHOTS)])
    for way in WAYS:
        cells = [[r[4] for r in results if r[:2] == (way, shots)] for shots in SHOTS]
        if any(cells):
            size = max(r[5] for r in results if r[0] == way)
            rows.append([way, f"{size:,}", *(f"{np.mean(cell):.1f}" if cell else "" for cell in cells)])
    return rows


def of_domains(arguments: argparse.Namespace, figures: dict[str, object], _: Path) -> None:
    """Digits in new domains, by the parts that move."""
    draws = 2 if arguments.quick else 5
    table = domains.measure(
        arguments.bundle, draws=draws, ways=domains.WAYS if not arguments.quick else ("mixture + BN + head",)
    )
    figures["accuracy"] = table
    title = f"digits, new domains, 10 samples per class, mean of {draws} draws: accuracy in %, {figures['machine']}, {figures['date']}"
    columns = list(next(iter(table.values())))
    print_table(
        title, ["what moves", *columns], [[way, *(f"{row[c]:.1f}" for c in columns)] for way, row in table.items()]
    )


if __name__ == "__main__":
    main()
