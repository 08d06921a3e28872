"""A body: a network of any architecture without weights, an ONNX graph from samples to logits.

Inputs of the graph are the samples, every weight by its name in the user's module, and the logits layer:

    samples, layer1.0.conv1.weight, …, layer1.0.bn1.scale, layer1.0.bn1.shift, …, logits.weight, logits.bias → logits

BN is two weights, computed from its affine map γ, β and its statistics m, v; so no graph optimiser computes with a weight that differs
between signatures:

    scale = γ / √(v + ε)        shift = β - m · scale

BN that differs, or follows a layer that does, is a depthwise 1×1 convolution: of images it stays in ONNX Runtime's blocked layout. All other
BN is a product and a sum, which ONNX Runtime merges into the convolution before them.

Must never import torch or onnx.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import SpecError
from isoform.runtime.formats.metadata import members_of
from isoform.runtime.inputs import Input, is_whole

__all__ = ["Body", "Norm", "checked_shapes"]

SIZE, WEIGHTS, NUMBERS = 64 << 20, 10_000, 1 << 28
"""Maximum size of a graph in bytes, number of weights, and of their values."""
NAME = 200
"""Maximum length of a weight's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """One batch normalisation."""

    name: str
    channels: int
    axes: int
    """Number of axes after the channels, 0 to 3."""
    eps: float
    """ε, added to the variance."""

    apart: bool
    """Whether it is a convolution of its own, which no optimiser merges with its neighbours; of features without axes never."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of its two weights in the graph."""
        ones = (1,) * self.axes
        shapes = ((self.channels, 1, *ones), (self.channels,)) if self.apart else ((self.channels, *ones),) * 2
        return dict(zip((f"{self.name}.scale", f"{self.name}.shift"), shapes, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """Sizes of a body. Raises ``SpecError`` on a size out of range."""

    input: Input
    embedding: int
    """Number of features that the logits layer reads."""
    size: int
    """Bytes of the ONNX file."""
    weights: Mapping[str, tuple[int, ...]]
    """Name → shape of the weights, in the order of the module; BN's and the logits layer's left out."""
    norms: tuple[Norm, ...] = ()
    private_norms: bool = False
    """Whether BN differs between signatures."""

    def __post_init__(self) -> None:
        """Check every field."""
        if not is_whole(self.embedding, 1, 1 << 24):
            raise SpecError(f"embedding is {self.embedding!r}, but a whole number from 1 to {1 << 24} was expected")
        if not is_whole(self.size, 1, SIZE):
            raise SpecError(f"the graph has {self.size!r} bytes, but 1 to {SIZE} were expected")
        if not isinstance(self.private_norms, bool):
            raise SpecError(f"private_norms is {self.private_norms!r}, but true or false was expected")
        for norm in self.norms:
            if not (is_whole(norm.channels, 1, 65536) and is_whole(norm.axes, 0, 3)):
                raise SpecError(f"BN {norm.name!r} has {norm.channels!r} channels and {norm.axes!r} axes after them")
            if not isinstance(norm.apart, bool) or (norm.apart and not norm.axes):
                raise SpecError(
                    f"BN {norm.name!r} is apart: {norm.apart!r}, but true or, for features, false was expected"
                )
            if not (isinstance(norm.eps, float) and 0 < norm.eps < 1):
                raise SpecError(f"BN {norm.name!r} has ε {norm.eps!r}, but a number between 0 and 1 was expected")
        checked_shapes(self.weights, "weights")
        if len({*self.graph_weights}) != len(self.weights) + 2 * len(self.norms):
            raise SpecError("two weights of the graph have the same name")

    @functools.cached_property
    def graph_weights(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of all weights of the graph, those of BN last; without the logits layer."""
        shapes = dict(self.weights)
        for norm in self.norms:
            shapes |= norm.shapes
        return shapes

    @functools.cached_property
    def channels(self) -> int:
        """N, number of channels of all BN layers together."""
        return sum(norm.channels for norm in self.norms)

    @functools.cached_property
    def eps(self) -> Array:
        """ε of every channel, shape (N,), float64."""
        return np.repeat([norm.eps for norm in self.norms], [norm.channels for norm in self.norms])

    def normalisation(self, affine: Array, statistics: Array) -> dict[str, Array]:
        """Compute BN's weights in the graph.

        Args:
            affine: γ and β, shape (2, N), the layers one after the other.
            statistics: Means and variances, shape (2, N).

        Returns:
            Name → array, float32, C-contiguous.
        """
        gamma, beta, mean, variance = (row.astype(np.float64) for row in (*affine, *statistics))
        scale = gamma / np.sqrt(variance + self.eps)
        rows = {"scale": scale.astype(np.float32), "shift": (beta - mean * scale).astype(np.float32)}
        found, start = {}, 0
        for norm in self.norms:
            for name, shape in norm.shapes.items():
                values = rows[name.rpartition(".")[2]][start : start + norm.channels]
                found[name] = np.ascontiguousarray(values.reshape(shape))
            start += norm.channels
        return found

    def split(self, flat: Any, names: Sequence[str]) -> dict[str, Any]:
        """Cut a vector of several weights, one after the other, into the weights; views. Of numpy or torch."""
        found, start = {}, 0
        for name in names:
            shape = self.weights[name]
            end = start + math.prod(shape)
            found[name] = flat[start:end].reshape(shape)
            start = end
        return found

    def numbers(self, names: Sequence[str]) -> int:
        """Return how many numbers these weights have together."""
        return sum(math.prod(self.weights[name]) for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``from_json`` is the inverse."""
        return {
            "input": self.input.to_json(), "embedding": self.embedding, "size": self.size,
            "weights": [[name, list(shape)] for name, shape in self.weights.items()],
            "norms": [dataclasses.asdict(norm) for norm in self.norms], "private_norms": self.private_norms,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: object) -> Body:
        """Read what ``to_json`` returned. Raises ``SpecError`` if it is malformed or out of range."""
        fields = members_of(cls, value, "a body")
        norms, weights = fields.pop("norms", ()), fields.pop("weights")
        if not isinstance(norms, tuple) or not isinstance(weights, tuple) or max(len(norms), len(weights)) > WEIGHTS:
            raise SpecError(f"a body's norms and weights are lists of at most {WEIGHTS} entries")
        try:
            return cls(
                input=Input.from_json(fields.pop("input")),
                weights={name: tuple(shape) for name, shape in weights},
                norms=tuple(Norm(**members_of(Norm, norm, "BN")) for norm in norms),
                **fields,
            )
        except (TypeError, ValueError) as problem:
            raise SpecError(f"a body's description has a field of the wrong type: {problem}") from None


def checked_shapes(shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Check names and shapes of weights that a file lists. Raises ``SpecError`` if one is malformed, or they are too many."""
    total = 0
    for name, shape in shapes.items():
        if not (isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name) <= NAME):
            raise SpecError(
                f"{what} has the name {name!r:.100}, but up to {NAME} printable ASCII characters were expected"
            )
        if len(shape) > 8 or not all(is_whole(size, 1, NUMBERS) for size in shape):
            raise SpecError(
                f"{what} {name!r} has the shape {list(shape)!r:.100}, but up to 8 whole numbers were expected"
            )
        total += math.prod(shape)
    if len(shapes) > WEIGHTS or total > NUMBERS:
        raise SpecError(
            f"{what} are {len(shapes):,} of {total:,} numbers, but at most {WEIGHTS:,} of {NUMBERS:,} are supported"
        )
