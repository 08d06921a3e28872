"""The engine that runs over a device plan: one session for everybody, one set of bound weights per signature in use.

Changing users is choosing another binding. A signature's first use folds it, lays the weights out and binds them; nothing is
compiled or optimised. Bindings are lent to one prediction at a time, and their weights are never written again, so that no
prediction can see another signature's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from isoform.runtime.bundle import Bundle
from isoform.runtime.cache import Cache
from isoform.runtime.engine import first_line
from isoform.runtime.errors import EngineError
from isoform.runtime.laid_fold import LaidFold
from isoform.runtime.plan import Plan, bind, lifted_session
from isoform.runtime.signature import Signature
from isoform.runtime.spec import Array

__all__ = ["PlanEngine"]


class _Bound:
    """A signature's weights in the plan's layout, and the bindings that hold them and are free."""

    __slots__ = ("_free", "_head", "_plan", "_session", "_vector", "size_bytes")

    def __init__(self, plan: Plan, session: ort.InferenceSession, vector: Array, head: Mapping[str, Array]) -> None:
        self._plan, self._session = plan, session
        self._vector, self._head = vector, head
        self._free: list[ort.IOBinding] = []
        self.size_bytes = self._vector.nbytes + sum(array.nbytes for array in self._head.values())

    def take(self) -> ort.IOBinding:
        """A binding that nobody else uses, until it is given back."""
        try:
            return self._free.pop()
        except IndexError:
            binding = self._session.io_binding()
            bind(binding, self._plan, self._vector, self._head)
            return binding

    def give(self, binding: ort.IOBinding) -> None:
        """Take a binding back."""
        self._free.append(binding)


class PlanEngine:
    """Runs signatures of one bundle over one plan. Safe to use from several threads.

    Args:
        bundle: A compiled bundle.
        plan: The plan for its portable graph on this device.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of laid-out weights may stay; those of the signature in use always do.

    Raises:
        EngineError: If ONNX Runtime refuses the plan.
    """

    def __init__(self, bundle: Bundle, plan: Plan, *, threads: int, cache_bytes: int) -> None:
        self._bundle, self._plan = bundle, plan
        self._session = lifted_session(plan, threads=threads)
        self._fold = LaidFold(bundle.spec, bundle.tensors, plan)
        self._bound: Cache[_Bound] = Cache(cache_bytes)

    def logits(self, x: Array, signature: Signature) -> Array:
        """Run one batch.

        Args:
            x: Samples, shape (n, channels, height, width), float32, C-contiguous.
            signature: A signature that fits the bundle.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If the signature does not fit.
            EngineError: If ONNX Runtime fails.
        """
        bound = self._bound.get(signature.digest, lambda: self._build(signature))
        binding = bound.take()
        try:
            binding.bind_cpu_input("image", x)
            binding.bind_output("logits", "cpu")
            self._session.run_with_iobinding(binding)
            result: Array = binding.get_outputs()[0].numpy()
        except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
            raise EngineError(
                f"ONNX Runtime could not run a batch of shape {x.shape}: {first_line(problem)}"
            ) from problem
        bound.give(binding)
        return result

    def _build(self, signature: Signature) -> tuple[_Bound, int]:
        parts = self._bundle.resolve(signature)
        head = {name: np.ascontiguousarray(parts[name], dtype=np.float32) for name in ("logits.weight", "logits.bias")}
        bound = _Bound(self._plan, self._session, self._fold(parts), head)
        return bound, bound.size_bytes

    def clear(self) -> None:
        """Let go of every signature's weights."""
        self._bound.clear()

    def stats(self) -> dict[str, int]:
        """``entries`` (signatures whose weights are bound) and ``bytes`` now; ``hits``, ``misses``, ``evictions`` so far."""
        return self._bound.stats()
