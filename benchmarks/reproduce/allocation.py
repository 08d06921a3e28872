"""The tables of Gumbel-Matrix (Maziarz et al., 2019), run again by the kind ``allocation``, beside the paper's figures.

    python benchmarks/reproduce/allocation.py synthetic [--quick] [--json PATH] [--runs DIR] [--processes N]
    python benchmarks/reproduce/allocation.py mnist4 [--quick] [--json PATH] [--runs DIR] [--seeds N] [--steps N]
    python benchmarks/reproduce/allocation.py clusters [--quick] [--json PATH] [--runs DIR] [--steps N] [--plot FOLDER]
    python benchmarks/reproduce/allocation.py omniglot [--quick] [--json PATH] [--runs DIR] [--steps N] [--pixels N] [--channels N] [--rate R]

synthetic  figures 7 and 1: two pairs of tasks whose members are equal, 20 runs: which components they find, and the loss beside that
           without sharing; two tasks, unrelated or equal, that share all components or none
mnist4     table I: two copies of MNIST, two of MNIST turned by 90°, 10 seeds, 10 epochs each: accuracy and share of components in use,
           beside no sharing and two shared bottoms; the network with a budget compiled: latency of the pruned graph over the whole one

clusters   figures 5 and 6: 40 tasks of three families: which have the same code, and how similar codes are within and between families
omniglot   table II: 20 alphabets, single tasks, two shared bottoms and Gumbel-Matrix, 2 seeds; the paper has 105 pixels and 8,000 steps,
           here --pixels, --channels, --rate and --steps. Then 8 alphabets that are new, each learned on the device from 10 drawings per character:
           a searched mask and a logits layer beside a logits layer on the best task's mask

Every run is kept in ``--runs`` when it is done: an interrupted benchmark goes on where it was. Without it, a temporary folder.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread per run; torch reads it when it is imported

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

from bench.allocation import clusters, mnist4, omniglot, synthetic
from bench.allocation.alphabets import NEW, TWENTY
from bench.harness import print_table
from bench.runs import Figures, run_all, run_name, run_table, spread, table_parser

from isoform.runtime.cli import main as isoform


def main() -> None:
    """Run, print, write."""
    run_table(
        _arguments(), {"synthetic": of_synthetic, "mnist4": of_mnist4, "clusters": of_clusters, "omniglot": of_omniglot}
    )


def of_synthetic(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run figures 7 and 1."""
    steps = 1000 if arguments.quick else 3000
    seeds = range(arguments.seeds or (1 if arguments.quick else 20))
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
        ("two pairs, Gumbel-Matrix", spread(learned), f"{sum(right)} of {len(right)} found the pairs"),
        ("two pairs, no sharing", spread(separate), ""),
    ]
    for relation in relations:
        for routing, name in (("shared", "shared bottom"), ("separate", "no sharing")):
            values = losses(f"transfer-{relation:g}-{routing}")
            figures[f"transfer.{relation:g}.{routing}"] = float(values.mean())
            rows.append((f"two tasks, ρ = {relation:g}, {name}", spread(values), ""))
    print_table(
        f"loss of the last {synthetic.LAST} of {steps} steps", ("tasks and sharing", "mean ± deviation", ""), rows
    )


