"""One graph with its plan, ready to run: the fold into the plan's layout, and what its signatures share."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.engines.gathered import GatheredFold
from isoform.runtime.engines.onnx.bindings import Shared, Stages
from isoform.runtime.engines.onnx.plan import Plan, lifted_session
from isoform.runtime.kind import Graph

__all__ = ["Planned"]


class Planned:
    """A graph over its plan. Safe to use from several threads.

    Args:
        graph: One of a bundle's.
        plan: The plan of its file on this device.
        threads: Threads per run, 0 to let ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime refuses the plan.
    """

    def __init__(self, graph: Graph, plan: Plan, *, threads: int) -> None:
        self.graph, self.plan, self._threads = graph, plan, threads
        self.folder = graph.folder(plan.layout) or GatheredFold(graph, plan.layout)
        session = lifted_session(plan.graph, threads=threads)
        self.stages = Stages(session, graph.input.name, plan.layout.weights, self.folder.size)
        self._shared: dict[str, Shared] = {}
        self._sharing = threading.Lock()

    def shared(self, base: str, parts: Mapping[str, Array]) -> Shared:
        """What the signatures of a base's group share, made once and kept; ``parts`` are one's of them."""
        with self._sharing:
            if base not in self._shared:
                group = self.folder.group(parts)
                name = self.graph.input.name
                self._shared[base] = Shared(self.plan, name, self.folder, group, threads=self._threads)
            return self._shared[base]

    def clear(self) -> None:
        """Let go of what signatures share, and of the stages that are not in use."""
        with self._sharing:
            self._shared.clear()
        self.stages.clear()

    @property
    def shared_bytes(self) -> int:
        """About how many bytes what signatures share takes now."""
        return sum(shared.size_bytes for shared in [*self._shared.values()])
