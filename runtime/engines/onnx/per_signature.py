"""The session engine: one ONNX Runtime session per cached signature.

It is the fallback where there is no device plan (``plan.py``), runs on other execution providers, and plans are tested against it.

The weights of a compiled graph are external initializers at the location ``weights``. For a signature the engine folds them, passes
them to ONNX Runtime in memory, and creates a session in which they are constants, optimised as if the network had been compiled
for this signature alone. Sessions are cached, up to ``cache_bytes`` of weights; the least recently used is evicted first.

The logits layer is an ordinary input, so that signatures with any number of classes share the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from isoform.runtime.arrays import Array
from isoform.runtime.engines.cache import Cache
from isoform.runtime.engines.onnx.session import open_session, ort, require_version, session_options
from isoform.runtime.errors import EngineError, first_line
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
    """Create a session of a graph with these weights as constants.

    Args:
        graph: A compiled graph without weights.
        weights: The result of ``Graph.fold``: all external initializers of the graph, in its order; ``HEAD`` is left out.
        threads: As in ``session_options``.
        save_to: File for the optimised graph, weights included; None to write none.
        providers: As for ``open_session``.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
    """
    data = b"".join(array.tobytes() for name, array in weights.items() if name not in HEAD)
    options = session_options(threads)
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    # Not SessionOptions.add_initializer: ONNX Runtime 1.31 folds the old constants in first, silently (docs/log.md, 2026-11-20).
    options.add_external_initializers_from_files_in_memory([WEIGHTS_LOCATION], [data], [len(data)])
    return open_session(graph, options, what="the network", providers=providers)


class SessionEngine:
    """An ``Engine`` with one session per cached signature.

    Args:
        bundle: A compiled bundle.
        threads: Threads per run; 0 lets ONNX Runtime choose.
        cache_bytes: Size of the cache, in bytes of folded weights; the most recently used session is always kept.
        providers: ONNX Runtime execution providers in order of preference; None for the CPU.

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
        """Create a signature's session, if it is not cached."""
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
        """Remove a signature's session from the cache, unless a prediction is using it."""
        self._sessions.discard(signature.digest)

    def clear(self) -> None:
        """Remove all sessions."""
        self._sessions.clear()

    def stats(self) -> dict[str, float]:
        """As ``Cache.stats``; an entry is a session."""
        return self._sessions.stats()


def run_error(x: Array, problem: Exception) -> EngineError:
    """Make the error for a failed run of a batch."""
    return EngineError(f"ONNX Runtime could not run a batch of shape {x.shape}: {first_line(problem)}")


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> SessionEngine:
    """As ``engine.open_engine``. With providers, a base signature's session is created at once, so that a failure shows now."""
    engine = SessionEngine(bundle, threads=threads, cache_bytes=cache_bytes, providers=providers)
    require_version()
    if providers is not None:
        engine.prepare(bundle.base(next(iter(bundle.signatures))))
    return engine
