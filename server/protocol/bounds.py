"""What reading a body may take: asked with sizes before anything of that size is made. Who answers stands in ``memory.py``."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Bounds"]


class Bounds(Protocol):
    """Raises where it is too much."""

    def hold_json(self, body_bytes: int, text: bytes | bytearray, /) -> None:
        """A body of that many bytes is there, and this JSON in it is going to be read."""

    def check_samples(self, count: int, /) -> None:
        """A tensor of so many samples is going to be made."""
