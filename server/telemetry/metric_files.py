"""Metrics of a server's processes, in files that all of them can read; those of dead processes are merged into one file per kind.

prometheus_client gives every process a file per kind of metric, ``counter_<pid>.db``, and never removes those of dead processes. Here

    fold       adds a dead process's counters and histograms to ``counter_0.db`` and ``histogram_0.db``, and removes its gauges
    reading    collects all files

A file lock separates them, so that no value is read twice or missed. Only the first process folds, right after it has reaped the dead
process and before it starts another one, which could get the same pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["MetricFiles"]

log = logging.getLogger("isoform.server")

SUMS = ("counter", "histogram")
"""Kinds of metrics that can be summed."""
DEAD = 0
"""Pid in the name of the merged files; no process of the server has it."""
WAIT_SECONDS = 1.0
"""How long ``fold`` waits for readers."""


class MetricFiles:
    """The metrics folder of a server.

    Args:
        folder: The folder, ``PROMETHEUS_MULTIPROC_DIR``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def reading(self) -> Iterator[CollectorRegistry]:
        """A registry of all processes' metrics, protected from ``fold`` for as long as the ``with`` block lasts."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        with self._opened("lock") as lock:
            with self._opened("turn") as turn:
                fcntl.flock(turn, fcntl.LOCK_SH)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield registry

    def fold(self, process: int) -> None:
        """Merge a dead process's counters and histograms into the files of dead processes, and remove its own.

        If that fails, because a reader holds the lock or the disk is full, its files stay as they are.
        """
        try:
            mark_process_dead(process, str(self._folder))  # type: ignore[no-untyped-call]
            until = time.monotonic() + WAIT_SECONDS
            with self._opened("lock") as lock, self._opened("turn") as turn:
                # Holding ``turn`` keeps new readers out, or a steady stream of them could starve this lock.
                if not (_taken(turn, until) and _taken(lock, until)):
                    return
                for kind in SUMS:
                    own = self._folder / f"{kind}_{process}.db"
                    if own.exists():
                        _add(own, self._folder / f"{kind}_{DEAD}.db")
                        own.unlink()
        except (OSError, ValueError, RuntimeError, struct.error) as problem:
            log.warning("cannot merge the metrics of process %d, its files stay: %s", process, problem)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Open a lock file; closing it at the end releases the lock."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _taken(descriptor: int, until: float) -> bool:
    """Lock a file exclusively. Returns whether that succeeded before the deadline."""
    while True:  # polling, because flock has no timeout
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        else:
            return True


def _add(own: Path, together: Path) -> None:
    """Replace the second file by the sum of both, atomically."""
    found, there = dict[str, float](), [path for path in (together, own) if path.exists()]
    for path in there:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            found[key] = found.get(key, 0.0) + value
    made = together.with_suffix(".new")  # a suffix that readers ignore
    # Allocate the whole file first: a full disk is an OSError here, but a SIGBUS when mapped memory is written.
    made.write_bytes(bytes(sum(path.stat().st_size for path in there)))
    written = MmapedDict(str(made))  # type: ignore[no-untyped-call]
    for key, value in found.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    made.replace(together)
