"""Personalizing on the device beside torch: a step's time, a process's memory, and what it is worth to people who were never seen.

    python benchmarks/personalize.py [--quick] [--json PATH] [--seconds X]
    python benchmarks/personalize.py people [--quick] [--json PATH] [--plot PATH] [--ways WAY ...]
    python benchmarks/personalize.py trials [--quick] [--json PATH] [--ways WAY ...]
    python benchmarks/personalize.py alphabets [--quick] [--json PATH] [--plot PATH]
    python benchmarks/personalize.py controls [--quick] [--json PATH] [--plot PATH]
    python benchmarks/personalize.py domains [--quick] [--json PATH] [--ways WAY ...] [--bundle quickstart/bundle]

controls  the default file of less than 1 KiB beside as many numbers spent otherwise, in torch (bench/learning/controls.py): those people, and
          digits in new domains, and every part of a signature alone; kilobyte_minus_best_control_points is the smallest difference of means

step      random weights, small (C = 24, L = 16, 32×32, stem 4, K = 4), batch 16, one thread each: fitting mixture, BN affine and logits
          layer by numpy and ONNX Runtime, beside torch eager doing the same in its fastest form; times are medians, in turn
people    MotionSense, 24 people, each held out once: 16 soft templates trained on the others; 1, 5, 10 and 20 windows per activity of a
          held-out person's first half of each recording to learn from, the second half to test on; beside it, all of the network in torch
alphabets Omniglot, 50 alphabets, each held out once, its characters new classes: 1, 5, 10 and 15 drawings of each by as many people to
          learn from, 5 other people's to test on; where the others start is a logits layer of the samples' class means
trials    the same people and templates, tested on another occasion than they learned from, as it is and with the phone turned
domains   digits in domains that the quickstart's bundle never saw, and photographs of 20 classes in photometric ones that a network trained
          on clean ones never saw: 10 samples per class, the mean of 5 draws, for every choice of parts; a mixture of soft templates beside them
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread each; numpy reads it when it is imported

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench.harness import machine, parser, print_table, write_json
from bench.learning import domains
from bench.learning.beside_controls import OTHERS, PARTS, Row, beside_domains, beside_people, means_of, sizes_of
from bench.learning.bytes_plot import plot_bytes
from bench.learning.held_out import (
    EVERYTHING,
    KILOBYTE,
    RESCALED,
    Result,
    Study,
    first_way,
    measure,
    progress,
    train_without,
)
from bench.learning.motion import Motion, Trials
from bench.learning.omniglot import Omniglot
from bench.learning.report import report, summary
from bench.learning.steps import child, step_times
from bench.networks import SPECS, make_bundle

from isoform.runtime.formats.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
FULL = "mixture + BN + head"
"""What ``personalize --full`` trains."""


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    figures: dict[str, object] = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-personalize-") as folder:
        {
            "step": step,
            "people": people,
            "trials": trials,
            "alphabets": alphabets,
            "domains": of_domains,
            "controls": controls,
        }[arguments.what](arguments, figures, Path(folder))
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument(
        "what", nargs="?", choices=("step", "people", "trials", "alphabets", "domains", "controls"), default="step"
    )
    arguments.add_argument(
        "--ways", nargs="+", help="people, trials, domains, controls: only some rows of the table, such as delta"
    )
    arguments.add_argument(
        "--plot", type=Path, help="people, alphabets, controls: where to draw the figures, such as people.svg"
    )
    arguments.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="the folder with motion-sense and omniglot in it",
    )
    arguments.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "docs" / "examples" / "bundle",
        help="domains: the quickstart's bundle (default: the one in docs/examples)",
    )
    arguments.add_argument(
        "--bundles",
        type=Path,
        help="people, trials, alphabets, domains, controls: a folder to keep trained templates in, for the next run",
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


def people(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out people."""
    study = Motion(arguments.data)
    ways = dict.fromkeys(study.ways, study.shots)
    if arguments.quick:
        ways = {KILOBYTE: study.shots, EVERYTHING: (5,), "mixture": (5,), "head": (5,), RESCALED: (5,)}
    ways = {way: ways.get(way, study.shots) for way in _chosen(arguments, tuple(study.ways), tuple(ways))}
    few = 3 if arguments.quick else None
    results = held_out(arguments, study, folder, steps=120 if arguments.quick else 1600, users=few, ways=ways)
    figures.update(summary(study, results))
    if first_way(study, results) == KILOBYTE:
        figures["kilobyte_share_of_gain"] = figures["share_of_gain"]
    figures["results"] = results
    report(study, results, f"MotionSense, held-out people: mean accuracy in %, {figures['machine']}, {figures['date']}", picture=arguments.plot)  # fmt: skip


