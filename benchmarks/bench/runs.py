"""Many independent runs in a few processes, each kept in a file when it is done, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.processes import pool

__all__ = ["Job", "kept", "run_all"]

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
