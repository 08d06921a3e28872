"""How folded weights lie in one vector: each at a multiple of 64 bytes, so that ONNX Runtime can be given their addresses."""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["ALIGNMENT", "Weight", "aligned"]

ALIGNMENT = 16
"""Every weight starts at a multiple of so many floats: 64 bytes, a cache line and the widest vector."""
Weight = tuple[str, tuple[int, ...], int]
"""Name, shape, first place in the laid-out vector."""


def aligned(size: int) -> Array:
    """An uninitialised float32 vector that starts at a multiple of 64 bytes."""
    room = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(room.ctypes.data // 4) % ALIGNMENT
    result: Array = room[start : start + size]
    return result
