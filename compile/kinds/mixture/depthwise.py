"""The depthwise convolution of a block, forward and backward, in two forms.

    d = W_d ⊛ h + b₂        dL/dh = W_d turned by 180° ⊛ dL/dd        dL/dW_d[e, i, j] = Σ_n,p h[n, e, p + (i, j)] · dL/dd[n, e, p]

The plain form runs anywhere. ONNX Runtime's fast depthwise convolution exists only in its blocked layout, where the channels of a
pixel are stored together in groups of B (8 with AVX2, 16 with AVX-512), and the optimiser chooses that layout for constant weights
only. So the blocked form is written node by node, with operators of ``com.microsoft.nchwc``. There the weight's gradient is itself a
depthwise convolution over n · E channels: the input is h, and the kernel is dL/dd, which already has the memory layout of a weight.

Shapes in the blocked layout: feature (n, E/B, height, width, B), weight (E/B, k, k, B). Channels are padded with zeros to a multiple
of B. ``isoform.runtime.kinds.mixture.learn.arrange`` arranges the weights for each form, and turns them by 180° for the backward pass.
"""

from __future__ import annotations

from typing import Any

from isoform.compile.nodes import Nodes
from isoform.runtime.kinds.mixture.learn.arrange import filled
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import BATCH

__all__ = ["NCHWC", "BlockedDepthwise", "PlainDepthwise"]

NCHWC = "com.microsoft.nchwc"


class _Depthwise:
    def __init__(self, nodes: Nodes, spec: NetworkSpec) -> None:
        self.nodes, self.spec = nodes, spec
        self.pads = [spec.kernel // 2] * 4


class PlainDepthwise(_Depthwise):
    """ONNX's own operators; the weight's gradient is one shifted product per position of the kernel."""

    def forward(self, h: str, output: str, *, bias: str | None) -> None:
        """Compute d from h."""
        inputs = [h, "depthwise.weight", *([bias] if bias else [])]
        self.nodes("Conv", inputs, output, group=self.spec.expanded, pads=self.pads)

    def backward(self, gd: str, h: str, output: str) -> None:
        """Compute dL/dh and dL/dW_d from dL/dd."""
        (height, width), k, nodes = self.spec.grid, self.spec.kernel, self.nodes
        half = k // 2
        # Nine slices and sums take 700 µs where the blocked form's depthwise convolution takes 77 (docs/log.md), but run anywhere.
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
        nodes.reshape(nodes("Concat", columns, "dw", axis=1), [1, -1], "depthwise")
        nodes("Conv", [gd, "depthwise.turned"], output, group=self.spec.expanded, pads=self.pads)


class BlockedDepthwise(_Depthwise):
    """Operators of ONNX Runtime's blocked layout with B = ``lanes`` channels per group."""

    def __init__(self, nodes: Nodes, spec: NetworkSpec, lanes: int) -> None:
        super().__init__(nodes, spec)
        self.filled = filled(spec, lanes)

    def forward(self, h: str, output: str, *, bias: str | None) -> None:
        """Compute d from h."""
        inputs = [self.blocked(h), "depthwise.weight", *([bias] if bias else [])]
        # Reordering in and out costs 13 µs each, and the convolution 93 instead of 491 µs (docs/log.md).
        self.plain(self.conv(inputs, f"{output} blocked", group=self.filled), output)

    def backward(self, gd: str, h: str, output: str) -> None:
        """Compute dL/dh and dL/dW_d from dL/dd."""
        spec, nodes, k, size = self.spec, self.nodes, self.spec.kernel, self.filled
        blocked = self.blocked(gd)
        self.plain(self.conv([blocked, "depthwise.turned"], f"{output} blocked", group=size), output)
        # ``group`` is an attribute, not an input: this is why the backward graph has a fixed batch.
        image = nodes.reshape(self.blocked(h), [1, BATCH * size, *spec.grid], "h of all samples")
        kernel = nodes.reshape(blocked, [BATCH * size, 1, *spec.grid], "gd as a kernel")
        each = self.conv([image, kernel], "dw blocked", group=BATCH * size, kernel_shape=list(spec.grid))
        each = nodes.reshape(each, [BATCH, size * k * k], "dw of all samples")
        nodes("Gemm", [nodes.ones(1, BATCH), each], "depthwise")

    def conv(self, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one depthwise convolution in the blocked layout."""
        settings: dict[str, Any] = {"kernel_shape": [self.spec.kernel] * 2, "strides": [1, 1], "dilations": [1, 1]}
        return self.nodes("Conv", inputs, output, domain=NCHWC, pads=self.pads, **{**settings, **attributes})

    def blocked(self, x: str) -> str:
        """(n, E, height, width) → blocked."""
        return self.nodes("ReorderInput", [x], f"{x} blocked", domain=NCHWC)

    def plain(self, x: str, output: str) -> None:
        """Blocked → (n, E, height, width)."""
        self.nodes("ReorderOutput", [x], output, domain=NCHWC, channels=self.spec.expanded)
