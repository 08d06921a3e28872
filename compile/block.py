"""The block's graphs for learning on the device: one isometric block, forward and backward, weights as inputs.

The network is isometric, so one block's forward pass and one block's vector-Jacobian product are all that is needed, whatever L.
With x the block's input, W and b its folded weights (BN is in them), ⊛ a depthwise convolution, σ the hard sigmoid, ∘ a product
channel by channel, and P pixels:

    a = W₁x + b₁    h = a σ(a)    d = W_d ⊛ h + b₂    y = d σ(d)
    z = mean(y)    r = relu(S₁z + c₁)    q = σ(S₂r + c₂)    output = x + (W₂∘q) y + b₃

The product takes g = dL/d output and gives dL/dx and dL/d of every weight. It computes the forward pass again, so that training
keeps L inputs and nothing else (checkpointing). All that the projection and its gate need is one product per sample, M = y gᵀ:

    dL/dW₂ = Σ_n q∘Mᵀ    dL/dq = Σ_c M∘W₂ᵀ    dL/dy = (W₂∘q)ᵀ g + dL/dz / P

    slope of u σ(u):  ω'(u) = σ + (σ - ½) [|u| < 3]        σ'(u) = [|u| < 3] / 6

[|u| < 3] is a hard sigmoid so steep that no float32 lies on its slope; at ±3, where the slopes jump, it takes the outer one.
The three depthwise convolutions are a separate room, ``depthwise.py``. Source: Compositional Models, section 3.2, and the chain rule.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from isoform.compile.depthwise import BlockedDepthwise, PlainDepthwise
from isoform.compile.graph import make_model
from isoform.compile.nodes import Nodes
from isoform.runtime.fold import row_shapes
from isoform.runtime.learn.layout import BATCH, LANES
from isoform.runtime.spec import NetworkSpec

__all__ = ["block_forward_graph", "block_vjp_graph", "probe_graph", "training_graphs"]


class _Block(Nodes):
    """Nodes of one block, named after what they hold. Features are (n, channels, height, width) and, as rows, (n, channels, P)."""

    def __init__(self, spec: NetworkSpec, lanes: int | None) -> None:
        super().__init__()
        self.spec = spec
        self.depthwise = PlainDepthwise(self, spec) if lanes is None else BlockedDepthwise(self, spec, lanes)

    def rows(self, x: str) -> str:
        return self.reshape(x, [0, 0, -1], f"{x} rows")

    def columns(self, rows: str) -> str:
        return self("Transpose", [rows], f"{rows}ᵀ", perm=[0, 2, 1])

    def with_ones(self, rows: str) -> str:
        """(n, channels, P) → (n, channels + 1, P), the last channel 1: so that a product gives the bias's gradient as well."""
        return self("Pad", [rows, self.integers([0, 0, 0, 0, 1, 0]), self.number(1.0)], f"{rows} and 1")

    def hard_swish(self, u: str, output: str) -> str:
        return self("Mul", [u, self("HardSigmoid", [u], f"σ({u})", alpha=1 / 6, beta=0.5)], output)

    def forward(self) -> None:
        self("Conv", ["x", "expand.weight", "expand.bias"], "a")
        self.hard_swish("a", "h")
        self.depthwise.forward("h", "d")
        self.hard_swish("d", "y")
        e, r = self.spec.expanded, self.spec.squeezed
        self.reshape(self("GlobalAveragePool", ["y"], "z map"), [-1, e], "z")
        squeeze, excite = self.reshape("squeeze.weight", [r, e], "S₁"), self.reshape("excite.weight", [e, r], "S₂")
        self("Relu", [self("Gemm", ["z", squeeze, "squeeze.bias"], "r0", transB=1)], "r")
        self("Gemm", ["r", excite, "excite.bias"], "q0", transB=1)
        self("HardSigmoid", ["q0"], "q", alpha=1 / 6, beta=0.5)

    def output(self) -> None:
        c, e = self.spec.channels, self.spec.expanded
        weight = self.reshape("project.weight", [1, c, e], "W₂")
        gated = self("Mul", [weight, self.reshape("q", [-1, 1, e], "q row")], "W₂∘q")
        product = self("MatMul", [gated, self.rows("y")], "(W₂∘q) y")
        product = self.reshape(product, [0, 0, *self.spec.grid], "(W₂∘q) y map")
        bias = self.reshape("project.bias", [1, c, 1, 1], "b₃")
        self("Add", [self("Add", [product, bias], "o"), "x"], "output")

    def inside(self, u: str) -> str:
        """[|u| < 3] as 0 or 1."""
        return self("HardSigmoid", [self("Abs", [u], f"|{u}|")], f"{u} inside", alpha=-1e8, beta=3e8)

    def times_slope(self, g: str, u: str, output: str) -> str:
        """G ω'(u)."""
        middle = self("Mul", [self("Sub", [f"σ({u})", self.number(0.5)], f"σ({u})-½"), self.inside(u)], f"{u} step")
        return self("Mul", [g, self("Add", [f"σ({u})", middle], f"ω'({u})")], output)

    def dense_gradient(self, gradient: str, x: str, part: str) -> None:
        """dL/dW = Gᵀ X, and dL/db, of a product over the samples' vectors."""
        weight = self("Gemm", [gradient, x], f"d{part}", transA=1)
        self("Unsqueeze", [weight, self.integers([2, 3])], f"{part}.weight.gradient")
        self.sum(gradient, (0,), f"{part}.bias.gradient")

    def expand_gradient(self, gradient: str) -> None:
        """dL/dW₁ = Σ_n G_n X_nᵀ, and dL/db₁."""
        c = self.spec.channels
        each = self("MatMul", [self.rows(gradient), self.columns(self.with_ones(self.rows("x")))], "dW₁ and db₁ each")
        both = self.sum(each, (0,), "dW₁ and db₁")
        first, last, end, axis = (self.integers([value]) for value in (0, c, c + 1, 1))
        weight = self("Slice", [both, first, last, axis], "dW₁")
        self("Unsqueeze", [weight, self.integers([2, 3])], "expand.weight.gradient")
        self.reshape(self("Slice", [both, last, end, axis], "db₁"), [-1], "expand.bias.gradient")

    def backward(self) -> None:
        c, e, (height, width) = self.spec.channels, self.spec.expanded, self.spec.grid
        # the projection and its gate
        g = self.rows("g")
        m = self("MatMul", [self.rows("y"), self.columns(g)], "M")
        gate = self.reshape("q", [-1, e, 1], "q column")
        project = self.sum(self("Mul", [m, gate], "q∘M"), (0,), "dW₂ᵀ")
        project = self("Transpose", [project], "dW₂", perm=[1, 0])
        self("Unsqueeze", [project, self.integers([2, 3])], "project.weight.gradient")
        self.sum("g", (0, 2, 3), "project.bias.gradient")
        weight = self("Transpose", [self.reshape("project.weight", [c, e], "W₂")], "W₂ᵀ", perm=[1, 0])
        gq = self.sum(self("Mul", [m, weight], "M∘W₂ᵀ"), (2,), "dL/dq")
        gq = self("Mul", [gq, self("Mul", [self.inside("q0"), self.number(1 / 6)], "σ'(q0)")], "gq")
        self.dense_gradient(gq, "r", "excite")
        alive = self("Cast", [self("Greater", ["r", self.number(0.0)], "r>0")], "alive", to=TensorProto.FLOAT)
        gr = self("Mul", [self("Gemm", [gq, "S₂"], "dL/dr"), alive], "gr")
        self.dense_gradient(gr, "z", "squeeze")
        share = self("Gemm", [gr, "S₁"], "dL/dz / P", alpha=1 / (height * width))
        share = self.reshape(share, [0, 0, 1], "dL/dz / P column")
        gated = self("Concat", [self("Mul", [weight, gate], "(W₂∘q)ᵀ"), share], "(W₂∘q)ᵀ and dL/dz / P", axis=2)
        gy = self("MatMul", [gated, self.with_ones(g)], "gy rows")
        gy = self.reshape(gy, [0, 0, height, width], "gy")
        # depthwise and expansion
        self.times_slope(gy, "d", "gd")
        self.depthwise.backward("gd", "h", "gh")
        self.sum("gd", (0, 2, 3), "depthwise.bias.gradient")
        self.times_slope("gh", "a", "ga")
        self.expand_gradient("ga")
        gx = self("Conv", ["ga", self("Transpose", ["expand.weight"], "W₁ᵀ", perm=[1, 0, 2, 3])], "gx")
        self("Add", ["g", gx], "x.gradient")


