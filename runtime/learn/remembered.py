"""Embeddings, computed once per sample: a fit of the logits layer alone meets the same samples in every epoch and every fold.

Nothing below the logits layer changes in such a fit, so a step is a lookup and a product of matrices. The memory lives as long as one call
of ``personalize``, so that the same call gives the same bytes whatever was learned before.
"""

from __future__ import annotations

import hashlib

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.head import HeadLearner
from isoform.runtime.learn.learner import Point
from isoform.runtime.predictor import Predictor

__all__ = ["RememberingLearner"]

LIMIT_BYTES = 128 << 20
"""Maximum size of the embeddings that are kept, in bytes; beyond it, the oldest are dropped."""


class RememberingLearner(HeadLearner):
    """A ``HeadLearner`` that keeps embeddings.

    Args:
        predictor: As for ``HeadLearner``.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        self._rows: dict[tuple[bytes, bytes], Array] = {}
        self._bytes = 0

    def embeddings(self, point: Point, x: Array) -> Array:
        """As ``Learner.embeddings``: those of new samples are computed, in one batch."""
        network = hashlib.sha256(repr(point.task).encode())
        for name, array in point.parts.items():
            if name not in HEAD:
                network.update(name.encode() + array.tobytes())
        key = network.digest()
        keys = [(key, hashlib.sha256(row.tobytes()).digest()) for row in x]
        # a batch may hold a sample twice
        missing = {entry: place for place, entry in enumerate(keys) if entry not in self._rows}
        if missing:
            found = super().embeddings(point, np.ascontiguousarray(x[[*missing.values()]]))
            for entry, row in zip(missing, found, strict=True):
                self._rows[entry] = row
                self._bytes += row.nbytes
        result = np.stack([self._rows[entry] for entry in keys])
        while self._bytes > LIMIT_BYTES:
            self._bytes -= self._rows.pop(next(iter(self._rows))).nbytes
        return result
