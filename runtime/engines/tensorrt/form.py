"""Forms of a graph that TensorRT engines are built from: ONNX files whose private weights are inputs, and one whose weights are constants.

    one     samples, every private weight → logits; all samples have the same user
    many    samples, ``weights`` (users, M), ``user`` (n,) → logits; each sample has the weights of its row of the table
    task    samples → logits; the weights are those of a task's base signature, and so only for that

``weights`` is a user's vector: every private weight, the logits layer included, one after the other, each at a multiple of ``ALIGNMENT``
numbers. So both forms read the same memory: an engine of form ``one`` gets addresses into one row.

A logits layer has ``classes`` rows in both: those beyond a user's own have the logit ``ABSENT``, so that they take nothing from the others
where a softmax follows, and the runtime drops them. A weight that the graph
pads with zeros is padded in the vector instead, once per user and not in every run.

In precision ``fp16`` the vector and all numbers of the graph are float16; samples and logits stay float32. ``int8`` is for the form ``task``
alone: it has the scales of its weights and activations in it.
Stored as ``compiled/tensorrt/<graph or task>.<form>.<precision>.onnx`` and ``compiled/tensorrt/<graph>.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Self

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import BundleError
from isoform.runtime.inputs import is_whole
from isoform.runtime.kind import HEAD
from isoform.runtime.layout import Layout

__all__ = [
    "ABSENT",
    "ALIGNMENT",
    "MANY",
    "ONE",
    "OPTIONS",
    "PRECISIONS",
    "TABLE",
    "TASK",
    "TASK_PRECISIONS",
    "USER",
    "UserVector",
    "form_file",
    "vector_file",
]

ONE, MANY, TASK = "one", "many", "task"
TABLE, USER = "weights", "user"
"""Inputs of the form ``many``: the table (users, M), and each sample's row of it (n,), int32."""
OPTIONS = "tensorrt/build.json"
"""Path below ``compiled/`` of how engines are to be built on a device (``builder.BuildOptions``)."""
PRECISIONS, TASK_PRECISIONS = ("fp32", "fp16"), ("fp32", "fp16", "int8")
ALIGNMENT = 128
"""Every weight starts at a multiple of this many numbers: TensorRT takes addresses that are multiples of 256 bytes, of float16, too."""
ABSENT = -60000.0
"""Logit of a class that a user does not have; float16 holds it."""
LARGEST = 1 << 28
"""Maximum number of floats of a vector."""
LARGEST_TABLE = 65536
"""Maximum number of users in the table of an engine."""
VOLUME = (1 << 31) - 1
"""Maximum number of elements of a tensor in TensorRT."""


def form_file(graph: str, form: str, precision: str) -> str:
    """Return the path below ``compiled/`` of a graph's form, or of a task's with form ``TASK``."""
    return f"tensorrt/{graph}.{form}.{precision}.onnx"


