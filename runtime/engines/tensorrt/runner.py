"""Run a form of a graph on the device: samples in, logits out, with the weights of one row, of a row per sample, or none but its own.

Buffers are made for the largest batch. Every batch size is captured once as a CUDA graph, with its copies, and replayed from then on: launching
a small network layer by layer takes longer than running it. A graph knows addresses, so a user's row is copied to where the
graph reads it; that is a copy within the device.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TABLE, USER, UserVector
from isoform.runtime.engines.tensorrt.rows import Device, Memory, Rows
from isoform.runtime.inputs import Input

__all__ = ["Form", "Replayed", "Runner"]

REPLAYS = 64
"""Maximum number of batch sizes whose graphs are kept; the least recently used are freed."""


class Replayed(Protocol):
    """Captured work."""

    def launch(self) -> None:
        """Run it."""

    def close(self) -> None:
        """Free it."""


class Form(Protocol):
    """A form's engine, such as ``context.Context``."""

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Return the type of an input's numbers: TensorRT before 10 takes tokens as int32."""

    def enqueue(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Put a run on the device's stream.

        Args:
            addresses: Name of every input, and ``logits`` → address.
            shapes: Name of every input with a dynamic size → its shape.
        """

    def captured(self, work: Callable[[], None]) -> Replayed | None:
        """Capture what a function puts on the stream; None if it cannot be captured."""

    def close(self) -> None:
        """Free it."""


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
        half: Whether vectors are float16.
        largest: Largest batch.
    """

    def __init__(
        self, device: Device, form: Form, name: str, *, vector: UserVector, classes: int, takes: Input, rows: Rows, half: bool, largest: int
    ) -> None:  # fmt: skip
        self._device, self._form, self._name = device, form, name
        self._vector, self._takes, self._rows, self.largest = vector, takes, rows, largest
        self._item = 2 if half else 4
        self._replays: OrderedDict[int, Replayed | None] = OrderedDict()
        self._host_x, host_x = device.pinned((largest, *takes.largest), form.dtype_of(takes.name))
        self._host_y, host_y = device.pinned((largest, classes), np.float32)
        self._host_user, host_user = device.pinned((largest,), np.int32)
        self._x, self._y, self._user = (
            device.memory(array.nbytes) for array in (self._host_x, self._host_y, self._host_user)
        )
        self._weights = device.memory(rows.row_bytes if name == ONE else 1)
        self._memories: list[Memory] = [host_x, host_y, host_user, self._x, self._y, self._user, self._weights]
        self._addresses = {"x": host_x.address, "y": host_y.address, "user": host_user.address}

    def blank(self, count: int) -> Array:
        """Return samples of zeros, shape (count, …)."""
        return np.zeros_like(self._host_x[:count])

    def run(self, x: Array, rows: Array) -> Array:
        """Run one batch.

        Args:
            x: Samples, shape (n, …), n from 1 to ``largest``.
            rows: The row of each sample, shape (n,), of form ``many``; of form ``one`` all are the same; of form ``task`` they do not matter.

        Returns:
            Logits, shape (n, ``classes``), float32. A fresh array.
        """
        count = len(x)
        self._host_x[:count] = x
        if self._name == MANY:
            self._host_user[:count] = rows
        elif self._name == ONE:
            self._device.copy(self._weights.address, self._rows.address_of(int(rows[0])), self._rows.row_bytes)
        if count not in self._replays:
            self._work(count)  # once before it is captured: TensorRT allocates memory in the first run of a shape
            self._device.synchronize()
            self._replays[count] = self._form.captured(lambda: self._work(count))
            if len(self._replays) > REPLAYS:
                _, oldest = self._replays.popitem(last=False)
                if oldest is not None:
                    oldest.close()
        self._replays.move_to_end(count)
        replay = self._replays[count]
        if replay is None:
            self._work(count)
        else:
            replay.launch()
        self._device.synchronize()
        return self._host_y[:count].copy()

    def _work(self, count: int) -> None:
        """Put copies and the run of a batch on the stream."""
        device, takes = self._device, self._takes
        device.copy_in(self._x.address, self._addresses["x"], self._host_x[:count].nbytes)
        shapes = {takes.name: (count, *takes.largest)}
        addresses = {takes.name: self._x.address, "logits": self._y.address}
        if self._name == MANY:
            device.copy_in(self._user.address, self._addresses["user"], 4 * count)
            shapes |= {TABLE: (self._rows.count, self._vector.size), USER: (count,)}
            addresses |= {TABLE: self._rows.address, USER: self._user.address}
        elif self._name == ONE:
            places = self._vector.places.items()
            addresses |= {name: self._weights.address + self._item * start for name, (_, start) in places}
        self._form.enqueue(addresses, shapes)
        device.copy_out(self._addresses["y"], self._y.address, 4 * count * math.prod(self._host_y.shape[1:]))

    def close(self) -> None:
        """Free captured work, the form, and all memory."""
        for replay in self._replays.values():
            if replay is not None:
                replay.close()
        self._form.close()
        for memory in self._memories:
            memory.close()
