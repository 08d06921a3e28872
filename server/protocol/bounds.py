"""The memory limits for decoding a body, called with a size before it is allocated; ``capacity/memory.py`` implements them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Bounds"]


class Bounds(Protocol):
    """Limits; each method raises if the size is not allowed."""

    def hold_json(self, body_bytes: int, text: bytes | bytearray, /) -> None:
        """Reserve memory for a body of that many bytes and for parsing this JSON in it."""

    def check_samples(self, count: int, /) -> None:
        """Check the number of samples of a tensor before it is allocated."""
