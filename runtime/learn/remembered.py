"""Embeddings, computed once per sample: a fit of the logits layer alone meets the same samples in every epoch and every fold.

Nothing below the logits layer changes in such a fit, so a step is a lookup and a product of matrices. It lives as long as one call of
``personalize``, so that the same call gives the same bytes whatever was learned before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.head import head_gradient
from isoform.runtime.learn.learner import Learner, Loss, Point

__all__ = ["RememberingLearner"]

LIMIT_BYTES = 128 << 20
"""Maximum size of the embeddings that are kept, in bytes; beyond it, the oldest are dropped."""


class RememberingLearner:
    """A ``Learner`` of the logits layer that keeps the embeddings of another one.

    Args:
        learner: A learner that has gradients of the logits layer only.
    """

    rates: Mapping[str, float] = {}
    normalises = False

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._rows: dict[tuple[bytes, bytes], Array] = {}
        self._bytes = 0

    @property
    def bundle(self) -> Bundle:
        """As ``Learner.bundle``."""
        return self._learner.bundle

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:
        """As ``Learner.point``."""
        return self._learner.point(signature, own)

    def softened(self, point: Point, moving: Collection[str]) -> Point:
        """As ``Learner.softened``."""
        return self._learner.softened(point, moving)

    def logits(self, point: Point, x: Array) -> Array:
        """As ``Learner.logits``."""
        weight, bias = (point.parts[name] for name in HEAD)
        result: Array = (self.embeddings(point, x) @ weight.T + bias).astype(np.float32)
        return result

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
            found = self._learner.embeddings(point, np.ascontiguousarray(x[[*missing.values()]]))
            for entry, row in zip(missing, found, strict=True):
                self._rows[entry] = row
                self._bytes += row.nbytes
        result = np.stack([self._rows[entry] for entry in keys])
        while self._bytes > LIMIT_BYTES:
            self._bytes -= self._rows.pop(next(iter(self._rows))).nbytes
        return result

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, head_only: bool = False
    ) -> tuple[float, dict[str, Array]]:  # fmt: skip
        """As ``Learner.gradient``. Raises ``UsageError`` unless ``head_only``."""
        if not head_only:
            return self._learner.gradient(point, x, loss)
        return head_gradient(point, self.embeddings(point, x), loss)
