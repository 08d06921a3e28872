"""The tables of Compositional Models, run again by the kind ``mixture``, beside the paper's figures where it has some.

    python benchmarks/reproduce/compositional.py digits      [--quick] [--json PATH] [--runs DIR] [--seeds N] [--steps N]
    python benchmarks/reproduce/compositional.py sharing     [--quick] [--json PATH] [--runs DIR] [--seeds N] [--steps N] [--plot FOLDER]
    python benchmarks/reproduce/compositional.py transfer    [--quick] [--json PATH] [--runs DIR] [--seeds N] [--steps N]
    python benchmarks/reproduce/compositional.py photographs [--quick] [--json PATH] [--runs DIR] [--seeds N] [--epochs N]
    python benchmarks/reproduce/compositional.py depth       [--quick] [--json PATH] [--runs DIR] [--seeds N] [--epochs N]

digits       table 3: five sources of digits with labels, USPS without; 64 mixture weights beside BN statistics alone and an input adapter, 3 seeds
sharing      figure 2b: three data sets in three ways: which layers share templates, and how often shuffled names would look so
transfer     table 2: two data sets on the templates of those nine tasks: mixture weights that start from a task's, and at random, 3 seeds
photographs  Appendix C: shapes of signatures on CIFAR-100's subset, mixed and folded, beside an untied network, 2 seeds
depth        table 1's claim on the same photographs: more layers from the same 4 templates, 2 seeds

The shared data sets are needed. Every run is kept in ``--runs`` when it is done: an interrupted benchmark goes on where it was. Without it, a
temporary folder. Means are over seeds, which are 0, 1, …
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread per run; torch reads it when it is imported

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

from bench.compositional import digits, photographs, sharing, transfer
from bench.harness import print_table
from bench.runs import Figures, Job, Table, run_all, run_name, run_table, spread, table_parser

from isoform.runtime.cli import main as isoform


class Scope(NamedTuple):
    """How much of a table is run."""

    steps: int
    seeds: range
    few: int
    """Images per data set and half; 0 for all."""
    tag: str
    """End of the names of runs on a few images, so that they are not taken for whole ones."""
    told: str
    """What the title says of it."""


def scope_of(arguments: argparse.Namespace, *, steps: int, quick_steps: int, seeds: int = 3, few: int = 200) -> Scope:
    """Return what the arguments ask for, or the usual."""
    quick = arguments.quick
    count = arguments.seeds or (1 if quick else seeds)
    return Scope(
        steps=arguments.steps or (quick_steps if quick else steps), seeds=range(count), few=few if quick else 0, tag="-few" if quick else "",
        told=f"{count} seed(s), a few images only" if quick else f"{count} seed(s)",
    )  # fmt: skip


def main() -> None:
    """Run, print, write."""
    run_table(_arguments(), TABLES)


def of_digits(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table 3."""
    steps, seeds, few, tag, told = scope_of(arguments, steps=1000, quick_steps=8)
    rows = [*digits.ROWS][:3:2] if arguments.quick else [*digits.ROWS]
    jobs: dict[str, Job] = {
        run_name(row, steps, f"{seed}{tag}"): (digits.trained, (row, seed, steps, str(arguments.data), few))
        for seed in seeds
        for row in rows
    }
    found = run_all(jobs, folder, processes=arguments.processes)
    runs = {row: [found[run_name(row, steps, f"{seed}{tag}")] for seed in seeds] for row in rows}
    only = {
        "mean of sources": np.array([np.mean([*run["source_only"].values()]) for run in runs[rows[0]]]),
        "best source": np.array([max(run["source_only"].values()) for run in runs[rows[0]]]),
    }
    lines = [
        (f"source only, {name}", "0", "source's", spread(values, 1), PAPER_DIGITS["source only"])
        for name, values in only.items()
    ]
    for row, results in runs.items():
        accuracy = np.array([run["accuracy"] for run in results])
        figures[row] = {"accuracy": accuracy.tolist(), "numbers": results[0]["numbers"]}
        lines.append((row, str(results[0]["numbers"]), "own", spread(accuracy, 1), PAPER_DIGITS.get(row, "")))
    figures |= {f"source only, {name}": values.tolist() for name, values in only.items()}
    figures |= {"steps": steps, "seeds": len(seeds)}
    print_table(
        f"five sources of digits → USPS without labels, {steps:,} steps, {told}: test accuracy in %",
        ("what is trained of the target", "numbers", "BN statistics", "accuracy", "the paper's"), lines,
    )  # fmt: skip


