"""The ONNX Runtime engine: one portable graph, one session per signature in use.

The portable graph names its weights but does not hold them: they are external data at the location ``weights``. For a signature
the engine folds, hands the weights to ONNX Runtime from memory, and lets it build a session in which they are constants, so
that it optimises them as it would for a network compiled for this signature alone. Sessions are kept, the longest unused is
dropped first, up to ``cache_bytes`` of weights. (Replacing initializers by ``SessionOptions.add_initializer`` would not do:
ONNX Runtime 1.31 folds the old ones in before, silently; docs/log.md, 2026-11-20.)

The logits layer is an ordinary input, so that signatures with any number of classes share the graph.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from isoform.runtime.bundle import Bundle
from isoform.runtime.errors import BundleError, EngineError
from isoform.runtime.fold import fold, folded_shapes
from isoform.runtime.signature import Signature
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["WEIGHTS_LOCATION", "OnnxEngine", "portable_session", "session_options"]

WEIGHTS_LOCATION = "weights"
"""Where the portable graph says that its external data lies."""


def session_options(threads: int) -> ort.SessionOptions:
    """Options for a deterministic CPU session with ``threads`` threads per run; 0 lets ONNX Runtime choose."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def portable_session(
    graph: bytes, spec: NetworkSpec, weights: Mapping[str, Array], *, threads: int
) -> ort.InferenceSession:
    """A session over the portable graph with these weights as constants.

    Args:
        graph: ``compiled/portable.onnx``.
        spec: The network's sizes.
        weights: What ``fold`` returned.
        threads: As in ``session_options``.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
    """
    data = b"".join(weights[name].tobytes() for name in folded_shapes(spec))
    options = session_options(threads)
    try:
        options.add_external_initializers_from_files_in_memory([WEIGHTS_LOCATION], [data], [len(data)])
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"ONNX Runtime {ort.__version__} refused the network: {_first_line(problem)}") from problem


class OnnxEngine:
    """Runs signatures of one bundle. Safe to use from several threads.

    Args:
        bundle: A compiled bundle.
        threads: Threads per run, 0 to let ONNX Runtime choose.
        cache_bytes: How many bytes of folded weights may stay in sessions; the signature in use always does.

    Raises:
        BundleError: If the bundle is not compiled.
    """

    def __init__(self, bundle: Bundle, *, threads: int, cache_bytes: int) -> None:
        if bundle.compiled is None:
            raise BundleError(f"{bundle.path} is not compiled; run 'isoform compile {bundle.path}'")
        self._bundle, self._threads, self._cache_bytes = bundle, threads, cache_bytes
        self._graph = bundle.compiled.portable
        self._sessions: collections.OrderedDict[str, tuple[ort.InferenceSession, dict[str, Array], int]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}

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
        session, head = self._session(signature)
        try:
            result: Array = session.run(None, {"image": x, **head})[0]
        except Exception as problem:
            raise EngineError(
                f"ONNX Runtime could not run a batch of shape {x.shape}: {_first_line(problem)}"
            ) from problem
        return result

    def _session(self, signature: Signature) -> tuple[ort.InferenceSession, dict[str, Array]]:
        key = signature.digest
        with self._lock:
            if key in self._sessions:
                self._sessions.move_to_end(key)
                return self._sessions[key][:2]
            building = self._building.setdefault(key, threading.Lock())
        # One thread builds a signature's session, others that want the same one wait for it.
        with building:
            with self._lock:
                if key in self._sessions:
                    return self._sessions[key][:2]
            try:
                session, head, size = self._build(signature)
                with self._lock:
                    self._sessions[key] = session, head, size
                    while (
                        len(self._sessions) > 1
                        and sum(entry[2] for entry in self._sessions.values()) > self._cache_bytes
                    ):
                        self._sessions.popitem(last=False)
            finally:
                with self._lock:
                    if self._building.get(key) is building:
                        del self._building[key]
        return session, head

    def _build(self, signature: Signature) -> tuple[ort.InferenceSession, dict[str, Array], int]:
        bundle = self._bundle
        weights = fold(bundle.spec, bundle.tensors, bundle.resolve(signature))
        head = {name: weights[name] for name in ("logits.weight", "logits.bias")}
        try:
            session = portable_session(self._graph, bundle.spec, weights, threads=self._threads)
        except EngineError as problem:
            raise EngineError(f"{problem}; run 'isoform compile {bundle.path}' again") from problem
        return session, head, sum(array.nbytes for array in weights.values())

    def clear(self) -> None:
        """Let go of every session."""
        with self._lock:
            self._sessions.clear()

    def stats(self) -> dict[str, int]:
        """Sessions held, and the bytes of weights in them."""
        with self._lock:
            return {
                "sessions": len(self._sessions),
                "bytes": int(np.sum([size for *_, size in self._sessions.values()], dtype=np.int64)),
            }


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
