"""The engine ``tensorrt``: one TensorRT engine per graph and form, and a table of users' weights on the GPU.

To switch users it copies a row within the device; on a miss it folds the signature on the host and copies a vector in. Samples of several
users run in one batch where the graph has the form ``many`` (``logits_each``). Nothing is built or refitted per user.

Engines come from the bundle (``isoform compile --target``), from the user's cache, or are built here from the bundle's forms.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.gathered import GatheredFold
from isoform.runtime.engines.tensorrt.builder import LARGEST_TABLE, VOLUME, Batches, build_engine
from isoform.runtime.engines.tensorrt.context import Context
from isoform.runtime.engines.tensorrt.cuda import Device
from isoform.runtime.engines.tensorrt.form import MANY, ONE, PRECISIONS, UserVector, form_file, vector_file
from isoform.runtime.engines.tensorrt.products import Product, find_product
from isoform.runtime.engines.tensorrt.rows import Rows
from isoform.runtime.engines.tensorrt.runner import Form, Runner
from isoform.runtime.engines.tensorrt.stored import EngineKey, encode_engine, engine_name, read_engine
from isoform.runtime.engines.user_cache import cache_directory, mark_used, require_own, store
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.formats.bundle import Bundle, Resolved
from isoform.runtime.formats.compiled import Compiled
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD, Folder, Graph

__all__ = ["Loader", "TensorRtEngine", "open_engine"]

log = logging.getLogger("isoform.runtime")
KEPT = 64
"""Maximum number of engines in the user's cache."""
Loader = Callable[[str, str, UserVector, str, Graph], tuple[Form, int]]
"""Graph's name, form, vector, precision, graph → its engine, and the largest batch."""


