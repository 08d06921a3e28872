"""The block's graphs for learning on the device: one isometric block, forward and backward, weights as inputs.

The network is isometric, so one block's forward pass and one block's vector-Jacobian product are all that is needed, whatever L.
With x the block's input, W and b its folded weights (BN is in them), ⊛ a depthwise convolution, σ the hard sigmoid and
ω(u) = u σ(u) the hard swish:

    a = W₁x + b₁    h = ω(a)    d = W_d ⊛ h + b₂    y = ω(d)
    z = mean(y)    r = relu(S₁z + c₁)    q = σ(S₂r + c₂)    output = x + W₂(y q) + b₃

The product takes g = dL/d output and gives dL/dx and dL/d of every weight. It computes the forward pass again, so that training
keeps L inputs and nothing else (checkpointing). At the corners ±3, where the slope jumps, it takes the outer one.

    ω'(u) = u/3 + 1/2 inside (-3, 3), else 0 or 1        σ'(u) = 1/6 inside, else 0

Source: Compositional Models, section 3.2, and the chain rule; DESIGN.md, section 6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isoform.compile.graph import make_model
from isoform.runtime.fold import row_shapes
from isoform.runtime.spec import NetworkSpec

__all__ = ["block_forward_graph", "block_vjp_graph"]


class _Block:
    """Nodes of one block, named after what they hold."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec, self.nodes = spec, list[onnx.NodeProto]()
        self.constants: dict[str, onnx.TensorProto] = {}

    def __call__(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def forward(self) -> None:
        half, groups = self.spec.kernel // 2, self.spec.expanded
        self("Conv", ["x", "expand.weight", "expand.bias"], "a")
        self("HardSwish", ["a"], "h")
        self("Conv", ["h", "depthwise.weight", "depthwise.bias"], "d", group=groups, pads=[half] * 4)
        self("HardSwish", ["d"], "y")
        self("GlobalAveragePool", ["y"], "z")
        self("Relu", [self("Conv", ["z", "squeeze.weight", "squeeze.bias"], "r0")], "r")
        self("Conv", ["r", "excite.weight", "excite.bias"], "q0")
        self("HardSigmoid", ["q0"], "q", alpha=1 / 6, beta=0.5)
        self("Mul", ["y", "q"], "m")

    def sum(self, x: str, axes: tuple[int, ...], output: str, *, keep: bool = False) -> str:
        name = self.constant(f"axes{''.join(map(str, axes))}", axes)
        return self("ReduceSum", [x, name], output, keepdims=int(keep))

    def inside(self, u: str) -> str:
        """Where the hard sigmoid is not flat."""
        return self("Less", [self("Abs", [u], f"|{u}|"), self.constant("three", 3.0, np.float32)], f"{u} inside")

    def swish_slope(self, u: str) -> str:
        third, half = self.constant("third", 1 / 3, np.float32), self.constant("half", 0.5, np.float32)
        slanted = self("Add", [self("Mul", [u, third], f"{u}/3"), half], f"{u}/3+½")
        flat = self("HardSigmoid", [u], f"σ({u})", alpha=1 / 6, beta=0.5)
        return self("Where", [self.inside(u), slanted, flat], f"ω'({u})")

    def pointwise_gradient(self, gradient: str, x: str, part: str) -> None:
        """dL/dW = Σ_n G_n X_nᵀ, and dL/db, of a 1×1 convolution."""
        flat = self.constant("flat", [0, 0, -1])
        rows = self("Reshape", [gradient, flat], f"{gradient} rows")
        columns = self("Transpose", [self("Reshape", [x, flat], f"{x} rows")], f"{x} columns", perm=[0, 2, 1])
        each = self("MatMul", [rows, columns], f"{part} each")
        self(
            "Unsqueeze", [self.sum(each, (0,), f"{part} sum"), self.constant("last", [2, 3])], f"{part}.weight.gradient"
        )
        self.sum(gradient, (0, 2, 3), f"{part}.bias.gradient")

    def depthwise_gradient(self, gradient: str) -> None:
        """dL/dW_d: for every place of the kernel, the gradient times the input that it saw."""
        (height, width), k = self.spec.grid, self.spec.kernel
        pads = self.constant("pads", [0, 0, k // 2, k // 2, 0, 0, k // 2, k // 2])
        padded, both = self("Pad", ["h", pads], "h padded"), self.constant("both", [2, 3])
        sums = []
        for i in range(k):
            for j in range(k):
                start, end = self.constant(f"from{i}{j}", [i, j]), self.constant(f"to{i}{j}", [i + height, j + width])
                seen = self("Slice", [padded, start, end, both], f"h{i}{j}")
                sums.append(self.sum(self("Mul", [seen, gradient], f"gh{i}{j}"), (0, 2, 3), f"dw{i}{j}"))
        columns = [self("Unsqueeze", [name, self.constant("one", [1])], f"{name} column") for name in sums]
        flat = self("Concat", columns, "dw", axis=1)
        shape = self.constant("kernel", [self.spec.expanded, 1, k, k])
        self("Reshape", [flat, shape], "depthwise.weight.gradient")
        self.sum(gradient, (0, 2, 3), "depthwise.bias.gradient")

    def backward(self) -> None:
        (height, width), k, half = self.spec.grid, self.spec.kernel, self.spec.kernel // 2
        self.pointwise_gradient("g", "m", "project")
        gm = self("Conv", ["g", self("Transpose", ["project.weight"], "W₂ᵀ", perm=[1, 0, 2, 3])], "gm")
        # squeeze and excite
        sixth, zero = self.constant("sixth", 1 / 6, np.float32), self.constant("zero", 0.0, np.float32)
        slope = self("Where", [self.inside("q0"), sixth, zero], "σ'(q0)")
        gq = self("Mul", [self.sum(self("Mul", [gm, "y"], "gm·y"), (2, 3), "gate", keep=True), slope], "gq")
        self.pointwise_gradient(gq, "r", "excite")
        gr0 = self("Conv", [gq, self("Transpose", ["excite.weight"], "S₂ᵀ", perm=[1, 0, 2, 3])], "gr0")
        alive = self("Cast", [self("Greater", ["r", zero], "r>0")], "alive", to=TensorProto.FLOAT)
        gr = self("Mul", [gr0, alive], "gr")
        self.pointwise_gradient(gr, "z", "squeeze")
        gz = self("Conv", [gr, self("Transpose", ["squeeze.weight"], "S₁ᵀ", perm=[1, 0, 2, 3])], "gz")
        share = self("Mul", [gz, self.constant("pixel", 1 / (height * width), np.float32)], "gz/pixels")
        gy = self("Add", [self("Mul", [gm, "q"], "gm·q"), share], "gy")
        # depthwise
        gd = self("Mul", [gy, self.swish_slope("d")], "gd")
        self.depthwise_gradient(gd)
        rows = self("Reshape", ["depthwise.weight", self.constant("row", [self.spec.expanded, 1, k * k])], "W_d row")
        turned = self("Gather", [rows, self.constant("turned", range(k * k - 1, -1, -1))], "W_d turned row", axis=2)
        kernel = self("Reshape", [turned, self.constant("kernel", [self.spec.expanded, 1, k, k])], "W_d turned")
        gh = self("Conv", [gd, kernel], "gh", group=self.spec.expanded, pads=[half] * 4)
        # expand
        ga = self("Mul", [gh, self.swish_slope("a")], "ga")
        self.pointwise_gradient(ga, "x", "expand")
        gx = self("Conv", [ga, self("Transpose", ["expand.weight"], "W₁ᵀ", perm=[1, 0, 2, 3])], "gx")
        self("Add", ["g", gx], "x.gradient")


def _shapes(spec: NetworkSpec) -> dict[str, list[int]]:
    """The block's folded weights, in the order of the graph's inputs."""
    shapes = {name: list(shape) for name, shape in row_shapes(spec).items()}
    for part in ("expand", "depthwise", "project"):
        shapes[f"{part}.bias"] = shapes[f"{part}.weight"][:1]
    return shapes


def _file(block: _Block, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> bytes:
    ins, outs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in entries.items()]
        for entries in (inputs, outputs)
    )
    model = make_model(helper.make_graph(block.nodes, "isoform", ins, outs, list(block.constants.values())))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def block_forward_graph(spec: NetworkSpec) -> bytes:
    """One block.

    Returns:
        An ONNX file: inputs ``x`` (n, C, height, width) and the folded weights under ``row_shapes``' names and
        ``expand.bias``, ``depthwise.bias``, ``project.bias``; output ``output``, of x's shape. float32.
    """
    block = _Block(spec)
    block.forward()
    block("Conv", ["m", "project.weight", "project.bias"], "o")
    block("Add", ["x", "o"], "output")
    feature = ["n", spec.channels, *spec.grid]
    return _file(block, {"x": feature, **_shapes(spec)}, {"output": feature})


def block_vjp_graph(spec: NetworkSpec) -> bytes:
    """One block's vector-Jacobian product.

    Returns:
        An ONNX file: inputs as those of the forward graph, but for ``project.bias``, and ``g``, dL/d output; outputs
        ``x.gradient``, and ``<name>.gradient`` for every weight, each of its weight's shape, summed over the batch. float32.
    """
    block = _Block(spec)
    block.forward()
    block.backward()
    shapes = _shapes(spec)
    feature: list[Any] = ["n", spec.channels, *spec.grid]
    inputs: dict[str, list[Any]] = {
        "x": feature,
        "g": feature,
        **{name: shape for name, shape in shapes.items() if name != "project.bias"},
    }
    return _file(block, inputs, {"x.gradient": feature, **{f"{name}.gradient": s for name, s in shapes.items()}})
