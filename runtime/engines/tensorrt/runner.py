"""Run a form of a graph on the device: samples in, logits out, with the weights of one row, of a row per sample, or none but its own.

All forms of a graph share buffers, which grow with the batches that come. Batches are padded to one of a few sizes per power of two, and each
size is captured once as a CUDA graph, with its copies, and replayed from then on: launching a small network layer by layer takes longer
than running it. A graph knows addresses, so a user's row is copied to where the graph reads it; that is a copy within the device.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TABLE, USER, UserVector
from isoform.runtime.engines.tensorrt.rows import Device, Memory, Replayed, Rows
from isoform.runtime.errors import EngineError
from isoform.runtime.inputs import Input

__all__ = ["Buffers", "Form", "Prepared", "Runner", "padded"]

log = logging.getLogger("isoform.runtime")


def padded(count: int, largest: int) -> int:
    """Return the size that a batch is padded to: 2ᵏ or 3·2ᵏ, at most ``largest``; at most half as large again."""
    power = 1 << (count - 1).bit_length()
    return min(3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power, largest)


class Prepared(Protocol):
    """Runs of one batch size, at fixed addresses."""

    @property
    def capturable(self) -> bool:
        """Whether a run can be captured."""

    def enqueue(self) -> None:
        """Put a run on the device's stream."""

    def close(self) -> None:
        """Free it."""


