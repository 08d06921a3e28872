"""Memory layout of folded weights: one vector, each weight aligned to 64 bytes, so that ONNX Runtime can be given addresses into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["ALIGNMENT", "Layout", "Weight", "aligned"]

ALIGNMENT = 16  # 64 bytes: a cache line, and the widest SIMD register
"""Every weight starts at a multiple of this many floats."""
Weight = tuple[str, tuple[int, ...], int]
"""Name, shape, and index of the first float in the laid-out vector."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions of a graph's weights in one vector, and the map from folded weights to it."""

    weights: tuple[Weight, ...]
    """All weights, in the order of the vector, without gaps but for padding."""
    gather: Array
    """Shape (M,), intp: for each float of the vector, its index in [0, folded weights …]; index 0 is padding."""

    def lay_out(self, folded: Mapping[str, Array]) -> Array:
        """Return the laid-out vector of folded weights.

        Args:
            folded: The weights that ``gather`` was learned from, in that order, float32.

        Returns:
            Shape (M,), float32, aligned to 64 bytes. A fresh array.
        """
        flat = np.concatenate([np.zeros(1, dtype=np.float32), *(array.ravel() for array in folded.values())])
        result = aligned(len(self.gather))
        np.take(flat, self.gather, out=result, mode="clip")  # with the default mode numpy would buffer the whole output
        return result


def aligned(size: int) -> Array:
    """Allocate an uninitialised float32 vector whose address is a multiple of 64 bytes."""
    # numpy aligns to 16 bytes only; the view keeps the larger array alive
    room = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(room.ctypes.data // 4) % ALIGNMENT
    result: Array = room[start : start + size]
    return result
