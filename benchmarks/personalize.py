"""Personalizing on the device beside torch: a step's time, a process's memory, and what it is worth to people who were never seen.

    python benchmarks/personalize.py [--quick] [--json PATH] [--seconds X]
    python benchmarks/personalize.py people [--quick] [--json PATH] [--plot PATH] [--ways WAY ...]
    python benchmarks/personalize.py trials [--quick] [--json PATH] [--ways WAY ...]
    python benchmarks/personalize.py alphabets [--quick] [--json PATH] [--plot PATH]
    python benchmarks/personalize.py domains [--quick] [--json PATH] [--ways WAY ...] --bundle quickstart/bundle

step      random weights, small (C = 24, L = 16, 32×32, stem 4, K = 4), batch 16, one thread each: fitting mixture, BN affine and logits
          layer by numpy and ONNX Runtime, beside torch eager doing the same in its fastest form; times are medians, in turn
people    MotionSense, 24 people, each held out once: templates trained on two thirds; 1, 5, 10 and 20 windows per activity of a held-out
          person's first half of each recording to learn from, the second half to test on; beside it, all of the network in torch
alphabets Omniglot, 50 alphabets, each held out once, its characters new classes: 1, 5, 10 and 15 drawings of each by as many people to
          learn from, 5 other people's to test on; where the others start is a logits layer of the samples' class means
trials    MotionSense, both occasions: learning from a person's recordings of one, testing on those of another, as they are and with the
          phone turned; templates (K = 16, soft) trained on both occasions of the other people; all of the network in torch beside it
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
from bench.harness import Figures, in_turn, machine, parser, print_table, write_json
from bench.learning import domains
from bench.learning.held_out import (
    EVERYTHING,
    RESCALED,
    Result,
    Study,
    first_way,
    measure,
    plot,
    progress,
    train_without,
)
from bench.learning.motion import Motion, Trials
from bench.learning.omniglot import Omniglot
from bench.learning.torch_rival import signature_step
from bench.networks import SPECS, make_bundle

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.fit import Fit
from isoform.runtime.learn.learner import BATCH, Point

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    figures: dict[str, object] = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-personalize-") as folder:
        {"step": step, "people": people, "trials": trials, "alphabets": alphabets, "domains": of_domains}[
            arguments.what
        ](arguments, figures, Path(folder))
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument(
        "what", nargs="?", choices=("step", "people", "trials", "alphabets", "domains"), default="step"
    )
    arguments.add_argument(
        "--ways", nargs="+", help="people, trials, domains: only some rows of the table, such as delta"
    )
    arguments.add_argument("--plot", type=Path, help="people, alphabets: where to draw the figures, such as people.svg")
    arguments.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="the folder with motion-sense and omniglot in it",
    )
    arguments.add_argument(
        "--bundle", type=Path, default=Path("quickstart/bundle"), help="domains: the quickstart's bundle"
    )
    arguments.add_argument("--seconds", type=float, help="step: how long steps are timed (default: 40; --quick: 10)")
    return arguments.parse_args()


def step(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Time of a step, and memory of a process that takes 50."""
    bundle = make_bundle(SPECS["small"], folder / "small")
    figures.update(step_times(bundle, seconds=arguments.seconds or (10 if arguments.quick else 40)))
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
    learner, point = (
        MixtureLearner(bundle, bundle.require_compiled().training(), threads=1),
        Point(bundle.resolve(base).parts),
    )
    moving = tuple(name for part in bundle.kind.default_moves for name in bundle.kind.moves[part])
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
        str(ROOT / "benchmarks" / "bench" / "learning" / "learning_child.py"),
        what,
        str(bundle.path),
        str(steps),
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def people(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out people."""
    study = Motion(arguments.data)
    ways = dict.fromkeys(study.ways, study.shots)
    if arguments.quick:
        ways = {"mixture + BN + head": study.shots, "mixture": (5,), "head": (5,), RESCALED: (5,)}
    ways = {way: ways.get(way, study.shots) for way in _chosen(arguments, tuple(study.ways), tuple(ways))}
    few = 3 if arguments.quick else None
    results = held_out(arguments, study, folder, steps=120 if arguments.quick else 1600, users=few, ways=ways)
    figures.update(_summary(study, results))
    figures["results"] = results
    report(arguments, study, results, f"MotionSense, held-out people: mean accuracy in %, {figures['machine']}, {figures['date']}")  # fmt: skip


def trials(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out people on another occasion than that they learned from."""
    study, started = Trials(arguments.data), time.perf_counter()
    usual, shots = (("delta", EVERYTHING), (5,)) if arguments.quick else (tuple(study.ways), study.shots)
    ways = dict.fromkeys(_chosen(arguments, tuple(study.ways), usual), shots)
    occasions: dict[str, Study] = {"another occasion": study, "another occasion, turned": study.turned()}
    results: dict[str, list[Result]] = {name: [] for name in occasions}
    for third in range(1 if arguments.quick else 3):
        bundle = train_without(study, third, folder / str(third), steps=120 if arguments.quick else 1600)
        users = study.held_out(third)[: 2 if arguments.quick else None]
        for name, occasion in occasions.items():
            results[name] += measure(occasion, bundle, users, ways=ways, steps=20 if arguments.quick else 100)
            progress(f"third {third}, {name}", started)
    for name, found in results.items():
        gains = {
            (way, shots): [r[4] - r[3] for r in found if r[:2] == (way, shots)] for way in ways for shots in ways[way]
        }
        means = {way: {str(s): round(float(np.mean(gains[way, s])), 3) for s in ways[way]} for way in ways}
        figures[f"{name}.mean_gain_points"] = means
        figures[f"{name}.worst_person_points"] = {
            way: round(min(min(gains[way, s]) for s in ways[way]), 3) for way in ways
        }
        report(arguments, study, found, f"MotionSense, {name}: mean accuracy in %, {figures['machine']}, {figures['date']}")  # fmt: skip
    figures["results"] = results


def _chosen(arguments: argparse.Namespace, known: tuple[str, ...], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The rows that ``--ways`` names, else the usual ones."""
    for way in arguments.ways or ():
        if way not in known:
            raise SystemExit(f"error: --ways has {way!r}, but some of {', '.join(map(repr, known))} were expected")
    return tuple(arguments.ways or usual)


def alphabets(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out alphabets."""
    study, default = Omniglot(arguments.data), "mixture + BN + head"
    ways = {**dict.fromkeys(study.ways, (15,)), default: study.shots, "head": study.shots, EVERYTHING: (5, 15)}
    if arguments.quick:
        ways = {default: (1, 5), "head": (1, 5), EVERYTHING: (1,)}
    few = 2 if arguments.quick else None
    results = held_out(arguments, study, folder, steps=120 if arguments.quick else 1600, users=few, ways=ways)
    figures.update(_summary(study, results))
    figures["results"] = results
    report(arguments, study, results, f"Omniglot, held-out alphabets: mean accuracy in %, {figures['machine']}, {figures['date']}")  # fmt: skip


def held_out(
    arguments: argparse.Namespace, study: Study, folder: Path, *, steps: int, ways: dict[str, tuple[int, ...]],
    users: int | None = None,
) -> list[Result]:  # fmt: skip
    """Templates without each third, and that third's users personalized; quick: one third, and at most ``users`` of it."""
    started, results = time.perf_counter(), list[Result]()
    for third in range(1 if arguments.quick else 3):
        bundle = train_without(study, third, folder / str(third), steps=steps)
        progress(f"trained without third {third}", started)
        chosen = study.held_out(third)[:users]
        results += measure(study, bundle, chosen, ways=ways, steps=20 if arguments.quick else 100)
        progress(f"personalized third {third}", started)
    return results


def report(arguments: argparse.Namespace, study: Study, results: list[Result], title: str) -> None:
    """A table by ways, one by users, and the picture."""
    columns = [f"{shots} per {study.unit}" for shots in study.shots]
    print_table(title, ["what moves", "bytes", *columns], _rows(study, results))
    default = first_way(study, results)
    users = dict.fromkeys(r[2] for r in results)
    found = {(r[1], r[2]): f"{r[3]:.1f} → {r[4]:.1f}" for r in results if r[0] == default}
    rows = [[user, *(found.get((shots, user), "") for shots in study.shots)] for user in users]
    print_table(f"each one: start → {default}", ["held out", *columns], rows)
    if arguments.plot:
        plot(study, results, arguments.plot)


def _summary(study: Study, results: list[Result]) -> dict[str, object]:
    """The figures that the project is held to."""
    default = first_way(study, results)

    def gains(way: str) -> dict[int, list[float]]:
        found = {s: [r[4] - r[3] for r in results if r[:2] == (way, s)] for s in study.shots}
        return {shots: values for shots, values in found.items() if values}

    def means(way: str) -> dict[str, float]:
        return {str(shots): round(float(np.mean(values)), 3) for shots, values in gains(way).items()}

    sizes = {way: max((r[5] for r in results if r[0] == way), default=0) for way in study.ways}
    return {
        "held_out": len({r[2] for r in results}),
        "start_accuracy": {str(s): round(float(np.mean([r[3] for r in results if r[:2] == (default, s)])), 3) for s in gains(default)},
        "mean_gain_points": means(default), "worst_person_points": round(min(min(values) for values in gains(default).values()), 3),
        "mixture_gain_points": means("mixture"), "head_gain_points": means("head"), "head_at_equal_size_gain_points": means(RESCALED),
        "signature_bytes": {way: size for way, size in sizes.items() if size},
    }  # fmt: skip


def _rows(study: Study, results: list[Result]) -> list[list[str]]:
    def cell(way: str, shots: int, place: int) -> str:
        values = [float(r[place]) for r in results if r[:2] == (way, shots)]
        return f"{np.mean(values):.1f}" if values else ""

    default = first_way(study, results)
    rows = [["start", "", *(cell(default, shots, 3) for shots in study.shots)]]
    for way in study.ways:
        if any(r[0] == way for r in results):
            size = max(r[5] for r in results if r[0] == way)
            rows.append([way, f"{size:,}", *(cell(way, shots, 4) for shots in study.shots)])
    return rows


def of_domains(arguments: argparse.Namespace, figures: dict[str, object], _: Path) -> None:
    """Digits in new domains, by the parts that move."""
    draws, ways, kinds, steps = 5, tuple(domains.WAYS), domains.DOMAINS, 300
    if arguments.quick:
        draws, ways, kinds, steps = 1, ("mixture + BN + head",), kinds[::2], 60
    ways = _chosen(arguments, tuple(domains.WAYS), ways)
    table = domains.measure(arguments.bundle, draws=draws, ways=ways, kinds=kinds, steps=steps)
    figures["accuracy"] = table
    title = f"digits, new domains, 10 samples per class, mean of {draws} draw{'s' * (draws > 1)}: accuracy in %, {figures['machine']}, {figures['date']}"
    columns = list(next(iter(table.values())))
    print_table(
        title, ["what moves", *columns], [[way, *(f"{row[c]:.1f}" for c in columns)] for way, row in table.items()]
    )


if __name__ == "__main__":
    main()
