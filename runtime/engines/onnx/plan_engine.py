"""The engine that runs device plans: nothing is compiled or optimised per user.

To switch users it selects another binding, or copies weights that were not used recently. On a cache miss it folds the signature
into a vector or, if the signature is composed of shared pieces, binds those (``bindings.py``). Signatures of one group, which inherit
``Folder.shares`` from the same base, run in a session in which the shared weights are constants; all others run in a session in
which every weight is an input.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.cache import Cache, Entry
from isoform.runtime.engines.onnx.bindings import Binding, OwnWeights, PieceWeights
from isoform.runtime.engines.onnx.per_signature import run_error
from isoform.runtime.engines.onnx.planned import Planned
from isoform.runtime.engines.onnx.plans.choice import PAYS
from isoform.runtime.engines.onnx.plans.constants import Constants
from isoform.runtime.engines.onnx.plans.disk import cached_plan
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.engines.onnx.session import CPU, require_version
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.bundle import Bundle, Resolved
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD, Folder

__all__ = ["PlanEngine", "open_engine"]

Weights = OwnWeights | PieceWeights
AT_ONCE = 8
"""Number of graphs opened with the engine, so that a graph without a plan fails early; the others are opened on first use."""


class PlanEngine:
    """An ``Engine`` over the plans of a bundle's graphs.

    Args:
        bundle: A compiled bundle.
        threads: Threads per run; 0 lets ONNX Runtime choose.
        cache_bytes: Size of the cache of signatures' weights, in bytes. Not counted: what signatures share (a session and pieces,
            for every base in use), and one copy of the weights per concurrent prediction.

    Raises:
        EngineError: If a graph has no plan on this device, or ONNX Runtime rejects it.
    """

    name = "onnx"

    @property
    def drawback(self) -> str | None:
        """The reason if the plan is clearly slower than sessions, as for large matrix products (``plans/choice.py``); else None."""
        taken = self._over_session
        return f"the device plan takes {taken:.2f} times as long per run as a session" if taken > PAYS else None

    def __init__(self, bundle: Bundle, *, threads: int, cache_bytes: int) -> None:
        self._bundle, self._threads = bundle, threads
        self._hot: Cache[Weights] = Cache(cache_bytes)
        self._planned: dict[str, Planned] = {}
        self._constants = Constants() if len(bundle.require_compiled().graphs) > 1 else None
        self._planning = threading.Lock()
        self._turn = 0
        self._bases = frozenset(bundle.bases())
        for task in bundle.signatures:
            if len(self._planned) < AT_ONCE:
                self._planned_for(bundle.resolve(bundle.base(task)))

    @property
    def _over_session(self) -> float:
        """The largest ``Plan.over_session`` of the open plans."""
        return max(planned.plan.over_session for planned in [*self._planned.values()])

    def _planned_for(self, resolved: Resolved) -> Planned:
        """Return the graph that runs a signature; opened on first use."""
        name, graph = self._bundle.graph(resolved)
        if (planned := self._planned.get(name)) is not None:  # without the lock: opening another graph may take seconds
            return planned
        with self._planning:
            if name not in self._planned:
                plan = cached_plan(subject_of(self._bundle.require_compiled().graphs[name], graph))
                self._planned[name] = Planned(graph, plan, threads=self._threads, constants=self._constants)
            return self._planned[name]

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
        # not ``with self.bound``: its generator would take as long as all the rest of this method but the run
        entry = self._pinned(signature)
        try:
            binding = self._taken(entry.value)
            try:
                result = binding.run(x)
            except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
                raise run_error(x, problem) from problem
            entry.value.give(binding)  # not in a finally: after a failed run the binding must not be used again
            return result
        finally:
            self._hot.give_back(entry)

    @contextlib.contextmanager
    def bound(self, signature: Signature) -> Iterator[Binding]:
        """Provide a binding with a signature's weights, for one run at a time. Raises ``SignatureError`` if the signature does not fit."""
        entry = self._pinned(signature)
        try:
            binding = self._taken(entry.value)
            yield binding
            entry.value.give(binding)
        finally:
            self._hot.give_back(entry)

    def _pinned(self, signature: Signature) -> Entry[Weights]:
        return self._hot.pinned(signature.digest, lambda make_room: self._swap(signature, make_room))

    def _taken(self, weights: Weights) -> Binding:
        self._turn += 1  # without a lock: a lost count changes no result
        return weights.take(self._turn)

    def _swap(self, signature: Signature, make_room: Callable[[], Weights | None]) -> tuple[Weights, int]:
        """Run ``_swapped_in`` without numpy's overflow warnings: non-finite logits are reported by the predictor."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._swapped_in(signature, make_room)

    def _swapped_in(self, signature: Signature, make_room: Callable[[], Weights | None]) -> tuple[Weights, int]:
        """Build a signature's weights, in the memory of an evicted entry if there is one; return them and their size in bytes."""
        resolved = self._bundle.resolve(signature)
        parts, planned = resolved.parts, self._planned_for(resolved)
        head = {name: parts[name] for name in HEAD}
        own_bytes = sum(array.nbytes for name, array in signature.parts.items() if name in HEAD)
        folder, base = planned.folder, self._base_of_group(signature, planned.folder)
        read = folder.read(parts)
        if base is None:
            group, stages, keys = folder.group(parts), planned.stages, None
        else:
            shared = planned.shared(base, parts)
            group, stages, keys = shared.group, shared.stages, folder.keys(read)
        old = make_room()
        if keys is not None:
            if not isinstance(old, PieceWeights) or old.shared is not shared:
                old = PieceWeights(shared)
            return old, old.fill(keys, head) + own_bytes
        if not isinstance(old, OwnWeights) or old.stages is not stages:
            old = OwnWeights(stages)
        return old, old.fill(folder, read, group, head) + own_bytes

    def _base_of_group(self, signature: Signature, folder: Folder) -> str | None:
        """Return the digest of the base signature whose group this one belongs to; None if it is in no group."""
        if folder.moving == folder.size:  # there is nothing to share, so a session for every base would be a waste
            return None
        if signature.digest in self._bases:
            return signature.digest
        return None if folder.shares is None or not folder.shares.isdisjoint(signature.parts) else signature.base

    def forget(self, signature: Signature) -> None:
        """Remove a signature's weights from the cache, unless a prediction is using them."""
        self._hot.discard(signature.digest)

    def clear(self) -> None:
        """Remove all signatures' weights, and what they share."""
        self._hot.clear()
        for planned in [*self._planned.values()]:
            planned.clear()

    def stats(self) -> dict[str, float]:
        """Return ``Cache.stats``, ``shared_bytes`` (approximate size of what signatures share) and ``plan_over_session``."""
        shared = sum(planned.shared_bytes for planned in [*self._planned.values()])
        shared += self._constants.size_bytes if self._constants else 0
        return {**self._hot.stats(), "shared_bytes": shared, "plan_over_session": self._over_session}


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> PlanEngine:
    """As ``engine.open_engine``, with the plan stored for this device, or a new one."""
    require_version()
    bundle.require_compiled()
    if providers is not None and list(providers) != [CPU]:
        raise EngineError(f"no device plan: plans run on {CPU} only, but {', '.join(providers)} was requested")
    try:
        return PlanEngine(bundle, threads=threads, cache_bytes=cache_bytes)
    except EngineError as problem:
        raise EngineError(f"no device plan: {problem}") from problem