class Form(Protocol):
    """A form's engine, such as ``context.Context``."""

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Return the type of an input's numbers: TensorRT before 10 takes tokens as int32."""

    def prepared(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Prepared:
        """Prepare runs of one batch size.

        Args:
            addresses: Name of every input, and ``logits`` → address.
            shapes: Name of every input with a dynamic size → its shape.
        """

    def close(self) -> None:
        """Free it."""


class Buffers:
    """Samples, logits and row numbers of one batch, on the host and on the device. Not thread-safe.

    Args:
        device: The device.
        takes: The network's input.
        classes: Columns of logits, at most.
    """

    def __init__(self, device: Device, takes: Input, *, classes: int) -> None:
        self._device, self._takes, self._classes = device, takes, classes
        self._memories: list[Memory] = []
        self.size, self.dtype = 0, np.dtype(np.float32)
        self.generation = 0
        """Changes with the addresses."""

    def reserve(self, count: int, dtype: np.dtype[Any], *, largest: int) -> None:
        """Make room for a batch of samples of a type, for a power of two of them and at most ``largest``."""
        if count <= self.size and dtype == self.dtype:
            return
        self.close()
        size = max(self.size, min(largest, 1 << (count - 1).bit_length()))
        self.dtype, self.generation = dtype, self.generation + 1
        self.host_x = self._pinned((size, *self._takes.largest), dtype)
        self.host_y = self._pinned((size * self._classes,), np.float32)
        self.host_user = self._pinned((size,), np.int32)
        self.x, self.y, self.user = (self._memory(array.nbytes) for array in (self.host_x, self.host_y, self.host_user))
        self.size = size

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        array, memory = self._device.pinned(shape, dtype)
        self._memories.append(memory)
        return array

    def _memory(self, nbytes: int) -> int:
        self._memories.append(self._device.memory(nbytes))
        return self._memories[-1].address

    def close(self) -> None:
        """Free everything."""
        memories, self._memories, self.size = self._memories, [], 0
        for memory in memories:
            memory.close()


class Runner:
    """Runs one form. Not thread-safe: the engine's lock is held.

    Args:
        device: The device.
        form: The form's engine.
        name: ``ONE``, ``MANY`` or ``TASK``.
        vector: A user's vector.
        classes: Columns of the form's logits.
        takes: The network's input.
        rows: The users.
        buffers: Those of the graph.
        half: Whether vectors are float16.
        largest: Largest batch.
    """

    def __init__(
        self, device: Device, form: Form, name: str, *, vector: UserVector, classes: int, takes: Input, rows: Rows, buffers: Buffers, half: bool, largest: int
    ) -> None:  # fmt: skip
        self._device, self._form, self._name = device, form, name
        self._vector, self._takes, self._rows, self.largest = vector, takes, rows, largest
        self._item, self._classes, self._buffers, self._generation = 2 if half else 4, classes, buffers, 0
        self._dtype = form.dtype_of(takes.name)
        self._sizes: dict[int, tuple[Prepared, Replayed | None]] = {}
        self._weights = device.memory(rows.row_bytes) if name == ONE else None

    @property
    def reads_rows(self) -> bool:
        """Whether weights come from the table of users, and not from the engine."""
        return self._name in (ONE, MANY)

    def blank(self, count: int) -> Array:
        """Return samples of zeros, shape (count, …)."""
        return np.zeros((count, *self._takes.largest), dtype=self._dtype)

    def run(self, x: Array, rows: Array) -> Array:
        """Run one batch.

        Args:
            x: Samples, shape (n, …), n from 1 to ``largest``.
            rows: The row of each sample, shape (n,), of form ``many``; of form ``one`` all are the same; of form ``task`` they do not matter.

        Returns:
            Logits, shape (n, ``classes``), float32. A fresh array.
        """
        count, buffers, size = len(x), self._buffers, padded(len(x), self.largest)
        buffers.reserve(size, self._dtype, largest=self.largest)
        if buffers.generation != self._generation:  # what was prepared knows the old addresses
            self._forget()
            self._generation = buffers.generation
        buffers.host_x[:count] = x
        if self._name == MANY:
            buffers.host_user[:count] = rows
            buffers.host_user[count:size] = rows[0]  # of no matter, but a row that there is
        elif self._weights is not None:
            self._device.copy(self._weights.address, self._rows.address_of(int(rows[0])), self._rows.row_bytes)
        if size not in self._sizes:
            self._sizes[size] = self._prepared(size)
        prepared, replay = self._sizes[size]
        if replay is None:
            self._work(prepared, size)
        else:
            replay.launch()
        self._device.synchronize()
        return buffers.host_y[: count * self._classes].reshape(count, self._classes).copy()

    def _prepared(self, size: int) -> tuple[Prepared, Replayed | None]:
        """Prepare a batch size, and capture a run of it if it can be captured."""
        takes, buffers = self._takes, self._buffers
        shapes = {takes.name: (size, *takes.largest)}
        addresses = {takes.name: buffers.x, "logits": buffers.y}
        if self._name == MANY:
            shapes |= {TABLE: (self._rows.count, self._vector.size), USER: (size,)}
            addresses |= {TABLE: self._rows.address, USER: buffers.user}
        elif self._weights is not None:
            places = self._vector.places.items()
            addresses |= {name: self._weights.address + self._item * start for name, (_, start) in places}
        prepared = self._form.prepared(addresses, shapes)
        try:
            self._work(
                prepared, size
            )  # once before it is captured: TensorRT allocates memory in the first run of a shape
            self._device.synchronize()
            replay = self._device.captured(lambda: self._work(prepared, size)) if prepared.capturable else None
        except EngineError as problem:
            # launched layer by layer it may still run; if not, that error is the caller's
            log.info("runs of %d samples are not captured as a CUDA graph: %s", size, problem)
            replay = None
        return prepared, replay

    def _work(self, prepared: Prepared, size: int) -> None:
        """Put copies and the run of a batch on the stream."""
        device, buffers = self._device, self._buffers
        device.copy_in(buffers.x, buffers.host_x.ctypes.data, buffers.host_x[:size].nbytes)
        if self._name == MANY:
            device.copy_in(buffers.user, buffers.host_user.ctypes.data, 4 * size)
        prepared.enqueue()
        device.copy_out(buffers.host_y.ctypes.data, buffers.y, 4 * size * self._classes)

    def _forget(self) -> None:
        """Free what was prepared and captured."""
        for prepared, replay in self._sizes.values():
            if replay is not None:
                replay.close()
            prepared.close()
        self._sizes.clear()

    def close(self) -> None:
        """Free captured work, the form, and its memory; buffers are the graph's."""
        self._forget()
        self._form.close()
        if self._weights is not None:
            self._weights.close()
