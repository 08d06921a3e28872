"""Samples as they come in: of the network's shape, numbers, finite; or one line that says what they are instead."""

from __future__ import annotations

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError

__all__ = ["checked_samples"]


def checked_samples(x: object, shape: tuple[int, int, int], *, where: str = "") -> Array:
    """Samples as every engine needs them.

    Args:
        x: What came.
        shape: Channels, height, width of one sample.
        where: Where they are from, for messages: `` of data.npz``.

    Returns:
        Shape (n, *shape), float32, C-contiguous; a copy only if it must be.

    Raises:
        InputError: If they have another shape, are no numbers, or one is not finite.
    """
    try:
        array = np.asarray(x)
    except ValueError:
        raise InputError(f"the samples{where} are a ragged list, but numbers of one shape were expected") from None
    if array.ndim != 4 or array.shape[1:] != shape:
        raise InputError(
            f"the samples{where} have shape {array.shape}, but (n, {', '.join(map(str, shape))}) was expected: n samples of channels, height, width"
        )
    if array.dtype.kind not in "fiub":
        raise InputError(f"the samples{where} are {array.dtype}, but float32 was expected")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(array).all(axis=(1, 2, 3))
    if not finite.all():
        raise InputError(
            f"sample {int(np.argmin(finite))}{where} holds a number that is not finite in float32; remove it or repair it"
        )
    return array
