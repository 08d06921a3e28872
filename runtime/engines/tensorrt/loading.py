"""Where engines and kernels come from: the bundle, the user's cache, or a build here that is kept for the next start.

An engine that can be refitted serves new templates without a build: if the cache has one of the same structure, whose shared weights alone
differ, TensorRT replaces them (version 10 and newer), and the result is kept like a build.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isoform.runtime.engines.tensorrt.builder import BuildOptions, build_engine
from isoform.runtime.engines.tensorrt.context import Context
from isoform.runtime.engines.tensorrt.form import OPTIONS, UserVector, form_file
from isoform.runtime.engines.tensorrt.kernel_form import KernelForm
from isoform.runtime.engines.tensorrt.products import PRODUCTS, Product, find_product
from isoform.runtime.engines.tensorrt.runner import Form
from isoform.runtime.engines.tensorrt.stored import KERNEL_PRODUCT, EngineKey, encode_engine, engine_name, read_engine
from isoform.runtime.engines.user_cache import (
    cache_directory,
    mark_used,
    read_digested,
    require_own,
    store,
    store_digested,
)
from isoform.runtime.errors import EngineError, IsoformError, MissingExtraError
from isoform.runtime.formats.compiled import Compiled
from isoform.runtime.kind import Graph, Kernel

__all__ = ["Loading", "kept_timings", "keep_timings"]

log = logging.getLogger("isoform.runtime")
KEPT = 64
"""Maximum number of engines in the user's cache."""
TIMINGS_LIMIT = 256 << 20


