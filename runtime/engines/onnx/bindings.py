"""Cached state of a signature: weights in the plan's layout, and the I/O bindings that pass them to a session.

``OwnWeights``   a private vector of weights; it can be refilled for another signature without binding again
``PieceWeights`` for a signature composed of shared pieces: its bindings point into them, it holds no weights
``Stages``       a pool of vectors that are already bound and likely in the processor's cache: weights not used recently are copied
                 there, which is faster than running from main memory, and rare users need no bindings of their own
``Shared``       what the signatures of one group share (``Folder.group``): a session in which the shared weights are constants,
                 its stages, and its pieces

A binding serves one prediction at a time. ONNX Runtime keeps raw addresses: the memory that a binding points to must stay alive and
unchanged during a run; the cache guarantees that (``cache.py``: pinned entries are never evicted or reused).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.plan import Plan, bind
from isoform.runtime.engines.onnx.plans.sized import Sessions
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.kind import Folder, Group
from isoform.runtime.layout import Weight, aligned

__all__ = ["Binding", "OwnWeights", "PieceWeights", "Shared", "Stages"]

ADDRESS_BYTES = 440  # measured: the name, twice, and a tensor that wraps an address
"""Memory per input of a binding of ``OwnWeights``."""
NAME_BYTES = 130  # the name, twice, and a reference
"""Memory per input of a binding of ``PieceWeights``."""
NEAR = 64
"""Weights used within this many predictions are run in place; others are copied to a stage first."""
KEPT = 8
"""Maximum number of idle bindings per signature of pieces; each serves one concurrent prediction."""
BARE = True  # the Python wrapper doubles the time to bind and keeps a table per binding
"""Whether to bypass ONNX Runtime's Python wrapper when binding."""

Values = list[tuple[str, Any]]
"""Inputs by name, for ``Shared.binder``."""
Head = Mapping[str, Array]
"""``HEAD``'s names → float32 arrays, C-contiguous."""


def bare(inputs: ort.IOBinding) -> Any | None:
    """Return the binding inside ONNX Runtime's Python wrapper; None if this version has none or ``BARE`` is off."""
    return getattr(inputs, "_iobinding", None) if BARE else None


class Binding:
    """An I/O binding with a signature's weights bound, for one run at a time.

    It belongs to one session, and is made anew when a batch needs another one: most applications use one batch size.

    Args:
        sessions: The sessions of the plan.
        name: Name of the sessions' input for samples.
        weights: The plan's weights that are inputs of the sessions.
        vector: The vector that holds them.
    """

    __slots__ = (
        "_bare",
        "_head",
        "_name",
        "_samples",
        "_session",
        "_sessions",
        "_size",
        "_weights",
        "inputs",
        "vector",
    )

    def __init__(self, sessions: Sessions, name: str, weights: Sequence[Weight], vector: Array | None) -> None:
        self._sessions, self._name, self._weights, self.vector = sessions, name, weights, vector
        self._head: Head = {}
        self._use(sessions.usual)

    def _use(self, size: int) -> None:
        self._size, self._session = size, self._sessions.of(size)
        self.inputs = self._session.io_binding()
        self._bare = bare(self.inputs)
        for name, value in self._sessions.shared.items():
            self.inputs.bind_ortvalue_input(name, value)
        self._bind_weights()
        for name, array in self._head.items():
            self.inputs.bind_cpu_input(name, array)
        self._samples = -1

    def _bind_weights(self) -> None:
        assert self.vector is not None
        bind(self.inputs, self._weights, self.vector)

    def bind_head(self, head: Head) -> None:
        """Bind a logits layer."""
        if head is self._head:
            return
        # by identity: a cached signature passes the same arrays each time, and comparing values would cost more than binding
        if any(array is not self._head.get(name) for name, array in head.items()):
            for name, array in head.items():
                self.inputs.bind_cpu_input(name, array)
            self._head, self._samples = head, -1

    def run(self, x: Array) -> Array:
        """Run a batch, shape (n, …) as ``Input.checked`` returns it; return fresh logits (n, classes), float32.

        Exceptions of ONNX Runtime propagate; after one the binding must not be used again.
        """
        size = self._sessions.size_of(len(x))
        if size is not None:
            return self._run(x, size)
        return np.concatenate([self._run(x[samples], size) for size, samples in self._sessions.slices(len(x))])

    def _run(self, x: Array, size: int) -> Array:
        if size != self._size:
            self._use(size)
        if self._bare is not None:
            self._bare.bind_input(self._name, x)
        else:  # by address: given the array itself, the wrapper would keep a caller's samples in memory until the next run
            self.inputs.bind_input(self._name, "cpu", 0, x.dtype.type, x.shape, x.ctypes.data)
        # else the output buffer of the last run has the right size and is reused: its content was copied
        if len(x) != self._samples:
            self.inputs.bind_output("logits", "cpu")
        self._session.run_with_iobinding(self.inputs)
        self._samples, self._sessions.usual = len(x), size
        result: Array = self.inputs.copy_outputs_to_cpu()[0]
        return result


