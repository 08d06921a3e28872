"""The door between compiling and the kinds of networks.

    Exporter   writes the graphs of one kind, and says what verifies them
    Learning   its graphs for learning on the device, opened once for all tasks
    Task       one task of a bundle, resolved and folded once for everything that is made of it

Add a kind: a folder below ``kinds/`` whose ``exporter.py`` has ``EXPORTER``, and its line in ``EXPORTERS``.
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
from isoform.train.data.samples import Split

__all__ = ["EXPORTERS", "Exporter", "Learning", "Task", "exporter_of"]

EXPORTERS = {"mixture": "isoform.compile.kinds.mixture.exporter"}
"""Name of each kind → the module that has its exporter as ``EXPORTER``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a bundle."""

    name: str
    trained: Signature
    """The base signature as it was trained."""
    signature: Signature
    """The one that runs: snapped."""
    parts: Mapping[str, Array]
    """All parts of the latter, as ``Bundle.resolve`` returns them."""
    graph: str
    """The graph that runs it: the first of ``Network.graphs``."""
    weights: Mapping[str, Array]
    """Folded for that graph, as ``Graph.fold`` returns them."""
    labels: tuple[str, ...]
    train: Split
    test: Split


class Learning(Protocol):
    """Graphs for learning on the device."""

    @property
    def graphs(self) -> Mapping[str, bytes]:
        """Name → content of the files in ``compiled/training/``."""

    def source(self, task: Task) -> bytes:
        """What a task's signature sees of its training samples, for adaptation: the file ``compiled/source/<task>.safetensors``."""

    def gradient_gap(self, task: Task) -> float:
        """Largest difference of a part's gradient to torch autograd, over the part's largest number."""


class Exporter(Protocol):
    """How bundles of one kind are compiled."""

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """The signature that runs, of the one that was trained. Raises ``CompileError`` if τ is out of range."""

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """Name → network without weights, an ONNX file whose external data are ``Graph.weights``, in order; each task's ``graph`` among them."""

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """Folder in ``compiled/`` → the task's network as one complete ONNX file; ``fast`` is among them."""

    def learning(self, bundle: Bundle) -> Learning | None:
        """Graphs for learning on the device; None if there are none."""

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array] | None:
        """The network as training runs it: samples (n, …) → logits; None where the numpy twin is all that there is."""

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """What the report says of a task beside what is measured, as JSON types."""

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """Signatures with fewer parts, by the names under which the report gives their sizes."""


def exporter_of(bundle: Bundle) -> Exporter:
    """What compiles a bundle. Raises ``CompileError`` if its kind cannot be compiled."""
    kind = bundle.spec.kind
    if kind not in EXPORTERS:
        raise CompileError(f"{bundle.path} is of kind {kind!r}, but {', '.join(EXPORTERS)} can be compiled")
    found: Exporter = importlib.import_module(EXPORTERS[kind]).EXPORTER
    return found
