"""The engine ``tensorrt``: one TensorRT engine per graph and form or a kernel, and a table of users' weights on the GPU (``opened.py``).

To switch users it copies a row within the device; on a miss it folds the signature on the host and copies a vector in. Samples of several
users run in one batch where the graph has the form ``many`` (``logits_each``). Nothing is built or refitted per user.

Where engines come from: ``loading.py``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.tensorrt.cuda import Device
from isoform.runtime.engines.tensorrt.loading import Loading
from isoform.runtime.engines.tensorrt.opened import KernelLoader, Loader, OpenGraph
from isoform.runtime.errors import EngineError
from isoform.runtime.formats.bundle import Bundle, Resolved
from isoform.runtime.formats.signature import Signature

__all__ = ["TensorRtEngine", "open_engine"]


class TensorRtEngine:
    """An ``Engine`` over TensorRT. Thread-safe: one run at a time, as on the GPU's stream.

    Args:
        bundle: A compiled bundle.
        device: The GPU, or what stands for it in tests.
        load: Loads an engine.
        load_kernel: Loads a kernel.
        cache_bytes: Size of the table of users, of every graph.

    Raises:
        EngineError: If the bundle has no forms, an engine cannot be loaded, or the GPU has too little memory.
    """

    name = "tensorrt"
    drawback = None

    def __init__(
        self, bundle: Bundle, device: Any, load: Loader, load_kernel: KernelLoader, *, cache_bytes: int
    ) -> None:
        self._bundle, self._device, self._loaders, self._cache_bytes = bundle, device, (load, load_kernel), cache_bytes
        self._opened: dict[str, OpenGraph] = {}
        self._lock = threading.Lock()
        # of a runtime that nobody has any more: GPU memory is scarce, and Python does not count it
        self._freed = weakref.finalize(self, _free, self._opened, device)
        self._freed.atexit = False  # the driver frees everything, and may be gone by then
        try:
            with self._lock, device.current():  # the first graph, so that a bundle without forms fails now
                self._opened_for(bundle.resolve(bundle.base(next(iter(bundle.signatures)))))
        except BaseException:
            self._freed()
            raise

    def _opened_for(self, resolved: Resolved) -> OpenGraph:
        """Return the graph that runs a signature: the first of ``Network.graphs`` that has forms."""
        name, graph = self._bundle.graph(resolved)
        if name not in self._opened:
            self._opened[name] = OpenGraph(
                self._device,
                self._bundle.require_compiled(),
                name,
                graph,
                *self._loaders,
                bases=self._bases(name),
                cache_bytes=self._cache_bytes,
            )
        return self._opened[name]

    def _bases(self, graph: str) -> dict[str, tuple[str, int]]:
        """Digest → task and number of classes, of the base signatures that run on a graph."""
        resolved = [self._bundle.resolve(self._bundle.base(task)) for task in self._bundle.signatures]
        return {
            some.signature.digest: (some.task, len(some.labels)) for some in resolved if self._bundle.graph(some)[0] == graph
        }  # fmt: skip

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
        return self.logits_each(x, [signature] * len(x))

    def logits_each(self, x: Array, signatures: Sequence[Signature]) -> Array:
        """As ``MixingEngine.logits_each``. Raises ``EngineError`` as well if one has more classes than the engine was built for."""
        users = {signature.digest: signature for signature in signatures}
        resolved = {digest: self._bundle.resolve(signature) for digest, signature in users.items()}
        classes = {len(some.labels) for some in resolved.values()}
        with self._lock, self._device.current():
            if len(classes) > 1:
                raise EngineError("samples of one batch need signatures of as many classes each")
            (count,) = classes
            result = np.empty((len(x), count), dtype=np.float32)
            graphs: dict[str, list[int]] = {}
            names = {digest: self._bundle.graph(some)[0] for digest, some in resolved.items()}
            for row, signature in enumerate(signatures):
                graphs.setdefault(names[signature.digest], []).append(row)
            for places in graphs.values():
                found = self._opened_for(resolved[signatures[places[0]].digest])
                if count > found.vector.classes:
                    raise EngineError(
                        f"a signature has {count} classes, but the engine was built for {found.vector.classes}; "
                        f"run 'isoform compile --target tensorrt --classes {count}'"
                    )
                for batch in _batches([signatures[row] for row in places], found):
                    rows = [places[row] for row in batch]
                    digests = [signatures[row].digest for row in rows]
                    result[rows] = self._run(found, x[rows], digests, resolved)[:, :count]
        return result

    @property
    def mixes(self) -> bool:
        """As ``MixingEngine.mixes``."""
        return next(iter(self._opened.values())).mixes

    def _run(self, found: OpenGraph, x: Array, digests: Sequence[str], resolved: dict[str, Resolved]) -> Array:
        makes = {digest: _maker(found, resolved[digest]) for digest in digests}
        runner = found.runner(len(x), makes.keys())
        if not runner.reads_rows:
            rows = np.zeros(len(x), dtype=np.int32)
        else:
            places = dict(zip(makes, found.rows.rows(makes), strict=True))
            rows = np.array([places[digest] for digest in digests], dtype=np.int32)
        return runner.run(np.ascontiguousarray(x), rows)

    def forget(self, signature: Signature) -> None:
        """As ``Engine.forget``."""
        with self._lock:
            for opened in self._opened.values():
                opened.rows.forget(signature.digest)

    def clear(self) -> None:
        """As ``Engine.clear``."""
        with self._lock:
            for opened in self._opened.values():
                opened.rows.clear()

    def stats(self) -> dict[str, float]:
        """As ``Engine.stats``: of all graphs together."""
        with self._lock:
            tables = [opened.rows.stats() for opened in self._opened.values()]
        return {
            key: (max if key.startswith("longest") else sum)(table[key] for table in tables)
            for key in (tables[0] if tables else {})
        }

    def close(self) -> None:
        """Free everything on the device. Called when nothing refers to the engine any more, if not before."""
        with self._lock:
            self._freed()


def _free(opened: dict[str, OpenGraph], device: Any) -> None:
    with device.current():
        for graph in opened.values():
            graph.close()
        opened.clear()
    device.close()


def _maker(found: OpenGraph, resolved: Resolved) -> Callable[[], Array]:
    return lambda: found.vector_of(resolved.parts)


def _batches(signatures: Sequence[Signature], found: OpenGraph) -> list[list[int]]:
    """Cut samples into batches: of one user each if they cannot be mixed, else of as many users as the table has rows."""
    places: dict[str, list[int]] = {}
    for row, signature in enumerate(signatures):
        digest = signature.digest
        places.setdefault("" if found.mixes and not found.alone(digest) else digest, []).append(row)
    groups = [*places.values()]
    largest = found.largest
    batches: list[list[int]] = []
    for group in groups:
        users = set[str]()
        batches.append([])
        for row in group:
            if len(batches[-1]) == largest or len(users | {signatures[row].digest}) > found.rows.count:
                batches.append([])
                users = set()
            users.add(signatures[row].digest)
            batches[-1].append(row)
    return batches


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> TensorRtEngine:
    """As ``engine.open_engine``; ``threads`` is ignored. Opens the first GPU.

    Raises:
        EngineError: If there is no GPU, the bundle has no forms, or an engine cannot be built or loaded.
        MissingExtraError: If neither product is installed, and the network has no kernel.
    """
    del threads
    if providers is not None:
        raise EngineError(f"TensorRT has no providers, but {', '.join(providers)} was requested; leave them out")
    compiled, device = bundle.require_compiled(), Device()
    try:
        loading = Loading(compiled, device)
        return TensorRtEngine(bundle, device, loading.engine, loading.kernel, cache_bytes=cache_bytes)
    except BaseException:
        device.close()
        raise
