"""Arguments, timing in turn, tables and JSON, the same for every benchmark."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from isoform.runtime.engines.onnx.session import ort

Figures = dict[str, float]
"""Name → number."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--quick", action="store_true", help="fewer repeats: under a minute")
    result.add_argument("--json", type=Path, help="where to write the figures")
    return result


def in_turn(
    runs: Mapping[str, Callable[[], object]], *, seconds: float, burst: int | Mapping[str, int] = 5
) -> dict[str, float]:
    """Median seconds of each, timed in turn in short bursts, so that noise is noise to all.

    Args:
        runs: What to time.
        seconds: How long all of them may take together, about.
        burst: How often one runs before the next has its turn, for all or for each; the first of a burst, which finds the
            others' data in the processor's caches, is not counted.
    """
    for run in runs.values():
        for _ in range(2):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end, turns = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or turns < 2:
        turns += 1
        for name, run in runs.items():
            for number in range(burst if isinstance(burst, int) else burst[name]):
                start = time.perf_counter()
                run()
                if number:
                    times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def machine() -> dict[str, object]:
    """What the figures were measured on, and when."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return {
        "machine": name, "cores": os.cpu_count(), "python": platform.python_version(), "onnxruntime": ort.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write the figures, if somebody wants them."""
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 110).print(table)
