"""One graph with its open plan: the fold into the plan's layout, and what its signatures share."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.engines.gathered import GatheredFold
from isoform.runtime.engines.onnx.bindings import Shared, Stages
from isoform.runtime.engines.onnx.plans.constants import Constants
from isoform.runtime.engines.onnx.plans.plan import Plan
from isoform.runtime.engines.onnx.plans.sized import Sessions
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.kind import Graph

__all__ = ["Planned"]


class Planned:
    """A graph with its plan. Thread-safe.

    Args:
        graph: A graph of a bundle.
        plan: The graph's plan on this device.
        threads: Threads per run; 0 lets ONNX Runtime choose.
        constants: Where constants are kept that other plans of the bundle have too; None if there are no others.

    Raises:
        EngineError: If ONNX Runtime rejects the plan.
    """

    def __init__(self, graph: Graph, plan: Plan, *, threads: int, constants: Constants | None) -> None:
        self._common: Mapping[str, ort.OrtValue] = {}
        if constants is not None:
            file, self._common = constants.taken_out(plan.graph)
            plan = dataclasses.replace(plan, graph=file)
        self.graph, self.plan, self._threads = graph, plan, threads
        self.folder = graph.folder(plan.layout) or GatheredFold(graph, plan.layout)
        sessions = Sessions(plan.graph, plan.batches, threads=threads, shared=self._common)
        sessions.of(sessions.usual)  # a plan that ONNX Runtime rejects is an error now
        self.stages = Stages(sessions, graph.input.name, plan.layout.weights, self.folder.size)
        self._shared: dict[str, Shared] = {}
        self._sharing = threading.Lock()

    def shared(self, base: str, parts: Mapping[str, Array]) -> Shared:
        """Return what the signatures of a base's group share; created once, from the ``parts`` of any of them."""
        with self._sharing:  # creating a session takes tens of milliseconds: two threads must not do it twice
            if base not in self._shared:
                group = self.folder.group(parts)
                name = self.graph.input.name
                self._shared[base] = Shared(
                    self.plan, name, self.folder, group, threads=self._threads, common=self._common
                )
            return self._shared[base]

    def clear(self) -> None:
        """Free what signatures share, and the stages that are not in use."""
        with self._sharing:
            self._shared.clear()
        self.stages.clear()

    @property
    def shared_bytes(self) -> int:
        """Approximate current size, in bytes, of what signatures share."""
        return sum(shared.size_bytes for shared in [*self._shared.values()])
