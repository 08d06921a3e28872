"""How folded weights lie in one vector: each at a multiple of 64 bytes, so that ONNX Runtime can be given their addresses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["ALIGNMENT", "Layout", "Weight", "aligned"]

ALIGNMENT = 16
"""Every weight starts at a multiple of so many floats: 64 bytes, a cache line and the widest vector."""
Weight = tuple[str, tuple[int, ...], int]
"""Name, shape, first place in the laid-out vector."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where in one vector the weights of a graph lie, and which folded weights they are."""

    weights: tuple[Weight, ...]
    """Every weight, in the order of the vector, one after the other."""
    gather: Array
    """Shape (M,), intp: for every place of the vector, its place in 0 followed by the folded weights; 0 is padding."""

    def lay_out(self, folded: Mapping[str, Array]) -> Array:
        """The laid-out vector of folded weights.

        Args:
            folded: The weights that ``gather`` was learned of, in that order, float32.

        Returns:
            Shape (M,), float32, aligned to 64 bytes. A fresh array.
        """
        flat = np.concatenate([np.zeros(1, dtype=np.float32), *(array.ravel() for array in folded.values())])
        result = aligned(len(self.gather))
        np.take(flat, self.gather, out=result, mode="clip")
        return result


def aligned(size: int) -> Array:
    """An uninitialised float32 vector that starts at a multiple of 64 bytes."""
    room = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(room.ctypes.data // 4) % ALIGNMENT
    result: Array = room[start : start + size]
    return result