class Loading:
    """Loads what runs a bundle's graphs.

    Args:
        compiled: The bundle's compiled part.
        device: The GPU.
        products: Names of the products that may run engines.
        own: Whether engines of the user's cache, and those that are built here, may be used.
        build: ``build_engine``, or what stands for it in tests.
        context: ``Context``, or what stands for it in tests.
        find: ``find_product``, or what stands for it in tests.
    """

    def __init__(
        self, compiled: Compiled, device: Any, *, products: Sequence[str] = tuple(PRODUCTS), own: bool = True,
        build: Callable[..., Any] = build_engine, context: Callable[..., Any] = Context, find: Callable[[str], Product] = find_product,
    ) -> None:  # fmt: skip
        self._compiled, self._device, self._products, self._may_build = compiled, device, products, own
        self._build, self._context, self._find = build, context, find
        listed = OPTIONS in compiled.manifest["files"]
        self._options = BuildOptions.decode(compiled.read(OPTIONS), name=OPTIONS) if listed else BuildOptions()

    def engine(self, name: str, form: str, vector: UserVector, precision: str, graph: Graph) -> tuple[Form, int]:
        """Return the engine of a form on the device, and the largest batch that it takes.

        Args:
            name: Name of the graph, or of the task for form ``TASK``.
            form: The form.
            vector: A user's vector.
            precision: One of ``TASK_PRECISIONS``.
            graph: The graph.

        Raises:
            EngineError: If it cannot be built or loaded.
            MissingExtraError: If neither product is installed.
        """
        product, file = self._product(f"{name}.{form}.{precision}"), form_file(name, form, precision)
        data = self._compiled.read(file)
        key = EngineKey(
            product=product.name, version=product.version, devices=(self._device.title,), graph=name, form=form, precision=precision,
            digest=hashlib.sha256(data).hexdigest(), structure=self._options.structures.get(file, ""), shared=self._options.on_device,
            largest_batch=self._options.largest,
        )  # fmt: skip
        for found, engine in self._shipped(key):
            whole = None if found.shared != "stripped" else data
            try:
                return self._context(product, self._device, engine, weights=whole), found.largest_batch
            except EngineError as problem:
                if not self._may_build:
                    raise
                log.warning("the bundle's engine of %s is not used: %s", file, problem)
        if not self._may_build:
            raise EngineError(f"the bundle has no engine of {file} for {self._device.title}")
        return self._own(key, data, product, vector, graph), key.largest_batch

    def kernel(self, kernel: Kernel, samples: str) -> tuple[Form, int]:
        """Return a kernel on the device, and the largest batch that it is to take.

        Args:
            kernel: The kernel.
            samples: Name of the input of samples.

        Raises:
            EngineError: If it cannot be compiled or loaded.
            MissingExtraError: If the bundle has none for this GPU, and NVRTC is not installed.
        """
        digest, cubin = hashlib.sha256(kernel.source.encode()).hexdigest(), None
        for path in sorted((self._compiled.path / "engines").glob(f"*.kernel.*.{KERNEL_PRODUCT}.*.engine")):
            found = _read(path)
            if found is not None and found[0].digest == digest and self._device.architecture in found[0].devices:
                cubin = found[1]
        return KernelForm(self._device, kernel, samples, cubin=cubin), self._options.largest

    def _product(self, form: str) -> Product:
        """Return an installed product, one that the bundle has an engine of a form for if there is any."""
        folder, problems = self._compiled.path / "engines", list[str]()
        for name in sorted(self._products, key=lambda name: not any(folder.glob(f"{form}.{name}.*.engine"))):
            try:
                return self._find(name)
            except MissingExtraError as problem:
                problems.append(str(problem))
        raise MissingExtraError("; ".join(problems))

    def _shipped(self, key: EngineKey) -> Iterator[tuple[EngineKey, bytes]]:
        """Find the bundle's engines for this GPU."""
        names = f"{key.graph}.{key.form}.{key.precision}.{key.product}.*.engine"
        for path in sorted((self._compiled.path / "engines").glob(names)):
            if (found := _read(path)) is None:
                continue
            same = (found[0].product, found[0].version, found[0].digest) == (key.product, key.version, key.digest)
            if same and {self._device.architecture, *key.devices} & {*found[0].devices}:
                yield found

    def _own(self, key: EngineKey, data: bytes, product: Product, vector: UserVector, graph: Graph) -> Form:
        """Return the engine of the user's cache; refit or build, and store it, if there is none."""
        path: Path | None = None
        try:
            path = cache_directory() / f"trt-{engine_name(key)}"
            require_own(path)
        except EngineError as problem:
            log.warning("engines are not stored: %s", problem)
            path = None
        try:
            if path is not None and path.exists():
                found, engine = read_engine(path)
                if found == key:
                    mark_used(path)
                    return self._loaded(product, engine)
        except EngineError as problem:
            log.warning("the stored engine is not used: %s; it is built again", problem)
        if path is not None and (refitted := self._refitted(key, data, product, path.parent)) is not None:
            form, engine = refitted
        else:
            built = self._build(
                product, data, form=key.form, vector=vector, takes=graph.input, precision=key.precision, options=self._options.here(),
                timing_cache=kept_timings(product, self._device.title),
                progress=lambda line: log.warning("%s; this takes a while, and is kept for the next start", line),
            )  # fmt: skip
            keep_timings(product, self._device.title, built.timing_cache)
            form, engine = self._loaded(product, built.engine), built.engine
        if path is not None:
            try:
                store(path, encode_engine(key, engine), pattern="trt-*.engine", kept=KEPT)
            except (IsoformError, OSError) as problem:
                log.debug("the engine is not stored: %s", problem)
        return form

    def _loaded(self, product: Product, engine: bytes) -> Form:
        form: Form = self._context(product, self._device, engine)
        return form

    def _refitted(self, key: EngineKey, data: bytes, product: Product, folder: Path) -> tuple[Form, bytes] | None:
        """Put other shared weights into a stored engine of the same structure; None if there is none, or it cannot be refitted."""
        if key.shared != "refit" or not key.structure:
            return None
        for path in sorted(folder.glob(f"trt-{key.graph}.{key.form}.{key.precision}.{key.product}.*.engine")):
            try:
                require_own(path)
                found, engine = read_engine(path)
                if found.alike != key.alike:
                    continue
                form = self._context(product, self._device, engine, weights=data)
                made: bytes = form.encode()
            except EngineError as problem:
                log.info("the stored engine %s is not refitted: %s", path.name, problem)
                continue
            log.info("the stored engine of %s has the new templates; nothing was built", key.graph)
            return form, made
        return None


def _read(path: Path) -> tuple[EngineKey, bytes] | None:
    """Read an engine of the bundle; None, with a warning, if it is damaged."""
    try:
        return read_engine(path)
    except EngineError as problem:
        log.warning("%s", problem)
        return None


def _timings_path(product: Product, device: str) -> Path:
    digest = hashlib.sha256("\0".join([product.name, product.version, device]).encode()).hexdigest()
    return cache_directory() / f"trt-timings-{digest[:32]}.bin"


def kept_timings(product: Product, device: str) -> bytes:
    """Return what earlier builds for a GPU have timed, for TensorRT not to time it again; empty if there is nothing."""
    try:
        return read_digested(_timings_path(product, device), limit=TIMINGS_LIMIT, what="timing cache") or b""
    except EngineError as problem:
        log.debug("builds start without a timing cache: %s", problem)
        return b""


def keep_timings(product: Product, device: str, timings: bytes) -> None:
    """Store what a build has timed, if the cache can be written."""
    try:
        if timings:
            store_digested(_timings_path(product, device), timings, pattern="trt-timings-*", kept=KEPT)
    except (IsoformError, OSError) as problem:
        log.debug("the timing cache is not stored: %s", problem)
