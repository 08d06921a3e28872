"""The exporter of kind ``mixture``: implements the interface in ``isoform.compile.kind``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.compile.kind import Task
from isoform.compile.kinds.mixture.graph import fast_graph, portable_graph, small_graph
from isoform.compile.kinds.mixture.snap import snap
from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime.arrays import Array
from isoform.runtime.extras import needs
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.directions import template_sequence
from isoform.runtime.kinds.mixture.discrete import xi_of
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.measure import measure_source

__all__ = ["EXPORTER", "MixtureExporter"]

ROWS = 512
"""Samples per forward pass in torch."""


class MixtureLearning:
    """The ``Learning`` of this kind: graphs of one block, forward and backward, used for every layer.

    Args:
        bundle: Templates and trained signatures.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.graphs: Mapping[str, bytes] = training_graphs(bundle.network.spec)
        self._blocks = open_blocks(bundle.network.spec, self.graphs, threads=1)

    def source(self, task: Task) -> bytes:
        """As ``Learning.source``."""
        bundle = self._bundle
        found = measure_source(
            bundle.network.spec, bundle.tensors, task.parts, task.train.images, task.train.labels, classes=len(task.labels),
            run_on=self._blocks,
        )  # fmt: skip
        return found.encode()

    def gradient_gap(self, task: Task) -> float:
        """As ``Learning.gradient_gap``, on test samples."""
        from isoform.compile.kinds.mixture.verify_gradient import (
            gradient_gap,  # here: it needs torch, which exporting does not
        )

        return gradient_gap(self._bundle, task.name, task.test, self._blocks)


class MixtureExporter:
    """The ``Exporter`` of this kind."""

    columns: Mapping[str, str] = {"sequence": "templates by layer", "mean_max_xi_before": "max ξ"}

    def snap(self, signature: Signature, *, tau: float) -> Signature:
        """As ``Exporter.snap``: layers whose largest ξ is at least τ become one template."""
        return snap(signature, tau=tau)

    def graphs(self, bundle: Bundle, tasks: Sequence[Task]) -> dict[str, bytes]:
        """As ``Exporter.graphs``."""
        return {"portable": portable_graph(bundle.network.spec, template=bundle.digest)}

    def layouts(self, bundle: Bundle, task: Task) -> dict[str, bytes]:
        """As ``Exporter.layouts``: ``fast`` with BN folded, ``small`` with one copy of each template."""
        spec, signature, labels = bundle.network.spec, task.signature, task.labels
        return {
            "fast": fast_graph(spec, task.weights, signature=signature, labels=labels),
            "small": small_graph(spec, bundle.tensors, task.parts, signature=signature, labels=labels),
        }

    def learning(self, bundle: Bundle) -> MixtureLearning:
        """As ``Exporter.learning``."""
        return MixtureLearning(bundle)

    def trained(self, bundle: Bundle, signature: Signature) -> Callable[[Array], Array]:
        """As ``Exporter.trained``."""
        with needs("comparing with the trained network", extra="train"):  # here: exporting does without
            import torch

        from isoform.train.device import tensor_of
        from isoform.train.kinds.mixture.bundling import network_from_bundle

        network = network_from_bundle(bundle, {signature.task: signature})

        def run(x: Array) -> Array:
            with torch.no_grad():
                parts = np.array_split(x, max(1, len(x) // ROWS))
                return np.concatenate([network(tensor_of(part), 0).numpy() for part in parts])

        return run

    def told(self, bundle: Bundle, task: Task) -> dict[str, Any]:
        """As ``Exporter.told``: the template of each snapped layer, and how nearly one-hot the trained mixture was."""
        sequence = template_sequence(task.signature.parts)
        return {
            "sequence": sequence,
            "snapped_layers": [layer for layer, template in enumerate(sequence) if template is not None],
            "mean_max_xi_before": round(float(xi_of(task.trained.parts).max(axis=1).mean()), 6),
        }

    def cuts(self, bundle: Bundle, task: Task) -> dict[str, Signature]:
        """As ``Exporter.cuts``: the mixture alone, and the mixture with BN."""
        signature = task.signature
        # BN's affine map is added, because it may be a shared one that the base signature does not hold.
        whole = signature.replace(parts={**signature.parts, "bn.affine": task.parts["bn.affine"]})
        return {
            "mixture_only": signature.keep("mixture"),
            "mixture_bn": whole.keep("mixture", "bn.affine", "bn.statistics"),
        }


EXPORTER = MixtureExporter()
