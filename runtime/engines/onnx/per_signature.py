"""The session engine: one ONNX Runtime session per signature in use.

It serves where there is no device plan (``plan.py``) and on other execution providers, and is what a plan is tested against.

A compiled graph names its weights but does not hold them: they are external data at the location ``weights``. For a signature
the engine folds, hands the weights to ONNX Runtime from memory, and lets it build a session in which they are constants, so
that it optimises them as it would for a network compiled for this signature alone. Sessions are kept, the longest unused is
dropped first, up to ``cache_bytes`` of weights. (Replacing initializers by ``SessionOptions.add_initializer`` would not do:
ONNX Runtime 1.31 folds the old ones in before, silently; docs/log.md, 2026-11-20.)

The logits layer is an ordinary input, so that signatures with any number of classes share the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from isoform.runtime.arrays import Array
from isoform.runtime.engines.cache import Cache
from isoform.runtime.engines.onnx.session import first_line, open_session, ort, require_version, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.compiled import WEIGHTS_LOCATION
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

__all__ = ["SessionEngine", "open_engine", "portable_session", "run_error"]


def portable_session(
    graph: bytes,
    weights: Mapping[str, Array],
    *,
    threads: int,
    save_to: Path | None = None,
    providers: Sequence[str] | None = None,
) -> ort.InferenceSession:
    """A session over a graph with these weights as constants.

    Args:
        graph: A compiled graph without weights.
        weights: What ``Graph.fold`` returned: all that the graph has as external data, in its order; ``HEAD`` is left out.
        threads: As in ``session_options``.
        save_to: Where to write the optimised graph, weights included; nowhere if None.
        providers: As for ``open_session``.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
    """
    data = b"".join(array.tobytes() for name, array in weights.items() if name not in HEAD)
    options = session_options(threads)
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    options.add_external_initializers_from_files_in_memory([WEIGHTS_LOCATION], [data], [len(data)])
    return open_session(graph, options, what="the network", providers=providers)


class SessionEngine:
    """An ``Engine``: a session per signature in use.

    Args:
        bundle: A compiled bundle.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of folded weights may stay in sessions; the signature in use always does.
        providers: ONNX Runtime's execution providers, the preferred one first; None for the CPU.

    Raises:
        BundleError: If the bundle is not compiled.
    """

    name, drawback = "sessions", None

    def __init__(
        self, bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None = None
    ) -> None:
        self._bundle, self._threads, self._providers = bundle, threads, providers
        bundle.require_compiled()
        self._sessions: Cache[tuple[ort.InferenceSession, str, dict[str, Array]]] = Cache(cache_bytes)

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
        with self._sessions.borrow(signature.digest, lambda _: self._build(signature)) as (session, name, head):
            try:
                result: Array = session.run(None, {name: x, **head})[0]
            except Exception as problem:
                raise run_error(x, problem) from problem
        return result

    def prepare(self, signature: Signature) -> None:
        """Build a signature's session, if it is not there."""
        with self._sessions.borrow(signature.digest, lambda _: self._build(signature)):
            pass

    def _build(self, signature: Signature) -> tuple[tuple[ort.InferenceSession, str, dict[str, Array]], int]:
        bundle = self._bundle
        resolved = bundle.resolve(signature)
        name, graph = bundle.graph(resolved)
        weights, file = graph.fold(resolved.parts), bundle.require_compiled().graphs[name]
        head = {name: weights[name] for name in HEAD}
        try:
            session = portable_session(file, weights, threads=self._threads, providers=self._providers)
        except EngineError as problem:
            raise EngineError(f"{problem}; run 'isoform compile {bundle.path}' again") from problem
        return (session, graph.input.name, head), sum(array.nbytes for array in weights.values())

    def forget(self, signature: Signature) -> None:
        """Let go of one signature's session, if nobody predicts with it."""
        self._sessions.discard(signature.digest)

    def clear(self) -> None:
        """Let go of every session."""
        self._sessions.clear()

    def stats(self) -> dict[str, float]:
        """As ``Cache.stats``; an entry is a session."""
        return self._sessions.stats()


def run_error(x: Array, problem: Exception) -> EngineError:
    """What to raise when ONNX Runtime fails on a batch."""
    return EngineError(f"ONNX Runtime could not run a batch of shape {x.shape}: {first_line(problem)}")


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> SessionEngine:
    """As ``engine.open_engine``. A base signature's session is built, so that a graph or a provider that does not run is noticed now."""
    engine = SessionEngine(bundle, threads=threads, cache_bytes=cache_bytes, providers=providers)
    require_version()
    if providers is not None:
        engine.prepare(bundle.base(next(iter(bundle.signatures))))
    return engine
