"""ONNX graphs, written node by node from folded weights: no tracing, no mixing left, the same input gives the same bytes.

Three layouts of one network, opset 17, dynamic batch dimension ``n``:

    fast      BN folded into every convolution, every layer has its own weights. Complete, one file per task; the default
    small     discrete layers point at their template's weights, BN stays as a scale and a shift per channel. Complete
    portable  ``fast`` without weights: they are external data at the location ``weights``, and the logits layer is an input

Initializers have one name per (layer, tensor), those of ``isoform.runtime.kinds.mixture.fold.fold``; in ``small`` shared ones are
``template2.expand.weight`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import sequence_of, xi_of
from isoform.runtime.kinds.mixture.fold import BN_CONVOLUTIONS, bn_scale_shift, fold, folded_shapes
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["fast_graph", "portable_graph", "small_graph"]


class _Graph(NetworkFile):
    """A network file with the operators of this kind's network."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec.input_of(""), spec.embedding)
        self.spec = spec

    def conv(self, x: str, part: str, weights: list[str], **attributes: Any) -> str:
        return self.node("Conv", [x, *weights], f"{part}.conv", **attributes)

    def activation(self, x: str, part: str) -> str:
        return self.node("HardSwish", [x], f"{part}.act")


def fast_graph(
    spec: NetworkSpec, weights: Mapping[str, Array], *, signature: Signature, labels: tuple[str, ...]
) -> bytes:
    """The complete network of one signature, BN folded.

    Args:
        spec: The network's sizes.
        weights: What ``fold`` returned for the signature.
        signature: Named in the file's metadata.
        labels: Names of the classes, for the metadata.

    Returns:
        An ONNX file. Input ``image`` (n, channels, height, width) float32; output ``logits`` (n, classes) float32.
    """
    graph = _Graph(spec)
    graph.initializers.update(weights)
    _network(graph, lambda x, part, **attributes: graph.conv(x, part, [f"{part}.weight", f"{part}.bias"], **attributes))
    return graph.complete(signature, labels, layout="fast")


def small_graph(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    parts: Mapping[str, Array],
    *,
    signature: Signature,
    labels: tuple[str, ...],
) -> bytes:
    """The complete network of one signature, with template weights shared between discrete layers.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``.
        parts: The complete signature.
        signature: The signature; its ``sequence`` says which layers are discrete.
        labels: Names of the classes, for the metadata.

    Returns:
        An ONNX file with the same inputs and outputs as ``fast_graph``'s.
    """
    graph = _Graph(spec)
    sequence = sequence_of(xi_of(signature.parts))
    scale, shift = bn_scale_shift(spec, parts["bn.affine"], parts["bn.statistics"])
    places, folded = spec.bn_slices, fold(spec, tensors, parts)

    def conv(x: str, part: str, **attributes: Any) -> str:
        layer, _, name = part.partition(".")
        template = sequence[int(layer.removeprefix("layer"))] if name else None
        if template is None:
            for kind in ("weight", "bias"):
                graph.initializers[f"{part}.{kind}"] = folded[f"{part}.{kind}"]
            return graph.conv(x, part, [f"{part}.weight", f"{part}.bias"], **attributes)
        shared = f"template{template}.{name}"
        graph.initializers[f"{shared}.weight"] = tensors[f"template.{name}.weight"][template]
        if name not in BN_CONVOLUTIONS:
            graph.initializers[f"{shared}.bias"] = tensors[f"template.{name}.bias"][template]
            return graph.conv(x, part, [f"{shared}.weight", f"{shared}.bias"], **attributes)
        for kind, values in (("scale", scale), ("shift", shift)):
            graph.initializers[f"{part}.{kind}"] = values[places[part], None, None].astype(np.float32)
        y = graph.conv(x, part, [f"{shared}.weight"], **attributes)
        y = graph.node("Mul", [y, f"{part}.scale"], f"{part}.scaled")
        return graph.node("Add", [y, f"{part}.shift"], f"{part}.shifted")

    _network(graph, conv)
    for name in ("embedding", "logits"):
        for kind in ("weight", "bias"):
            graph.initializers[f"{name}.{kind}"] = folded[f"{name}.{kind}"]
    return graph.complete(signature, labels, layout="small")


def portable_graph(spec: NetworkSpec, *, template: str) -> bytes:
    """The network without weights, for any signature.

    Args:
        spec: The network's sizes.
        template: The template digest, for the metadata.

    Returns:
        An ONNX file whose initializers are external data at ``weights``, float32, one after the other in the order of
        ``folded_shapes``; inputs ``image``, ``logits.weight`` (classes, embedding) and ``logits.bias`` (classes,).
    """
    graph = _Graph(spec)
    _network(graph, lambda x, part, **attributes: graph.conv(x, part, [f"{part}.weight", f"{part}.bias"], **attributes))
    return graph.portable(folded_shapes(spec), template=template)


def _network(graph: _Graph, conv: Callable[..., str]) -> None:
    """All nodes, from ``image`` to ``logits``; ``conv(x, part, **attributes)`` adds a convolution and what belongs to it."""
    spec = graph.spec
    x = graph.activation(conv("image", "input_adapter", strides=list(spec.adapter_kernel)), "input_adapter")
    half = spec.kernel // 2
    for layer in range(spec.layers):
        name = f"layer{layer:02d}"
        y = graph.activation(conv(x, f"{name}.expand"), f"{name}.expand")
        y = graph.activation(conv(y, f"{name}.depthwise", group=spec.expanded, pads=[half] * 4), f"{name}.depthwise")
        s = graph.node("GlobalAveragePool", [y], f"{name}.pool")
        s = graph.node("Relu", [conv(s, f"{name}.squeeze")], f"{name}.squeeze.act")
        s = graph.node("HardSigmoid", [conv(s, f"{name}.excite")], f"{name}.excite.act", alpha=1 / 6, beta=0.5)
        y = graph.node("Mul", [y, s], f"{name}.gated")
        x = graph.node("Add", [x, conv(y, f"{name}.project")], f"{name}.out")
    x = graph.activation(conv(x, "output_adapter"), "output_adapter")
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "output_adapter.pool")], "output_adapter.flat")
    x = graph.activation(
        graph.node("Gemm", [x, "embedding.weight", "embedding.bias"], "embedding.gemm", transB=1), "embedding"
    )
    graph.node("Gemm", [x, "logits.weight", "logits.bias"], "logits", transB=1)