def trials(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Held-out people on another occasion than that they learned from."""
    study, started = Trials(arguments.data), time.perf_counter()
    usual, shots = ((KILOBYTE, EVERYTHING), (5,)) if arguments.quick else (tuple(study.ways), study.shots)
    ways = dict.fromkeys(_chosen(arguments, tuple(study.ways), usual), shots)
    occasions: dict[str, Study] = {"another occasion": study, "another occasion, turned": study.turned()}
    results: dict[str, list[Result]] = {name: [] for name in occasions}
    for third in range(1 if arguments.quick else 3):
        bundle = _trained(arguments, study, third, folder, steps=120 if arguments.quick else 1600)
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
        report(study, found, f"MotionSense, {name}: mean accuracy in %, {figures['machine']}, {figures['date']}", picture=None)  # fmt: skip
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
    figures.update(summary(study, results))
    figures["results"] = results
    report(study, results, f"Omniglot, held-out alphabets: mean accuracy in %, {figures['machine']}, {figures['date']}", picture=arguments.plot)  # fmt: skip


def held_out(
    arguments: argparse.Namespace, study: Study, folder: Path, *, steps: int, ways: dict[str, tuple[int, ...]],
    users: int | None = None,
) -> list[Result]:  # fmt: skip
    """Templates without each third, and that third's users personalized; quick: one third, and at most ``users`` of it."""
    started, results = time.perf_counter(), list[Result]()
    for third in range(1 if arguments.quick else 3):
        bundle = _trained(arguments, study, third, folder, steps=steps)
        progress(f"trained without third {third}", started)
        chosen = study.held_out(third)[:users]
        results += measure(study, bundle, chosen, ways=ways, steps=20 if arguments.quick else 100)
        progress(f"personalized third {third}", started)
    return results


def _trained(arguments: argparse.Namespace, study: Study, third: int, folder: Path, *, steps: int) -> Bundle:
    """Templates without a third; from ``--bundles`` if an earlier run has left them there."""
    path = (arguments.bundles or folder) / f"{'people' if isinstance(study, Motion) else 'alphabets'}-{third}-{steps}"
    if path.is_dir():
        return Bundle.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return train_without(study, third, path, steps=steps)


def of_domains(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """Digits and photographs in new domains, by the parts that move."""
    quick = arguments.quick
    draws, steps, usual = (1, 60, (KILOBYTE, FULL)) if quick else (5, 300, tuple(domains.WAYS))
    ways = _chosen(arguments, tuple(domains.WAYS), usual)
    kinds = domains.DOMAINS[::2] if quick else domains.DOMAINS
    seen = list(domains.digits(arguments.bundle, kinds))
    tables = {"digits": _of_domains(figures, "digits", arguments.bundle, seen, ways, draws, steps)}
    if not (arguments.data / "cifar-100").is_dir():
        print(f"photographs are left out: there is no {arguments.data / 'cifar-100'}", file=sys.stderr)
    else:
        shifted, found = domains.photographs(arguments.data)
        found = found[:1] if quick else found
        for soft in (False, True):
            name, training = "photographs, soft templates" if soft else "photographs", 40 if quick else 3000
            path = (arguments.bundles or folder) / f"photographs-{'soft-' * soft}{training}"
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                shifted.bundle(path, steps=training, batch=32 if quick else 64, soft=soft)
            some = tuple(way for way in ways if way in ("mixture", KILOBYTE, FULL)) if soft else ways
            tables[name] = _of_domains(figures, name, path, found, some, draws, steps)
    if {KILOBYTE, FULL} <= set(ways):
        figures["kilobyte_share_of_full_gain"] = {
            f"{name}, {domain}": round((table[KILOBYTE][domain] - base) / (table[FULL][domain] - base), 3)
            for name, table in tables.items()
            for domain, base in table["base signature"].items()
            if table[FULL][domain] > base
        }


def _of_domains(
    figures: dict[str, object], name: str, path: Path, found: list[domains.Domain],
    ways: tuple[str, ...], draws: int, steps: int,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Measure, print and record one bundle's domains."""
    ways = ("base signature", *(way for way in ways if way != "base signature"))
    table, sizes = domains.measure(path, draws=draws, ways=ways, domains=found, steps=steps)
    figures[f"{name}.accuracy"], figures[f"{name}.signature_bytes"] = table, sizes
    columns = list(next(iter(table.values())))
    title = f"{name}, new domains, 10 samples per class, mean of {draws} draw{'s' * (draws > 1)}: accuracy in %, {figures['machine']}, {figures['date']}"
    rows = [
        [way, f"{sizes[way]:,}" * (sizes[way] > 0), *(f"{row[c]:.1f}" for c in columns)] for way, row in table.items()
    ]
    print_table(title, ["what moves", "bytes", *columns], rows)
    return table


def controls(arguments: argparse.Namespace, figures: dict[str, object], folder: Path) -> None:
    """The default file beside controls and every part alone."""
    quick, started, rows = arguments.quick, time.perf_counter(), list[Row]()
    study, other = Motion(arguments.data), Trials(arguments.data)
    ways = _chosen(arguments, tuple(PARTS), (KILOBYTE,) if quick else tuple(PARTS))
    for third in range(1 if quick else 3):
        bundle = _trained(arguments, study, third, folder, steps=400 if quick else 1600)
        users, others = study.held_out(third), study.others(third)
        users, others = users[: 1 if quick else None], others[: 0 if quick else None]
        rows += beside_people(study, other, bundle.path, users, others=others, ways=ways, shots=20 if quick else 5)
        progress(f"people, third {third}", started)
    seen = list(domains.digits(arguments.bundle, domains.DOMAINS[2:3] if quick else domains.DOMAINS))
    rows += beside_domains(arguments.bundle, seen, draws=1 if quick else 3, ways=ways)
    progress("digits", started)
    figures["results"], figures["accuracy"], figures["bytes"] = (
        rows,
        (table := means_of(rows)),
        (sizes := sizes_of(rows)),
    )
    if KILOBYTE in ways:
        best = [max(column[way] for way in OTHERS if way in column) for column in table.values()]
        gaps = [column[KILOBYTE] - most for column, most in zip(table.values(), best, strict=True)]
        figures["kilobyte_minus_best_control_points"] = round(min(gaps), 3)
    cells = [
        [way, f"{sizes[way]:,}" if way in sizes else "", *(f"{column[way]:.1f}" if way in column else "" for column in table.values())]
        for way in next(iter(table.values()))
    ]  # fmt: skip
    print_table(f"accuracy in % by bytes, {figures['machine']}, {figures['date']}", ["what moves", "bytes", *table], cells)  # fmt: skip
    if arguments.plot:
        plot_bytes(table, sizes, tuple(domains.DOMAINS), arguments.plot)


if __name__ == "__main__":
    main()
