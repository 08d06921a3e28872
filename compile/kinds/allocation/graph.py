"""ONNX graphs of a modular network, written node by node: with one mask's components alone, or with all of them for any mask.

A layer is the sum of its components, whose last operations are scaled by their gates; those that are the same convolution are one, whose
output is split (``isoform.runtime.kinds.allocation.fold``).
GroupNorm is written as InstanceNormalization over groups, because opset 17 has no other:

    (n, c, h, w) → (n, groups, -1) → InstanceNormalization → (n, c, h, w) · γ + β
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.allocation.fold import Unit, units_of, weight_shapes
from isoform.runtime.kinds.allocation.operations import Map, Operation
from isoform.runtime.kinds.allocation.spec import Layer, ModularSpec, layer_name

__all__ = ["complete_graph", "weightless_graph"]


def complete_graph(
    spec: ModularSpec, weights: Mapping[str, Array], *, mask: Array | None, signature: Signature, labels: tuple[str, ...], layout: str
) -> bytes:  # fmt: skip
    """Encode the network of one signature.

    Args:
        spec: The network's sizes.
        weights: As returned by ``Graph.fold`` for the signature, of the graph with these components.
        mask: The components that the graph has, shape (L, C), bool; None for all.
        signature: Named in the file's metadata.
        labels: Names of the classes, for the metadata.
        layout: Its folder in ``compiled/``.

    Returns:
        An ONNX file. Input ``image`` (n, channels, height, width) float32; output ``logits`` (n, classes) float32.
    """
    graph = _Graph(spec, mask)
    graph.initializers.update(weights)
    return graph.complete(signature, labels, layout=layout)


def weightless_graph(spec: ModularSpec, *, mask: Array | None, template: str) -> bytes:
    """Encode the network without weights: they are external initializers in the order of ``weight_shapes``.

    Args:
        spec: The network's sizes.
        mask: The components that the graph has; None for all.
        template: The template digest, for the metadata.
    """
    return _Graph(spec, mask).portable(weight_shapes(spec, mask), template=template)


class _Graph(NetworkFile):
    """A network file with all nodes, from ``image`` to ``logits``."""

    def __init__(self, spec: ModularSpec, mask: Array | None) -> None:
        super().__init__(spec.input_of(""), spec.embedding)
        self._spec = spec
        x = self._scaled("image")
        if spec.stem:
            x = self.node("Conv", [x, "stem.weight", "stem.bias"], "stem.conv")
            shape = (spec.channels, *spec.input_shape[1:])
            x = self.node(
                "Relu", [self._normalised(x, "stem", shape, spec.norm_groups) if spec.norm_groups else x], "stem.act"
            )
        for number, (layer, units) in enumerate(zip(spec.geometry, units_of(spec, mask), strict=True)):
            x = self._layer(x, layer, units, layer_name(number))
        self.node("Gemm", [self.node("Flatten", [x], "embedding"), "logits.weight", "logits.bias"], "logits", transB=1)

    def _scaled(self, x: str) -> str:
        """Subtract the mean of the samples and divide by their deviation, where they are not 0 and 1."""
        for op, name, values, none in (("Sub", "mean", self._spec.mean, 0), ("Div", "std", self._spec.std, 1)):
            if any(value != none for value in values):
                array = np.asarray(values, dtype=np.float32)[:, None, None]
                constant = self.node("Constant", [], f"input.{name}", value=numpy_helper.from_array(array))
                x = self.node(op, [x, constant], f"input.{op.lower()}")
        return x

    def _layer(self, x: str, layer: Layer, units: Sequence[Unit], name: str) -> str:
        outputs = [output for unit in units for output in self._unit(x, unit)]
        x = self.node("Sum", outputs, f"{name}.sum") if len(outputs) > 1 else outputs[0]
        if layer.norm:
            x = self.node("Relu", [self._normalised(x, name, layer.inside, self._spec.norm_groups)], f"{name}.act")
        if layer.pool > 1:
            x = self.node("AveragePool", [x], f"{name}.pool", kernel_shape=[layer.pool] * 2, strides=[layer.pool] * 2)
        return x

    def _unit(self, x: str, unit: Unit) -> list[str]:
        """Add the nodes of a unit; returns the outputs of its components."""
        count = len(unit.places)
        for step, operation in enumerate(unit.chain):
            x = self._operation(x, unit.name(step), operation, count)
        if not unit.chain[-1].shapes:
            return [self.node("Mul", [x, unit.gate], f"{unit.gate}d")]
        return (
            [x] if count == 1 else self.split(x, [f"{unit.name(0)}.output{place:02d}" for place in unit.places], axis=1)
        )

    def _operation(self, x: str, name: str, operation: Operation, count: int) -> str:
        """Add one operation of ``count`` components at once."""
        if operation.what == "identity":
            return x
        up, left = operation.pads
        window = {
            "strides": [operation.stride] * 2,
            "pads": [up, left, up, left],
            "kernel_shape": list(operation.kernel),
        }
        if operation.what == "maxpool":
            return self.node("MaxPool", [x], f"{name}.max", **window)
        if operation.what == "avgpool":
            return self.node("AveragePool", [x], f"{name}.mean", count_include_pad=0, **window)
        x = self.node("Conv", [x, f"{name}.weight", f"{name}.bias"], f"{name}.conv", **window)
        if operation.norm:
            channels, *sides = operation.after
            x = self._normalised(x, name, (count * channels, sides[0], sides[1]), count * self._spec.norm_groups)
        return self.node("Relu", [x], f"{name}.act") if operation.relu else x

    def _normalised(self, x: str, name: str, shape: Map, groups: int) -> str:
        grouped = self.node("Constant", [], f"{name}.grouped", value_ints=[0, groups, -1])
        whole = self.node("Constant", [], f"{name}.whole", value_ints=[0, *shape])
        ones = self.node("Constant", [], f"{name}.ones", value_floats=[1.0] * groups)
        zeros = self.node("Constant", [], f"{name}.zeros", value_floats=[0.0] * groups)
        x = self.node("Reshape", [x, grouped], f"{name}.groups")
        x = self.node("InstanceNormalization", [x, ones, zeros], f"{name}.instance", epsilon=self._spec.norm_eps)
        x = self.node("Reshape", [x, whole], f"{name}.normalised")
        return self.node(
            "Add", [self.node("Mul", [x, f"{name}.gamma"], f"{name}.scaled"), f"{name}.beta"], f"{name}.shifted"
        )
