"""The files of a body: its nodes from a bundle, the graph without weights, the complete network, and the graphs for learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnx

from isoform.compile.bodies.learning import Learnable, learning_graphs
from isoform.compile.kind import Task
from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.bodies.body import Body
from isoform.runtime.errors import CompileError, first_line

__all__ = ["BodyFiles", "BodyGraph"]


class BodyGraph(Protocol):
    """A ``Graph`` that is a body."""

    @property
    def body(self) -> bytes:
        """The ONNX file of the body."""

    @property
    def weights(self) -> Mapping[str, tuple[int, ...]]:
        """As ``Graph.weights``."""

    @property
    def constants(self) -> Mapping[str, Array]:
        """As ``Graph.constants``."""


class BodyFiles:
    """Writes the files of one body.

    Args:
        graph: The body's graph.
        body: Its sizes.
        path: The bundle's directory, for errors.

    Raises:
        CompileError: If the body is not a valid ONNX graph.
    """

    def __init__(self, graph: BodyGraph, body: Body, path: Path) -> None:
        self._graph, self._body, self._nodes = graph, body, _nodes(graph.body, path)

    def portable(self, template: str) -> bytes:
        """Return the graph without weights; ``template`` is the template digest."""
        return self._file().portable(self._graph.weights, template=template)

    def complete(self, task: Task) -> bytes:
        """Return the network with every weight in it."""
        file = self._file()
        file.initializers.update(task.weights)
        return file.complete(task.signature, task.labels, layout="fast")

    def learning(self) -> dict[str, bytes]:
        """Return the graphs for learning on the device, by name; see ``learning_graphs``."""
        constants = [name for name in self._graph.weights if name in self._graph.constants]
        return learning_graphs(Learnable(body=self._body, nodes=self._nodes, constants=constants))

    def _file(self) -> NetworkFile:
        return NetworkFile.of(self._body.input, self._body.embedding, self._nodes)


def _nodes(file: bytes, path: Path) -> Sequence[onnx.NodeProto]:
    try:
        model = onnx.load_from_string(file)
        onnx.checker.check_model(model)
    except Exception as problem:  # protobuf's and the checker's errors have no common base
        raise CompileError(
            f"{path} has a body that is no valid ONNX graph: {first_line(problem)}; make the bundle again"
        ) from None
    return [*model.graph.node]
