"""Many independent runs in a few processes, each kept in a file when it is done, so that an interrupted benchmark goes on where it was; and what
``benchmarks/reproduce`` says of several runs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import machine, parser, write_json
from bench.processes import pool

__all__ = ["DATA", "Figures", "Job", "Table", "kept", "run_all", "run_name", "run_table", "spread", "table_parser"]

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Where the shared data sets are."""
Figures = dict[str, object]
"""What ``--json`` writes."""
Table = Callable[[argparse.Namespace, Figures, Path], None]
"""Runs and prints a table: arguments, the figures it adds to, and the folder of its runs."""
Job = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]
"""A function of a module, and its arguments; what it returns is JSON."""


def run_all(jobs: Mapping[str, Job], folder: Path, *, processes: int) -> dict[str, dict[str, Any]]:
    """Run what is not kept yet, and return the results of all.

    Args:
        jobs: Name → what to run.
        folder: Results are kept beside it, in a file of its name that ends in ``.jsonl``: an object with ``run`` and ``result`` per line.
        processes: How many run at once.
    """
    file = folder.with_name(f"{folder.name}.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    found = kept(file)
    if file.exists() and not file.read_bytes().endswith(b"\n"):  # what is left of a line that was cut off ends here
        lines = file.read_text(encoding="utf-8")
        file.write_text(lines[: lines.rfind("\n") + 1], encoding="utf-8")
    missing = [name for name in jobs if name not in found]
    started = time.monotonic()
    with pool(processes, start="spawn") as workers:
        waiting = {workers.submit(jobs[name][0], *jobs[name][1]): name for name in missing}
        try:
            for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
                name = waiting[done]
                found[name] = done.result()
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"run": name, "result": found[name]}) + "\n")
                    lines.flush()
                    os.fsync(lines.fileno())
                print(
                    f"{time.monotonic() - started:7.1f} s  {number} of {len(missing)}  {name}",
                    file=sys.stderr,
                    flush=True,
                )
        except BaseException:
            # what has not begun would be waited for
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: found[name] for name in jobs}


def kept(file: Path) -> dict[str, dict[str, Any]]:
    """Return the results in a file by the names of their runs; none if there is no file. A last line that was cut off is left out of it."""
    if not file.exists():
        return {}
    text = file.read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return {entry["run"]: entry["result"] for entry in entries}


def table_parser(description: str | None, tables: Iterable[str]) -> argparse.ArgumentParser:
    """The arguments of a benchmark of several tables whose runs are kept."""
    made = parser(description)
    made.add_argument("what", choices=[*tables])
    made.add_argument("--runs", type=Path, help="folder in which finished runs are kept")
    made.add_argument("--seeds", type=int, help="number of seeds, from 0")
    made.add_argument("--processes", type=int, default=2, help="runs at once (default: 2)")
    made.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    return made


def run_table(arguments: argparse.Namespace, tables: Mapping[str, Table]) -> None:
    """Run and print the table that ``what`` names, in the folder of its name, and write its figures."""
    figures: Figures = {**machine(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory(prefix="isoform-reproduce-") as folder:
        tables[arguments.what](arguments, figures, (arguments.runs or Path(folder)) / arguments.what)
    write_json(arguments.json, figures)


def run_name(row: str, *rest: object) -> str:
    """Return a run's name, which is also one for files: a row of a table and what else it depends on, such as steps and seed."""
    plain = row.replace(" ", "-").translate(str.maketrans("", "", ",';"))
    return "-".join([plain, *map(str, rest)])


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Return the mean and the deviation over runs."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) if len(values) > 1 else 0:.{digits}f}"
