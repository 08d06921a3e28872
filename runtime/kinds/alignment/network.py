"""The networks of a bundle of kind ``alignment``: every task has a graph of its own, whose weights come from modules that all share."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.bodies.reference import checked_body, evaluate
from isoform.runtime.errors import SignatureError
from isoform.runtime.inputs import Input
from isoform.runtime.kind import HEAD, NoFront, NoKernel
from isoform.runtime.kinds.alignment.blocks import block_gradients, generated
from isoform.runtime.kinds.alignment.spec import AlignmentSpec
from isoform.runtime.layout import Layout

__all__ = ["AlignedGraph", "AlignedNetwork", "graph_name"]

PREFIX = "network."


def graph_name(task: str) -> str:
    """Return the name of a task's graph."""
    return f"{PREFIX}{task}"


class AlignedGraph(NoKernel):
    """The ``Graph`` of one task.

    Args:
        spec: The bundle's sizes.
        templates: ``spec.template_shapes``' names → arrays.
        task: The task.
    """

    def __init__(self, spec: AlignmentSpec, templates: Mapping[str, Array], task: str) -> None:
        self._spec, self._templates, self._task = spec, templates, task
        self.network = spec.of(task)

    @functools.cached_property
    def body(self) -> bytes:
        """The ONNX file of the task's body. Raises ``BundleError`` if it would make a reader open other files."""
        return checked_body(self._templates[f"body.{self._task}"].tobytes())

    @property
    def input(self) -> Input:
        """As ``Graph.input``."""
        return self.network.body.input

    @property
    def embedding(self) -> int:
        """As ``Graph.embedding``."""
        return self.network.body.embedding

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """As ``Graph.weights``."""
        return self.network.body.graph_weights

    @functools.cached_property
    def constants(self) -> dict[str, Array]:
        """As ``Graph.constants``: the weights that all signatures of the task share, and BN if they share it."""
        network, task, stored = self.network, self._task, self._templates
        found = {name: stored[f"shared.{task}/{name}"] for name in network.shared}
        if network.body.norms and not network.body.private_norms:
            found |= network.body.normalisation(stored[f"bn.affine.{task}"], stored[f"bn.statistics.{task}"])
        return found

    def fold(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Graph.fold``: generates all blocks and puts the task's own weights together (equations 4 and 5)."""
        network, body = self.network, self.network.body
        found = {**self.constants, **self._aligned(parts)}
        if network.private:
            found |= body.split(parts["private"], network.private)
        if body.norms and body.private_norms:
            found |= body.normalisation(parts["bn.affine"], parts["bn.statistics"])
        return {name: np.ascontiguousarray(found[name]) for name in self.weights} | {name: parts[name] for name in HEAD}

    def _aligned(self, parts: Mapping[str, Array]) -> dict[str, Array]:
        blocks = generated(self._spec, self._templates, parts["alignment"], parts.get("contexts"))
        found, start = {}, 0
        for name, cut in self._spec.cuts(self._task).items():
            found[name] = cut.weight(blocks[start : start + cut.count])
            start += cut.count
        return found

    def chain(self, parts: Mapping[str, Array], gradients: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Parts.chain``: dL/dz_ℓ = H_ψ(ℓ) dL/dB_ℓ. The alignment has no gradient."""
        network, found = self.network, dict[str, Array]()
        if network.private:
            found["private"] = np.concatenate([gradients[name].ravel() for name in network.private]).astype(np.float64)
        if "contexts" in parts:
            cuts = self._spec.cuts(self._task)
            blocks = np.concatenate([cut.blocks(gradients[name]) for name, cut in cuts.items()])
            found["contexts"] = block_gradients(self._spec, self._templates, parts["alignment"], blocks)
        return found

    def folder(self, layout: Layout) -> None:
        """As ``Graph.folder``: none, the plain fold is gathered into the plan."""


class AlignedNetwork(NoFront):
    """The ``Network`` of this kind.

    Args:
        spec: The bundle's sizes.
        templates: ``spec.template_shapes``' names → arrays.
    """

    def __init__(self, spec: AlignmentSpec, templates: Mapping[str, Array]) -> None:
        self.spec = spec
        self._graphs = {task: AlignedGraph(spec, templates, task) for task in spec.tasks}

    def complete(self, task: str, parts: Mapping[str, Array]) -> dict[str, Array]:
        """As ``Network.complete``: nothing is computed. Raises ``SignatureError`` if a part does not fit the task's network."""
        spec, network = self.spec, self.spec.of(task)
        alignment = parts["alignment"]
        modules = spec.hypermodules + spec.specific
        if len(alignment) != spec.locations(task) or alignment.min() < 0 or alignment.max() >= modules:
            raise SignatureError(
                f"the alignment of a signature of task {task!r} must be {spec.locations(task):,} whole numbers from 0 to {modules - 1:,}; "
                "it belongs to another bundle"
            )
        sizes = {
            "contexts": (int((alignment < spec.hypermodules).sum()), spec.context),
            "private": (network.body.numbers(network.private),),
            "bn.affine": (2, network.body.channels), "bn.statistics": (2, network.body.channels),
            "logits.weight": (len(parts["logits.bias"]), network.body.embedding),
        }  # fmt: skip
        for name, size in sizes.items():
            found = parts[name].shape if name in parts else None
            if found != (size if name in network.parts else None):
                raise SignatureError(
                    f"a signature of task {task!r} holds {name} of shape {found}, but {size if name in network.parts else 'none'} was expected; "
                    "it belongs to another task or bundle"
                )
        return dict(parts)

    def graphs(self, task: str, parts: Mapping[str, Array]) -> tuple[str]:
        """As ``Network.graphs``: the task's."""
        return (graph_name(task),)

    def graph(self, name: str) -> AlignedGraph:
        """As ``Network.graph``. Raises ``SignatureError`` if there is no such graph."""
        self.spec.of(name.removeprefix(PREFIX))
        return self._graphs[name.removeprefix(PREFIX)]

    def reference(self, task: str, parts: Mapping[str, Array], x: Array) -> Array:
        """As ``Network.reference``."""
        graph = self._graphs[task]
        return evaluate(graph.body, {graph.input.name: x, **graph.fold(parts)})
