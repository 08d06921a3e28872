"""A network of any kind as an ONNX file: nodes and weights by name, samples in, logits out.

There are two forms. ``complete`` holds every weight, for one signature. ``portable`` holds none: its weights are external initializers at
the location ``weights``, float32, one after the other, which the runtime supplies from memory, and its logits layer is an input. Both have
a dynamic batch dimension ``n``, and open lengths are dynamic; the same nodes and weights give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isoform.compile.nodes import make_model
from isoform.runtime.arrays import Array
from isoform.runtime.formats.compiled import WEIGHTS_LOCATION
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import AXES, Input

__all__ = ["NetworkFile", "external"]


class NetworkFile:
    """Nodes in execution order, and the initializers that they name.

    The nodes read the network's input by its name, and end in ``logits``, which they compute from the embedding by the initializers
    ``logits.weight`` and ``logits.bias``.

    Args:
        takes: The network's input.
        embedding: Number of features that the logits layer reads.
    """

    def __init__(self, takes: Input, embedding: int) -> None:
        self._input, self._embedding = takes, embedding
        self._nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}

    @classmethod
    def of(cls, takes: Input, embedding: int, nodes: Iterable[onnx.NodeProto]) -> NetworkFile:
        """Make a file of nodes that were written elsewhere; arguments as for the class."""
        file = cls(takes, embedding)
        file._nodes = list(nodes)
        return file

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node named after its output; returns the output's name."""
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def split(self, x: str, outputs: list[str], *, axis: int) -> list[str]:
        """Add a node that cuts a value into equal parts along an axis; returns their names."""
        self._nodes.append(helper.make_node("Split", [x], outputs, name=f"{x}.split", axis=axis))
        return outputs

    def complete(self, signature: Signature, labels: tuple[str, ...], *, layout: str) -> bytes:
        """Encode the file for one signature, checked by the onnx package.

        Args:
            signature: Named in the file's metadata.
            labels: Names of the classes, for the metadata.
            layout: Its folder in ``compiled/``.
        """
        metadata = {
            "layout": layout, "task": signature.task, "template": signature.template, "signature": signature.digest,
            "labels": json.dumps(list(labels), ensure_ascii=False),
        }  # fmt: skip
        model = self._model([], self._tensors(), len(labels), metadata)
        # With shape inference, which finds a node whose inputs do not fit each other.
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def portable(self, shapes: Mapping[str, tuple[int, ...]], *, template: str) -> bytes:
        """Encode the file for any signature.

        Args:
            shapes: Name → shape of the external weights in their order, ``Graph.weights``; without the logits layer.
            template: The template digest, for the metadata.
        """
        head = [
            helper.make_tensor_value_info("logits.weight", TensorProto.FLOAT, ["classes", self._embedding]),
            helper.make_tensor_value_info("logits.bias", TensorProto.FLOAT, ["classes"]),
        ]
        tensors = external(shapes)
        # Not passed to onnx.checker, which refuses external data that is not a file on disk.
        model = self._model(head, tensors, "classes", {"layout": "portable", "template": template})
        return model.SerializeToString(deterministic=True)

    def _tensors(self) -> list[onnx.TensorProto]:
        return [
            numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
            for name, array in self.initializers.items()
        ]

    def _model(
        self, head: list[onnx.ValueInfoProto], tensors: list[onnx.TensorProto], classes: int | str, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:  # fmt: skip
        # Tokens are indices; every other input is measured values.
        kind = TensorProto.INT64 if self._input.what == "tokens" else TensorProto.FLOAT
        open_names = {axis: name for axis, name in enumerate(AXES[self._input.what]) if self._input.shape[axis] is None}
        sizes = [open_names.get(axis, size) for axis, size in enumerate(self._input.shape)]
        samples = helper.make_tensor_value_info(self._input.name, kind, ["n", *sizes])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])
        model = make_model(helper.make_graph(self._nodes, "isoform", [samples, *head], [logits], tensors))
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model


def external(shapes: Mapping[str, tuple[int, ...]]) -> list[onnx.TensorProto]:
    """Return float32 tensors without values: external data at the location ``weights``, one after the other in this order."""
    found, start = [], 0
    for name, shape in shapes.items():
        tensor, size = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape), 4 * math.prod(shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS_LOCATION), ("offset", str(start)), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        found.append(tensor)
        start += size
    return found
