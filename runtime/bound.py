"""What a hot signature holds: weights in the plan's layout, and the bindings that feed them to the session.

``OwnWeights`` are a vector of the signature's own, which can be filled again for another one while its bindings stay as they are.
``SharedWeights`` are for a signature whose layers are templates: its bindings point into ``Blocks``, a table over (layer,
template), so that it holds no weights at all.

A binding is lent to one prediction at a time. ONNX Runtime keeps bare addresses: whatever a binding points to must live, and must
not change, while a run uses it; the cache sees to that (``cache.py``: borrowed entries are never handed on).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnxruntime as ort

from isoform.runtime.laid_fold import LaidBN, LaidFold
from isoform.runtime.plan import Plan, aligned, bind
from isoform.runtime.spec import Array

__all__ = ["Blocks", "OwnWeights", "SharedWeights"]

BINDING_BYTES = 192
"""What one input costs in a binding, measured: its name, twice, and its value's address (benchmarks/swap.py)."""

Values = list[tuple[str, ort.OrtValue]]
"""Inputs by name, over memory that they keep alive."""
Head = Mapping[str, Array]
"""``plan.HEAD``'s names → float32 arrays, C-contiguous."""


class _Weights:
    """Bindings that hold the same weights. Each is lent to one prediction at a time."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._head: Head = {}
        self._free: list[ort.IOBinding] = []

    def take(self) -> ort.IOBinding:
        """A binding that nobody else uses, until it is given back."""
        try:
            return self._free.pop()
        except IndexError:
            binding = self._session.io_binding()
            self._bind(binding)
            self._bind_head(binding)
            return binding

    def give(self, binding: ort.IOBinding) -> None:
        """Take a binding back."""
        self._free.append(binding)

    def _bind(self, binding: ort.IOBinding) -> None:
        """Bind all weights but the logits layer to a new binding."""
        raise NotImplementedError

    def _bind_head(self, binding: ort.IOBinding) -> None:
        for name, array in self._head.items():
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


class OwnWeights(_Weights):
    """A vector of one signature's weights.

    Args:
        session: A session over the plan.
        plan: The plan.
    """

    def __init__(self, session: ort.InferenceSession, plan: Plan) -> None:
        super().__init__(session)
        self._plan, self._vector = plan, aligned(len(plan.gather))

    def fill(self, fold: LaidFold, mixture: Array, bn: LaidBN, head: Head) -> int:
        """Become a signature's weights, and say how many bytes they take. No binding may be in use."""
        fold(mixture, bn, self._vector)
        self._head = head
        for binding in self._free:
            self._bind_head(binding)
        return self._vector.nbytes + BINDING_BYTES * len(self._plan.weights)

    def _bind(self, binding: ort.IOBinding) -> None:
        bind(binding, self._plan, self._vector)


class Blocks:
    """Templates in the place of layers, laid out and scaled by one BN: what discrete signatures with that BN share.

    A block is made when a signature first needs it.

    Args:
        plan: The plan.
        fold: The fold into it.
        bn: The BN.
    """

    def __init__(self, plan: Plan, fold: LaidFold, bn: LaidBN) -> None:
        self._fold, self._bn = fold, bn
        self.layers = len(bn.scale)
        self._tensors: list[list[tuple[str, tuple[int, ...], slice]]] = [[] for _ in range(self.layers)]
        self.rest: Values = []
        for name, shape, start in plan.weights:
            if start < fold.rows_size:
                layer, place = divmod(start, fold.row_size)
                self._tensors[layer].append((name, shape, slice(place, place + math.prod(shape))))
            else:
                place = start - fold.rows_size
                self.rest.append((name, _value(bn.rest[place : place + math.prod(shape)], shape)))
        self._made: dict[tuple[int, int], Values] = {}
        self.inputs = len(plan.weights)
        self.largest_bytes = self.layers * fold.templates * fold.row_size * 4 + bn.rest.nbytes

    def block(self, layer: int, template: int) -> Values:
        """The inputs of one layer."""
        key = layer, template
        if key not in self._made:
            flat = self._fold.block(self._bn, layer, template)
            values = [(name, _value(flat[place], shape)) for name, shape, place in self._tensors[layer]]
            self._made.setdefault(key, values)  # two threads may make it at once: then both use the one that came first
        return self._made[key]


class SharedWeights(_Weights):
    """A signature that is a sequence of templates.

    Args:
        session: A session over the plan.
        blocks: What it shares.
    """

    def __init__(self, session: ort.InferenceSession, blocks: Blocks) -> None:
        super().__init__(session)
        self.blocks, self._sequence = blocks, [-1] * blocks.layers

    def fill(self, sequence: list[int], head: Head) -> int:
        """Become a signature's weights, and say how many bytes they take. No binding may be in use."""
        changed = [layer for layer, template in enumerate(sequence) if template != self._sequence[layer]]
        self._sequence, self._head = sequence, head
        del self._free[1:]
        for binding in self._free:
            self._bind_layers(binding, changed)
            self._bind_head(binding)
        return BINDING_BYTES * self.blocks.inputs

    def _bind(self, binding: ort.IOBinding) -> None:
        for name, value in self.blocks.rest:
            binding.bind_ortvalue_input(name, value)
        self._bind_layers(binding, range(len(self._sequence)))

    def _bind_layers(self, binding: ort.IOBinding, layers: Iterable[int]) -> None:
        for layer in layers:
            for name, value in self.blocks.block(layer, self._sequence[layer]):
                binding.bind_ortvalue_input(name, value)


def _value(flat: Array, shape: tuple[int, ...]) -> ort.OrtValue:
    """A value that shares an array's memory, and keeps it alive."""
    return ort.OrtValue.ortvalue_from_numpy(flat.reshape(shape))
