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

import onnxruntime as ort

from isoform.runtime.laid_fold import LaidBN, LaidFold
from isoform.runtime.plan import Plan, aligned, bind
from isoform.runtime.spec import Array

__all__ = ["Binding", "Blocks", "OwnWeights", "SharedWeights"]

BINDING_BYTES = 192
"""What one input costs in a binding, measured: its name, twice, and its value's address (benchmarks/swap.py)."""

Values = list[tuple[str, ort.OrtValue]]
"""Inputs by name, over memory that they keep alive."""
Head = Mapping[str, Array]
"""``plan.HEAD``'s names → float32 arrays, C-contiguous."""


class Binding:
    """A signature's weights, bound, for one run at a time.

    Args:
        session: A session over the plan.
        vector: The weights, if they are a vector.
    """

    def __init__(self, session: ort.InferenceSession, vector: Array | None) -> None:
        self._session, self.vector = session, vector
        self.inputs = session.io_binding()
        self._head: Head = {}
        self._samples = -1

    def bind_head(self, head: Head) -> None:
        """Bind a logits layer."""
        if any(array is not self._head.get(name) for name, array in head.items()):
            for name, array in head.items():
                self.inputs.bind_cpu_input(name, array)
            self._head, self._samples = head, -1

    def run(self, x: Array) -> Array:
        """Run a batch: shape (n, channels, height, width), float32, C-contiguous → a fresh (n, classes), float32.

        Whatever ONNX Runtime raises passes through, and the binding must not be used again.
        """
        self.inputs.bind_cpu_input("image", x)
        if len(x) != self._samples:  # else the last run's output is written again: it was copied
            self.inputs.bind_output("logits", "cpu")
        self._session.run_with_iobinding(self.inputs)
        self._samples = len(x)
        result: Array = self.inputs.copy_outputs_to_cpu()[0]
        return result


class _Weights:
    """Bindings that hold the same weights. Each is lent to one prediction at a time."""

    def __init__(self, session: ort.InferenceSession, vector: Array | None = None) -> None:
        self._session, self._vector = session, vector
        self._head: Head = {}
        self._free: list[Binding] = []

    def take(self) -> Binding:
        """A binding that nobody else uses, until it is given back."""
        try:
            return self._free.pop()
        except IndexError:
            binding = Binding(self._session, self._vector)
            self._bind(binding.inputs)
            binding.bind_head(self._head)
            return binding

    def give(self, binding: Binding) -> None:
        """Take a binding back."""
        self._free.append(binding)

    def _bind(self, inputs: ort.IOBinding) -> None:
        """Bind all weights but the logits layer."""
        raise NotImplementedError


class OwnWeights(_Weights):
    """A vector of one signature's weights.

    Args:
        session: A session over the plan.
        plan: The plan.
    """

    def __init__(self, session: ort.InferenceSession, plan: Plan) -> None:
        self._plan, self._own = plan, aligned(len(plan.gather))
        super().__init__(session, self._own)

    def fill(self, fold: LaidFold, xi: Array, bn: LaidBN, head: Head) -> int:
        """Become a signature's weights, and say how many bytes they take. No binding may be in use."""
        fold(xi, bn, self._own)
        self._head = head
        for binding in self._free:
            binding.bind_head(head)
        return self._own.nbytes + BINDING_BYTES * len(self._plan.weights)

    def _bind(self, inputs: ort.IOBinding) -> None:
        bind(inputs, self._plan, self._own)


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
            self._bind_layers(binding.inputs, changed)
            binding.bind_head(head)
        return BINDING_BYTES * self.blocks.inputs

    def _bind(self, inputs: ort.IOBinding) -> None:
        for name, value in self.blocks.rest:
            inputs.bind_ortvalue_input(name, value)
        self._bind_layers(inputs, range(len(self._sequence)))

    def _bind_layers(self, inputs: ort.IOBinding, layers: Iterable[int]) -> None:
        for layer in layers:
            for name, value in self.blocks.block(layer, self._sequence[layer]):
                inputs.bind_ortvalue_input(name, value)


def _value(flat: Array, shape: tuple[int, ...]) -> ort.OrtValue:
    """A value that shares an array's memory, and keeps it alive."""
    return ort.OrtValue.ortvalue_from_numpy(flat.reshape(shape))