def of_sharing(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run figure 2b."""
    steps, seeds, few, tag, told = scope_of(arguments, steps=1500, quick_steps=10)
    folder.mkdir(parents=True, exist_ok=True)
    bundles = {seed: folder / f"bundle-{steps}-{seed}{tag}" for seed in seeds}
    jobs: dict[str, Job] = {
        f"sharing-{steps}-{seed}{tag}": (sharing.shared, (seed, steps, str(arguments.data), few, str(bundles[seed])))
        for seed in seeds
    }
    found = [*run_all(jobs, folder, processes=arguments.processes).values()]
    means = [sharing.overlaps(run["names"], np.array(run["xi"])) for run in found]
    mean = {kind: np.mean([entry[kind] for entry in means], axis=0) for kind in means[0]}
    rows = [
        (str(layer + 1), *(f"{mean[kind][layer]:.2f}" for kind in ("way", "set", "neither")))
        for layer in range(len(mean["way"]))
    ]
    print_table(
        f"three data sets in three ways, {steps:,} steps, {told}: how much of a layer two tasks share, 0 to 1",
        ("layer", "same way of seeing", "same data set", "neither"), rows,
    )  # fmt: skip
    tests = [sharing.statistic(run["names"], np.array(run["xi"])) for run in found]
    print_table(
        "how much more the first half is shared by the way of seeing, and the last half by the data set", ("seed", "gap", "p of shuffled names", "accuracy"),
        [
            (str(seed), f"{test['gap']:.2f}", f"{test['p']:.4f}", f"{100 * np.mean([*run['accuracy'].values()]):.1f}")
            for seed, test, run in zip(seeds, tests, found, strict=True)
        ],
    )  # fmt: skip
    figures |= {
        **{f"shared.{kind}": values.tolist() for kind, values in mean.items()}, "gap": [test["gap"] for test in tests],
        "p": [test["p"] for test in tests], "steps": steps, "seeds": len(seeds),
    }  # fmt: skip
    if arguments.plot:
        isoform(["figure", str(bundles[0]), "-o", str(arguments.plot / "sharing.svg")])


def of_transfer(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table 2, on the bundle of the first seed of figure 2b."""
    quick, data = arguments.quick, str(arguments.data)
    steps, seeds, few, tag, told = scope_of(arguments, steps=300, quick_steps=4)
    before = 4 if quick else 1500
    base = folder.with_name("sharing") / f"bundle-{before}-0{tag}"
    base.parent.mkdir(parents=True, exist_ok=True)
    if not base.exists():  # not by ``run_all``, which may have kept the run's figures without its bundle
        sharing.shared(0, before, data, few, str(base))
    targets, starts = (transfer.TARGETS[:1], transfer.STARTS[:1]) if quick else (transfer.TARGETS, transfer.STARTS)
    jobs: dict[str, Job] = {
        run_name(f"{target}-{start}-{row}", steps, f"{seed}{tag}"): (
            transfer.transferred,
            (target, start, row, seed, steps, str(base), data, few),
        )
        for seed in seeds
        for target in targets
        for start in starts
        for row in transfer.TRAINED
    }
    found = run_all(jobs, folder, processes=arguments.processes)
    lines = []
    for target in targets:
        for row in transfer.TRAINED:
            runs = {
                start: [found[run_name(f"{target}-{start}-{row}", steps, f"{seed}{tag}")] for seed in seeds]
                for start in starts
            }
            values = {start: np.array([run["accuracy"] for run in entry]) for start, entry in runs.items()}
            numbers = next(iter(runs.values()))[0]["numbers"]
            figures[f"{target}, {row}"] = {
                "numbers": numbers,
                **{start: entry.tolist() for start, entry in values.items()},
            }
            lines.append((target, row, f"{numbers:,}", *(spread(entry, 1) for entry in values.values())))
    figures |= {"steps": steps, "seeds": len(seeds)}
    print_table(
        f"new data sets on templates that stay, {transfer.IMAGES:,} images, {steps} steps, {told}: test accuracy in %",
        ("data set", "what is trained", "numbers", *(f"from {start}" for start in starts)), lines,
    )  # fmt: skip


def of_photographs(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run the shapes of signatures."""
    _photographs(arguments, figures, folder, photographs.SHAPES, "shapes of signatures, 8 layers")


def of_depth(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run the depths."""
    _photographs(arguments, figures, folder, photographs.DEPTHS, "more layers from the same templates")


def _photographs(
    arguments: argparse.Namespace, figures: Figures, folder: Path, rows: Mapping[str, Mapping[str, Any]], title: str
) -> None:  # fmt: skip
    quick = arguments.quick
    epochs = arguments.epochs or (1 if quick else 10)
    _, seeds, few, tag, told = scope_of(arguments, steps=0, quick_steps=0, seeds=2, few=256)
    if quick:  # the first and the last
        rows = {row: rows[row] for row in (next(iter(rows)), [*rows][-1])}
    jobs: dict[str, Job] = {
        run_name(row, f"{epochs:g}", f"{seed}{tag}"): (
            photographs.trained,
            (dict(changes), seed, epochs, str(arguments.data), few),
        )
        for seed in seeds
        for row, changes in rows.items()
    }
    found = run_all(jobs, folder, processes=arguments.processes)
    lines = []
    for row in rows:
        runs = [found[run_name(row, f"{epochs:g}", f"{seed}{tag}")] for seed in seeds]
        values = {name: np.array([run[name] for run in runs]) for name in ("mixed", "folded", "mean_max_xi", "cosine")}
        figures[row] = {name: entry.tolist() for name, entry in values.items()} | {"parameters": runs[0]["parameters"]}
        lines.append(
            (
                row, f"{runs[0]['parameters']:,}", spread(values["mixed"], 1), spread(values["folded"], 1), f"{values['mean_max_xi'].mean():.2f}",
                f"{values['cosine'].mean():.2f}",
            )
        )  # fmt: skip
    figures |= {"epochs": epochs, "seeds": len(seeds)}
    print_table(
        f"CIFAR-100's subset, {title}, {epochs:g} epoch(s), {told}: test accuracy in %",
        ("signature", "parameters", "mixed", "folded", "max ξ", "cosine of templates"), lines,
    )  # fmt: skip


TABLES: Mapping[str, Table] = {
    "digits": of_digits, "sharing": of_sharing, "transfer": of_transfer, "photographs": of_photographs, "depth": of_depth,
}  # fmt: skip
PAPER_DIGITS: Mapping[str, str] = {
    "source only": "85.8", "mixture weights, adversarial": "92.2", "mixture weights, moment matching": "94.4", "input adapter, adversarial": "93.4",
    "input adapter, moment matching": "94.2",
}  # fmt: skip
"""Table 3, with SVHN in the place of MNIST-M, and 680 numbers in an input adapter."""


def _arguments() -> argparse.Namespace:
    made = table_parser(__doc__, TABLES)
    made.add_argument("--steps", type=int, help="batches per task, of digits, sharing and transfer")
    made.add_argument("--epochs", type=float, help="of photographs and depth (default: 10)")
    made.add_argument("--plot", type=Path, help="folder for the picture of sharing")
    return made.parse_args()


if __name__ == "__main__":
    main()
