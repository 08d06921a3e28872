"""The depthwise convolution of a block, forward and backward, in two forms.

    d = W_d ⊛ h + b₂        dL/dh = W_d turned by 180° ⊛ dL/dd        dL/dW_d[e, i, j] = Σ_n,p h[n, e, p + (i, j)] · dL/dd[n, e, p]

The plain form runs anywhere. ONNX Runtime has a fast depthwise convolution only in its blocked layout, where the channels of a
pixel lie together in groups of B (8 with AVX2, 16 with AVX-512), and only chooses it for constant weights; so the blocked form
says it node by node, with operators of ``com.microsoft.nchwc``. There the weight's gradient is a depthwise convolution itself:
over n · E channels, the input h, the kernel dL/dd, which lies in memory just as the weights of such a convolution do.

Blocked: feature (n, E/B, height, width, B), weight (E/B, k, k, B). Channels are filled up to a multiple of B with zeros.
"""

from __future__ import annotations

from typing import Any

from isoform.compile.nodes import Nodes
from isoform.runtime.learn.layout import BATCH
from isoform.runtime.spec import NetworkSpec

__all__ = ["NCHWC", "BlockedDepthwise", "PlainDepthwise"]

NCHWC = "com.microsoft.nchwc"


class _Depthwise:
    def __init__(self, nodes: Nodes, spec: NetworkSpec) -> None:
        self.nodes, self.spec = nodes, spec
        self.pads = [spec.kernel // 2] * 4

    def turned(self) -> str:
        """W_d turned by 180°."""
        e, k, nodes = self.spec.expanded, self.spec.kernel, self.nodes
        row = nodes.reshape("depthwise.weight", [e, 1, k * k], "W_d row")
        row = nodes("Gather", [row, nodes.integers([*range(k * k - 1, -1, -1)])], "W_d turned row", axis=2)
        return nodes.reshape(row, [e, 1, k, k], "W_d turned")


class PlainDepthwise(_Depthwise):
    """ONNX's own operators; the weight's gradient is one shifted product per place of the kernel."""

    def forward(self, h: str, output: str, *, bias: str | None) -> None:
        """d from h."""
        inputs = [h, "depthwise.weight", *([bias] if bias else [])]
        self.nodes("Conv", inputs, output, group=self.spec.expanded, pads=self.pads)

    def backward(self, gd: str, h: str, output: str) -> None:
        """dL/dh, and dL/dW_d, from dL/dd."""
        (height, width), k, nodes = self.spec.grid, self.spec.kernel, self.nodes
        half = k // 2
        padded = nodes("Pad", [h, nodes.integers([0, 0, half, half, 0, 0, half, half])], "h padded")
        both, columns = nodes.integers([2, 3]), []
        for i in range(k):
            for j in range(k):
                ends = nodes.integers([i, j]), nodes.integers([i + height, j + width])
                product = nodes("Mul", [nodes("Slice", [padded, *ends, both], f"h{i},{j}"), gd], f"gd·h{i},{j}")
                columns.append(
                    nodes(
                        "Unsqueeze", [nodes.sum(product, (0, 2, 3), f"dw{i},{j}"), nodes.integers([1])], f"dw{i},{j}|"
                    )
                )
        nodes.reshape(
            nodes("Concat", columns, "dw", axis=1), [self.spec.expanded, 1, k, k], "depthwise.weight.gradient"
        )
        nodes("Conv", [gd, self.turned()], output, group=self.spec.expanded, pads=self.pads)


class BlockedDepthwise(_Depthwise):
    """Operators of ONNX Runtime's blocked layout, with B = ``lanes`` channels together."""

    def __init__(self, nodes: Nodes, spec: NetworkSpec, lanes: int) -> None:
        super().__init__(nodes, spec)
        self.lanes = lanes
        self.filled = -(-spec.expanded // lanes) * lanes

    def forward(self, h: str, output: str, *, bias: str | None) -> None:
        """d from h."""
        inputs = [self.blocked(h), self.weight("depthwise.weight")]
        if bias:
            more = self.nodes.integers([0, self.filled - self.spec.expanded])
            inputs.append(self.nodes("Pad", [bias, more], f"{bias} filled"))
        self.plain(self.conv(inputs, f"{output} blocked", group=self.filled), output)

    def backward(self, gd: str, h: str, output: str) -> None:
        """dL/dh, and dL/dW_d, from dL/dd."""
        spec, nodes, k, filled = self.spec, self.nodes, self.spec.kernel, self.filled
        blocked = self.blocked(gd)
        self.plain(self.conv([blocked, self.weight(self.turned())], f"{output} blocked", group=filled), output)
        image = nodes.reshape(self.blocked(h), [1, BATCH * filled, *spec.grid], "h of all samples")
        kernel = nodes.reshape(blocked, [BATCH * filled, 1, *spec.grid], "gd as a kernel")
        each = self.conv([image, kernel], "dw blocked", group=BATCH * filled, kernel_shape=list(spec.grid))
        each = nodes.reshape(each, [BATCH, filled // self.lanes, k * k, self.lanes], "dw of all samples")
        lanes = nodes("Transpose", [nodes.sum(each, (0,), "dw sum")], "dw channels", perm=[0, 2, 1])
        filled_rows = nodes.reshape(lanes, [filled, 1, k, k], "dw filled")
        ends = nodes.integers([0]), nodes.integers([spec.expanded]), nodes.integers([0])
        nodes("Slice", [filled_rows, *ends], "depthwise.weight.gradient")

    def conv(self, inputs: list[str], output: str, **attributes: Any) -> str:
        """One depthwise convolution in the blocked layout."""
        settings: dict[str, Any] = {"kernel_shape": [self.spec.kernel] * 2, "strides": [1, 1], "dilations": [1, 1]}
        return self.nodes("Conv", inputs, output, domain=NCHWC, pads=self.pads, **{**settings, **attributes})

    def blocked(self, x: str) -> str:
        """(n, E, height, width) → blocked."""
        return self.nodes("ReorderInput", [x], f"{x} blocked", domain=NCHWC)

    def plain(self, x: str, output: str) -> None:
        """Blocked → (n, E, height, width)."""
        self.nodes("ReorderOutput", [x], output, domain=NCHWC, channels=self.spec.expanded)

    def weight(self, name: str) -> str:
        """(E, 1, k, k) → blocked."""
        k, nodes, more = self.spec.kernel, self.nodes, self.filled - self.spec.expanded
        filled = nodes("Pad", [name, nodes.integers([0, 0, 0, 0, more, 0, 0, 0])], f"{name} filled") if more else name
        rows = nodes.reshape(filled, [self.filled // self.lanes, self.lanes, k * k], f"{name} rows")
        lanes = nodes("Transpose", [rows], f"{name} lanes", perm=[0, 2, 1])
        return nodes.reshape(lanes, [self.filled, 1, k, k], f"{name} blocked")
