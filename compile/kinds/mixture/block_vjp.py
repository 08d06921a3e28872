"""The backward pass of a block (vector-Jacobian product): gradients of its input and weights from g = dL/d output.

x, a, d, z, r and q₀ come from the forward pass; h, y and the slopes are cheap and computed again. In ``block.py``'s symbols, the
projection and its gate need one matrix product per sample, M = y gᵀ:

    dL/dW₂ = Σ_n q∘Mᵀ    dL/dq = Σ_c M∘W₂ᵀ    dL/dy = (W₂∘q)ᵀ g + dL/dz / P

    slope of u σ(u):  ω'(u) = σ + (σ - ½) [|u| < 3]        σ'(u) = [|u| < 3] / 6

[|u| < 3] is computed as a hard sigmoid so steep that no float32 lies on its slope; at ±3, where the slopes jump, it is 0.
The depthwise convolutions are in ``depthwise.py``. Source: Compositional Models, section 3.2, and the chain rule.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from isoform.compile.kinds.mixture.block import Block, file_of
from isoform.runtime.kinds.mixture.learn.arrange import filled
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import BATCH

__all__ = ["BlockProduct", "block_vjp_graph"]


class BlockProduct(Block):
    """Nodes of the backward pass."""

    def columns(self, rows: str) -> str:
        """(n, channels, P) → (n, P, channels)."""
        return self("Transpose", [rows], f"{rows}ᵀ", perm=[0, 2, 1])

    def with_ones(self, rows: str) -> str:
        """(n, channels, P) → (n, channels + 1, P), the last channel 1, so that one matrix product also gives the bias's gradient."""
        return self("Pad", [rows, self.integers([0, 0, 0, 0, 1, 0]), self.number(1.0)], f"{rows} and 1")

    def inside(self, u: str) -> str:
        """Compute [|u| < 3] as 0 or 1."""
        # clip(3e8 - 1e8 |u|, 0, 1) in one node. float32 numbers next to 3 are 2.4e-7 apart, so none lands between 0 and 1.
        return self("HardSigmoid", [self("Abs", [u], f"|{u}|")], f"{u} inside", alpha=-1e8, beta=3e8)

    def times_slope(self, g: str, u: str, output: str) -> str:
        """Compute g ω'(u)."""
        middle = self("Mul", [self("Sub", [f"σ({u})", self.number(0.5)], f"σ({u})-½"), self.inside(u)], f"{u} step")
        return self("Mul", [g, self("Add", [f"σ({u})", middle], f"ω'({u})")], output)

    def total(self, x: str, output: str) -> None:
        """Sum over the samples, as one row."""
        # A matrix product with ones is faster than ReduceSum over the first axis.
        rows = self.reshape(x, [BATCH, -1], f"{x} by sample")
        self("Gemm", [self.ones(1, BATCH), rows], output)

    def dense_gradient(self, gradient: str, x: str, part: str) -> None:
        """Compute dL/dW = Gᵀ X and dL/db of a dense layer over the samples' vectors."""
        self("Gemm", [gradient, x], part, transA=1)
        self("Gemm", [self.ones(1, BATCH), gradient], f"{part}.bias")

    def backward(self) -> None:
        """Compute every gradient from g and ``KEPT``."""
        e, (height, width) = self.spec.expanded, self.spec.grid
        self.hard_swish("a", "h")
        self.hard_swish("d", "y")
        self("HardSigmoid", ["q0"], "q", alpha=1 / 6, beta=0.5)
        # 1. The projection and its gate.
        g, weight = self.rows("g"), "project.transposed"
        m = self("MatMul", [self.rows("y"), self.columns(g)], "M")
        gate = self.reshape("q", [-1, e, 1], "q column")
        self.total(self("Mul", [m, gate], "q∘M"), "project")
        self.sum("g", (0, 2, 3), "project.bias")
        gq = self.sum(self("Mul", [m, weight], "M∘W₂ᵀ"), (2,), "dL/dq")
        gq = self("Mul", [gq, self("Mul", [self.inside("q0"), self.number(1 / 6)], "σ'(q0)")], "gq")
        self.dense_gradient(gq, "r", "excite")
        # relu's slope, 0 at 0 as in torch.
        alive = self("Cast", [self("Greater", ["r", self.number(0.0)], "r>0")], "alive", to=TensorProto.FLOAT)
        gr = self("Mul", [self("Gemm", [gq, "excite.weight"], "dL/dr"), alive], "gr")
        self.dense_gradient(gr, "z", "squeeze")
        share = self("Gemm", [gr, "squeeze.weight"], "dL/dz / P", alpha=1 / (height * width))
        share = self.reshape(share, [0, 0, 1], "dL/dz / P column")
        # dL/dz / P is one more column of the weight: it meets the row of ones of ``with_ones``, so one product gives both terms.
        gated = self("Concat", [self("Mul", [weight, gate], "(W₂∘q)ᵀ"), share], "(W₂∘q)ᵀ and dL/dz / P", axis=2)
        gy = self("MatMul", [gated, self.with_ones(g)], "gy rows")
        gy = self.reshape(gy, [0, 0, height, width], "gy")
        # 2. The depthwise convolution and the expansion.
        self.times_slope(gy, "d", "gd")
        self.depthwise.backward("gd", "h", "gh")
        self.sum("gd", (0, 2, 3), "depthwise.bias")
        self.times_slope("gh", "a", "ga")
        inputs = self.columns(self.with_ones(self.rows("x")))
        self.total(self("MatMul", [self.rows("ga"), inputs], "dW₁ and db₁ each"), "expand")
        # g itself is the gradient along the skip connection.
        self("Add", ["g", self("Conv", ["ga", "expand.transposed"], "gx")], "x.gradient")


def block_vjp_graph(spec: NetworkSpec, *, lanes: int | None = None) -> bytes:
    """Encode one block's backward pass.

    Args:
        spec: The network's sizes.
        lanes: As in ``Block``.

    Returns:
        An ONNX file for n = ``BATCH`` samples. Inputs: ``x`` and ``g`` (dL/d output), both (n, C, height, width), ``KEPT`` and
        ``vjp_feeds``. Outputs: ``x.gradient`` and the gradient of every weight and bias, summed over the samples, in the shapes
        that ``named_gradients`` expects. float32.
    """
    block = BlockProduct(spec, lanes)
    block.backward()
    c, e, r, k, f = spec.channels, spec.expanded, spec.squeezed, spec.kernel, filled(spec, lanes)
    feature = [BATCH, c, *spec.grid]
    inputs: dict[str, list[Any]] = {
        "x": feature, "g": feature, **block.kept_shapes(BATCH), "expand.transposed": [c, e, 1, 1],
        "depthwise.turned": [f, 1, k, k], "squeeze.weight": [r, e], "excite.weight": [e, r], "project.transposed": [e, c],
    }  # fmt: skip
    outputs: dict[str, list[Any]] = {
        "x.gradient": feature, "expand": [1, e * (c + 1)], "depthwise": [1, f * k * k], "depthwise.bias": [e],
        "squeeze": [r, e], "squeeze.bias": [1, r], "excite": [e, r], "excite.bias": [1, e], "project": [1, e * c],
        "project.bias": [c],
    }  # fmt: skip
    return file_of(block, inputs, outputs)
