"""Batches of images that stay on disk, decoded ahead of the steps by worker processes (torch's ``DataLoader``)."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError, InputError
from isoform.train.data.pictures import Pictures, processors

__all__ = ["Stream", "worker_count"]

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
        self._coming: Iterator[Array | Tensor | str] = iter(())
        self._next: int | None = None
        # A batch of large images takes a fifth of a step to come through the pipe: a thread receives it while the step before is computed.
        self._thread = ThreadPoolExecutor(1)
        self._received: Future[Array | Tensor | str] | None = None
        self.waited = 0.0

    def __getitem__(self, step: int) -> Tensor:
        """Return a step's images, shape (batch, channels, height, width), float32; quickly if the step is the next one.

        Raises:
            DataError: If a file cannot be read any more.
        """
        began = time.perf_counter()
        if step != self._next:
            self._drop()
            self._coming = iter(self._loader(step))
        self._next = step + 1
        try:
            images = next(self._coming) if self._received is None else self._received.result()
            again = self._workers and step + 1 < self._steps
            self._received = self._thread.submit(next, self._coming) if again else None
        except RuntimeError:  # a worker is gone: ended by a signal to all processes, or for its memory
            self._drop()
            images = _Decoded(self._pictures)[self._rows(step)]
        self.waited += time.perf_counter() - began
        if isinstance(images, str):
            raise DataError(images)
        return images if isinstance(images, Tensor) else torch.from_numpy(images)

    def close(self) -> None:
        """End the processes and the thread."""
        self._drop()
        self._thread.shutdown()

    def _drop(self) -> None:
        """Receive what is on its way, and end the processes."""
        if self._received is not None and not self._received.cancel():
            self._received.exception()
        self._coming, self._next, self._received = iter(()), None, None

    def _loader(self, step: int) -> DataLoader[Array | str]:
        return DataLoader(
            _Decoded(self._pictures), sampler=_Rows(self._rows, range(step, self._steps)), batch_size=None,
            num_workers=self._workers, collate_fn=_tensor if self._roomy(step) else _unchanged,
            worker_init_fn=_leave_signals,
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


def _leave_signals(_worker: int) -> None:
    """Leave signals to the process that trains, which finishes its step and then ends its workers.

    A worker that a signal ended would be an error, which torch raises in the midst of that step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(images: Any) -> Any:
    """Send arrays through the pipe."""
    return images


def _tensor(images: Any) -> Any:
    """Send arrays by shared memory, as torch does with tensors."""
    return images if isinstance(images, str) else torch.from_numpy(images)
