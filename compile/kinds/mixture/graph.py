"""ONNX graphs of the network, written node by node from folded weights: no tracing, no mixing in the graph, reproducible bytes.

There are three layouts of one network, opset 17, dynamic batch dimension ``n``:

    fast      BN folded into every convolution, every layer has its own weights. Complete, one file per task; the default
    small     discrete layers share their template's weights, BN stays as a scale and a shift per channel. Complete
    portable  ``fast`` without weights: they are external initializers at ``weights``, and the logits layer is an input. The bottleneck of
              squeeze-and-excite is padded with zeros

Initializers have one name per (layer, tensor), those of ``isoform.runtime.kinds.mixture.fold.fold``; in ``small`` shared ones are
``template2.expand.weight`` and so on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.compile.network_file import NetworkFile
from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.directions import template_sequence
from isoform.runtime.kinds.mixture.fold import BN_CONVOLUTIONS, fold, folded_shapes
from isoform.runtime.kinds.mixture.normalisation import bn_scale_shift
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["fast_graph", "portable_graph", "small_graph"]

FILLED = 4
"""ONNX Runtime's blocked layout takes a convolution only if the number of its input channels is a multiple of this one."""


class _Graph(NetworkFile):
    """A network file with the operators of this kind's network."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec.input_of(""), spec.embedding)
        self.spec = spec

    def conv(self, x: str, part: str, weights: list[str], **attributes: Any) -> str:
        return self.node("Conv", [x, *weights], f"{part}.conv", **attributes)

    def folded_conv(self, x: str, part: str, **attributes: Any) -> str:
        return self.conv(x, part, [f"{part}.weight", f"{part}.bias"], **attributes)

    def filled(self, name: str, shape: Sequence[int], *, axis: int) -> str:
        """Pad a weight with zeros along an axis to a multiple of ``FILLED``; returns the result's name, or the weight's if it fits.

        ONNX Runtime computes this once, when it creates a session.
        """
        missing = -shape[axis] % FILLED
        if not missing:
            return name
        ends = [0] * len(shape)
        ends[axis] = missing
        pads = self.node("Constant", [], f"{name}.pads", value_ints=[0] * len(shape) + ends)
        return self.node("Pad", [name, pads], f"{name}.padded")

    def activation(self, x: str, part: str) -> str:
        return self.node("HardSwish", [x], f"{part}.act")


def fast_graph(
    spec: NetworkSpec, weights: Mapping[str, Array], *, signature: Signature, labels: tuple[str, ...]
) -> bytes:
    """Encode the complete network of one signature, BN folded.

    Args:
        spec: The network's sizes.
        weights: As returned by ``fold`` for the signature.
        signature: Named in the file's metadata.
        labels: Names of the classes, for the metadata.

    Returns:
        An ONNX file. Input ``image`` (n, channels, height, width) float32; output ``logits`` (n, classes) float32.
    """
    graph = _Graph(spec)
    graph.initializers.update(weights)
    _network(graph, graph.folded_conv)
    return graph.complete(signature, labels, layout="fast")


def small_graph(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    parts: Mapping[str, Array],
    *,
    signature: Signature,
    labels: tuple[str, ...],
) -> bytes:
    """Encode the complete network of one signature, with template weights shared between discrete layers.

    Args:
        spec: The network's sizes.
        tensors: ``templates.safetensors``.
        parts: The complete signature.
        signature: Named in the file's metadata.
        labels: Names of the classes, for the metadata.

    Returns:
        An ONNX file with the same inputs and outputs as ``fast_graph``'s.
    """
    graph = _Graph(spec)
    sequence = template_sequence(parts)
    scale, shift = bn_scale_shift(spec, tensors, parts)
    places, folded = spec.bn_slices, fold(spec, tensors, parts)

    def conv(x: str, part: str, **attributes: Any) -> str:
        layer, _, name = part.partition(".")
        # Without a dot it is an adapter, which belongs to no layer and has no template.
        template = sequence[int(layer.removeprefix("layer"))] if name else None
        if template is None:
            for kind in ("weight", "bias"):
                graph.initializers[f"{part}.{kind}"] = folded[f"{part}.{kind}"]
            return graph.conv(x, part, [f"{part}.weight", f"{part}.bias"], **attributes)
        shared = f"template{template}.{name}"
        graph.initializers[f"{shared}.weight"] = tensors[f"template.{name}.weight"][template]
        if name not in BN_CONVOLUTIONS:  # squeeze and excite: no BN follows, so the template's bias is shared as well
            graph.initializers[f"{shared}.bias"] = tensors[f"template.{name}.bias"][template]
            return graph.conv(x, part, [f"{shared}.weight", f"{shared}.bias"], **attributes)
        # BN differs between layers of one template, so it cannot be folded into the shared weight.
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
    """Encode the network without weights, for any signature.

    Args:
        spec: The network's sizes.
        template: The template digest, for the metadata.

    Returns:
        An ONNX file whose initializers are external, at ``weights``, float32, one after the other in the order of
        ``folded_shapes``; inputs ``image``, ``logits.weight`` (classes, embedding) and ``logits.bias`` (classes,).
    """
    graph = _Graph(spec)
    _network(graph, functools.partial(_filled_conv, graph))
    return graph.portable(folded_shapes(spec), template=template)


def _filled_conv(graph: _Graph, x: str, part: str, **attributes: Any) -> str:
    """Add a convolution as ``folded_conv``, with squeeze-and-excite's bottleneck padded: then a plan keeps it in the blocked layout."""
    weight, bias, shapes = f"{part}.weight", f"{part}.bias", graph.spec.block_shapes
    if part.endswith(".squeeze"):
        weight = graph.filled(weight, shapes["squeeze.weight"], axis=0)
        bias = graph.filled(bias, shapes["squeeze.bias"], axis=0)
    elif part.endswith(".excite"):
        weight = graph.filled(weight, shapes["excite.weight"], axis=1)
    return graph.conv(x, part, [weight, bias], **attributes)


def _network(graph: _Graph, conv: Callable[..., str]) -> None:
    """Add all nodes, from ``image`` to ``logits``; ``conv(x, part, **attributes)`` adds a convolution with its BN, if any."""
    spec = graph.spec
    # The stride is the kernel: patches do not overlap, and without padding the input's normalisation folds exactly.
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
