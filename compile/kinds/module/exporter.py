"""The exporter of kind ``module``: implements the interface in ``isoform.compile.kind``.

The graph was exported by torch and compared with the user's module when the bundle was made (``isoform.train.modules``); here it is
compared with onnx's own evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoform.compile.bodies.files import BodyFiles
from isoform.compile.bodies.trial import BodyLearning
from isoform.compile.kind import Task
from isoform.runtime.arrays import Array
from isoform.runtime.bodies.learning import BodyLearner
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
        files = _files(bundle)
        return {"portable": files.portable(bundle.digest), **files.learning()}

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with every weight in it."""
        return {"fast": _files(bundle).complete(task)}

    def learning(self, bundle: Bundle) -> BodyLearning | None:
        """As ``Exporter.learning``: none if the logits layer is all that has a gradient."""
        graphs, network = _files(bundle).learning(), bundle.network
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


def _files(bundle: Bundle) -> BodyFiles:
    network = bundle.network
    assert isinstance(network, ModuleNetwork)
    return BodyFiles(network, network.spec.body, bundle.path)


EXPORTER = ModuleExporter()
