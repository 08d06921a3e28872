"""Prediction for ``Runtime``, learning and adaptation: checks samples, cuts batches into slices, runs an engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.batches import different_classes, in_groups, in_slices, one_each, slice_samples
from isoform.runtime.engines.engine import Engine, MixingEngine
from isoform.runtime.engines.onnx.features import Features
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import Input

__all__ = ["Predictor"]


class Predictor:
    """Predicts with any signature made for a bundle. Thread-safe.

    Args:
        bundle: The bundle.
        engine: The engine that runs it.
        threads: Threads per run of a front; 0 lets ONNX Runtime choose.
    """

    def __init__(self, bundle: Bundle, engine: Engine, *, threads: int = 1) -> None:
        self.bundle, self.engine, self._threads = bundle, engine, threads
        self._mixing = engine if isinstance(engine, MixingEngine) else None
        # made once: an input checks itself, which takes longer than checking a sample
        self._inputs = {task: bundle.spec.input_of(task) for task in bundle.signatures}
        self._fronts: dict[str, Features | None] = {}
        self._opening = threading.Lock()

    def input_of(self, task: str | None = None) -> Input:
        """As ``Runtime.input_of``."""
        name = next(iter(self._inputs)) if task is None else task
        found = self._inputs.get(name)
        return self.bundle.spec.input_of(name) if found is None else found  # the spec says what is wrong with the task

    def taken_by(self, task: str | None = None) -> Input:
        """Return what a task's graphs take: samples, or the features that its front computes of them."""
        features = self._front(task)
        return self.input_of(task) if features is None else features.front.features

    def checked(self, x: Array, task: str | None = None) -> Array:
        """As ``Runtime.checked``."""
        features = self._front(task)
        return self.input_of(task).checked(x) if features is None else features.checked(x)

    def _front(self, task: str | None) -> Features | None:
        """Return a task's front, opened when it is first asked for."""
        name = next(iter(self._inputs)) if task is None else task
        if name not in self._fronts:  # without the lock in most cases: opening takes longer than a prediction
            with self._opening:
                if name not in self._fronts:
                    self.input_of(name)  # says what is wrong with the task
                    front = self.bundle.network.front(name)
                    same = next(
                        (found for found in self._fronts.values() if found is not None and found.front == front), None
                    )
                    self._fronts[name] = None if front is None else same or Features(front, threads=self._threads)
        return self._fronts[name]

    def predict(self, x: Array, signature: Signature | Sequence[Signature]) -> Array:
        """As ``Runtime.predict``, which says what it raises: ``InputError`` and others."""
        if isinstance(signature, Signature):
            logits = self.logits(self.checked(x, signature.task), signature)
        else:
            each = one_each(signature, len(x))
            x = self.checked(x, self._one_task(each))
            logits = in_groups(self.logits, x, each) if self._mixing is None else self._mixed(self._mixing, x, each)
        # Finite samples can still overflow inside the network, and softmax of inf is NaN: an error is better than a NaN probability.
        if not np.isfinite(logits).all():
            finite = np.isfinite(logits).all(axis=1)
            raise InputError(
                f"sample {int(np.argmin(finite))} holds numbers so large that its logits are not finite; scale the samples as in training"
            )
        return logits

    def logits(self, x: Array, signature: Signature) -> Array:
        """Return logits of checked samples for one signature, shape (n, classes), float32, possibly not finite. A fresh array."""
        if len(x) == 0:
            return np.zeros((0, len(self.bundle.resolve(signature).labels)), dtype=np.float32)
        if self._mixing is not None:
            return self._mixing.logits(x, signature)
        samples = slice_samples(self.bundle.spec, signature.task, x.shape[1:])
        return in_slices(lambda some: self.engine.logits(some, signature), x, samples)

    def _mixed(self, engine: MixingEngine, x: Array, signatures: Sequence[Signature]) -> Array:
        if not signatures:
            return np.zeros((0, 0), dtype=np.float32)
        users = {signature.digest: signature for signature in signatures}
        classes = {digest: len(self.bundle.labels(signature)) for digest, signature in users.items()}
        first = classes[signatures[0].digest]
        for row, signature in enumerate(signatures):
            if classes[signature.digest] != first:
                raise different_classes(row, classes[signature.digest], first)
        return engine.logits_each(x, signatures)

    @property
    def mixes(self) -> bool:
        """As ``Runtime.mixes``."""
        return self._mixing is not None and self._mixing.mixes

    def forget(self, signature: Signature) -> None:
        """As ``Runtime.forget``."""
        self.engine.forget(signature)

    def _one_task(self, signatures: Sequence[Signature]) -> str | None:
        """Return a task whose input all signatures share; None without signatures. Raises ``UsageError`` if the inputs differ."""
        first = None
        for task in dict.fromkeys(signature.task for signature in signatures):
            if first is not None and self.input_of(task) != self.input_of(first):
                raise UsageError(f"tasks {first!r} and {task!r} have different inputs; predict them in separate calls")
            first = first or task
        return first
