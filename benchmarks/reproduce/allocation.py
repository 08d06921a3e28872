"""The tables of Gumbel-Matrix (Maziarz et al., 2019), run again by the kind ``allocation``, beside the paper's figures.

    python benchmarks/reproduce/allocation.py synthetic [--quick] [--json PATH] [--runs DIR] [--processes N]
    python benchmarks/reproduce/allocation.py mnist4 [--quick] [--json PATH] [--runs DIR] [--seeds N]

synthetic  figures 7 and 1: two pairs of tasks whose members are equal, 20 runs: which components they find, and the loss beside that
           without sharing; two tasks, unrelated or equal, that share all components or none
mnist4     table I: two copies of MNIST, two of MNIST turned by 90°, 10 seeds, 10 epochs each: accuracy and share of components in use,
           beside no sharing and two shared bottoms; the network with a budget compiled: latency of the pruned graph over the whole one

Every run is kept in ``--runs`` when it is done: an interrupted benchmark goes on where it was. Without it, a temporary folder.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread per run; torch reads it when it is imported

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

from bench.allocation import mnist4, synthetic
from bench.allocation.runs import run_all
from bench.harness import machine, parser, print_table, write_json

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Figures = dict[str, object]


def main() -> None:
    """Run, print, write."""
    arguments = _arguments()
    figures: Figures = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-reproduce-") as folder:
        made = arguments.runs or Path(folder)
        {"synthetic": of_synthetic, "mnist4": of_mnist4}[arguments.what](arguments, figures, made / arguments.what)
    write_json(arguments.json, figures)


def of_synthetic(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run figures 7 and 1."""
    steps = 1200 if arguments.quick else 3000
    seeds = range(arguments.seeds or (2 if arguments.quick else 20))
    jobs: dict[str, tuple[Callable[..., dict[str, object]], tuple[object, ...]]] = {
        f"pairs-{routing}-{steps}-{seed}": (synthetic.pairs, (seed, steps, routing))
        for seed in seeds
        for routing in ("learned", "separate")
    }
    relations = (0.0, 1.0)
    jobs |= {
        f"transfer-{relation:g}-{routing}-{steps}-{seed}": (synthetic.transfer, (seed, steps, routing, relation))
        for seed in seeds
        for relation in relations
        for routing in ("shared", "separate")
    }
    found = run_all(jobs, folder, processes=arguments.processes)

    def losses(name: str) -> np.ndarray:
        return np.array([np.mean(found[f"{name}-{steps}-{seed}"]["loss"]) for seed in seeds])

    learned, separate = losses("pairs-learned"), losses("pairs-separate")
    right = [found[f"pairs-learned-{steps}-{seed}"]["right"] for seed in seeds]
    figures |= {
        "right_pairs_share": float(np.mean(right)), "loss": float(learned.mean()), "loss_no_sharing": float(separate.mean()),
        "loss_over_no_sharing": float(learned.mean() / separate.mean()), "runs_below_no_sharing": float(np.mean(learned < separate)),
        "runs": len(seeds), "steps": steps,
    }  # fmt: skip
    rows = [
        ("two pairs, Gumbel-Matrix", _spread(learned), f"{sum(right)} of {len(right)} found the pairs"),
        ("two pairs, no sharing", _spread(separate), ""),
    ]
    for relation in relations:
        for routing, name in (("shared", "shared bottom"), ("separate", "no sharing")):
            values = losses(f"transfer-{relation:g}-{routing}")
            figures[f"transfer.{relation:g}.{routing}"] = float(values.mean())
            rows.append((f"two tasks, ρ = {relation:g}, {name}", _spread(values), ""))
    print_table(
        f"loss of the last {synthetic.LAST} of {steps} steps", ("tasks and sharing", "mean ± deviation", ""), rows
    )


def of_mnist4(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table I, and compile the network with a budget."""
    steps = arguments.steps or (400 if arguments.quick else 37_500)
    seeds = range(arguments.seeds or (1 if arguments.quick else 10))
    rows = [name for name in mnist4.ROWS if not arguments.quick or name != "no sharing"]
    data, budget = str(arguments.data), "Gumbel-Matrix, budget 0.75"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"bundle-{steps}"

    def job(name: str, seed: int) -> tuple[Callable[..., dict[str, object]], tuple[object, ...]]:
        kept = str(bundle) if (name, seed) == (budget, 0) else ""
        return mnist4.trained, (name, seed, steps, data, kept)

    # seed by seed, so that an interrupted benchmark has whole ones
    jobs = {_file(name, steps, seed): job(name, seed) for seed in seeds for name in rows}
    found = run_all(jobs, folder, processes=arguments.processes)
    lines = []
    for name in rows:
        results = [found[_file(name, steps, seed)] for seed in seeds]
        accuracy = np.array([result["accuracy"] for result in results])
        active = 100 * float(np.mean([result["active_share"] for result in results]))
        pairs = float(np.mean([result["pairs"] for result in results]))
        figures[name] = {"accuracy": accuracy.tolist(), "active_percent": active, "pairs_share": pairs}
        lines.append(
            (
                name,
                _spread(accuracy, 2),
                f"{active:.0f}",
                f"{100 * pairs:.0f} %" if "Gumbel" in name else "",
                PAPER[name],
            )
        )
    measured = mnist4.compiled(str(bundle), steps, data, budget, 0)
    with_budget = [found[_file(budget, steps, seed)] for seed in seeds]
    figures |= {
        "accuracy": float(np.mean([found[_file("Gumbel-Matrix", steps, seed)]["accuracy"] for seed in seeds])),
        "shared_bottom_accuracy": float(np.mean([found[_file("shared bottom, averaged", steps, seed)]["accuracy"] for seed in seeds])),
        "budget_accuracy": float(np.mean([result["accuracy"] for result in with_budget])),
        "active_share": float(np.mean([result["active_share"] for result in with_budget])),
        **measured, "steps": steps, "seeds": len(seeds),
    }  # fmt: skip
    title = f"4-MNISTs, {steps:,} steps, {len(seeds)} seeds: test accuracy in %, components in use in %, runs that found the pairs"
    print_table(title, ("method", "accuracy", "in use", "pairs", "the paper's"), lines)
    print_table(
        "the network with a budget, compiled", ("figure", "value"), [(name, f"{value:.3g}") for name, value in measured.items()]
    )  # fmt: skip


PAPER: Mapping[str, str] = {
    "no sharing": "93.5 ± 5.1 (25 %)",
    "shared bottom, added": "95.7 ± 0.5 (100 %)",
    "shared bottom, averaged": "",
    "Gumbel-Matrix": "96.8 ± 0.2 (96 %)",
    "Gumbel-Matrix, budget 0.75": "96.7 ± 0.3 (75 %)",
}
"""Table I: accuracy and share of components."""


def _file(name: str, steps: int, seed: int) -> str:
    return f"{name.replace(' ', '-').replace(',', '')}-{steps}-{seed}"


def _spread(values: np.ndarray, digits: int = 3) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) if len(values) > 1 else 0:.{digits}f}"


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("what", choices=("synthetic", "mnist4"))
    made.add_argument("--runs", type=Path, help="folder in which finished runs are kept")
    made.add_argument("--seeds", type=int, help="number of seeds, from 0")
    made.add_argument("--steps", type=int, help="batches per task, of mnist4")
    made.add_argument("--processes", type=int, default=2, help="runs at once (default: 2)")
    made.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    return made.parse_args()


if __name__ == "__main__":
    main()
