"""Parts of BN that the signatures of several kinds have: ``bn.affine``, γ and β, and ``bn.statistics``, mean and variance, both (2, N)."""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SignatureError

__all__ = ["check_batch_norm", "pooled"]


def check_batch_norm(name: str, array: Array) -> None:
    """Check a part's rows and variances, if it is BN's. Raises ``SignatureError``."""
    if name in ("bn.affine", "bn.statistics") and array.shape[0] != 2:
        raise SignatureError(f"a signature's {name} has shape {array.shape}, but (2, N) was expected")
    if name == "bn.statistics" and array[1].min() < 0:
        raise SignatureError("a signature's bn.statistics holds a negative variance; it cannot be used")


def pooled(statistics: Array, share: Array) -> Array:
    """Return the mean and variance of all users' samples together, by the law of total variance.

    Args:
        statistics: Means and variances, shape (users, 2, N), float64.
        share: Share of each user's samples, shape (users,); sums to 1.

    Returns:
        Shape (2, N), float64.
    """
    mean: Array = np.tensordot(share, statistics, axes=1)
    second = np.tensordot(share, statistics[:, 1] + statistics[:, 0] ** 2, axes=1)
    mean[1] = np.maximum(second - mean[0] ** 2, 0)  # rounding can make the difference slightly negative
    return mean