def _shapes(spec: NetworkSpec) -> dict[str, list[int]]:
    """The block's folded weights, in the order of the graph's inputs."""
    shapes = {name: list(shape) for name, shape in row_shapes(spec).items()}
    for part in ("expand", "depthwise", "project"):
        shapes[f"{part}.bias"] = shapes[f"{part}.weight"][:1]
    return shapes


def _file(nodes: Nodes, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> bytes:
    ins, outs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in entries.items()]
        for entries in (inputs, outputs)
    )
    graph = helper.make_graph(nodes.nodes, "isoform", ins, outs, list(nodes.constants.values()))
    model = make_model(graph, domains=nodes.domains)
    onnx.checker.check_model(model, full_check=not nodes.domains)  # the checker cannot see through a domain it does not know
    return model.SerializeToString(deterministic=True)


def training_graphs(spec: NetworkSpec) -> dict[str, bytes]:
    """All of ``compiled/training/``: file name → content."""
    graphs = {"probe.onnx": probe_graph()}
    for lanes in (None, *LANES):
        suffix = "" if lanes is None else f"_{lanes}"
        graphs[f"block_forward{suffix}.onnx"] = block_forward_graph(spec, lanes=lanes)
        graphs[f"block_vjp{suffix}.onnx"] = block_vjp_graph(spec, lanes=lanes)
    return graphs


