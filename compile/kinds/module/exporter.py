"""The exporter of kind ``module``: implements the interface in ``isoform.compile.kind``.

The graph was exported by torch and compared with the user's module when the bundle was made (``isoform.train.modules``); here it is
compared with onnx's own evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from isoform.compile.kind import Task
from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.errors import CompileError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

__all__ = ["EXPORTER", "ModuleExporter"]


class ModuleExporter:
    """The ``Exporter`` of this kind."""

    columns: Mapping[str, str] = {"private_numbers": "numbers of its own", "shared_numbers": "shared"}

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """As ``Exporter.snap``: nothing is snapped."""
        return signature

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """As ``Exporter.graphs``: one, ``portable``."""
        return {"portable": _file(bundle).portable(bundle.network.graph("portable").weights, template=bundle.digest)}

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with every weight in it."""
        file = _file(bundle)
        file.initializers.update(task.weights)
        return {"fast": file.complete(task.signature, task.labels, layout="fast")}

    def learning(self, bundle: Bundle) -> None:
        """As ``Exporter.learning``: none yet."""

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array] | None:
        """As ``Exporter.trained``: none, the user's module is not in the bundle."""
        return None

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """As ``Exporter.told``: how many numbers the task has of its own, logits layer included, and how many all share."""
        spec = bundle.network.spec
        return {
            "private_numbers": sum(array.size for array in task.signature.parts.values()),
            "shared_numbers": sum(array.size for name, array in bundle.tensors.items() if name not in spec.bytewise),
        }

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """As ``Exporter.cuts``: the logits layer alone."""
        return {"head_only": task.signature.keep(*HEAD)}


def _file(bundle: Bundle) -> NetworkFile:
    """Return the body's nodes as a network file, without weights. Raises ``CompileError`` if the bundle's graph is damaged."""
    network = bundle.network
    try:
        model = onnx.load_from_string(network.graph("portable").body)  # type: ignore[attr-defined]
        onnx.checker.check_model(model)
    except Exception as problem:  # protobuf's and the checker's errors have no common base
        raise CompileError(
            f"{bundle.path} has a body that is no valid ONNX graph: {problem}; make the bundle again"
        ) from None
    return NetworkFile.of(bundle.spec.input_of(""), network.spec.body.embedding, model.graph.node)


EXPORTER = ModuleExporter()
