"""The tables of MUIR (Meyerson and Miikkulainen, 2019), run again by the kind ``alignment``, beside the paper's figures.

    python benchmarks/reproduce/alignment.py synthetic [--tasks DIR] [--quick] [--json PATH] [--runs DIR] [--seeds N] [--plot FOLDER]
    python benchmarks/reproduce/alignment.py theorem [--quick] [--json PATH] [--plot FOLDER]
    python benchmarks/reproduce/alignment.py blocks [--json PATH]
    python benchmarks/reproduce/alignment.py crossmodal --data DIR [--steps N] [--quick] [--json PATH] [--runs DIR] [--seeds N] [--processes N]
           [--device cuda]
    python benchmarks/reproduce/alignment.py step --data DIR [--quick] [--json PATH]

synthetic  table 2 and figure 2: thirty linear tasks in three groups, with and without noise, 10 seeds: error beside single tasks, a random
           choice instead of the search, and the true groups; the generation in which the search found them
theorem    theorem 3.2: generations until the best alignment is found, for 30 to 3,000 locations
blocks     section 4.2: number of blocks of the four networks
crossmodal tables 3, 6 and 7: LeNet on photographs, an LSTM on a text and DeepBind on DNA, alone and together, in the same number of steps,
           2 seeds; what is shortened is in bench/alignment/domains.py
step       time of a step of LeNet and the LSTM, made of blocks, half of which are challenged, over one of their plain modules

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

from bench.alignment import blocks, synthetic, table, theorem
from bench.alignment import figures as drawing
from bench.alignment.domains import DOMAINS
from bench.harness import machine, parser, print_table, write_json
from bench.runs import run_all, spread

Figures = dict[str, object]
GENERATIONS, FINAL = 300, 100
"""Generations with the search, and after it; half of both with ``--quick``."""
GENERATION = 40
"""Steps of a generation of the cross-modal runs; the last fifth of the generations has no challengers."""
PAPER: Mapping[str, tuple[str, str]] = {
    "single task": ("1.35 ± 0.01", "1.49 ± 0.01"),
    "random": ("1.26 ± 0.04", "4.67 ± 1.48"),
    "oracle": ("0.77 ± 0.77", "0.37 ± 0.00"),
    "MUIR": ("0.00 ± 0.00", "0.38 ± 0.00"),
}
"""Table 2: mean RMSE without and with noise."""


def main() -> None:
    """Run, print, write."""
    arguments = _arguments()
    figures: Figures = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-reproduce-") as folder:
        made = (arguments.runs or Path(folder)) / (arguments.what + ("-published" if arguments.tasks else ""))
        ways = {
            "synthetic": of_synthetic, "theorem": of_theorem, "blocks": of_blocks, "crossmodal": of_crossmodal, "step": of_step,
        }  # fmt: skip
        ways[arguments.what](arguments, figures, made)
    write_json(arguments.json, figures)


def of_synthetic(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run table 2."""
    quick = arguments.quick
    seeds = range(arguments.seeds or (5 if quick else 10))
    generations, final = (GENERATIONS // 2, FINAL // 2) if quick else (GENERATIONS, FINAL)
    rows = ("MUIR",) if quick else tuple(synthetic.ROWS)
    jobs: dict[str, tuple[Callable[..., dict[str, object]], tuple[object, ...]]] = {
        f"{row.replace(' ', '-')}-{'noisy' if noisy else 'clean'}-{generations}-{seed}": (
            synthetic.learned,
            (row, seed, noisy, generations, final, str(arguments.tasks or "")),
        )
        for row in rows
        for seed in seeds
        for noisy in (False, True)
    }
    found = run_all(jobs, folder, processes=arguments.processes)
    lines = []
    for row in rows:
        runs = {
            data: [found[f"{row.replace(' ', '-')}-{data}-{generations}-{seed}"] for seed in seeds]
            for data in ("clean", "noisy")
        }
        errors = {data: np.array([run["rmse"] for run in some]) for data, some in runs.items()}
        figures[row] = {data: values.tolist() for data, values in errors.items()}
        when = [run["found"] for run in runs["clean"]]
        lines.append(
            (row, spread(errors["clean"]), PAPER[row][0], spread(errors["noisy"]), PAPER[row][1],
             ", ".join("never" if one is None else str(one) for one in when) if row == "MUIR" else "")
        )  # fmt: skip
        if row == "MUIR":
            both = [*runs["clean"], *runs["noisy"]]
            figures |= {
                "clean_rmse_mean": float(errors["clean"].mean()), "noisy_rmse_mean": float(errors["noisy"].mean()),
                "clean_below_0.01_share": float((errors["clean"] <= 0.01).mean()), "found_in_generation": when,
                "exact_alignment_share": float(np.mean([run["groups"] for run in runs["clean"]])),
                "seconds_per_run": float(np.mean([run["seconds"] for run in both])), "seeds": len(seeds),
            }  # fmt: skip
            if arguments.plot:
                drawing.convergence(runs["clean"][0]["alignments"], arguments.plot / "alignment-convergence.svg")
    print_table(
        f"mean over tasks of the test RMSE, {len(seeds)} seeds, {generations} + {final} generations; when the groups were found",
        ("method", "clean", "the paper's", "noisy", "the paper's", "found in"), lines,
    )  # fmt: skip


def of_theorem(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:  # noqa: ARG001
    """Count generations, and fit a line over log L."""
    times = 10 if arguments.quick else 50
    counts = {
        length: [theorem.generations(length, seed) for seed in range(times)] for length in theorem.LENGTHS
    }  # fmt: skip
    means = [float(np.mean(counts[length])) for length in theorem.LENGTHS]
    slope, start, distance = theorem.fitted(theorem.LENGTHS, means)
    figures |= {"slope": slope, "intercept": start, "largest_distance_percent": distance, "runs": times}
    figures["generations"] = dict(zip(map(str, theorem.LENGTHS), means, strict=True))
    print_table(
        f"generations until the best alignment, {times} runs: {slope:.2f} ln L + {start:.1f}, within {distance:.1f} %",
        ("locations", "generations", "the line"),
        [(f"{length:,}", spread(np.array(counts[length]), 1), f"{slope * np.log(length) + start:.1f}") for length in theorem.LENGTHS],
    )  # fmt: skip
    if arguments.plot:
        drawing.logarithmic(counts, slope, start, arguments.plot / "alignment-theorem.svg")


def of_blocks(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:  # noqa: ARG001
    """Count blocks."""
    counts = blocks.counts()
    figures |= counts
    print_table(
        "blocks of 16×16",
        ("network", "blocks", "the paper's"),
        [(name, f"{count:,}", f"{blocks.PAPER[name]:,}") for name, count in counts.items()],
    )


def of_crossmodal(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:
    """Run all setups, and print each domain's metric, with its change from the baseline, ours and the paper's."""
    steps = 12 if arguments.quick else arguments.steps
    generation, final = (3, 1) if arguments.quick else (GENERATION, steps // GENERATION // 5)
    seeds = range(arguments.seeds or (1 if arguments.quick else 2))
    setups = [setup for setup in table.SETUPS if not arguments.quick or "text" not in setup[2]]
    jobs = table.jobs_of(
        setups,
        seeds,
        steps=steps,
        generation=generation,
        final=final,
        data=arguments.data,
        few=arguments.quick,
        device=arguments.device,
    )
    found = run_all(jobs, folder, processes=arguments.processes)
    rows = [*table.rows_of(setups, found, seeds, steps, figures)]
    print_table(
        f"{len(seeds)} seeds, {steps:,} steps, on {', '.join(figures['devices'])}, lower is better; "
        "changes from the baseline, and the paper's, which has other pictures and dna",
        ("setup", *(f"{name}: {each.metric}" for name, each in DOMAINS.items()), "modules left", "minutes"), rows,
    )  # fmt: skip


def of_step(arguments: argparse.Namespace, figures: Figures, folder: Path) -> None:  # noqa: ARG001
    """Time steps."""
    figures |= table.step_over_plain(arguments.data, rounds=12 if arguments.quick else 60, few=arguments.quick)
    print_table(
        "a step of LeNet and the LSTM",
        ("key", "value"),
        [(key, f"{value:.3g}") for key, value in figures.items() if key.endswith(("plain", "ms"))],
    )  # type: ignore[str-format]


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("what", choices=("synthetic", "theorem", "blocks", "crossmodal", "step"))
    made.add_argument("--runs", type=Path, help="folder in which finished runs are kept")
    made.add_argument("--seeds", type=int, help="number of seeds, from 0")
    made.add_argument("--plot", type=Path, help="folder for the pictures")
    made.add_argument("--processes", type=int, default=2, help="runs at once (default: 2)")
    made.add_argument("--data", type=Path, help="folder of the data sets, for crossmodal and step")
    made.add_argument(
        "--tasks", type=Path, help="folder of the authors' tasks, for synthetic (bench/alignment/synthetic.py)"
    )
    made.add_argument("--steps", type=int, default=2000, help="of crossmodal (default: 2000)")
    made.add_argument("--device", default="cpu", help="where crossmodal trains: cpu or cuda (default: cpu)")
    arguments = made.parse_args()
    if arguments.what in ("crossmodal", "step") and arguments.data is None:
        made.error(f"{arguments.what} reads data sets; say where they are with --data DIR")
    return arguments


if __name__ == "__main__":
    main()
