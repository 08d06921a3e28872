"""Batches of images that stay on disk, decoded ahead of the steps by worker processes (torch's ``DataLoader``)."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError, InputError
from isoform.train.data.pictures import Pictures, processors

__all__ = ["Stream", "worker_count"]

Batch = Array | Tensor | str
"""Images, or why they cannot be read."""
ROOM = 32
"""Batches per worker that shared memory must have room for: a worker is up to three ahead, and other tasks and programs have theirs."""


def worker_count() -> int:
    """Return how many processes decode: half of the processors, because the others compute the steps; at most 8."""
    return max(1, min(8, processors() // 2))


class Stream:
    """The images of each step of a run, in the order of the steps.

    Args:
        pictures: The images of one task.
        rows: Step → the rows of its batch.
        steps: Number of steps of the run.
        workers: Number of processes; 0 for none, so that each batch is decoded when it is needed.

    Attributes:
        waited: Seconds that were spent on waiting for images.
    """

    def __init__(self, pictures: Pictures, rows: Callable[[int], Array], *, steps: int, workers: int) -> None:
        self._pictures, self._rows, self._steps, self._workers = pictures, rows, steps, workers
        self._ahead: _Ahead | None = None
        self._next: int | None = None
        self.waited = 0.0

    def __getitem__(self, step: int) -> Tensor:
        """Return a step's images, shape (batch, channels, height, width), float32; quickly if the step is the next one.

        Raises:
            DataError: If a file cannot be read any more.
        """
        began = time.perf_counter()
        images = self._taken(step) if self._workers else _Decoded(self._pictures)[self._rows(step)]
        self.waited += time.perf_counter() - began
        if isinstance(images, str):
            raise DataError(images)
        return images if isinstance(images, Tensor) else torch.from_numpy(images)

    def close(self) -> None:
        """End the processes and the thread, when they have done what they are at."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self._next = None

    def _taken(self, step: int) -> Batch:
        if self._ahead is None or step != self._next:
            self.close()
            self._ahead = _Ahead(self._loader(step))
        self._next = step + 1
        try:
            return self._ahead.take()
        except RuntimeError:  # a worker is gone: ended by a signal to all processes, or for its memory
            self.close()
            return _Decoded(self._pictures)[self._rows(step)]

    def _loader(self, step: int) -> DataLoader[Array | str]:
        return DataLoader(
            _Decoded(self._pictures), sampler=_Rows(self._rows, range(step, self._steps)), batch_size=None,
            num_workers=self._workers, collate_fn=_tensor if self._roomy(step) else _unchanged,
            worker_init_fn=_leave_ctrl_c,
            # a generator of its own: it draws a number that would otherwise come from the run's
            generator=torch.Generator(),
        )  # fmt: skip

    def _roomy(self, step: int) -> bool:
        """Whether there is shared memory for batches, so that they need not go through pipes; containers often have 64 MiB in all."""
        try:
            free = os.statvfs("/dev/shm")
        except (OSError, AttributeError):
            return False
        batch = 4 * len(self._rows(step)) * math.prod(self._pictures.shape[1:])
        return free.f_bavail * free.f_frsize > ROOM * batch * self._workers


class _Ahead:
    """What a loader yields, received by a thread: a batch of large images takes a fifth of a step to come through a pipe.

    The loader's processes are started in that thread too. For those of the main thread torch has a signal handler, which raises an error in
    the midst of a step when one ends.
    """

    def __init__(self, loader: DataLoader[Array | str]) -> None:
        self._batches: queue.Queue[Batch | BaseException] = queue.Queue(1)
        self._ended = threading.Event()
        # a daemon, so that a program can end while a worker decodes
        threading.Thread(target=self._receive, args=(loader,), daemon=True).start()

    def take(self) -> Batch:
        """Return the next batch. Raises what the loader raised."""
        found = self._batches.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Let the thread end after the batch that it waits for."""
        self._ended.set()

    def _receive(self, loader: DataLoader[Array | str]) -> None:
        try:
            for batch in loader:
                self._put(batch)
                if self._ended.is_set():
                    return
        except BaseException as problem:
            self._put(problem)

    def _put(self, found: Batch | BaseException) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._batches.put(found, timeout=0.1)
                return


class _Decoded(Dataset[Array | str]):
    """Rows → their images, or why they cannot be read: an exception would bring the worker's traceback with it."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def __getitem__(self, rows: Array) -> Array | str:
        try:
            return self._pictures.one_by_one(rows)
        except InputError as problem:
            return str(problem)


class _Rows(Sampler[Array]):
    """The rows of each step."""

    def __init__(self, rows: Callable[[int], Array], steps: range) -> None:
        self._rows, self._steps = rows, steps

    def __iter__(self) -> Iterator[Array]:
        return map(self._rows, self._steps)


def _leave_ctrl_c(_worker: int) -> None:
    """Leave Ctrl-C to the process that trains, which finishes its step and then ends its workers; SIGTERM ends a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unchanged(images: Any) -> Any:
    """Send arrays through the pipe."""
    return images


def _tensor(images: Any) -> Any:
    """Send arrays by shared memory, as torch does with tensors."""
    return images if isinstance(images, str) else torch.from_numpy(images)
