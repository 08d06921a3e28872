"""Packing: how the weight of a layer is cut into blocks of m inputs × n outputs, and put together from them.

A weight of shape (out, in, *kernel) has ⌈out / n⌉ × ⌈in / m⌉ blocks at each place of the kernel, each a linear map of its own:

    weight[i n + b, j m + a, k] = block[(i, j, k)][a, b]        i < ⌈out / n⌉, j < ⌈in / m⌉, k < ∏ kernel, blocks in this order

What hangs over the edges is dropped. The matrices of an LSTM are such weights, with 4 × hidden outputs. Works on numpy arrays and on torch
tensors alike.

Source: MUIR, section 3.1. Must never import torch.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

__all__ = ["Cut"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """One weight and its blocks."""

    shape: tuple[int, ...]
    """Of the weight: (out, in, *kernel); two axes or more."""
    m: int
    """Inputs of a block."""
    n: int
    """Outputs of a block."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of blocks along outputs, inputs, and places of the kernel."""
        out, into, *kernel = self.shape
        return -(-out // self.n), -(-into // self.m), math.prod(kernel)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return math.prod(self.grid)

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output: in × ∏ kernel."""
        return math.prod(self.shape[1:])

    def weight(self, blocks: Any) -> Any:
        """Put a weight together: blocks, shape (count, m, n) or (count, m · n) → ``shape``."""
        rows, columns, places = self.grid
        parts = blocks.reshape(rows, columns, places, self.m, self.n)
        # (i, j, k, a, b) → (i, b, j, a, k)
        parts = parts.swapaxes(1, 4).swapaxes(2, 4).reshape(rows * self.n, columns * self.m, places)
        return parts[: self.shape[0], : self.shape[1]].reshape(self.shape)

    def blocks(self, weight: Any) -> Any:
        """Cut a weight of numpy into its blocks, shape (count, m · n); 0 over the edges. The inverse of ``weight``, and its transpose."""
        rows, columns, places = self.grid
        flat = weight.reshape(*self.shape[:2], places)
        over = (rows * self.n - self.shape[0], columns * self.m - self.shape[1])
        if any(over):
            flat = np.pad(flat, ((0, over[0]), (0, over[1]), (0, 0)))
        # (i, b, j, a, k) → (i, j, k, a, b)
        parts = flat.reshape(rows, self.n, columns, self.m, places).transpose(0, 2, 4, 3, 1)
        return parts.reshape(self.count, self.m * self.n)
