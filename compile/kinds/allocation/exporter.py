"""The exporter of kind ``allocation``: implements the interface in ``isoform.compile.kind``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.compile.kind import Task
from isoform.compile.kinds.allocation.graph import complete_graph, weightless_graph
from isoform.compile.kinds.allocation.latency import pruned_over_full
from isoform.runtime.arrays import Array
from isoform.runtime.extras import needs
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.allocation.masks import ANY, active_share, mask_named

__all__ = ["EXPORTER", "AllocationExporter"]

ROWS = 256
"""Samples per forward pass in torch."""


class AllocationExporter:
    """The ``Exporter`` of this kind."""

    columns: Mapping[str, str] = {
        "allocation": "components by layer", "active_share": "in use", "pruned_over_full_latency": "time over all components",
    }  # fmt: skip

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """As ``Exporter.snap``: nothing is left to do, a trained mask is the most likely one."""
        return signature

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """As ``Exporter.graphs``: one for every mask that occurs, and one for any."""
        spec, names = bundle.network.spec, [*dict.fromkeys([*(task.graph for task in tasks), ANY])]
        return {name: weightless_graph(spec, mask=mask_named(spec, name), template=bundle.digest) for name in names}

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with the components that the task uses."""
        return {"fast": self._complete(bundle, task, task.graph, task.weights)}

    def _complete(self, bundle: Bundle, task: Task, graph: str, weights: Mapping[str, Array]) -> bytes:
        spec = bundle.network.spec
        mask = mask_named(spec, graph)
        return complete_graph(spec, weights, mask=mask, signature=task.signature, labels=task.labels, layout="fast")

    def learning(self, bundle: Bundle) -> None:
        """As ``Exporter.learning``: none, masks are searched with the graph for any mask."""

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array]:
        """As ``Exporter.trained``; in float64, because GroupNorm of few numbers makes torch's own rounding the larger part of a difference."""
        with needs("comparing with the trained network", extra="train"):  # here: exporting does without
            import torch

        from isoform.train.device import tensor_of
        from isoform.train.kinds.allocation.bundling import network_from_bundle

        network, (mask,) = network_from_bundle(bundle, {signature.task: signature})
        network, mask = network.double(), mask.double()

        def run(x: Array) -> Array:
            with torch.no_grad():
                parts = np.array_split(x, max(1, -(-len(x) // ROWS)))
                return np.concatenate([network(tensor_of(part).double(), 0, mask).numpy() for part in parts])

        return run

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """As ``Exporter.told``: the mask, the share of components in use, and the latency of the pruned graph over that of all components."""
        mask = task.parts["allocation"]
        full = self._complete(bundle, task, ANY, bundle.network.graph(ANY).fold(task.parts))
        pruned = self._complete(bundle, task, task.graph, task.weights)
        return {
            "allocation": ["".join(map(str, row)) for row in mask.astype(int).tolist()],
            "active_share": round(active_share(bundle.network.spec, mask), 6),
            "full_bytes": len(full),
            "pruned_over_full_latency": pruned_over_full(pruned, full, bundle.spec.input_of(task.name)),
        }

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """As ``Exporter.cuts``: the mask alone."""
        return {"allocation_only": task.signature.keep("allocation")}


EXPORTER = AllocationExporter()
