"""What a hot signature holds: weights in the plan's layout, and the bindings that feed them to a session.

``OwnWeights``   a vector of the signature's own; it can be filled again for another signature, and its bindings stay as they are
``PieceWeights`` for a signature made of pieces that others have too: its bindings point into them, it holds no weights
``Stages``       vectors that are bound already and near to the processor: weights that were not used for a while are copied there,
                 which is faster than to run from far memory, and users who seldom come need no bindings of their own
``Shared``       what the signatures of one group have in common (``Folder.group``): a session in which the weights that they share
                 are constants, its stages, and pieces

A binding is lent to one prediction at a time. ONNX Runtime keeps bare addresses: whatever a binding points to must live, and must
not change, while a run uses it; the cache sees to that (``cache.py``: borrowed entries are never handed on).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.lift import fix_inputs
from isoform.runtime.engines.onnx.plan import Plan, bind, lifted_session
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.kind import Folder, Group
from isoform.runtime.layout import Weight, aligned

__all__ = ["Binding", "PieceWeights", "OwnWeights", "Shared", "Stages"]

ADDRESS_BYTES = 440
"""What one input of ``OwnWeights`` costs in a binding, measured: its name, twice, and a tensor that is an address."""
NAME_BYTES = 130
"""What one input of ``PieceWeights`` costs: its name, twice, and a reference."""
NEAR = 64
"""Weights that were used this many predictions ago are run where they lie; others are copied first."""
KEPT = 8
"""How many bindings of one signature of pieces stay, for as many predictions at once."""
BARE = True
"""Whether to bind without ONNX Runtime's Python wrapper, which doubles the time and keeps a table per binding."""

Values = list[tuple[str, Any]]
"""Inputs by name: what ``Shared.binder`` takes."""
Head = Mapping[str, Array]
"""``HEAD``'s names → float32 arrays, C-contiguous."""


def bare(inputs: ort.IOBinding) -> Any | None:
    """The binding inside ONNX Runtime's Python wrapper; None if this version has none, or we do without."""
    return getattr(inputs, "_iobinding", None) if BARE else None


class Binding:
    """A signature's weights, bound, for one run at a time.

    Args:
        session: A session over the plan.
        name: Of the session's input for samples.
        vector: The weights, if they are a vector.
    """

    __slots__ = ("_bare", "_head", "_name", "_samples", "_session", "inputs", "vector")

    def __init__(self, session: ort.InferenceSession, name: str, vector: Array | None) -> None:
        self._session, self._name, self.vector = session, name, vector
        self.inputs = session.io_binding()
        self._bare = bare(self.inputs)
        self._head: Head = {}
        self._samples = -1

    def bind_head(self, head: Head) -> None:
        """Bind a logits layer."""
        if any(array is not self._head.get(name) for name, array in head.items()):
            for name, array in head.items():
                self.inputs.bind_cpu_input(name, array)
            self._head, self._samples = head, -1

    def run(self, x: Array) -> Array:
        """Run a batch: shape (n, …), as ``Input.checked`` gives it → a fresh (n, classes), float32.

        Whatever ONNX Runtime raises passes through, and the binding must not be used again.
        """
        if self._bare is not None:
            self._bare.bind_input(self._name, x)
        else:  # by address, because the wrapper would keep the array alive until the next one comes
            self.inputs.bind_input(self._name, "cpu", 0, x.dtype.type, x.shape, x.ctypes.data)
        if len(x) != self._samples:  # else the last run's output is written again: it was copied
            self.inputs.bind_output("logits", "cpu")
        self._session.run_with_iobinding(self.inputs)
        self._samples = len(x)
        result: Array = self.inputs.copy_outputs_to_cpu()[0]
        return result


