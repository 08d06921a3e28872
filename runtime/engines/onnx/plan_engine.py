"""The engine that runs over a device plan: nothing is compiled or optimised for a user.

Changing users is choosing another binding, or copying weights to one if they were not used for a while. A signature's first use
folds it into a vector, or, if it is discrete, binds blocks that are folded already (``bindings.py``). Signatures that inherit their
base's BN run in the base's session, in which that BN is constant; those with a BN of their own in one in which it is an input.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from isoform.runtime.arrays import Array, softmax
from isoform.runtime.engines.cache import Cache
from isoform.runtime.engines.onnx.bindings import Binding, BlockWeights, OwnWeights, Shared, Stages
from isoform.runtime.engines.onnx.per_signature import run_error
from isoform.runtime.engines.onnx.plan import Plan, lifted_session
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kinds.mixture.discrete import discrete_sequence
from isoform.runtime.kinds.mixture.fold import HEAD
from isoform.runtime.kinds.mixture.laid_fold import LaidFold

__all__ = ["PlanEngine"]

Weights = OwnWeights | BlockWeights


class PlanEngine:
    """Runs signatures of one bundle over one plan. Safe to use from several threads.

    Args:
        bundle: A compiled bundle.
        plan: The plan for its portable graph on this device.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of signatures' weights may stay. What signatures of a base share (a session, and blocks)
            stays beside it for every base that was used, and a copy of the weights for every prediction at once.

    Raises:
        EngineError: If ONNX Runtime refuses the plan.
    """

    def __init__(self, bundle: Bundle, plan: Plan, *, threads: int, cache_bytes: int) -> None:
        self._bundle, self._plan, self._threads = bundle, plan, threads
        self._fold = LaidFold(bundle.spec, bundle.tensors, plan)
        self._stages = Stages(lifted_session(plan.graph, threads=threads), plan.weights, self._fold.size)
        self._hot: Cache[Weights] = Cache(cache_bytes)
        self._shared: dict[str, Shared] = {}
        self._sharing = threading.Lock()
        self._turn = 0
        compiled = bundle.compiled.signatures if bundle.compiled else {}
        self._bases = {base.digest for base in (*bundle.signatures.values(), *compiled.values())}

    def logits(self, x: Array, signature: Signature) -> Array:
        """Run one batch: as ``OnnxEngine.logits``."""
        with self.bound(signature) as binding:
            try:
                return binding.run(x)
            except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
                raise run_error(x, problem) from problem

    @contextlib.contextmanager
    def bound(self, signature: Signature) -> Iterator[Binding]:
        """A binding with a signature's weights, for one run at a time; ``SignatureError`` if the signature does not fit."""
        with self._hot.borrow(signature.digest, lambda make_room: self._swap(signature, make_room)) as weights:
            self._turn += 1
            binding = weights.take(self._turn)
            yield binding
            weights.give(binding)

    def _swap(self, signature: Signature, make_room: Callable[[], Weights | None]) -> tuple[Weights, int]:
        """As below, without numpy's word on numbers that grow too large: logits that are not finite are refused where they come out."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._swapped_in(signature, make_room)

    def _swapped_in(self, signature: Signature, make_room: Callable[[], Weights | None]) -> tuple[Weights, int]:
        """A signature's weights, in the place of others' where there are; and how many bytes they take."""
        parts = self._bundle.resolve(signature)
        head = {name: parts[name] for name in HEAD}
        own_bytes = sum(array.nbytes for name, array in signature.parts.items() if name in HEAD)
        xi, base = softmax(parts["mixture"]), self._base_of_bn(signature)
        if base is None:
            bn, stages, sequence = self._fold.bn(parts["bn.affine"], parts["bn.statistics"]), self._stages, None
        else:
            shared = self._shared_with(base, parts)
            bn, stages, sequence = shared.bn, shared.stages, discrete_sequence(xi)
        old = make_room()
        if sequence is not None:
            if not isinstance(old, BlockWeights) or old.shared is not shared:
                old = BlockWeights(shared)
            return old, old.fill(sequence, head) + own_bytes
        if not isinstance(old, OwnWeights) or old.stages is not stages:
            old = OwnWeights(stages)
        return old, old.fill(self._fold, xi, bn, head) + own_bytes

    def _base_of_bn(self, signature: Signature) -> str | None:
        """Digest of the base signature whose BN this one runs with, unchanged; None if it has its own."""
        if signature.digest in self._bases:
            return signature.digest
        if self._bundle.spec.affine == "mixed" or {"bn.affine", "bn.statistics"} & set(signature.parts):
            return None
        return signature.base

    def _shared_with(self, base: str, parts: Mapping[str, Array]) -> Shared:
        """What signatures with a base's BN share, made once and kept; ``parts`` are one's of them."""
        with self._sharing:
            if base not in self._shared:
                bn = self._fold.bn(parts["bn.affine"], parts["bn.statistics"])
                self._shared[base] = Shared(self._plan, self._fold, bn, threads=self._threads)
            return self._shared[base]

    def forget(self, signature: Signature) -> None:
        """Let go of one signature's weights, if nobody predicts with them."""
        self._hot.discard(signature.digest)

    def clear(self) -> None:
        """Let go of every signature's weights, and of what they share."""
        self._hot.clear()
        with self._sharing:
            self._shared.clear()
        self._stages.clear()

    def stats(self) -> dict[str, float]:
        """As ``Cache.stats`` for the signatures' weights, and ``shared_bytes``, about what signatures of the same base share."""
        return {**self._hot.stats(), "shared_bytes": sum(shared.size_bytes for shared in [*self._shared.values()])}
