"""The sessions of a plan: one for any batch size, and one for each size whose graph is faster (``gates.py``).

A session is opened when a batch of its size first arrives, so that a device that predicts single samples holds one session only.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.gates import for_batch
from isoform.runtime.engines.onnx.plans.lift import fix_inputs
from isoform.runtime.engines.onnx.session import open_session, ort, session_options

__all__ = ["ANY", "BATCHES", "Sessions", "lifted_session"]

ANY = 0
"""Stands for the graph that runs any batch size."""
BATCHES = (1, 16)
"""Batch sizes with a graph of their own, if the graph has gates: single samples, and slices of what comes in large batches."""


def lifted_session(graph: bytes, *, threads: int) -> ort.InferenceSession:
    """Create a session of a lifted graph.

    Raises:
        EngineError: If ONNX Runtime rejects it.
    """
    options = session_options(threads)
    # the graph is optimised already, and its operators in ONNX Runtime's layouts must stay as they are
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(graph, options, what="the lifted graph")


# a plan is checked, opened with every weight as an input, and opened for each base: the graph of one size is made once for all of them
@functools.lru_cache(maxsize=4)
def _sized(graph: bytes, size: int) -> bytes:
    return graph if size == ANY else for_batch(graph, size) or graph


class Sessions:
    """Sessions of one lifted graph, by batch size. Thread-safe.

    Args:
        graph: A plan's graph.
        batches: Batch sizes with a graph of their own, ascending: the plan's ``batches``.
        threads: Threads per run; 0 lets ONNX Runtime choose.
        constants: Values of inputs of the graph that become constants of these sessions.
        shared: Values of inputs of the graph that every binding gets (``constants.py``).
    """

    def __init__(
        self, graph: bytes, batches: Sequence[int], *, threads: int, constants: Mapping[str, Array] | None = None,
        shared: Mapping[str, ort.OrtValue] | None = None,
    ) -> None:  # fmt: skip
        self._constants, self.shared = constants or {}, shared or {}
        self._graph, self._batches, self._threads = graph, batches, threads
        self._largest = batches[-1] if batches else 0
        self._opened: dict[int, ort.InferenceSession] = {}
        self._opening = threading.Lock()
        self.usual = batches[0] if batches else ANY
        """The size of the last run: bindings that are made before their first run are made for this one."""

    @property
    def size_bytes(self) -> int:
        """Approximate current size in bytes: the graph, and a copy of it in every open session."""
        return len(self._graph) * (1 + len(self._opened))

    def of(self, size: int) -> ort.InferenceSession:
        """Return the session for one of ``slices``' sizes. Raises ``EngineError`` if ONNX Runtime rejects its graph."""
        if (session := self._opened.get(size)) is None:
            with self._opening:  # opening takes milliseconds: two threads must not do it twice
                session = self._opened.get(size)
                if session is None:
                    graph = fix_inputs(_sized(self._graph, size), self._constants)
                    session = lifted_session(graph, threads=self._threads)
                    self._opened[size] = session
        return session

    def size_of(self, samples: int) -> int | None:
        """Return the size of the session that runs a batch at once; None if it takes more than one run."""
        if samples in self._batches:
            return samples
        # one more than a slice runs at once: a single sample is multiplied in another order, and its last bits would differ
        return ANY if samples <= self._largest + 1 or not self._largest else None

    def slices(self, samples: int) -> Iterator[tuple[int, slice]]:
        """Cut a batch into runs: yield the size of the session and the samples of each."""
        start = 0
        while (size := self.size_of(samples - start)) is None:
            yield self._largest, slice(start, start + self._largest)
            start += self._largest
        if start < samples or not samples:
            yield size, slice(start, samples)
