"""Write an ONNX graph node by node: every node has one output and is named after it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["IR_VERSION", "OPSET", "Nodes", "make_model"]

OPSET = 17
"""ONNX operator set: HardSwish needs 14; 17 is read by every ONNX Runtime since 1.12."""
IR_VERSION = 8
"""ONNX file format (IR version) that belongs to opset 17."""


class Nodes:
    """Nodes in execution order, and the constants they read."""

    def __init__(self) -> None:
        self.nodes = list[onnx.NodeProto]()
        self.constants: dict[str, onnx.TensorProto] = {}
        self.domains: set[str] = set()
        """Operator domains in use besides ONNX's own."""

    def __call__(self, op: str, inputs: list[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        if domain:
            self.domains.add(domain)
        return output

    def integers(self, values: Any) -> str:
        """An int64 constant."""
        return self._constant(np.asarray(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(value, dtype=np.float32))

    def ones(self, *shape: int) -> str:
        """A float32 constant of ones."""
        return self._constant(np.ones(shape, dtype=np.float32), f"ones {shape}")

    def _constant(self, value: Any, name: str = "") -> str:
        # Named after its value, so that equal constants are stored once.
        name = name or f"{value.dtype} {value.tolist()}"
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def reshape(self, x: str, shape: list[int], output: str) -> str:
        """Reshape; as in ONNX, 0 keeps an axis's length and -1 infers it."""
        return self("Reshape", [x, self.integers(shape)], output)

    def sum(self, x: str, axes: tuple[int, ...], output: str) -> str:
        """Sum over axes and drop them."""
        return self("ReduceSum", [x, self.integers(axes)], output, keepdims=0)


def make_model(graph: onnx.GraphProto, *, domains: Iterable[str] = ()) -> onnx.ModelProto:
    """Wrap a graph as a model of ``OPSET`` and ``IR_VERSION``; operators of other domains are those of version 1."""
    # Sorted, because a set of texts has another order in each process, and equal graphs must be equal bytes.
    operators = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(
        graph, opset_imports=operators, ir_version=IR_VERSION, producer_name="isoform",
        producer_version=importlib.metadata.version("isoform"),
    )  # fmt: skip
