"""The forward graph of one isometric block with its weights as inputs, for learning on the device.

The network is isometric, so one block's graph serves all L layers. With x the block's input, W and b its folded
weights (BN is in them), ⊛ a depthwise convolution, σ the hard sigmoid, ∘ a product channel by channel:

    a = W₁x + b₁    h = a σ(a)    d = W_d ⊛ h + b₂    y = d σ(d)
    z = mean(y)    r = relu(S₁z + c₁)    q₀ = S₂r + c₂    q = σ(q₀)    output = x + (W₂∘q) y + b₃

The backward pass is in ``block_vjp.py``; ``block_stages.py`` has the block in three steps with BN apart from the weights.
Source: Compositional Models, section 3.2.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from isoform.compile.kinds.mixture.depthwise import BlockedDepthwise, PlainDepthwise
from isoform.compile.nodes import Nodes, make_model
from isoform.runtime.kinds.mixture.learn.arrange import filled
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["KEPT", "Block", "block_forward_graph", "file_of", "weight_shapes"]

KEPT = ("a", "d", "z", "r", "q0")
"""Outputs of the forward pass that the backward pass reads, besides the block's input."""


class Block(Nodes):
    """Nodes of one block, named after what they hold. Features are (n, channels, height, width) and, as rows, (n, channels, P).

    Args:
        spec: The network's sizes.
        lanes: None for a graph that runs anywhere; else the number of channels of ONNX Runtime's blocked layout, 8 or 16.
    """

    def __init__(self, spec: NetworkSpec, lanes: int | None) -> None:
        super().__init__()
        self.spec, self.lanes = spec, lanes
        self.depthwise = PlainDepthwise(self, spec) if lanes is None else BlockedDepthwise(self, spec, lanes)

    def rows(self, x: str) -> str:
        """(n, channels, height, width) → (n, channels, P)."""
        return self.reshape(x, [0, 0, -1], f"{x} rows")

    def hard_swish(self, u: str, output: str) -> str:
        """Compute u σ(u); σ(u) stays available under that name."""
        # Two nodes instead of ONNX's HardSwish, because the backward pass reads σ(u) for the slope.
        return self("Mul", [u, self("HardSigmoid", [u], f"σ({u})", alpha=1 / 6, beta=0.5)], output)

    def forward(self) -> None:
        """Compute y and q, with BN folded into the weights."""
        self("Conv", ["x", "expand.weight", "expand.bias"], "a")
        self.hard_swish("a", "h")
        self.depthwise.forward("h", "d", bias="depthwise.bias")
        self.hard_swish("d", "y")
        self.gate()

    def kept_shapes(self, samples: int | str) -> dict[str, list[Any]]:
        """Return the shapes of ``KEPT``."""
        e, r, grid = self.spec.expanded, self.spec.squeezed, self.spec.grid
        shapes = [samples, e, *grid], [samples, e, *grid], [samples, e], [samples, r], [samples, e]
        return dict(zip(KEPT, shapes, strict=True))

    def gate(self) -> None:
        """Compute z, r and q from y, as vectors: (n, E), (n, R), (n, E)."""
        # One pixel is left after pooling, so a 1×1 convolution is a matrix product, whose gradient is two more.
        self.reshape(self("GlobalAveragePool", ["y"], "z map"), [-1, self.spec.expanded], "z")
        self("Relu", [self("Gemm", ["z", "squeeze.weight", "squeeze.bias"], "r0", transB=1)], "r")
        self("Gemm", ["r", "excite.weight", "excite.bias"], "q0", transB=1)
        self("HardSigmoid", ["q0"], "q", alpha=1 / 6, beta=0.5)

    def projection(self) -> str:
        """Compute (W₂∘q) y, one matrix product per sample."""
        # The gate scales W₂ (C·E numbers per sample) instead of y (E·P): less work where C < P, as in the shipped recipes.
        row = self.reshape("q", [-1, 1, self.spec.expanded], "q row")
        gated = self("Mul", ["project.weight", row], "W₂∘q")
        product = self("MatMul", [gated, self.rows("y")], "(W₂∘q) y rows")
        return self.reshape(product, [0, 0, *self.spec.grid], "(W₂∘q) y")


def weight_shapes(spec: NetworkSpec, lanes: int | None, *, biases: bool) -> dict[str, list[Any]]:
    """Return name → shape of a layer's weights as ``isoform.runtime.kinds.mixture.learn.arrange`` supplies them; ``biases``: also those folded from BN."""
    c, e, r, k, f = spec.channels, spec.expanded, spec.squeezed, spec.kernel, filled(spec, lanes)
    shapes: dict[str, list[Any]] = {
        "expand.weight": [e, c, 1, 1], "depthwise.weight": [f, 1, k, k], "squeeze.weight": [r, e], "squeeze.bias": [r],
        "excite.weight": [e, r], "excite.bias": [e], "project.weight": [1, c, e],
    }  # fmt: skip
    if biases:
        shapes |= {"expand.bias": [e], "depthwise.bias": [f], "project.bias": [1, c, 1, 1]}
    return shapes


def file_of(nodes: Nodes, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> bytes:
    """Encode an ONNX file with these nodes; inputs and outputs are name → shape, float32."""
    ins, outs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in entries.items()]
        for entries in (inputs, outputs)
    )
    graph = helper.make_graph(nodes.nodes, "isoform", ins, outs, list(nodes.constants.values()))
    model = make_model(graph, domains=nodes.domains)
    # A full check infers shapes, and cannot do so through operators of a domain that it does not know.
    onnx.checker.check_model(model, full_check=not nodes.domains)
    return model.SerializeToString(deterministic=True)


def block_forward_graph(spec: NetworkSpec, *, lanes: int | None = None) -> bytes:
    """Encode one block's forward pass.

    Args:
        spec: The network's sizes.
        lanes: As in ``Block``.

    Returns:
        An ONNX file: inputs ``x`` (n, C, height, width) and ``forward_feeds``; outputs ``output``, of x's shape, and ``KEPT``. float32.
    """
    block = Block(spec, lanes)
    block.forward()
    block("Add", [block("Add", [block.projection(), "project.bias"], "o"), "x"], "output")
    feature = ["n", spec.channels, *spec.grid]
    return file_of(
        block, {"x": feature, **weight_shapes(spec, lanes, biases=True)}, {"output": feature, **block.kept_shapes("n")}
    )
