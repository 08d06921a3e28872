"""Numbers of a server's processes, in files that all of them read; those of dead processes are folded into one per kind.

prometheus_client gives every process a file per kind of metric, ``counter_<pid>.db``, and never removes what a dead process counted. Here

    fold    adds a dead process's counters and histograms to ``counter_0.db`` and ``histogram_0.db``; its gauges go
    read    collects all files

A lock on a file of the folder keeps both apart, so that nobody reads a number twice or not at all. Only the arbiter folds, which starts and
reaps the others, and before it starts another one, which could get the dead one's number.
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
"""Kinds of metrics that add up."""
DEAD = 0
"""In place of a process's number; no process of ours has it."""
WAIT_SECONDS = 1.0
"""How long folding waits for readers."""


class MetricFiles:
    """A server's folder of numbers.

    Args:
        folder: The folder, ``PROMETHEUS_MULTIPROC_DIR``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def reading(self) -> Iterator[CollectorRegistry]:
        """Everything that was counted, as it stays while the ``with`` block lasts."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        with self._opened("lock") as lock:
            with self._opened("turn") as turn:
                fcntl.flock(turn, fcntl.LOCK_SH)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield registry

    def fold(self, process: int) -> None:
        """Add what a dead process counted to what all dead ones did, and remove its files.

        Where that fails, because a reader does not end or the disk is full, its counters stay files of their own.
        """
        try:
            mark_process_dead(process, str(self._folder))  # type: ignore[no-untyped-call]
            until = time.monotonic() + WAIT_SECONDS
            with self._opened("lock") as lock, self._opened("turn") as turn:
                # With the turn, no other reader begins, however many there are.
                if not (_taken(turn, until) and _taken(lock, until)):
                    return
                for kind in SUMS:
                    own = self._folder / f"{kind}_{process}.db"
                    if own.exists():
                        _add(own, self._folder / f"{kind}_{DEAD}.db")
                        own.unlink()
        except (OSError, ValueError, RuntimeError, struct.error) as problem:
            log.warning("the metrics of process %d stay in files of their own: %s", process, problem)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """A file to be locked, which is unlocked at the end."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _taken(descriptor: int, until: float) -> bool:
    """Lock a file for oneself, if that is possible in time."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        else:
            return True


def _add(own: Path, together: Path) -> None:
    """Write the sum of two files to the second, whole or not at all."""
    found, there = dict[str, float](), [path for path in (together, own) if path.exists()]
    for path in there:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            found[key] = found.get(key, 0.0) + value
    made = together.with_suffix(".new")  # no name that is read
    # Zeros for all of it: the disk is full here, in an error, and not in mapped memory, where that kills a process.
    made.write_bytes(bytes(sum(path.stat().st_size for path in there)))
    written = MmapedDict(str(made))  # type: ignore[no-untyped-call]
    for key, value in found.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    made.replace(together)
