"""The exporter of kind ``module``: implements the interface in ``isoform.compile.kind``.

The graph was exported by torch and compared with the user's module when the bundle was made (``isoform.train.modules``); here it is
compared with onnx's own evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from isoform.compile.bodies.learning import Learnable, learning_graphs
from isoform.compile.bodies.trial import BodyLearning
from isoform.compile.kind import Task
from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.bodies.learning import BodyLearner
from isoform.runtime.errors import CompileError, first_line
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.module.kind import RATES
from isoform.runtime.kinds.module.network import ModuleNetwork

__all__ = ["EXPORTER", "ModuleExporter"]


class ModuleExporter:
    """The ``Exporter`` of this kind."""

    columns: Mapping[str, str] = {"private_numbers": "numbers of its own", "shared_numbers": "shared"}

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """As ``Exporter.snap``: nothing is snapped."""
        return signature

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """As ``Exporter.graphs``: ``portable``, and those for learning (``compile/bodies/learning.py``)."""
        weights = bundle.network.graph("portable").weights
        return {"portable": _file(bundle).portable(weights, template=bundle.digest), **_learning_graphs(bundle)}

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with every weight in it."""
        file = _file(bundle)
        file.initializers.update(task.weights)
        return {"fast": file.complete(task.signature, task.labels, layout="fast")}

    def learning(self, bundle: Bundle) -> BodyLearning | None:
        """As ``Exporter.learning``: none if the logits layer is all that has a gradient."""
        graphs, network = _learning_graphs(bundle), bundle.network
        if not graphs:
            return None
        assert isinstance(network, ModuleNetwork)
        return BodyLearning(BodyLearner(bundle, network.spec.body, network, graphs, rates=RATES, threads=1))

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


def _learning_graphs(bundle: Bundle) -> dict[str, bytes]:
    network = bundle.network.graph("portable")
    constants = [name for name in network.weights if name in network.constants]
    return learning_graphs(Learnable(body=bundle.network.spec.body, nodes=_nodes(bundle), constants=constants))


def _nodes(bundle: Bundle) -> Sequence[onnx.NodeProto]:
    """Return the body's nodes. Raises ``CompileError`` if the bundle's graph is damaged."""
    try:
        model = onnx.load_from_string(bundle.network.graph("portable").body)  # type: ignore[attr-defined]
        onnx.checker.check_model(model)
    except Exception as problem:  # protobuf's and the checker's errors have no common base
        raise CompileError(
            f"{bundle.path} has a body that is no valid ONNX graph: {first_line(problem)}; make the bundle again"
        ) from None
    return [*model.graph.node]


def _file(bundle: Bundle) -> NetworkFile:
    """Return the body as a network file, without weights."""
    return NetworkFile.of(bundle.spec.input_of(""), bundle.network.spec.body.embedding, _nodes(bundle))


EXPORTER = ModuleExporter()
