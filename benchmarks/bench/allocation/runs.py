"""Many independent runs in a few processes, each kept in a file when it is done, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isoform.runtime.formats import files

__all__ = ["run_all"]

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
    # spawn, because torch's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=_follow, initargs=(os.getpid(),)
    ) as pool:
        waiting = {pool.submit(jobs[name][0], *jobs[name][1]): name for name in missing}
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
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: json.loads(path.read_bytes()) for name, path in found.items()}


def _follow(parent: int) -> None:
    """End this process when its parent has ended: a run of an hour must not go on after a benchmark was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
