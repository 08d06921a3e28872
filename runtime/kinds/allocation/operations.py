"""The operations of a component, and what they do to shapes.

A component is a chain of operations, written as text and joined by ``-``:

    conv3x3       convolution to ``channels`` feature maps, then GroupNorm if the network has it, then ReLU
    maxpool3x3    maximum over a window            avgpool3x3    mean over a window, without the padding
    identity      nothing; where the size changes, a 1×1 convolution without norm or activation
    dense16       fully connected, to 16 numbers, then ReLU          linear16    the same without ReLU

A layer's stride is that of the last operation of each of its components; ``same`` padding is k // 2 on every side, so that a stride s
turns n pixels into ⌈n / s⌉. A fully connected operation is a convolution as large as its input, so that every operation with weights is
a convolution.

Source: Gumbel-Matrix, figure 4 and appendices A2, A3, B, C1.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from isoform.runtime.errors import SpecError

__all__ = ["Map", "Operation", "chained", "norm_shapes"]

Map = tuple[int, int, int]
"""Channels, height and width of feature maps."""
Padding = Literal["same", "valid"]
_TEXT = re.compile(r"(?:(conv|maxpool|avgpool)([1-9]\d?)x([1-9]\d?)|(identity)|(dense|linear)([1-9]\d{0,4}))")
LONGEST = 8
"""Maximum number of operations of a component."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation, with the shapes that it has in its network."""

    what: Literal["conv", "maxpool", "avgpool", "identity"]
    """``conv`` for everything that has weights."""
    before: Map
    after: Map
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pads: tuple[int, int] = (0, 0)
    """Zeros added above and below, and left and right."""
    norm: bool = False
    """Whether GroupNorm follows."""
    relu: bool = False
    """Whether ReLU follows, after the norm."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of its weights; empty without weights."""
        if self.what != "conv":
            return {}
        channels = self.after[0]
        norm = norm_shapes(channels) if self.norm else {}
        return {"weight": (channels, self.before[0], *self.kernel), "bias": (channels,), **norm}

    @property
    def dense(self) -> bool:
        """Whether it is a matrix product: a convolution that reads its whole input at once."""
        return self.what == "conv" and self.kernel == self.before[1:] and self.pads == (0, 0)


def norm_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the weights of GroupNorm, which are broadcast over pixels."""
    return {"gamma": (channels, 1, 1), "beta": (channels, 1, 1)}


def chained(
    text: str, before: Map, *, channels: int, stride: int, padding: Padding, norm: bool
) -> tuple[Operation, ...]:
    """Read a component.

    Args:
        text: The operations, joined by ``-``.
        before: Feature maps that it reads.
        channels: Feature maps that its convolutions write.
        stride: Stride of its last operation.
        padding: Padding of convolutions and pools.
        norm: Whether the network has GroupNorm.

    Raises:
        SpecError: If it is not a component, or does not fit its input.
    """
    names = text.split("-")
    if len(names) > LONGEST:
        raise SpecError(f"a component has {len(names)} operations, but at most {LONGEST} were expected")
    found: list[Operation] = []
    for place, name in enumerate(names):
        last = place == len(names) - 1
        found.append(_operation(name, before, channels, stride if last else 1, padding, norm))
        before = found[-1].after
    return tuple(found)


def _operation(name: str, before: Map, channels: int, stride: int, padding: Padding, norm: bool) -> Operation:
    parts = _TEXT.fullmatch(name)
    if parts is None:
        raise SpecError(
            f"a component has the operation {name[:40]!r}, but conv3x3, maxpool3x3, avgpool3x3, identity, dense16 or linear16 were expected"
        )
    windowed, height, width, _, dense, size = parts.groups()
    if dense:
        if stride != 1:
            raise SpecError(f"{name} has a stride of {stride}, but a fully connected operation has none")
        return Operation(
            what="conv", before=before, after=(int(size), 1, 1), kernel=(before[1], before[2]), relu=dense == "dense"
        )  # fmt: skip
    if not windowed:
        if stride == 1 and before[0] == channels:
            return Operation(what="identity", before=before, after=before)
        after = (channels, -(-before[1] // stride), -(-before[2] // stride))
        return Operation(what="conv", before=before, after=after, stride=stride)
    kernel = int(height), int(width)
    if padding == "same" and not (kernel[0] % 2 and kernel[1] % 2):
        raise SpecError(f"{name} has an even kernel, but 'same' padding needs odd ones")
    pads = (kernel[0] // 2, kernel[1] // 2) if padding == "same" else (0, 0)
    sides = [(length + 2 * pad - k) // stride + 1 for length, pad, k in zip(before[1:], pads, kernel, strict=True)]
    if min(sides) < 1:
        raise SpecError(f"{name} reads {before[1]}×{before[2]} pixels, which are fewer than its kernel")
    conv = windowed == "conv"
    what: Literal["conv", "maxpool", "avgpool"] = "conv" if conv else "maxpool" if windowed == "maxpool" else "avgpool"
    return Operation(
        what=what, before=before, after=(channels if conv else before[0], sides[0], sides[1]), kernel=kernel, stride=stride, pads=pads,
        norm=norm and conv, relu=conv,
    )  # fmt: skip
