"""Samples as they are read, in one array that grows in place: no list of them, and no second copy at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.samples.limits import data_bytes

__all__ = ["collected"]


def collected(found: Iterable[tuple[Array, str]], shape: tuple[int, int, int]) -> tuple[Array, tuple[str, ...]]:
    """Everything that a reader yields.

    Args:
        found: Samples, shape (n, channels, height, width), with the label of all n.
        shape: Channels, height, width of a sample.

    Returns:
        All samples, float32, and a label for each.

    Raises:
        InputError: If there are more than the bytes that are read, or than memory holds.
    """
    samples, labels = _Collected(shape), list[str]()
    for x, label in found:
        samples.add(x)
        labels += [label] * len(x)
    return samples.array(), tuple(labels)


class _Collected:
    """Samples of one shape.

    Args:
        shape: Channels, height, width of a sample.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._x = np.empty((0, *shape), dtype=np.float32)
        self._count = 0
        self._most = data_bytes() // max(1, int(np.prod(shape)) * 4)

    def add(self, x: Array) -> None:
        """Append samples, shape (n, channels, height, width); ``InputError`` beyond the bytes that are read, or than there are."""
        end = self._count + len(x)
        if end > self._most:
            raise InputError(
                f"there are more than {self._most:,} samples of shape {self._x.shape[1:]}, the most that are read; give fewer, or set ISOFORM_MAX_DATA_BYTES"
            )
        if end > len(self._x):
            room = min(self._most, max(end, len(self._x) * 5 // 4, 16))
            try:
                self._x.resize((room, *self._x.shape[1:]), refcheck=False)
            except MemoryError:
                raise InputError(
                    f"there is not enough memory for {end:,} samples of shape {self._x.shape[1:]}; give fewer"
                ) from None
        self._x[self._count : end] = x
        self._count = end

    def array(self) -> Array:
        """All of them, shape (n, channels, height, width), float32; the end of collecting."""
        self._x.resize((self._count, *self._x.shape[1:]), refcheck=False)
        return self._x
