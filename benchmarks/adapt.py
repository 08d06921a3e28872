"""Adapting to unlabelled samples, in every setting: beside no adaptation, and beside Tent in torch on the same network.

    python benchmarks/adapt.py [--quick] [--json PATH] [--plot PATH]

Networks trained on clean MNIST and (not with --quick) a subset of CIFAR-100, C = 24, L = 8, K = 4; test samples corrupted as MNIST-C's
are (bench/adapting/corruptions.py), USPS and MNIST-M. One thread each; two streams at a time for accuracy, one for cost.

recovered_error_share    of the error that a shift adds, i.i.d. batches of 128, how much auto takes away; mean over the corruptions
auto_minus_tent_points   accuracy of auto less torch Tent's at its authors' rate; …_best_…: at the best of three rates
worst_setting_points     auto less no adaptation, mean over corruptions, in the setting where that is smallest; worst_stream: one stream
long_stream_drop_points  the best 1,000 samples in a row of 20,000 less the last 1,000, the worst of a few corruptions; the samples
                         are the same 1,000 every time; fresh_stream_drop_points: corrupted anew, which is chance too
first_16_points          auto after 16 samples, tested on others, less no adaptation: clean samples, and the mean over the corruptions
blank_frames_points      right answers of the 100 samples after 64 frames without content, one at a time, less the base's; the worst kind of frame
cost_over_forward        time of adapter(x) over rt.predict(x), batches of 128
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
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from bench.adapting.adapt_plot import plot
from bench.adapting.corruptions import CORRUPTIONS
from bench.adapting.shifted import NATURAL, Shifted, cifar_100, mnist
from bench.adapting.streams import BLANK, RATES, Result, Task, measure
from bench.adapting.tent_rival import TorchTent
from bench.harness import in_turn, machine, parser, print_table, write_json
from bench.learning.held_out import progress

from isoform.runtime import Runtime
from isoform.runtime.adapt.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent
TENTS = tuple(f"torch tent {rate:g}" for rate in RATES)
WAYS = ("none", *METHODS, "tent mixture", "tent bn+mixture", *TENTS)
SETTINGS = ("iid 1", "iid 16", "iid 128", "iid 512", "sorted 1", "sorted 16", "sorted 128")
QUICK = ("iid 128", "sorted 128")
TOGETHER = ("continual 16", "continual 128", "mixed 16", "mixed 128")
ENDLESS = ("long 128", "fresh 128")
COVERED, FIRST = "blank 1", "first 16"
LONG = ("impulse noise", "contrast", "canny edges", "rotate")
FEW = ("impulse noise", "glass blur", "motion blur", "scale", "brightness", "contrast", "dotted line", "canny edges")


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    figures: dict[str, object] = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-adapt-") as folder:
        worlds = _worlds(arguments, Path(folder))
        started, tasks = time.perf_counter(), _tasks(worlds, quick=arguments.quick)
        results = []
        for number, result in enumerate(measure(worlds, tasks), start=1):
            results.append(result)
            if number % max(1, len(tasks) // 20) == 0:
                progress(f"{number} of {len(tasks)} streams", started)
        figures |= _summary(results)
        figures["results"] = [[*_key(r.task), round(r.accuracy, 3), r.events] for r in results]
        write_json(arguments.json, figures)  # half an hour's streams are not lost if what follows fails
        for name, (world, path) in worlds.items():
            figures[f"{name}.cost_over_forward"] = _costs(world, path, seconds=1 if arguments.quick else 40)
            figures |= {
                f"{name}.peak_rss_mb, {what}": _peak(what, world, path) for what in ("none", "auto", "torch tent")
            }
    _print(results, figures)
    if arguments.plot:
        plot(results, arguments.plot)
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--plot", type=Path, help="where to draw the long streams, such as adapt.svg")
    arguments.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder with mnist, usps, mnist-m and cifar-100 in it"
    )  # fmt: skip
    arguments.add_argument("--only", help="mnist or cifar-100 alone")
    return arguments.parse_args()


def _worlds(arguments: argparse.Namespace, folder: Path) -> dict[str, tuple[Shifted, Path]]:
    """Data sets, and a bundle trained on the clean half of each."""
    made, started = {}, time.perf_counter()
    recipes = {"mnist": (mnist, 1500, 64), "cifar-100": (cifar_100, 3000, 128)}
    if arguments.quick:
        recipes = {"mnist": (mnist, 120, 64)}
    for name, (read, steps, batch) in recipes.items():
        if arguments.only in (None, name):
            world = read(arguments.data)
            world.bundle(folder / name, steps=steps, batch=batch)
            made[name] = world, folder / name
            progress(f"trained on {name}", started)
    return made


def _tasks(worlds: dict[str, tuple[Shifted, Path]], *, quick: bool) -> list[Task]:
    """Every stream and way."""
    tasks, few = list[Task](), ("none", "auto", TENTS[0])
    for name, (world, _) in worlds.items():
        for setting in SETTINGS:
            batch = int(setting.split()[1])
            if quick and setting not in QUICK:
                continue
            ways = few if quick else WAYS if setting in ("iid 128", "sorted 128") else (*few, "rotta", "lame")
            if quick and batch == 1:
                ways = ("none", "auto")
            count = 500 if batch == 1 else 2000
            if quick:
                count = 128 if batch == 1 else 640 if setting == "iid 128" else 384
            domains = ("clean", *FEW[::4]) if quick else ("clean", *world.domains)
            if quick and setting != "iid 128":
                domains = domains[:3]
            tasks += [Task(name, setting, domain, way, count) for domain in domains for way in ways]
        tasks += [
            Task(name, FIRST, domain, way, 384 if quick else 640)
            for domain in ("clean", *(FEW[::4] if quick else CORRUPTIONS))
            for way in ("none", "auto", *(() if quick else ("coefficients",)))
        ]
        # quick has 32 samples of each domain: a batch of 128 would hold four
        for setting in TOGETHER[:1] if quick else TOGETHER:
            ways = few if quick else (*few, "ema", "tent", "eata", "roid", "rotta")
            tasks += [Task(name, setting, "all", way, 32 if quick else 512) for way in ways]
        tasks += [Task(name, COVERED, kind, way, 100) for kind in BLANK for way in ("none", "auto")]
        for domain in LONG[:1] if quick else LONG:
            tasks += [Task(name, ENDLESS[0], domain, way, 1500 if quick else 20_000) for way in few]
        tasks += [] if quick else [Task(name, ENDLESS[1], LONG[0], way, 20_000) for way in few]
    return tasks


def _key(task: Task) -> tuple[str, str, str, str]:
    return task.data, task.setting, task.domain, task.way


def _summary(results: list[Result]) -> dict[str, object]:
    """The figures that the project is held to, by data set."""
    found: dict[str, object] = {}
    for data in dict.fromkeys(r.task.data for r in results):
        mine = {_key(r.task)[1:]: r.accuracy for r in results if r.task.data == data}
        covered = [mine.pop((COVERED, kind, "auto")) - mine.pop((COVERED, kind, "none")) for kind in BLANK]
        found[f"{data}.blank_frames_points"] = min(covered)
        some = {key[1:]: mine.pop(key) for key in list(mine) if key[0] == FIRST}
        few = {domain: some[domain, "auto"] - some[domain, "none"] for domain, way in some if way == "auto"}
        found[f"{data}.first_16_points, clean"] = few.pop("clean")
        found[f"{data}.first_16_points, corrupted"] = float(np.mean(list(few.values())))
        corrupted = [d for d in CORRUPTIONS if ("iid 128", d, "auto") in mine]

        def mean(
            setting: str, way: str, domains: Iterable[str], mine: dict[tuple[str, str, str], float] = mine
        ) -> float:
            return float(np.mean([mine[setting, domain, way] for domain in domains]))

        none, auto = (mean("iid 128", way, corrupted) for way in ("none", "auto"))
        tents = [mean("iid 128", way, corrupted) for way in TENTS if ("iid 128", corrupted[0], way) in mine]
        found[f"{data}.recovered_error_share"] = (auto - none) / (mine["iid 128", "clean", "none"] - none)
        found[f"{data}.auto_minus_tent_points"] = auto - tents[0]
        found[f"{data}.auto_minus_best_tent_points"] = auto - max(tents)
        gains = {}
        for setting in dict.fromkeys(key[0] for key in mine):
            domains = [d for s, d, way in mine if s == setting and way == "auto" and (d in corrupted or d == "all")]
            gains[setting] = mean(setting, "auto", domains) - mean(setting, "none", domains)
        gains["clean"] = min(mine[key] - mine[key[0], "clean", "none"] for key in mine if key[1:] == ("clean", "auto"))
        found[f"{data}.gain_points"] = {setting: round(gain, 3) for setting, gain in gains.items()}
        found[f"{data}.worst_setting_points"] = min(gains.values())
        streams = {key: mine[key] - mine[(*key[:2], "none")] for key in mine if key[2] == "auto"}
        worst = min(streams, key=lambda key: streams[key])
        found[f"{data}.worst_stream_points"] = streams[worst]
        found[f"{data}.worst_stream"] = f"{worst[0]}, {worst[1]}"
        ends = [
            (r.task.setting, r.task.way, _drop(r.right))
            for r in results
            if r.task.data == data and r.task.setting in ENDLESS
        ]
        found[f"{data}.long_stream_drop_points"] = max(
            drop for setting, way, drop in ends if (setting, way) == (ENDLESS[0], "auto")
        )
        found |= {
            f"{data}.fresh_stream_drop_points, {way}": drop for setting, way, drop in ends if setting == ENDLESS[1]
        }
    return found


def _drop(right: tuple[bool, ...]) -> float:
    """Points between the best 1,000 and the last 1,000."""
    windows = np.array(right, dtype=float).reshape(-1, 1000).mean(axis=1)
    return 100 * float(windows.max() - windows[-1])


def _costs(world: Shifted, path: Path, *, seconds: float) -> dict[str, float]:
    """Time of a batch of 128, over a forward pass."""
    x, name = world.stream("impulse noise", 2048)[0].reshape(16, 128, *world.shape), world.name
    runs, turn = {}, iter(range(1 << 60))
    with Runtime.open(path) as runtime:
        base = runtime.signature(name)
        tent = TorchTent(runtime.bundle, name)
        runs["forward"] = lambda: runtime.predict(x[next(turn) % 16], base)
        runs["torch forward"] = lambda: tent.forward(x[next(turn) % 16])
        runs["torch tent"] = lambda: tent(x[next(turn) % 16])
        adapters = {method: runtime.adapter(base, method=method, keep=1) for method in METHODS}
        for method, adapter in adapters.items():
            runs[method] = lambda adapter=adapter: adapter(x[next(turn) % 16])  # type: ignore[misc]
        found = in_turn(runs, seconds=seconds, burst=3)
    over = {method: found[method] / found["forward"] for method in METHODS}
    return {
        **{method: round(value, 3) for method, value in over.items()},
        "torch tent over torch's forward": round(found["torch tent"] / found["torch forward"], 3),
        "auto over torch tent": round(found["auto"] / found["torch tent"], 3), "forward_ms": 1e3 * found["forward"],
    }  # fmt: skip


def _peak(what: str, world: Shifted, path: Path) -> float:
    """Megabytes of a process that meets 20 batches of 128."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "bench" / "adapting" / "adapt_child.py"),
        what,
        str(path),
        world.name,
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found["peak_rss_mb"]


