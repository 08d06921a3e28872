"""Cutting of a recording, rows of numbers in time, into windows of one width."""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["windows"]


def windows(rows: Array, width: int, stride: int | None = None) -> tuple[Array, int]:
    """Cut rows into windows.

    Args:
        rows: Shape (rows, channels).
        width: Rows of a window.
        stride: Rows between the beginnings of two windows; None for ``width``, so that windows follow each other.

    Returns:
        Shape (n, channels, width), a view of ``rows``; and the number of rows at the end that are in no window.
    """
    step = stride or width
    if len(rows) < width:
        return np.empty((0, rows.shape[1], width), dtype=rows.dtype), len(rows)
    found: Array = np.lib.stride_tricks.sliding_window_view(rows, width, axis=0)[::step]
    return found, len(rows) - ((len(found) - 1) * step + width)