def block_forward_graph(spec: NetworkSpec, *, lanes: int | None = None) -> bytes:
    """One block.

    Args:
        spec: The network's sizes.
        lanes: None for a graph that runs anywhere; else for ONNX Runtime on processors whose blocked layout has so many channels.

    Returns:
        An ONNX file: inputs ``x`` (n, C, height, width) and the folded weights under ``row_shapes``' names and
        ``expand.bias``, ``depthwise.bias``, ``project.bias``; output ``output``, of x's shape. float32.
    """
    block = _Block(spec, lanes)
    block.forward()
    block.output()
    feature = ["n", spec.channels, *spec.grid]
    return _file(block, {"x": feature, **_shapes(spec)}, {"output": feature})


def block_vjp_graph(spec: NetworkSpec, *, lanes: int | None = None) -> bytes:
    """One block's vector-Jacobian product.

    Args:
        spec: The network's sizes.
        lanes: As in ``block_forward_graph``; with lanes, n is ``BATCH``.

    Returns:
        An ONNX file: inputs as those of the forward graph, but for ``project.bias``, and ``g``, dL/d output; outputs
        ``x.gradient``, and ``<name>.gradient`` for every weight, each of its weight's shape, summed over the batch. float32.
    """
    block = _Block(spec, lanes)
    block.forward()
    block.backward()
    shapes = _shapes(spec)
    feature: list[Any] = ["n" if lanes is None else BATCH, spec.channels, *spec.grid]
    inputs: dict[str, list[Any]] = {
        "x": feature,
        "g": feature,
        **{name: shape for name, shape in shapes.items() if name != "project.bias"},
    }
    return _file(block, inputs, {"x.gradient": feature, **{f"{name}.gradient": s for name, s in shapes.items()}})


def probe_graph() -> bytes:
    """A graph that shows how many channels ONNX Runtime's blocked layout has here; see ``isoform.runtime.learn.layout``."""
    nodes = Nodes()
    nodes("ReorderInput", ["x"], "blocked", domain="com.microsoft.nchwc")
    return _file(nodes, {"x": [1, 64, 1, 2]}, {"blocked": [1, 64, 1, 2]})
