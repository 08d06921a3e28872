"""The exporter of kind ``alignment``: implements the interface in ``isoform.compile.kind``.

Each task has a graph of its own. It was compared with the torch module when the bundle was made (``isoform.train.modules``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoform.compile.bodies.files import BodyFiles
from isoform.compile.bodies.trial import BodyLearning
from isoform.compile.kind import Task
from isoform.runtime.arrays import Array
from isoform.runtime.bodies.tasks import TaskLearners
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.alignment.kind import RATES
from isoform.runtime.kinds.alignment.network import AlignedNetwork, graph_name
from isoform.runtime.kinds.alignment.sizes import account

__all__ = ["EXPORTER", "AlignmentExporter"]


class AlignmentExporter:
    """The ``Exporter`` of this kind."""

    columns: Mapping[str, str] = {
        "locations": "blocks", "shared_locations": "with other tasks", "generic_locations": "of generic modules", "numbers_over_plain": "stored over plain",
    }  # fmt: skip

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """As ``Exporter.snap``: nothing is snapped, an alignment is discrete."""
        return signature

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """As ``Exporter.graphs``: for each task its network, and its graphs for learning with the task's name at the end."""
        found = {}
        for task in bundle.spec.tasks:  # type: ignore[attr-defined]
            files = _files(bundle, task)
            found[graph_name(task)] = files.portable(bundle.digest)
            found |= {f"{name}.{task}": graph for name, graph in files.learning().items()}
        return found

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with every weight in it."""
        return {"fast": _files(bundle, task.name).complete(task)}

    def learning(self, bundle: Bundle) -> BodyLearning | None:
        """As ``Exporter.learning``: none if one of the tasks has no gradients."""
        tasks = bundle.network.spec.tasks
        graphs = {f"{name}.{task}": graph for task in tasks for name, graph in _files(bundle, task).learning().items()}
        if not all(f"backward.{task}" in graphs for task in tasks):
            return None
        bodies = {task: network.body for task, network in tasks.items()}
        return BodyLearning(TaskLearners(bundle, bodies, graphs, rates=RATES, threads=1))

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array] | None:
        """As ``Exporter.trained``: none, the torch modules are not in the bundle."""
        return None

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """As ``Exporter.told``: the task's locations, how many share their module with another task, and the numbers that it stores."""
        return account(bundle.network.spec, {name: base.parts for name, base in bundle.signatures.items()})[task.name]

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """As ``Exporter.cuts``: the logits layer alone, and the alignment with its contexts."""
        parts = [name for name in ("alignment", "contexts") if name in task.signature.parts]
        return {"head_only": task.signature.keep(*HEAD), "alignment_only": task.signature.keep(*parts)}


def _files(bundle: Bundle, task: str) -> BodyFiles:
    network = bundle.network
    assert isinstance(network, AlignedNetwork)
    return BodyFiles(network.graph(graph_name(task)), network.spec.of(task).body, bundle.path)


EXPORTER = AlignmentExporter()
"""Graphs of networks of any architectures that share their blocks."""