def vector_file(graph: str) -> str:
    """Return the path below ``compiled/`` of the description of a graph's vector."""
    return f"tensorrt/{graph}.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserVector:
    """Where a user's weights are in the vector. Raises ``BundleError`` on a size out of range."""

    classes: int
    """Rows of the logits layer."""
    shapes: Mapping[str, tuple[int, ...]]
    """Name → shape of the private weights, in the order of ``Graph.weights``; the logits layer, with ``classes`` rows, last."""
    padded: Mapping[str, tuple[int, ...]]
    """Name → larger shape, of those that are padded with zeros at the end of their axes."""

    def __post_init__(self) -> None:
        """Check every size."""
        if not is_whole(self.classes, 1, 1 << 20):
            raise BundleError(f"classes is {self.classes!r}, but a whole number from 1 to {1 << 20} was expected")
        if {*self.shapes} & {*HEAD} != {*HEAD}:
            raise BundleError("a vector of weights has no logits layer")
        for name, shape in {**self.shapes, **self.padded}.items():
            if not all(is_whole(size, 1, LARGEST) for size in shape):
                raise BundleError(
                    f"weight {name!r} has the shape {list(shape)!r:.100}, but whole numbers were expected"
                )
        for name, shape in self.padded.items():
            given = self.shapes.get(name, ())
            if len(given) != len(shape) or any(a > b for a, b in zip(given, shape, strict=True)):
                raise BundleError(f"weight {name!r} is padded from {given} to {shape}")
        if self.size > LARGEST:
            raise BundleError(f"a vector has {self.size:,} floats, but at most {LARGEST:,} are supported")

    @functools.cached_property
    def places(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Name → shape in the form, and the index of its first float."""
        found, start = {}, 0
        for name, given in self.shapes.items():
            shape = self.padded.get(name, given)
            found[name] = shape, start
            start += math.prod(shape) + -math.prod(shape) % ALIGNMENT
        return found

    @functools.cached_property
    def size(self) -> int:
        """M, floats of the vector."""
        shape, start = [*self.places.values()][-1]
        return start + math.prod(shape) + -math.prod(shape) % ALIGNMENT

    @property
    def most_users(self) -> int:
        """Rows that a table of vectors may have."""
        return max(1, min(LARGEST_TABLE, VOLUME // self.size))

    def vector_of(self, folded: Mapping[str, Array], head: Mapping[str, Array]) -> Array:
        """Return a user's vector, shape (size,), float32.

        Args:
            folded: The private weights, in the order of ``shapes``; without the logits layer.
            head: As for ``fill_head``.
        """
        result = np.zeros(self.size, dtype=np.float32)
        if folded:
            result[: self.head_start] = self.private.lay_out(folded)
        self.fill_head(head, result)
        return result

    @functools.cached_property
    def private(self) -> Layout:
        """The layout of the leading floats: all but the logits layer's."""
        weights = tuple((name, shape, start) for name, (shape, start) in self.places.items() if name not in HEAD)
        gather = np.zeros(self.head_start, dtype=np.intp)
        first = 1  # of the folded weights; 0 is padding
        for name, shape, start in weights:
            given = self.shapes[name]
            count = math.prod(given)
            block = gather[start : start + math.prod(shape)].reshape(shape)
            block[tuple(slice(size) for size in given)] = np.arange(first, first + count).reshape(given)
            first += count
        return Layout(weights, gather)

    @property
    def head_start(self) -> int:
        """Index of the logits layer's first float."""
        return min(self.places[name][1] for name in HEAD)

    def fill_head(self, head: Mapping[str, Array], out: Array) -> None:
        """Write a logits layer into a vector; classes that the user does not have get the logit ``ABSENT``.

        Args:
            head: ``logits.weight`` (classes, embedding) and ``logits.bias`` (classes,), with at most ``self.classes`` rows.
            out: A vector, shape (size,), float32.
        """
        for name in HEAD:
            shape, start = self.places[name]
            block = out[start : start + math.prod(shape)].reshape(shape)
            rows = len(head[name])
            block[:rows], block[rows:] = head[name], 0 if name == HEAD[0] else ABSENT

    def encode(self) -> bytes:
        """Return the file's content."""
        weights = [[name, list(shape), list(self.padded.get(name, shape))] for name, shape in self.shapes.items()]
        return json.dumps({"classes": self.classes, "weights": weights}).encode()

    @classmethod
    def decode(cls, data: bytes, *, name: str) -> Self:
        """Read a file's content; ``name`` is for errors. Raises ``BundleError`` if it is malformed."""
        try:
            content = json.loads(data)
            rows = [(row[0], tuple(row[1]), tuple(row[2])) for row in content["weights"]]
            return cls(
                classes=content["classes"], shapes={str(row[0]): row[1] for row in rows},
                padded={str(row[0]): row[2] for row in rows if row[2] != row[1]},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as problem:
            raise BundleError(f"{name} is malformed: {problem}; run 'isoform compile' again") from None
