"""Features of samples by a front, a network that is the same for everybody: computed once per sample, whoever it is predicted for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import EngineError, InputError, first_line
from isoform.runtime.kind import Front

__all__ = ["Features"]

ROWS = 64  # bounds memory
"""Samples per run."""


class Features:
    """Runs a front. Thread-safe.

    Args:
        front: The front.
        threads: Threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime rejects it.
    """

    def __init__(self, front: Front, *, threads: int) -> None:
        self.front = front
        self._session = open_session(front.file, session_options(threads), what="the front")

    def checked(self, x: object) -> Array:
        """Check samples and compute their features; features themselves are only checked.

        Args:
            x: Samples, (n, …) as the front takes them, or their features, (n, …) as the graphs do: two shapes that differ.

        Returns:
            Features, shape (n, …), float32, C-contiguous.

        Raises:
            InputError: If they are neither, or not finite, or so large that features are not finite.
            EngineError: If the front computes something of another shape.
        """
        front, shape = self.front, np.shape(cast(Any, x))
        if len(shape) and front.features.fits(shape[1:]) and not front.samples.fits(shape[1:]):
            return front.features.checked(x)
        samples = front.samples.checked(x)
        if not len(samples):
            return np.zeros((0, *front.features.largest), dtype=np.float32)
        try:
            parts = [
                self._session.run(None, {front.samples.name: samples[i : i + ROWS]})[0]
                for i in range(0, len(samples), ROWS)
            ]
        except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
            raise EngineError(
                f"the front cannot run samples of shape {samples.shape[1:]}: {first_line(problem)}"
            ) from problem
        found: Array = np.concatenate(parts)
        if found.dtype != np.float32 or len(found) != len(samples) or not front.features.fits(found.shape[1:]):
            raise EngineError(
                f"the front makes {found.dtype} of shape {found.shape}, but {front.features} was expected; the bundle was changed"
            )
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found.reshape(len(found), -1)).all(axis=1)))
            raise InputError(
                f"sample {row} holds numbers so large that its features are not finite; scale the samples as in training"
            )
        return np.ascontiguousarray(found)