class _Opened:
    """A graph on the device.

    Args:
        device: The device.
        compiled: The bundle's compiled part.
        name: The graph's name.
        graph: The graph.
        load: Loads an engine.
        cache_bytes: Size of the table of users.

    Raises:
        EngineError: If the bundle has no forms of the graph, or they are not those of this network.
    """

    def __init__(
        self, device: Any, compiled: Compiled, name: str, graph: Graph, load: Loader, *, cache_bytes: int
    ) -> None:
        listed = compiled.manifest["files"]
        if vector_file(name) not in listed:
            raise EngineError(
                f"{compiled.path} has no graphs for TensorRT; run 'isoform compile {compiled.path.parent} --target tensorrt'"
            )
        self.vector = UserVector.decode(compiled.read(vector_file(name)), name=vector_file(name))
        self.graph, self._changing = graph, [name for name in graph.weights if name not in graph.constants]
        if {name: graph.weights[name] for name in self._changing} != {
            name: shape for name, shape in self.vector.shapes.items() if name not in HEAD
        }:
            raise EngineError(
                f"{compiled.path} has graphs for TensorRT of another network; run 'isoform compile' again"
            )
        precision = next((some for some in PRECISIONS if form_file(name, ONE, some) in listed), "")
        if not precision:
            raise EngineError(
                f"{compiled.path} has a vector but no form of graph {name!r}; run 'isoform compile' again"
            )
        half = precision == "fp16"
        largest = min(LARGEST_TABLE, VOLUME // self.vector.size) * self.vector.size * (2 if half else 4)
        self.rows = Rows(device, size=self.vector.size, half=half, limit_bytes=min(cache_bytes, largest))
        self.runners: dict[str, Runner] = {}
        for form in (ONE, MANY):
            if form_file(name, form, precision) not in listed:
                continue
            engine, batch = load(name, form, self.vector, precision, graph)
            self.runners[form] = Runner(
                device, engine, form, vector=self.vector, takes=graph.input, rows=self.rows, half=half, largest=batch
            )
        self._fold: Folder = graph.folder(self.vector.private) or GatheredFold(graph, self.vector.private)

    def vector_of(self, parts: Any) -> Array:
        """Fold a user's parts into a vector, shape (M,), float32."""
        result = np.zeros(self.vector.size, dtype=np.float32)
        if self._changing:
            fold = self._fold
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # logits that are not finite are reported by the predictor
                fold.fill(fold.read(parts), fold.group(parts), result[: self.vector.head_start])
        self.vector.fill_head({name: parts[name] for name in HEAD}, result)
        return result

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        self.rows.close()


class TensorRtEngine:
    """An ``Engine`` over TensorRT. Thread-safe: one run at a time, as on the GPU's stream.

    Args:
        bundle: A compiled bundle.
        device: The GPU, or what stands for it in tests.
        load: Loads an engine.
        cache_bytes: Size of the table of users, of every graph.

    Raises:
        EngineError: If the bundle has no forms, an engine cannot be loaded, or the GPU has too little memory.
    """

    name = "tensorrt"
    drawback = None

    def __init__(self, bundle: Bundle, device: Any, load: Loader, *, cache_bytes: int) -> None:
        self._bundle, self._device, self._load, self._cache_bytes = bundle, device, load, cache_bytes
        self._opened: dict[str, _Opened] = {}
        self._lock = threading.Lock()
        # of a runtime that nobody has any more: GPU memory is scarce, and Python does not count it
        self._freed = weakref.finalize(self, _free, self._opened, device)
        self._freed.atexit = False  # the driver frees everything, and may be gone by then
        with self._lock, self._current():  # the first graph, so that a bundle without forms fails now
            self._opened_for(bundle.resolve(bundle.base(next(iter(bundle.signatures)))))

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        with self._device.current():
            yield

    def _opened_for(self, resolved: Resolved) -> _Opened:
        """Return the graph that runs a signature: the first of ``Network.graphs`` that has forms."""
        name, graph = self._bundle.graph(resolved)
        if name not in self._opened:
            self._opened[name] = _Opened(
                self._device, self._bundle.require_compiled(), name, graph, self._load, cache_bytes=self._cache_bytes
            )
        return self._opened[name]

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
        return self.logits_each(x, [signature] * len(x))

    def logits_each(self, x: Array, signatures: Sequence[Signature]) -> Array:
        """Run one batch in which every sample has its own signature.

        Args:
            x: Samples, shape (n, …).
            signatures: The signature of each; all with the same graph and the same number of classes.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If one does not fit.
            EngineError: If they need different graphs or differ in their number of classes, one has more classes than the engine, or a
                run fails.
        """
        users = {signature.digest: signature for signature in signatures}
        resolved = {digest: self._bundle.resolve(signature) for digest, signature in users.items()}
        classes = {len(some.labels) for some in resolved.values()}
        with self._lock, self._current():
            opened = {digest: self._opened_for(some) for digest, some in resolved.items()}
            if len(classes) > 1 or len({*map(id, opened.values())}) > 1:
                raise EngineError("samples of one batch need signatures of one graph, with as many classes each")
            found, (count,) = next(iter(opened.values())), classes
            if count > found.vector.classes:
                raise EngineError(
                    f"a signature has {count} classes, but the engine was built for {found.vector.classes}; "
                    f"run 'isoform compile --target tensorrt --classes {count}'"
                )
            runs = [
                self._run(found, x[rows], [signatures[row].digest for row in rows], resolved)
                for rows in _batches(signatures, found)
            ]
            order = np.concatenate([np.asarray(rows) for rows in _batches(signatures, found)])
        result = np.empty((len(x), count), dtype=np.float32)
        result[order] = np.concatenate(runs)[:, :count]
        return result

    def _run(self, found: _Opened, x: Array, digests: Sequence[str], resolved: dict[str, Resolved]) -> Array:
        makes = {digest: _maker(found, resolved[digest]) for digest in digests}
        places = dict(zip(makes, found.rows.rows(makes), strict=True))
        rows = np.array([places[digest] for digest in digests], dtype=np.int32)
        runner = found.runners[ONE] if len(makes) == 1 else found.runners[MANY]
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


def _free(opened: dict[str, _Opened], device: Any) -> None:
    with device.current():
        for graph in opened.values():
            graph.close()
        opened.clear()
    device.close()


def _maker(found: _Opened, resolved: Resolved) -> Callable[[], Array]:
    return lambda: found.vector_of(resolved.parts)


def _batches(signatures: Sequence[Signature], found: _Opened) -> list[list[int]]:
    """Cut samples into batches: of one user each without the form ``many``, else of as many users as the table has rows."""
    if MANY not in found.runners:
        places: dict[str, list[int]] = {}
        for row, signature in enumerate(signatures):
            places.setdefault(signature.digest, []).append(row)
        groups, largest = [*places.values()], found.runners[ONE].largest
    else:
        groups, largest = [[*range(len(signatures))]], min(runner.largest for runner in found.runners.values())
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
        MissingExtraError: If neither product is installed.
    """
    del threads
    if providers is not None:
        raise EngineError(f"TensorRT has no providers, but {', '.join(providers)} was requested; leave them out")
    compiled, product, device = bundle.require_compiled(), find_product(), Device()

    def load(name: str, form: str, vector: UserVector, precision: str, graph: Graph) -> tuple[Form, int]:
        data = compiled.read(form_file(name, form, precision))
        key = EngineKey(
            product=product.name, version=product.version, devices=(device.title,), graph=name, form=form, precision=precision,
            digest=hashlib.sha256(data).hexdigest(), largest_batch=Batches().largest,
        )  # fmt: skip
        if (shipped := _shipped(compiled, key, device.architecture)) is not None:
            return Context(product, device, shipped[1]), shipped[0].largest_batch
        return Context(product, device, _cached(key, data, product, vector, graph)), key.largest_batch

    try:
        return TensorRtEngine(bundle, device, load, cache_bytes=cache_bytes)
    except BaseException:
        device.close()
        raise


def _shipped(compiled: Compiled, key: EngineKey, architecture: str) -> tuple[EngineKey, bytes] | None:
    """Return the bundle's engine for this GPU; None if it has none."""
    folder = compiled.path / "engines"
    for path in sorted(folder.glob(f"{key.graph}.{key.form}.{key.precision}.{key.product}.*.engine")):
        try:
            found, engine = read_engine(path)
        except EngineError as problem:
            log.warning("%s", problem)
            continue
        same = (found.product, found.version, found.digest) == (key.product, key.version, key.digest)
        if same and {architecture, *key.devices} & {*found.devices}:
            return found, engine
    return None


def _cached(key: EngineKey, data: bytes, product: Product, vector: UserVector, graph: Graph) -> bytes:
    """Return the engine of the user's cache; build and store it if there is none."""
    try:
        path = cache_directory() / f"trt-{engine_name(key)}"
        require_own(path)
        if path.exists():
            found, engine = read_engine(path)
            if found == key:
                mark_used(path)
                return engine
    except EngineError as problem:
        log.warning("the stored engine is not used: %s; it is built again", problem)
        path = None
    built = build_engine(
        product, data, form=key.form, vector=vector, takes=graph.input, half=key.precision == "fp16",
        progress=lambda line: log.warning("%s; this takes a while, and is kept for the next start", line),
    )  # fmt: skip
    if path is not None:
        try:
            store(path, encode_engine(key, built.engine), pattern="trt-*", kept=KEPT)
        except (IsoformError, OSError) as problem:
            log.debug("the engine is not stored: %s", problem)
    return built.engine
