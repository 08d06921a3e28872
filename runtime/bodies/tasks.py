"""A learner for bundles with a body per task: each task's own ``BodyLearner``, opened when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import cast

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Body
from isoform.runtime.bodies.learning import BodyLearner, Parts
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.learn.learner import Choose, Loss, Pass, Point

__all__ = ["TaskLearners", "graphs_of", "learner_of"]


def graphs_of(graphs: Mapping[str, bytes], task: str) -> dict[str, bytes]:
    """Return a task's graphs for learning, by the names that ``BodyLearner`` knows: ``backward.<task>`` as ``backward``."""
    # at the first dot: names of tasks have dots too, and graphs of a.b are not b's
    cut = {name: name.partition(".") for name in graphs}
    return {first: graphs[name] for name, (first, _, rest) in cut.items() if rest == task}


def learner_of(
    bundle: Bundle, bodies: Mapping[str, Body], *, rates: Mapping[str, float], threads: int
) -> TaskLearners | None:  # fmt: skip
    """Return the learner of a compiled bundle; None if a task's has no graphs for learning, so that only logits layers can be fitted.

    Args:
        bundle: The bundle.
        bodies: Task → its body.
        rates: Adam's rate of each part.
        threads: Threads per run; 0 lets ONNX Runtime choose.
    """
    graphs = bundle.require_compiled().graphs
    if not all(f"forward.{task}" in graphs for task in bodies):
        return None
    return TaskLearners(bundle, bodies, graphs, rates=rates, threads=threads)


class TaskLearners:
    """A ``Normalising`` learner that asks that of the point's task.

    Args:
        bundle: The bundle; its tasks' first graphs are ``Parts``.
        bodies: Task → its body.
        graphs: Name → graph for learning, with the task's name at the end.
        rates: Adam's rate of each part.
        threads: Threads per run; 0 lets ONNX Runtime choose.
    """

    directions = None

    def __init__(
        self, bundle: Bundle, bodies: Mapping[str, Body], graphs: Mapping[str, bytes], *, rates: Mapping[str, float], threads: int
    ) -> None:  # fmt: skip
        self.bundle, self.rates = bundle, rates
        self._bodies, self._graphs, self._threads = bodies, graphs, threads
        self._learners: dict[str, BodyLearner] = {}
        self._lock = threading.Lock()

    def of(self, task: str) -> BodyLearner:
        """Return a task's learner. Raises ``UsageError`` if there is no such task."""
        if task not in self._bodies:
            raise UsageError(f"there is no task {task!r}; the bundle has {', '.join(self._bodies)}")
        with self._lock:
            if task not in self._learners:
                name = self.bundle.network.graphs(task, {})[0]
                parts = cast(Parts, self.bundle.network.graph(name))
                self._learners[task] = BodyLearner(
                    self.bundle, self._bodies[task], parts, graphs_of(self._graphs, task), rates=self.rates, threads=self._threads
                )  # fmt: skip
            return self._learners[task]

    def normalises(self, task: str) -> bool:
        """As ``Learner.normalises``."""
        return self.of(task).normalises(task)

    def backpropagates(self, task: str) -> bool:
        """As ``Learner.backpropagates``."""
        return self.of(task).backpropagates(task)

    def point(self, signature: Signature, own: Collection[str] = ()) -> Point:
        """As ``Learner.point``."""
        return self.of(signature.task).point(signature, own)

    def softened(self, point: Point, moving: Collection[str]) -> Point:  # noqa: ARG002
        """As ``Learner.softened``: every part has a gradient everywhere."""
        return point

    def logits(self, point: Point, x: Array) -> Array:
        """As ``Learner.logits``."""
        return self.of(point.task).logits(point, x)

    def embeddings(self, point: Point, x: Array) -> Array:
        """As ``Learner.embeddings``."""
        return self.of(point.task).embeddings(point, x)

    def gradient(
        self, point: Point, x: Array, loss: Loss, *, moving: Collection[str] | None = None
    ) -> tuple[float, dict[str, Array]]:
        """As ``Learner.gradient``."""
        return self.of(point.task).gradient(point, x, loss, moving=moving)

    def normalised(self, point: Point, x: Array, choose: Choose) -> Pass:
        """As ``Normalising.normalised``."""
        return self.of(point.task).normalised(point, x, choose)

    def statistics(self, point: Point, x: Array, *, alpha: float = 1.0) -> Array:
        """As ``Normalising.statistics``."""
        return self.of(point.task).statistics(point, x, alpha=alpha)

    def coefficients(self, point: Point, x: Array) -> dict[str, Array]:  # noqa: ARG002
        """As ``Normalising.coefficients``: there are none."""
        return {}

    def settled(self, signature: Signature) -> Signature:
        """As ``Normalising.settled``: every signature is."""
        return signature
