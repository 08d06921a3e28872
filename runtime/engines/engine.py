"""Interface between the runtime and its engines, which run a bundle's network with the weights of any signature.

    onnx        ONNX Runtime over a device plan: swapping signatures copies weights or selects a binding
    sessions    ONNX Runtime, one session per cached signature: works everywhere, slow to swap
    tensorrt    TensorRT on a GPU: swapping copies a row of a table, and samples of one batch may belong to different users
    reference   numpy only, slow and simple: needs no compiled bundle, and defines what a signature means

To add an engine: a folder or module below ``engines/`` with ``open_engine``, and a line in ``ENGINES`` (``names.py``). ``auto`` uses the first of
``BY_ITSELF`` that can be opened on this machine for this bundle, and logs why the ones before it could not.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from isoform.runtime.arrays import Array
from isoform.runtime.engines.names import AUTO, BY_ITSELF, ENGINES, REFERENCE
from isoform.runtime.errors import EngineError, IsoformError, MissingExtraError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = ["AUTO", "BY_ITSELF", "ENGINES", "REFERENCE", "Engine", "MixingEngine", "check_engine", "open_engine"]

log = logging.getLogger("isoform.runtime")


class Engine(Protocol):
    """Runs signatures of one bundle. Thread-safe."""

    @property
    def name(self) -> str:
        """The engine's key in ``ENGINES``."""

    @property
    def drawback(self) -> str | None:
        """Why ``auto`` should prefer the next engine, as measured on this machine; None if there is no reason."""

    def logits(self, x: Array, signature: Signature) -> Array:
        """Run one batch.

        Args:
            x: Samples as ``Input.checked`` of the task returns them, shape (n, …), n at least 1.
            signature: A signature that fits the bundle.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If the signature does not fit.
            EngineError: If the engine fails.
        """

    def forget(self, signature: Signature) -> None:
        """Remove a signature from the cache, unless a prediction is using it."""

    def clear(self) -> None:
        """Clear the cache."""

    def stats(self) -> dict[str, float]:
        """Return the statistics of ``Runtime.stats``; keys that do not apply may be left out."""


@runtime_checkable
class MixingEngine(Engine, Protocol):
    """An engine that may run samples of several users at once, and cuts batches into runs by itself, so that it is given whole ones."""

    @property
    def mixes(self) -> bool:
        """Whether a batch of several users takes about as long as one of a single user, for the graph of the bundle's first task."""

    def logits_each(self, x: Array, signatures: Sequence[Signature]) -> Array:
        """Run a batch in which every sample has its own signature.

        Args:
            x: As for ``logits``.
            signatures: The signature of each sample; all have the same input, and the same number of classes.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If one does not fit.
            EngineError: If the engine fails, or they differ in their number of classes.
        """


def check_engine(name: object) -> str:
    """Check the name of an engine, or ``auto``. Raises ``UsageError`` if it is anything else."""
    if not isinstance(name, str) or name not in (AUTO, *ENGINES):
        raise UsageError(f"engine is {name!r}, but one of {', '.join((AUTO, *ENGINES))} was expected")
    return name


def open_engine(
    name: str, bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None = None
) -> Engine:
    """Open an engine.

    Args:
        name: One of ``ENGINES``, or ``auto``.
        bundle: The bundle to run; compiled, for all engines but the reference.
        threads: Threads per run; 0 lets the engine choose. An engine without threads ignores it.
        cache_bytes: Size of the weight cache, in bytes. An engine without a cache ignores it.
        providers: ONNX Runtime execution providers in order of preference; None for the CPU. An engine without providers must refuse them.

    Raises:
        UsageError: If there is no such engine, or it does not support these providers.
        EngineError: If it cannot be opened for this bundle on this machine.
        MissingExtraError: If it needs a package that is not installed.
        BundleError: If it needs a compiled bundle.
    """
    names, refused = BY_ITSELF if check_engine(name) == AUTO else (name,), list[IsoformError]()
    for candidate in names:
        try:
            opened: Engine = importlib.import_module(ENGINES[candidate]).open_engine(
                bundle, threads=threads, cache_bytes=cache_bytes, providers=providers
            )
        except (EngineError, MissingExtraError) as problem:
            if candidate == names[-1]:
                raise
            refused.append(problem)
            continue
        if opened.drawback is not None and candidate != names[-1]:
            refused.append(EngineError(opened.drawback))
            continue
        for reason in refused:  # only now is it known which engine is the fallback
            log.warning("%s; falling back to engine %s", reason, opened.name)
        return opened
    raise AssertionError(names)
