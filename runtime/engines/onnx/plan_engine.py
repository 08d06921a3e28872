"""The engine that runs over a device plan: nothing is compiled or optimised for a user.

Changing users is choosing another binding, or copying weights to one if they were not used for a while. A signature's first use
folds it into a vector, or, if it is made of pieces that others have too, binds those (``bindings.py``). Signatures that inherit from
one base what makes a group (``Folder.shares``) run in a session in which what they share is constant; all others in one in which
every weight is an input.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.cache import Cache
from isoform.runtime.engines.gathered import GatheredFold
from isoform.runtime.engines.onnx.bindings import Binding, OwnWeights, PieceWeights, Shared, Stages
from isoform.runtime.engines.onnx.choice import PAYS
from isoform.runtime.engines.onnx.per_signature import run_error
from isoform.runtime.engines.onnx.plan import Plan, lifted_session, subject_of
from isoform.runtime.engines.onnx.plan_cache import cached_plan
from isoform.runtime.engines.onnx.session import CPU, require_version
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

__all__ = ["PlanEngine", "open_engine"]

Weights = OwnWeights | PieceWeights


class PlanEngine:
    """An ``Engine`` over one plan.

    Args:
        bundle: A compiled bundle.
        plan: The plan for its portable graph on this device.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of signatures' weights may stay. What signatures of a base share (a session, and blocks)
            stays beside it for every base that was used, and a copy of the weights for every prediction at once.

    Raises:
        EngineError: If ONNX Runtime refuses the plan.
    """

    name = "onnx"

    @property
    def drawback(self) -> str | None:
        """A plan that is clearly slower than sessions, as it is for large matrix products (``choice.py``)."""
        taken = self._plan.over_session
        return (
            f"a run over the device plan takes {taken:.2f} times as long as one of a session" if taken > PAYS else None
        )

    def __init__(self, bundle: Bundle, plan: Plan, *, threads: int, cache_bytes: int) -> None:
        self._bundle, self._plan, self._threads = bundle, plan, threads
        self._folder = bundle.network.folder(plan.layout) or GatheredFold(bundle.network, plan.layout)
        self._stages = Stages(lifted_session(plan.graph, threads=threads), plan.layout.weights, self._folder.size)
        self._hot: Cache[Weights] = Cache(cache_bytes)
        self._shared: dict[str, Shared] = {}
        self._sharing = threading.Lock()
        self._turn = 0
        self._bases = frozenset(bundle.bases())

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
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
        folder, base = self._folder, self._base_of_group(signature)
        read = folder.read(parts)
        if base is None:
            group, stages, keys = folder.group(parts), self._stages, None
        else:
            shared = self._shared_with(base, parts)
            group, stages, keys = shared.group, shared.stages, folder.keys(read)
        old = make_room()
        if keys is not None:
            if not isinstance(old, PieceWeights) or old.shared is not shared:
                old = PieceWeights(shared)
            return old, old.fill(keys, head) + own_bytes
        if not isinstance(old, OwnWeights) or old.stages is not stages:
            old = OwnWeights(stages)
        return old, old.fill(folder, read, group, head) + own_bytes

    def _base_of_group(self, signature: Signature) -> str | None:
        """Digest of the base signature whose group this one belongs to; None if to none."""
        if signature.digest in self._bases:
            return signature.digest
        shares = self._folder.shares
        return None if shares is None or not shares.isdisjoint(signature.parts) else signature.base

    def _shared_with(self, base: str, parts: Mapping[str, Array]) -> Shared:
        """What the signatures of a base's group share, made once and kept; ``parts`` are one's of them."""
        with self._sharing:
            if base not in self._shared:
                group = self._folder.group(parts)
                self._shared[base] = Shared(self._plan, self._folder, group, threads=self._threads)
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
        """As ``Cache.stats`` for the signatures' weights, ``shared_bytes``, about what signatures of the same base share, and ``plan_over_session``."""
        shared = sum(shared.size_bytes for shared in [*self._shared.values()])
        return {**self._hot.stats(), "shared_bytes": shared, "plan_over_session": self._plan.over_session}


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> PlanEngine:
    """As ``engine.open_engine``, over the plan that is stored for this device, or a new one."""
    require_version()
    compiled = bundle.require_compiled()
    if providers is not None and list(providers) != [CPU]:
        raise EngineError(f"no device plan: plans run on {CPU} alone, but {', '.join(providers)} was asked for")
    try:
        plan = cached_plan(subject_of(compiled.portable, bundle.network))
        return PlanEngine(bundle, plan, threads=threads, cache_bytes=cache_bytes)
    except EngineError as problem:
        raise EngineError(f"no device plan: {problem}") from problem
