"""Collects samples in an array that grows in place, without a list and a second copy at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.samples.limits import data_bytes

__all__ = ["Piece", "collected"]


class Piece(NamedTuple):
    """Samples of one label and one group, as a reader yields them."""

    x: Array
    """Shape (n, channels, height, width)."""
    label: str
    """An empty string if there is none."""
    group: str = ""
    """What the samples have in common beside the label, such as the recording; an empty string if unknown."""


def collected(
    found: Iterable[Piece], shape: tuple[int, int, int], *, limited: bool = True
) -> tuple[Array, tuple[str, ...], tuple[str, ...] | None]:
    """Collect all samples that a reader yields.

    Args:
        found: The samples.
        shape: Channels, height, width of a sample.
        limited: Whether ``ISOFORM_MAX_DATA_BYTES`` is the limit.

    Returns:
        All samples, float32, a label for each, and a group for each; None instead of groups if a sample has none.

    Raises:
        InputError: If they exceed the limit in bytes, or the memory.
    """
    samples, labels, groups = _Collected(shape, limited=limited), list[str](), list[str]()
    for piece in found:
        samples.add(piece.x)
        labels += [piece.label] * len(piece.x)
        groups += [piece.group] * len(piece.x)
    return samples.array(), tuple(labels), tuple(groups) if all(groups) else None


class _Collected:
    """A growing array of samples.

    Args:
        shape: Channels, height, width of a sample.
    """

    def __init__(self, shape: tuple[int, int, int], *, limited: bool) -> None:
        self._x = np.empty((0, *shape), dtype=np.float32)
        self._count = 0
        self._most = (data_bytes() if limited else sys.maxsize) // max(1, int(np.prod(shape)) * 4)

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
