"""The reference engine: the numpy implementation of a bundle's kind, without a cache. Use it for checks, not for serving."""

from __future__ import annotations

from collections.abc import Sequence

from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature

__all__ = ["ReferenceEngine", "open_engine"]


class ReferenceEngine:
    """An ``Engine`` for any kind.

    Args:
        bundle: Compiled or not.
    """

    name, drawback = "reference", None

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def logits(self, x: Array, signature: Signature) -> Array:
        """As ``Engine.logits``."""
        resolved = self._bundle.resolve(signature)
        return self._bundle.network.reference(resolved.task, resolved.parts, x)

    def forget(self, signature: Signature) -> None:
        """Do nothing: there is no cache."""

    def clear(self) -> None:
        """Do nothing: there is no cache."""

    def stats(self) -> dict[str, float]:
        """Return an empty dict: there is no cache."""
        return {}


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> ReferenceEngine:
    """As ``engine.open_engine``."""
    if providers is not None:
        raise UsageError(
            "execution providers are for ONNX Runtime, but the reference engine runs numpy; leave them out"
        )
    return ReferenceEngine(bundle)
