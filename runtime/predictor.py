"""Samples in, logits out: checks samples, cuts batches, runs an engine. What ``Runtime``, learning and adapting predict with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.batches import in_groups, in_slices, one_each, slice_samples
from isoform.runtime.engines.engine import Engine
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import Input

__all__ = ["Predictor"]


class Predictor:
    """Predicts with any signature of a bundle. Safe to use from several threads.

    Args:
        bundle: The bundle.
        engine: What runs it.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.engine = bundle, engine

    def input_of(self, task: str | None = None) -> Input:
        """As ``Runtime.input_of``."""
        return self.bundle.spec.input_of(next(iter(self.bundle.signatures)) if task is None else task)

    def checked(self, x: Array, task: str | None = None) -> Array:
        """As ``Runtime.checked``."""
        return self.input_of(task).checked(x)

    def predict(self, x: Array, signature: Signature | Sequence[Signature]) -> Array:
        """As ``Runtime.predict``, which says what it raises: ``InputError`` and others."""
        if isinstance(signature, Signature):
            logits = self.logits(self.checked(x, signature.task), signature)
        else:
            each = one_each(signature, len(x))
            logits = in_groups(self.logits, self.checked(x, self._one_task(each)), each)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise InputError(
                f"sample {int(np.argmin(finite))} holds numbers so large that its logits are not finite; scale the samples as in training"
            )
        return logits

    def logits(self, x: Array, signature: Signature) -> Array:
        """Logits of checked samples by one signature, finite or not, shape (n, classes), float32. A fresh array."""
        if len(x) == 0:
            return np.zeros((0, len(self.bundle.resolve(signature).labels)), dtype=np.float32)
        samples = slice_samples(self.bundle.spec, signature.task, x.shape[1:])
        return in_slices(lambda some: self.engine.logits(some, signature), x, samples)

    def forget(self, signature: Signature) -> None:
        """As ``Runtime.forget``."""
        self.engine.forget(signature)

    def _one_task(self, signatures: Sequence[Signature]) -> str | None:
        """A task whose samples all of these signatures take; None if there are no signatures. ``UsageError`` if they take different ones."""
        first = None
        for task in dict.fromkeys(signature.task for signature in signatures):
            if first is not None and self.input_of(task) != self.input_of(first):
                raise UsageError(f"tasks {first!r} and {task!r} take different samples; predict them apart")
            first = first or task
        return first
