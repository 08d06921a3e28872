"""The door between the runtime and its engines: what runs a bundle's network with the weights of any signature.

    onnx        ONNX Runtime over a device plan: swapping signatures copies weights, or chooses a binding
    sessions    ONNX Runtime, a session per signature in use: right everywhere, slow to swap
    reference   numpy alone, slow and obvious: it needs no compiled bundle, and says what a signature means

Add an engine: a folder or module below ``engines/`` with ``open_engine``, and its line in ``ENGINES``. Which one runs: ``auto`` takes the
first of ``BY_ITSELF`` that can be opened on this machine for this bundle, and says in the log why those before it could not.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Protocol

from isoform.runtime.arrays import Array
from isoform.runtime.errors import EngineError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = ["AUTO", "BY_ITSELF", "ENGINES", "REFERENCE", "Engine", "check_engine", "open_engine"]

log = logging.getLogger("isoform.runtime")

AUTO, REFERENCE = "auto", "reference"
ENGINES = {
    "onnx": "isoform.runtime.engines.onnx.plan_engine",
    "sessions": "isoform.runtime.engines.onnx.per_signature",
    "reference": "isoform.runtime.engines.reference",
}
"""Name → the module with ``open_engine(bundle, *, threads, cache_bytes, providers)``, imported when it is asked for."""
BY_ITSELF = ("onnx", "sessions")
"""The order in which ``auto`` tries them."""


class Engine(Protocol):
    """Runs signatures of one bundle. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """As ``ENGINES`` has it."""

    @property
    def drawback(self) -> str | None:
        """Why ``auto`` should try the next engine instead, measured on this machine; None if there is no reason."""

    def logits(self, x: Array, signature: Signature) -> Array:
        """Run one batch.

        Args:
            x: Samples, shape (n, …) as the task's ``Input`` says and ``Input.checked`` gives them, n at least 1.
            signature: A signature that fits the bundle.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            SignatureError: If the signature does not fit.
            EngineError: If the engine fails.
        """

    def forget(self, signature: Signature) -> None:
        """Let go of what was built for one signature, if nobody predicts with it."""

    def clear(self) -> None:
        """Let go of everything that was built for signatures."""

    def stats(self) -> dict[str, float]:
        """As ``Runtime.stats``; empty if it holds nothing."""


def check_engine(name: object) -> str:
    """The name of an engine, or ``auto``; ``UsageError`` if it is anything else."""
    if not isinstance(name, str) or name not in (AUTO, *ENGINES):
        raise UsageError(f"engine is {name!r}, but one of {', '.join((AUTO, *ENGINES))} was expected")
    return name


def open_engine(
    name: str, bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None = None
) -> Engine:
    """Open an engine.

    Args:
        name: One of ``ENGINES``, or ``auto``.
        bundle: What it runs; compiled, for all but the reference.
        threads: Threads per run, 0 to let the engine choose.
        cache_bytes: How many bytes of signatures' weights may stay in memory.
        providers: ONNX Runtime's execution providers, the preferred one first; None for the CPU.

    Raises:
        UsageError: If there is no such engine, or it does not know these providers.
        EngineError: If it cannot be opened for this bundle on this machine.
        BundleError: If it needs a compiled bundle.
    """
    names, refused = BY_ITSELF if check_engine(name) == AUTO else (name,), list[EngineError]()
    for candidate in names:
        try:
            opened: Engine = importlib.import_module(ENGINES[candidate]).open_engine(
                bundle, threads=threads, cache_bytes=cache_bytes, providers=providers
            )
        except EngineError as problem:
            if candidate == names[-1]:
                raise
            refused.append(problem)
            continue
        if opened.drawback is not None and candidate != names[-1]:
            refused.append(EngineError(opened.drawback))
            continue
        for reason in refused:
            log.warning("%s; the engine is %s instead", reason, opened.name)
        return opened
    raise AssertionError(names)