def of_mnist4(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table I, and compile the network with a budget."""
    steps, tests = arguments.steps or (250 if arguments.quick else 37_500), 1000 if arguments.quick else 0
    seeds = range(arguments.seeds or (1 if arguments.quick else 10))
    rows = [name for name in mnist4.ROWS if not arguments.quick or name != "no sharing"]
    data, budget = str(arguments.data), "Gumbel-Matrix, budget 0.75"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"bundle-{steps}"

    def job(name: str, seed: int) -> tuple[Callable[..., dict[str, object]], tuple[object, ...]]:
        kept = str(bundle) if (name, seed) == (budget, 0) else ""
        return mnist4.trained, (name, seed, steps, data, tests, kept)

    # seed by seed, so that an interrupted benchmark has whole ones
    jobs = {run_name(name, steps, seed): job(name, seed) for seed in seeds for name in rows}
    found = run_all(jobs, folder, processes=arguments.processes)
    lines = []
    for name in rows:
        results = [found[run_name(name, steps, seed)] for seed in seeds]
        accuracy = np.array([result["accuracy"] for result in results])
        active = 100 * float(np.mean([result["active_share"] for result in results]))
        pairs = float(np.mean([result["pairs"] for result in results]))
        figures[name] = {"accuracy": accuracy.tolist(), "active_percent": active, "pairs_share": pairs}
        lines.append(
            (
                name,
                spread(accuracy, 2),
                f"{active:.0f}",
                f"{100 * pairs:.0f} %" if "Gumbel" in name else "",
                PAPER[name],
            )
        )
    measured = mnist4.compiled(str(bundle), steps, data, tests, budget, 0)
    with_budget = [found[run_name(budget, steps, seed)] for seed in seeds]
    figures |= {
        "accuracy": float(np.mean([found[run_name("Gumbel-Matrix", steps, seed)]["accuracy"] for seed in seeds])),
        "shared_bottom_accuracy": float(np.mean([found[run_name("shared bottom, averaged", steps, seed)]["accuracy"] for seed in seeds])),
        "budget_accuracy": float(np.mean([result["accuracy"] for result in with_budget])),
        "active_share": float(np.mean([result["active_share"] for result in with_budget])),
        **measured, "steps": steps, "seeds": len(seeds),
    }  # fmt: skip
    title = f"4-MNISTs, {steps:,} steps, {len(seeds)} seeds: test accuracy in %, components in use in %, runs that found the pairs"
    print_table(title, ("method", "accuracy", "in use", "pairs", "the paper's"), lines)
    print_table(
        "the network with a budget, compiled", ("figure", "value"), [(name, f"{value:.3g}") for name, value in measured.items()]
    )  # fmt: skip


def of_clusters(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run figures 5 and 6."""
    steps, seeds = arguments.steps or (40 if arguments.quick else 3000), range(arguments.seeds or 1)
    folder.mkdir(parents=True, exist_ok=True)
    bundles = {seed: folder / f"bundle-{steps}-{seed}" for seed in seeds}
    jobs = {
        f"clusters-{steps}-{seed}": (
            clusters.clustered,
            (seed, steps, str(arguments.data), str(bundles[seed]), arguments.quick),
        )
        for seed in seeds
    }
    found = [*run_all(jobs, folder, processes=arguments.processes).values()]
    rows = []
    for family in clusters.FAMILIES:
        codes = ", ".join(f"{run['codes'][family]} of {run['tasks'][family]}" for run in found)
        means = [
            float(np.mean([run[name][family] for run in found])) for name in ("commonest", "similarity", "accuracy")
        ]
        figures[family] = {
            "codes": [run["codes"][family] for run in found],
            "similarity": means[1],
            "accuracy": means[2],
        }
        rows.append((family, codes, f"{100 * means[0]:.0f} %", f"{means[1]:.3f}", f"{100 * means[2]:.1f}"))
    for name in ("within", "between", "active_share"):
        figures[name] = float(np.mean([run[name] for run in found]))
    figures["within_minus_between"] = float(np.mean([run["within"] - run["between"] for run in found]))
    print_table(
        f"tasks by family, {steps:,} steps; similarity within families {figures['within']:.3f}, between {figures['between']:.3f}; "
        f"{100 * float(np.mean([run['active_share'] for run in found])):.0f} % in use",
        ("family", "different codes", "with the commonest", "similarity", "accuracy"), rows,
    )  # fmt: skip
    if arguments.plot:
        for view in ("tasks", "similarity", "history"):
            isoform(["figure", str(bundles[0]), "--view", view, "-o", str(arguments.plot / f"allocation-{view}.svg")])


def of_omniglot(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table II, and new alphabets."""
    quick, data = arguments.quick, str(arguments.data)
    sizes = omniglot.Sizes(
        steps=arguments.steps or (6 if quick else 8000), pixels=arguments.pixels or (15 if quick else 105),
        channels=arguments.channels or (8 if quick else 48), rate=arguments.rate,
    )  # fmt: skip
    seeds, count = range(arguments.seeds or (1 if quick else 2)), 2 if quick else len(TWENTY)
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"bundle-{sizes}"
    jobs: dict[str, tuple[Callable[..., dict[str, object]], tuple[object, ...]]] = {}
    for seed in seeds:
        for name in omniglot.ROWS:
            kept = str(bundle) if (name, seed) == ("Gumbel-Matrix", 0) else ""
            jobs[run_name(name, sizes, seed)] = (
                omniglot.trained,
                (name, seed, sizes, count, data, kept, arguments.device),
            )
        for number in range(count):
            jobs[f"single-{sizes}-{number}-{seed}"] = (omniglot.single, (number, seed, sizes, data, arguments.device))
    found = run_all(jobs, folder, processes=arguments.processes)
    results = {
        omniglot.SINGLE: [
            {
                key: float(np.mean([found[f"single-{sizes}-{number}-{seed}"][key] for number in range(count)]))
                for key in ERRORS
            }
            for seed in seeds
        ],
        **{name: [found[run_name(name, sizes, seed)] for seed in seeds] for name in omniglot.ROWS},
    }
    rows = []
    for name, runs in results.items():
        errors = {key: np.array([run[key] for run in runs]) for key in ERRORS}
        figures[name] = {key: values.tolist() for key, values in errors.items()}
        more = f"{100 * np.mean([run['active_share'] for run in runs]):.0f}" if "active_share" in runs[0] else ""
        rows.append(
            (name, spread(errors["validation_error"], 2), spread(errors["error"], 2), more, PAPER_OMNIGLOT[name])
        )
    ours = float(np.mean(figures["Gumbel-Matrix"]["error"]))  # type: ignore[index]
    for name in ("shared bottom, added", "shared bottom, averaged"):
        theirs = float(np.mean(figures[name]["error"]))  # type: ignore[index]
        figures[f"relative_reduction_of_{name.split(', ')[1]}"] = 1 - ours / theirs
    figures["codes"] = [run["codes"] for run in results["Gumbel-Matrix"]]
    title = f"Omniglot, {count} alphabets, {sizes.pixels} pixels, {sizes.channels} channels, {sizes.steps:,} steps, {len(seeds)} seeds: error in %"
    print_table(title, ("method", "validation", "test", "in use in %", "the paper's test error"), rows)
    figures |= {**omniglot.prepared(str(bundle), sizes.pixels, count, data), **dataclasses.asdict(sizes)}
    learned = {
        f"new-{sizes}-{number}": (omniglot.new_alphabet, (number, str(bundle), sizes.pixels, data, 5 if quick else 0))
        for number in range(1 if quick else len(NEW))
    }
    new = [*run_all(learned, folder, processes=arguments.processes).values()]
    columns = ("mean_mask", "best_mask", "searched")
    means = [float(np.mean([entry[name] for entry in new])) for name in columns]
    figures |= dict(zip((f"new.{name}" for name in columns), means, strict=True))
    figures |= {"new": new, "new.searched_minus_best_mask": means[2] - means[1]}
    lines = [
        (entry["alphabet"], str(entry["classes"]), *(f"{entry[name]:.1f}" for name in columns), str(entry["changed"]), f"{entry['seconds']:.0f}")
        for entry in new
    ]  # fmt: skip
    lines.append(("mean", "", *(f"{mean:.1f}" for mean in means), "", ""))
    print_table(
        "new alphabets, 10 drawings per character, accuracy in %: a logits layer on the masks of all tasks (mean) and on the best, and a searched mask",
        ("alphabet", "classes", "all masks", "best mask", "searched", "bits", "s"), lines,
    )  # fmt: skip


ERRORS = ("validation_error", "error")
PAPER_OMNIGLOT: Mapping[str, str] = {
    "single task": "39.19 ± 0.50 (another network)",
    "shared bottom, added": "6.75 ± 0.33",
    "shared bottom, averaged": "",
    "Gumbel-Matrix": "6.48 ± 0.28",
}
"""Table II."""
PAPER: Mapping[str, str] = {
    "no sharing": "93.5 ± 5.1 (25 %)",
    "shared bottom, added": "95.7 ± 0.5 (100 %)",
    "shared bottom, averaged": "",
    "Gumbel-Matrix": "96.8 ± 0.2 (96 %)",
    "Gumbel-Matrix, budget 0.75": "96.7 ± 0.3 (75 %)",
}
"""Table I: accuracy and share of components."""


def _arguments() -> argparse.Namespace:
    made = table_parser(__doc__, ("synthetic", "mnist4", "clusters", "omniglot"))
    made.add_argument("--steps", type=int, help="batches per task, of all but the synthetic tasks")
    made.add_argument("--pixels", type=int, help="side of Omniglot's images (default: 105, the paper's)")
    made.add_argument("--channels", type=int, help="feature maps of Omniglot's network (default: 48, the paper's)")
    made.add_argument(
        "--rate", type=float, default=1e-4, help="learning rate of Omniglot's network (default: the paper's, 1e-4)"
    )
    made.add_argument("--device", default="cpu", help="where Omniglot's networks train: cpu or cuda (default: cpu)")
    made.add_argument("--plot", type=Path, help="folder for the pictures of clusters")
    return made.parse_args()


if __name__ == "__main__":
    main()
