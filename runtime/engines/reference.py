"""The reference engine: the numpy twin of a bundle's kind, with nothing kept between batches. Use it to check, not to serve."""

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
        """Nothing to let go of."""

    def clear(self) -> None:
        """Nothing to let go of."""

    def stats(self) -> dict[str, float]:
        """Empty."""
        return {}


def open_engine(bundle: Bundle, *, threads: int, cache_bytes: int, providers: Sequence[str] | None) -> ReferenceEngine:
    """As ``engine.open_engine``."""
    if providers is not None:
        raise UsageError("providers are ONNX Runtime's, but the reference engine runs numpy; leave them out")
    return ReferenceEngine(bundle)