class Stages:
    """A pool of bound vectors, one per concurrent prediction. Thread-safe.

    Args:
        sessions: The sessions of the plan.
        name: Name of the sessions' input for samples.
        weights: The plan's weights that are inputs of the sessions.
        size: Number of floats in a vector.
    """

    def __init__(self, sessions: Sessions, name: str, weights: Sequence[Weight], size: int) -> None:
        self.sessions, self.name, self.weights, self.size = sessions, name, weights, size
        self._free: list[Binding] = []

    def bound(self, vector: Array) -> Binding:
        """Create a binding to a vector of weights, without a logits layer yet."""
        return Binding(self.sessions, self.name, self.weights, vector)

    def take(self, vector: Array, head: Head) -> Binding:
        """Copy these weights to a stage, and return its binding."""
        try:
            binding = self._free.pop()  # list.pop and append are atomic: no lock is needed
        except IndexError:
            binding = self.bound(aligned(self.size))
        assert binding.vector is not None
        np.copyto(binding.vector, vector)
        binding.bind_head(head)
        return binding

    def give(self, binding: Binding) -> None:
        """Return a binding to the pool."""
        self._free.append(binding)

    def clear(self) -> None:
        """Free the stages that are not in use."""
        self._free.clear()


class Shared:
    """What the signatures of one group share. Thread-safe.

    Args:
        plan: The plan.
        name: Name of the plan's input for samples.
        folder: The fold into the plan's layout.
        group: The group.
        threads: Threads per run; 0 lets ONNX Runtime choose.
        common: As ``Sessions.shared``.
    """

    def __init__(
        self, plan: Plan, name: str, folder: Folder, group: Group, *, threads: int, common: Mapping[str, ort.OrtValue]
    ) -> None:  # fmt: skip
        self._folder, self.group = folder, group
        self.weights = [weight for weight in plan.layout.weights if weight[2] < folder.moving]
        constants = {
            name: group.fixed[start - folder.moving :][: math.prod(shape)].reshape(shape)
            for name, shape, start in plan.layout.weights[len(self.weights) :]
        }
        self.sessions = Sessions(plan.graph, plan.batches, threads=threads, constants=constants, shared=common)
        self.stages = Stages(self.sessions, name, self.weights, folder.moving)
        self._tensors: list[list[tuple[str, tuple[int, ...], slice]]] = [[] for _ in range(folder.pieces)]
        self._piece_size = folder.moving // max(1, folder.pieces)
        for weight, shape, start in self.weights if folder.pieces else ():
            number, place = divmod(start, self._piece_size)
            self._tensors[number].append((weight, shape, slice(place, place + math.prod(shape))))
        self._pieces: dict[tuple[int, int], Values] = {}
        self._kept: list[ort.OrtValue] = []
        self._bare = bare(self.sessions.of(self.sessions.usual).io_binding()) is not None

    @property
    def pieces(self) -> int:
        """Number of pieces of a signature."""
        return self._folder.pieces

    @property
    def size_bytes(self) -> int:
        """Approximate current size in bytes."""
        return self.group.nbytes + self.sessions.size_bytes + 4 * self._piece_size * len(self._pieces)

    def piece(self, number: int, key: int) -> Values:
        """Return the inputs of one piece; they are created on first use."""
        which = number, key
        if which not in self._pieces:
            flat = self._folder.piece(self.group, number, key)
            wrapped = [
                (name, ort.OrtValue.ortvalue_from_numpy(flat[place].reshape(shape)))
                for name, shape, place in self._tensors[number]
            ]
            values = [(name, value._ortvalue if self._bare else value) for name, value in wrapped]
            # two threads may create it: both use the first one stored
            if self._pieces.setdefault(which, values) is values:
                # the inner values do not keep the array alive, the wrappers do
                self._kept += [value for _, value in wrapped]
        return self._pieces[which]

    def binder(self, inputs: ort.IOBinding) -> Callable[[str, Any], None]:
        """Return the function that binds an input of ``piece`` to a binding."""
        bind_value: Callable[[str, Any], None] = (bare(inputs) or inputs).bind_ortvalue_input
        return bind_value


