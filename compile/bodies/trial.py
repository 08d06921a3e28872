"""What compiling measures and checks of a body's graphs for learning: source statistics, and gradients against differences of the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from isoform.compile.kind import Task
from isoform.runtime.arrays import Array
from isoform.runtime.bodies.differences import DIRECTIONS
from isoform.runtime.errors import CompileError
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.learner import AFFINE, BATCH, STATISTICS, Choose, Normalising, Pass, Point
from isoform.runtime.learn.loss import cross_entropy
from isoform.runtime.learn.measure import measured
from isoform.runtime.learn.samples import spaced

__all__ = ["BodyLearning"]

LIMIT = 0.05
"""Largest accepted difference of the loss's slope from the gradient's length, relative to it. It is that of float32 and of kinks."""
STEP = 3e-3
"""Change of the loss, in nats, of a step."""


class BodyLearning:
    """The ``Learning`` of a body.

    Args:
        learner: Runs its graphs.
    """

    graphs: Mapping[str, bytes] = {}
    """None: they are among those of ``Exporter.graphs``, because the shared weights are external."""

    def __init__(self, learner: Normalising) -> None:
        self._learner = learner

    def source(self, task: Task) -> bytes | None:
        """As ``Learning.source``; None without BN of its own."""
        learner = self._learner
        if not learner.normalises(task.name):
            return None
        point = learner.point(task.signature)

        def normalised(x: Array, choose: Choose) -> Pass:
            return learner.normalised(point, x, choose)

        def gradient(x: Array) -> dict[str, Array]:
            found = learner.gradient(point, x, lambda logits: cross_entropy(logits, logits.argmax(axis=1)))[1]
            return {name: found[name] for name in (*learner.rates, AFFINE) if name in found}

        variance = point.parts[STATISTICS][1].astype(np.float32)
        found = measured(
            task.train.images, task.train.labels, classes=len(task.labels), variance=variance, normalised=normalised, gradient=gradient
        )  # fmt: skip
        if not learner.backpropagates(task.name):
            fisher = {name: _spread(array) for name, array in found.fisher.items()}
            found = dataclasses.replace(found, fisher=fisher)
        return found.encode()

    def gradient_gap(self, task: Task) -> None:
        """Check the gradients by differences of the loss, on test samples.

        Raises:
            CompileError: If they do not agree.
        """
        learner, x, labels = self._learner, spaced(task.test.images, BATCH), spaced(task.test.labels, BATCH)
        # labels that are wrong, so that the loss has a slope even where everything is right
        labels = (labels + 1) % len(task.labels)
        point = learner.point(task.signature)

        def loss(some: Point) -> float:
            return cross_entropy(learner.logits(some, x), labels)[0]

        exact = None if learner.backpropagates(task.name) else HEAD  # estimates are differences of the loss themselves
        _, gradients = learner.gradient(point, x, lambda logits: cross_entropy(logits, labels), moving=exact)
        for part, gradient in gradients.items():
            length = float(np.sqrt(np.sum(gradient**2)))
            if length < 1e-6:  # nothing to compare: a task with one class, or a layer whose activations are all 0
                continue
            gaps = []
            for shrink in (1, 8):  # a kink within a step is outside a shorter one
                step = STEP / shrink / length**2 * gradient
                ends = [
                    loss(point.with_parts({part: point.parts[part].astype(np.float64) + sign * step}))
                    for sign in (1, -1)
                ]
                gaps.append(abs((ends[0] - ends[1]) / (2 * STEP / shrink) - 1))
            if not min(gaps) <= LIMIT:
                raise CompileError(
                    f"task {task.name!r}: the gradient of {part} differs from the slope of the loss by {100 * min(gaps):.0f} %, but at most "
                    f"{100 * LIMIT:.0f} % was expected; nothing was written, please report this"
                )


def _spread(fisher: Array) -> Array:
    """Return the information of a part from that along a few random directions: the same of every number."""
    share = min(DIRECTIONS, fisher.size) / fisher.size
    return np.full_like(fisher, fisher.mean() / share)