class Stages:
    """Vectors that are bound already, as many as there are predictions at once. Safe to share.

    Args:
        session: A session over the plan.
        name: Of the session's input for samples.
        weights: What the session has as inputs, of the plan's weights.
        size: How many numbers they lie in.
    """

    def __init__(self, session: ort.InferenceSession, name: str, weights: Sequence[Weight], size: int) -> None:
        self.session, self.name, self.weights, self.size = session, name, weights, size
        self._free: list[Binding] = []

    def bound(self, vector: Array) -> Binding:
        """A new binding to a vector of weights, with no logits layer yet."""
        binding = Binding(self.session, self.name, vector)
        bind(binding.inputs, self.weights, vector)
        return binding

    def take(self, vector: Array, head: Head) -> Binding:
        """A binding to a copy of these weights."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = self.bound(aligned(self.size))
        assert binding.vector is not None
        np.copyto(binding.vector, vector)
        binding.bind_head(head)
        return binding

    def give(self, binding: Binding) -> None:
        """Take a binding back."""
        self._free.append(binding)

    def clear(self) -> None:
        """Let go of the copies that are not in use."""
        self._free.clear()


class Shared:
    """What the signatures of one group have in common. Safe to share.

    Args:
        plan: The plan.
        name: Of the plan's input for samples.
        folder: The fold into it.
        group: The group.
        threads: Threads per run, 0 to let ONNX Runtime choose.
    """

    def __init__(self, plan: Plan, name: str, folder: Folder, group: Group, *, threads: int) -> None:
        self._folder, self.group = folder, group
        self.weights = [weight for weight in plan.layout.weights if weight[2] < folder.moving]
        constants = {
            name: group.fixed[start - folder.moving :][: math.prod(shape)].reshape(shape)
            for name, shape, start in plan.layout.weights[len(self.weights) :]
        }
        self.session = lifted_session(fix_inputs(plan.graph, constants), threads=threads)
        self.stages = Stages(self.session, name, self.weights, folder.moving)
        self._fixed_bytes = group.nbytes + 2 * len(plan.graph)
        self._tensors: list[list[tuple[str, tuple[int, ...], slice]]] = [[] for _ in range(folder.pieces)]
        self._piece_size = folder.moving // max(1, folder.pieces)
        for weight, shape, start in self.weights if folder.pieces else ():
            number, place = divmod(start, self._piece_size)
            self._tensors[number].append((weight, shape, slice(place, place + math.prod(shape))))
        self._pieces: dict[tuple[int, int], Values] = {}
        self._kept: list[ort.OrtValue] = []
        self._bare = bare(self.session.io_binding()) is not None

    @property
    def pieces(self) -> int:
        """How many pieces a signature is made of."""
        return self._folder.pieces

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes now."""
        return self._fixed_bytes + 4 * self._piece_size * len(self._pieces)

    def piece(self, number: int, key: int) -> Values:
        """The inputs of one piece. They are made when first asked for."""
        which = number, key
        if which not in self._pieces:
            flat = self._folder.piece(self.group, number, key)
            wrapped = [
                (name, ort.OrtValue.ortvalue_from_numpy(flat[place].reshape(shape)))
                for name, shape, place in self._tensors[number]
            ]
            values = [(name, value._ortvalue if self._bare else value) for name, value in wrapped]
            if (
                self._pieces.setdefault(which, values) is values
            ):  # two threads may make it: both use the one that came first
                self._kept += [value for _, value in wrapped]  # they keep the array alive
        return self._pieces[which]

    def binder(self, inputs: ort.IOBinding) -> Callable[[str, Any], None]:
        """What binds a value of ``piece`` to a binding."""
        bind_value: Callable[[str, Any], None] = (bare(inputs) or inputs).bind_ortvalue_input
        return bind_value


class OwnWeights:
    """A vector of one signature's weights.

    Args:
        stages: Where it is copied to when it was not used for a while.
    """

    __slots__ = ("_bound", "_free", "_head", "_turn", "_vector", "stages")

    def __init__(self, stages: Stages) -> None:
        self.stages, self._vector = stages, aligned(stages.size)
        self._head: Head = {}
        self._free: list[Binding] = []
        self._turn: int | None = None
        self._bound = False

    def fill(self, folder: Folder, read: Any, group: Group, head: Head) -> int:
        """Become a signature's weights, and say how many bytes they take. No binding may be in use."""
        folder.fill(read, group, self._vector)
        self._head, self._turn = head, None
        del self._free[1:]
        return self._vector.nbytes + ADDRESS_BYTES * len(self.stages.weights)

    def take(self, turn: int) -> Binding:
        """A binding that nobody else uses, until it is given back; ``turn`` counts the engine's predictions."""
        last, self._turn = self._turn, turn
        soon = last is not None and turn - last <= NEAR
        if (soon and not self._bound) or (self._free and (soon or last is None)):
            try:
                binding = self._free.pop()
            except IndexError:  # the first, or somebody else was quicker
                binding, self._bound = self.stages.bound(self._vector), True
            binding.bind_head(self._head)
            return binding
        return self.stages.take(self._vector, self._head)

    def give(self, binding: Binding) -> None:
        """Take a binding back."""
        if binding.vector is self._vector:
            self._free.append(binding)
        else:
            self.stages.give(binding)


class PieceWeights:
    """A signature that is made of pieces.

    Args:
        shared: What it shares with others of its group.
    """

    __slots__ = ("_free", "_head", "_keys", "shared")

    def __init__(self, shared: Shared) -> None:
        self.shared, self._keys = shared, bytes(shared.pieces)
        self._head: Head = {}
        self._free: list[Binding] = []

    def fill(self, keys: Sequence[int], head: Head) -> int:
        """Become a signature's weights, and say how many bytes they take. No binding may be in use."""
        changed = [number for number, key in enumerate(keys) if key != self._keys[number]]
        self._keys, self._head = bytes(keys), head
        del self._free[1:]
        for binding in self._free:
            self._bind_pieces(binding, changed)
        return NAME_BYTES * len(self.shared.weights)

    def take(self, turn: int) -> Binding:  # noqa: ARG002 - pieces are near, whenever they were used
        """A binding that nobody else uses, until it is given back."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = Binding(self.shared.session, self.shared.stages.name, None)
            self._bind_pieces(binding, range(len(self._keys)))
        binding.bind_head(self._head)
        return binding

    def give(self, binding: Binding) -> None:
        """Take a binding back."""
        if len(self._free) < KEPT:
            self._free.append(binding)

    def _bind_pieces(self, binding: Binding, numbers: Iterable[int]) -> None:
        bind_value = self.shared.binder(binding.inputs)
        for number in numbers:
            for name, value in self.shared.piece(number, self._keys[number]):
                bind_value(name, value)
