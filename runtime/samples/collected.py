"""Collects samples in an array that grows in place, without a list and a second copy at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.samples.limits import data_bytes

__all__ = ["collected"]


def collected(found: Iterable[tuple[Array, str]], shape: tuple[int, int, int]) -> tuple[Array, tuple[str, ...]]:
    """Collect all samples that a reader yields.

    Args:
        found: Samples, shape (n, channels, height, width), with the label of all n.
        shape: Channels, height, width of a sample.

    Returns:
        All samples, float32, and a label for each.

    Raises:
        InputError: If they exceed the limit in bytes, or the memory.
    """
    samples, labels = _Collected(shape), list[str]()
    for x, label in found:
        samples.add(x)
        labels += [label] * len(x)
    return samples.array(), tuple(labels)


class _Collected:
    """A growing array of samples.

    Args:
        shape: Channels, height, width of a sample.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._x = np.empty((0, *shape), dtype=np.float32)
        self._count = 0
        self._most = data_bytes() // max(1, int(np.prod(shape)) * 4)

    def add(self, x: Array) -> None:
        """Append samples, shape (n, channels, height, width). Raises ``InputError`` beyond the limit or the memory."""
        end = self._count + len(x)
        if end > self._most:
            raise InputError(
                f"there are more than {self._most:,} samples of shape {self._x.shape[1:]}, the maximum; give fewer, or set ISOFORM_MAX_DATA_BYTES"
            )
        if end > len(self._x):
            room = min(self._most, max(end, len(self._x) * 5 // 4, 16))  # geometric growth: linear time in all
            try:
                # realloc in place, without the copy of np.resize; no view of the array exists
                self._x.resize((room, *self._x.shape[1:]), refcheck=False)
            except MemoryError:
                raise InputError(
                    f"there is not enough memory for {end:,} samples of shape {self._x.shape[1:]}; give fewer"
                ) from None
        self._x[self._count : end] = x
        self._count = end

    def array(self) -> Array:
        """Return all samples, shape (n, channels, height, width), float32; nothing can be added afterwards."""
        self._x.resize((self._count, *self._x.shape[1:]), refcheck=False)
        return self._x
