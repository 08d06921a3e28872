"""One request while it is collected: whether enough of it is there for somebody to answer it. Looks at every byte once."""

from __future__ import annotations

import re

__all__ = ["Collected"]

HEAD_BYTES = 64 << 10
BODY_BYTES = 1 << 20
"""Longer bodies are read by whoever answers."""
_AT_ONCE = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)
_LAST_CHUNK = re.compile(rb"\r\n0+[ \t]*(?:;[^\r\n]*)?\r\n")
_LONGEST_LAST = 256
"""A last chunk's line is looked for in so many bytes before what is new."""


class Collected:
    """A request's bytes so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._body = -1
        """Where the body begins; -1 while the head is not there."""
        self._ends: int | None = None
        """Where the request ends; None where chunks say so."""

    def add(self, part: bytes) -> bool:
        """More of it. Returns whether it should be answered now."""
        before = len(self.data)
        self.data += part
        if self._body < 0 and not self._find_head(before):
            return len(self.data) > HEAD_BYTES or b"\n\n" in self.data[max(0, before - 1) :]
        if self._ends is not None:
            return len(self.data) >= self._ends
        begin = max(self._body - 2, before - _LONGEST_LAST)
        return len(self.data) - self._body > BODY_BYTES or _LAST_CHUNK.search(self.data, begin) is not None

    def _find_head(self, before: int) -> bool:
        end = self.data.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            return False
        self._body = end + 4
        if _AT_ONCE.search(self.data, 0, end + 2):  # who expects 100 says nothing before it comes
            self._ends = 0
        elif not _CHUNKED.search(self.data, 0, end + 2):
            length = _LENGTH.search(self.data, 0, end + 2)
            size = 0 if length is None else int(length[1])
            self._ends = 0 if size > BODY_BYTES else self._body + size
        return True
