"""The block's vector-Jacobian product: gradients of a loss by its input and every weight, from g = dL/d output.

The forward pass hands over x, a, d, z, r and q₀; h, y and the slopes, which are cheap, are computed again. In ``block.py``'s
symbols, all that the projection and its gate need is one product per sample, M = y gᵀ:

    dL/dW₂ = Σ_n q∘Mᵀ    dL/dq = Σ_c M∘W₂ᵀ    dL/dy = (W₂∘q)ᵀ g + dL/dz / P

    slope of u σ(u):  ω'(u) = σ + (σ - ½) [|u| < 3]        σ'(u) = [|u| < 3] / 6

[|u| < 3] is a hard sigmoid so steep that no float32 lies on its slope; at ±3, where the slopes jump, it takes the outer one.
The depthwise convolutions are ``depthwise.py``'s. Source: Compositional Models, section 3.2, and the chain rule.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from isoform.compile.block import Block, file_of, folded_block_shapes
from isoform.runtime.fold import row_shapes
from isoform.runtime.learn.layout import BATCH
from isoform.runtime.spec import NetworkSpec

__all__ = ["BlockProduct", "block_vjp_graph"]


class BlockProduct(Block):
    """Nodes of the product."""

    def columns(self, rows: str) -> str:
        """(n, channels, P) → (n, P, channels)."""
        return self("Transpose", [rows], f"{rows}ᵀ", perm=[0, 2, 1])

    def with_ones(self, rows: str) -> str:
        """(n, channels, P) → (n, channels + 1, P), the last channel 1: so that a product gives the bias's gradient as well."""
        return self("Pad", [rows, self.integers([0, 0, 0, 0, 1, 0]), self.number(1.0)], f"{rows} and 1")

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
        """Every gradient, from g and what was kept."""
        c, e, r, (height, width) = self.spec.channels, self.spec.expanded, self.spec.squeezed, self.spec.grid
        self.hard_swish("a", "h")
        self.hard_swish("d", "y")
        self("HardSigmoid", ["q0"], "q", alpha=1 / 6, beta=0.5)
        self.reshape("squeeze.weight", [r, e], "S₁")
        self.reshape("excite.weight", [e, r], "S₂")
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


def block_vjp_graph(spec: NetworkSpec, *, lanes: int | None = None) -> bytes:
    """One block's vector-Jacobian product.

    Args:
        spec: The network's sizes.
        lanes: As in ``Block``; with lanes, n is ``BATCH``.

    Returns:
        An ONNX file: inputs ``x``, ``g``, dL/d output, what ``KEPT`` names, and the folded weights without biases; outputs
        ``x.gradient``, and ``<name>.gradient`` for every weight and bias, of its shape, summed over the batch. float32.
    """
    block = BlockProduct(spec, lanes)
    block.backward()
    samples = "n" if lanes is None else BATCH
    feature: list[Any] = [samples, spec.channels, *spec.grid]
    shapes = folded_block_shapes(spec)
    weights = {name: shape for name, shape in row_shapes(spec).items() if name.endswith("weight")}
    inputs = {
        "x": feature,
        "g": feature,
        **block.kept_shapes(samples),
        **{n: list(shape) for n, shape in weights.items()},
    }
    return file_of(
        block, inputs, {"x.gradient": feature, **{f"{name}.gradient": shape for name, shape in shapes.items()}}
    )
