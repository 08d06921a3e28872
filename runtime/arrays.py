"""The array type, and the few array functions that every folder needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["Array", "all_finite", "digest_of", "softmax"]

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 16 << 20
"""Bytes that are looked at together."""


def softmax(logits: Array) -> Array:
    """Compute the softmax over the last axis, in float64."""
    weights: Array = logits.astype(np.float64)
    weights -= weights.max(axis=-1, keepdims=True)  # exp of large logits would overflow
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def all_finite(x: Array) -> bool:
    """Return whether all numbers are finite, with little memory beside the array's."""
    rows = max(1, BLOCK // max(1, x[:1].nbytes))
    return all(bool(np.isfinite(x[start : start + rows]).all()) for start in range(0, len(x), rows))


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Return sha256 over the parts, each preceded by its length as 8 little-endian bytes; 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:  # without the lengths, ("ab", "c") and ("a", "bc") would have the same digest
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
