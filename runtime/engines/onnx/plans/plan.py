"""The device plan: the network's graph, optimised for this device, with a signature's weights as inputs.

A convolution whose weight is an input cannot use ONNX Runtime's blocked layouts and runs 1.4 to 2.9 times slower; a session per user
can, but takes tens of milliseconds to create. A plan has the advantages of both (``builder.py``).

The weights of one signature are one vector, every tensor aligned to 64 bytes, in the order of ``Graph.weights``: first what differs
between signatures of a group, last what they share (``isoform.runtime.kind``).

A plan is valid for one graph with its templates, one version of ONNX Runtime and one type of processor: on a processor with a
different layout it would give wrong results without an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.kind import Graph
from isoform.runtime.layout import Layout, Weight

__all__ = ["TRIAL_CLASSES", "Plan", "Subject", "bind", "subject_of"]

TRIAL_CLASSES = 3
"""Classes of the self-test's random network."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph whose weights are external initializers, with what is needed to build a plan for it."""

    graph: bytes
    """ONNX file; its external data at the location ``weights`` are the values of ``weights``, concatenated."""
    weights: Mapping[str, tuple[int, ...]]
    """Name → shape of every external initializer, in that order; float32."""
    constants: Mapping[str, Array]
    """Values of those that are the same for every signature."""
    feeds: Callable[[np.random.Generator, int], dict[str, Array]]
    """Makes random values of all inputs of the graph for a number of samples."""
    output: str = "logits"
    """The output that is compared; its first axis has a row per sample."""

    @property
    def changing(self) -> dict[str, tuple[int, ...]]:
        """The ``weights`` that depend on the signature, in order."""
        return {name: shape for name, shape in self.weights.items() if name not in self.constants}

    def in_order(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return values of all weights in the order of ``weights``."""
        return {name: values[name] for name in self.weights}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A lifted graph, and the layout of its weights."""

    graph: bytes
    """ONNX file; its inputs are the network's input, ``HEAD``, and every weight that depends on the signature, in ONNX Runtime's layout."""
    layout: Layout
    """Every lifted weight, in ONNX Runtime's layout. The names are short, because each binding stores them."""
    expected: Array = dataclasses.field(default_factory=lambda: np.zeros(TRIAL_CLASSES, dtype=np.float32))
    """Output for the self-test's first sample, shape (TRIAL_CLASSES,) for a bundle's, float32: the reference of ``trial.check_plan``."""
    over_session: float = 1.0
    """Run time of one sample here, divided by that of a session with the same weights as constants (``choice.py``)."""
    batches: tuple[int, ...] = ()
    """Batch sizes that run in a graph of their own (``gates.py``), ascending."""


def subject_of(file: bytes, graph: Graph) -> Subject:
    """Return the subject for the plan of a compiled graph.

    Args:
        file: The ONNX file without weights.
        graph: The same graph; its ``constants`` become constants of the plan.
    """

    def feeds(rng: np.random.Generator, samples: int) -> dict[str, Array]:
        weight = rng.normal(size=(TRIAL_CLASSES, graph.embedding)) / math.sqrt(graph.embedding)
        head = {"logits.weight": weight.astype(np.float32), "logits.bias": np.zeros(TRIAL_CLASSES, dtype=np.float32)}
        return {graph.input.name: graph.input.random(rng, samples), **head}

    return Subject(graph=file, weights=graph.weights, constants=graph.constants, feeds=feeds)


def bind(binding: ort.IOBinding, weights: Iterable[Weight], laid_out: Array) -> None:
    """Bind a signature's weights, all but ``HEAD``. The vector must outlive the binding's last run.

    Args:
        binding: An IOBinding of one of the plan's ``Sessions``.
        weights: The plan's weights.
        laid_out: The vector that holds them.
    """
    address = laid_out.ctypes.data
    for name, shape, start in weights:
        binding.bind_input(name, "cpu", 0, np.float32, shape, address + 4 * start)