def _print(results: list[Result], figures: dict[str, object]) -> None:
    """Tables: ways by setting, auto by domain, and the figures."""
    for data in dict.fromkeys(r.task.data for r in results):
        mine = [r for r in results if r.task.data == data]
        settings = list(dict.fromkeys(r.task.setting for r in mine))
        rows = []
        for way in (way for way in WAYS if any(r.task.way == way for r in mine)):
            rows.append([way])
            for setting in settings:
                values = [
                    r.accuracy
                    for r in mine
                    if r.task.way == way and r.task.setting == setting and r.task.domain not in ("clean", *NATURAL)
                ]
                rows[-1].append(f"{np.mean(values):.1f}" if values else "")
        title = f"{data}: mean accuracy over corruptions in %, {figures['machine']}, {figures['date']}"
        print_table(title, ["way", *settings], rows)
        found = {(r.task.setting, r.task.domain, r.task.way): f"{r.accuracy:.1f}" for r in mine}
        domains = list(dict.fromkeys(r.task.domain for r in mine if r.task.setting == "iid 128"))
        pairs = [
            ("iid 128", "none"),
            *(("iid 128", tent) for tent in TENTS),
            *((s, "auto") for s in settings if " " in s and s in SETTINGS),
        ]
        columns = [f"{way}, {setting}" for setting, way in pairs]
        print_table(
            f"{data}: by domain",
            ["domain", *columns],
            [[d, *(found.get((s, d, w), "") for s, w in pairs)] for d in domains],
        )
    for data in dict.fromkeys(r.task.data for r in results):
        costs = figures[f"{data}.cost_over_forward"]
        assert isinstance(costs, dict)
        print_table(
            f"{data}: time of a batch of 128",
            ["what", "ratio"],
            [[key, f"{value:.2f}"] for key, value in costs.items()],
        )
    rows = [[key, f"{value:.3f}"] for key, value in figures.items() if isinstance(value, float)]
    print_table("figures", ["figure", "value"], rows)


if __name__ == "__main__":
    main()