class PieceBinding(Binding):
    """A binding that points into shared pieces, one per place; it holds no weights.

    Args:
        shared: What the signature's group shares.
        keys: The piece at every place.
    """

    __slots__ = ("_keys", "_shared")

    def __init__(self, shared: Shared, keys: bytes) -> None:
        self._shared, self._keys = shared, keys
        super().__init__(shared.sessions, shared.stages.name, shared.weights, None)

    def switch(self, keys: bytes) -> None:
        """Bind another signature's pieces, where they differ."""
        changed = [number for number, key in enumerate(keys) if key != self._keys[number]]
        self._keys = keys
        self._bind_pieces(changed)

    def _bind_weights(self) -> None:
        self._bind_pieces(range(len(self._keys)))

    def _bind_pieces(self, numbers: Iterable[int]) -> None:
        bind_value = self._shared.binder(self.inputs)
        for number in numbers:
            for name, value in self._shared.piece(number, self._keys[number]):
                bind_value(name, value)


class OwnWeights:
    """A private vector of one signature's weights.

    Args:
        stages: The pool to copy it to when it was not used recently.
    """

    __slots__ = ("_bound", "_free", "_head", "_turn", "_vector", "stages")

    def __init__(self, stages: Stages) -> None:
        self.stages, self._vector = stages, aligned(stages.size)
        self._head: Head = {}
        self._free: list[Binding] = []
        self._turn: int | None = None
        self._bound = False

    def fill(self, folder: Folder, read: Any, group: Group, head: Head) -> int:
        """Overwrite with a signature's weights, and return the size in bytes. No binding may be in use."""
        folder.fill(read, group, self._vector)
        self._head, self._turn = head, None
        del self._free[1:]  # one binding is reused; more were for concurrent predictions with the old signature
        return self._vector.nbytes + ADDRESS_BYTES * len(self.stages.weights)

    def take(self, turn: int) -> Binding:
        """Return a binding for exclusive use, until ``give``; ``turn`` is the engine's count of predictions."""
        last, self._turn = self._turn, turn
        # Bind this vector only if it is used twice in a short time: a binding costs more than one copy to a stage.
        soon = last is not None and turn - last <= NEAR
        if (soon and not self._bound) or (self._free and (soon or last is None)):
            try:
                binding = self._free.pop()
            except IndexError:  # none yet, or all are in use by other threads
                binding, self._bound = self.stages.bound(self._vector), True
            binding.bind_head(self._head)
            return binding
        return self.stages.take(self._vector, self._head)

    def give(self, binding: Binding) -> None:
        """Return a binding."""
        if binding.vector is self._vector:
            self._free.append(binding)
        else:
            self.stages.give(binding)


class PieceWeights:
    """A signature composed of shared pieces.

    Args:
        shared: What the signature's group shares.
    """

    __slots__ = ("_free", "_head", "_keys", "shared")

    def __init__(self, shared: Shared) -> None:
        # keys are 0 to 255: one byte each, for every cached signature
        self.shared, self._keys = shared, bytes(shared.pieces)
        self._head: Head = {}
        self._free: list[PieceBinding] = []

    def fill(self, keys: Sequence[int], head: Head) -> int:
        """Switch to a signature's pieces, and return the size in bytes. No binding may be in use."""
        self._keys, self._head = bytes(keys), head
        del self._free[1:]
        for binding in self._free:
            binding.switch(self._keys)
        return NAME_BYTES * len(self.shared.weights)

    def take(self, turn: int) -> PieceBinding:  # noqa: ARG002 - shared pieces stay in the processor's cache
        """Return a binding for exclusive use, until ``give``."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = PieceBinding(self.shared, self._keys)
        binding.bind_head(self._head)
        return binding

    def give(self, binding: Binding) -> None:
        """Return a binding; beyond ``KEPT`` it is freed."""
        assert isinstance(binding, PieceBinding)
        if len(self._free) < KEPT:
            self._free.append(binding)
