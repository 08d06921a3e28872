"""Many independent runs in a few processes, each kept in a file when it is done, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import concurrent.futures
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.processes import pool
from isoform.runtime.formats import files

__all__ = ["Job", "run_all"]

Job = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]
"""A function of a module, and its arguments; what it returns is JSON."""


def run_all(jobs: Mapping[str, Job], folder: Path, *, processes: int) -> dict[str, dict[str, Any]]:
    """Run what is not in the folder yet, and return the results of all.

    Args:
        jobs: Name, which is that of its file → what to run.
        folder: Where results are kept.
        processes: How many run at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: folder / f"{name}.json" for name in jobs}
    missing = [name for name, path in found.items() if not path.exists()]
    started = time.monotonic()
    with pool(processes, start="spawn") as workers:
        waiting = {workers.submit(jobs[name][0], *jobs[name][1]): name for name in missing}
        try:
            for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
                name = waiting[done]
                files.write_bytes(found[name], json.dumps(done.result()).encode())
                print(
                    f"{time.monotonic() - started:7.1f} s  {number} of {len(missing)}  {name}",
                    file=sys.stderr,
                    flush=True,
                )
        except KeyboardInterrupt:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: json.loads(path.read_bytes()) for name, path in found.items()}
