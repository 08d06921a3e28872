"""The interface (door) between the compile stage and the kinds of networks.

    Exporter   exports the graphs of one kind, and provides the networks to verify them against
    Learning   its graphs for learning on the device, opened once for all tasks
    Task       one task of a bundle, resolved and folded once and used for every file

To add a kind, make a folder below ``kinds/`` whose ``exporter.py`` defines ``EXPORTER``, and add its line to ``EXPORTERS``.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from isoform.runtime.arrays import Array
from isoform.runtime.errors import CompileError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.train.data.samples import Loaded

__all__ = ["EXPORTERS", "Exporter", "Learning", "Task", "exporter_of"]

EXPORTERS = {
    "mixture": "isoform.compile.kinds.mixture.exporter",
    "allocation": "isoform.compile.kinds.allocation.exporter",
    "module": "isoform.compile.kinds.module.exporter",
    "alignment": "isoform.compile.kinds.alignment.exporter",
}
"""Name of each kind → the module that defines its ``EXPORTER``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a bundle."""

    name: str
    trained: Signature
    """The trained base signature."""
    signature: Signature
    """The compiled base signature: ``trained``, snapped."""
    parts: Mapping[str, Array]
    """All parts of ``signature``, inherited ones included, as ``Bundle.resolve`` returns them."""
    graph: str
    """Name of the graph that runs it: the first of ``Network.graphs``."""
    weights: Mapping[str, Array]
    """Weights folded for that graph, as ``Graph.fold`` returns them."""
    labels: tuple[str, ...]
    train: Loaded
    test: Loaded


class Learning(Protocol):
    """Graphs for learning on the device."""

    @property
    def graphs(self) -> Mapping[str, bytes]:
        """Name → content of the files in ``compiled/training/``."""

    def source(self, task: Task) -> bytes | None:
        """Statistics of the training samples under a task's signature, for adaptation: the file ``compiled/source/<task>.safetensors``; None
        without BN of the task's own.
        """

    def gradient_gap(self, task: Task) -> float | None:
        """Largest difference between a part's gradient and torch autograd's, relative to the part's largest gradient; None where torch's are
        not known, and the gradients have been checked in another way. Raises ``CompileError`` if they are wrong.
        """


class Exporter(Protocol):
    """How bundles of one kind are compiled."""

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """Turn the trained signature into the one that runs. Raises ``CompileError`` if τ is out of range."""

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """Name → ONNX file whose weights are external initializers, those of ``Graph.weights`` in order; contains each task's ``graph``."""

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """Folder in ``compiled/`` → the task's network as one complete ONNX file; contains ``fast``."""

    def learning(self, bundle: Bundle) -> Learning | None:
        """Graphs for learning on the device; None if the kind has none."""

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array] | None:
        """The torch network with this signature: samples (n, …) → logits; None if the kind has only the numpy twin."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The facts of ``told`` that are printed beside accuracies: key → title. A title that ends in "by layer" is of a list."""

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """Facts about a task that the report adds to the measurements, as JSON types."""

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """Name in the report → signature with fewer parts, whose size is reported."""


def exporter_of(bundle: Bundle) -> Exporter:
    """Return the exporter of a bundle's kind. Raises ``CompileError`` if the kind cannot be compiled."""
    kind = bundle.spec.kind
    if kind not in EXPORTERS:
        raise CompileError(f"{bundle.path} is of kind {kind!r}, but only {', '.join(EXPORTERS)} can be compiled")
    # Imported on demand: an exporter imports torch and onnx, and only one kind is needed.
    found: Exporter = importlib.import_module(EXPORTERS[kind]).EXPORTER
    return found
