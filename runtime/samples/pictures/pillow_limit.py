"""Pillow's own limit on the size of images, raised while an image is read that isoform's limit allows.

Pillow raises ``DecompressionBombError`` for images of more than 2 × ``Image.MAX_IMAGE_PIXELS``: on opening, and of some formats again
on decoding. It reads that global variable at every check, so no other limit can be given for one file.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from PIL import Image

__all__ = ["pillow_allows"]


@contextlib.contextmanager
def pillow_allows(pixels: int) -> Iterator[None]:
    """Let Pillow read images of up to ``pixels`` in this block. Thread-safe.

    Pillow's limit is touched only if it is lower, and restored at the end of the last block that needs a higher one.
    """
    if not _raised.begin(pixels):
        yield
        return
    try:
        yield
    finally:
        _raised.end()


class _Raised:
    """The readers that need a higher limit than the application's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before = 0

    def begin(self, pixels: int) -> bool:
        """Raise the limit if it has to be; return whether ``end`` has to be called."""
        with self._lock:
            limit = Image.MAX_IMAGE_PIXELS
            # also if another reader has raised it far enough: it must stay raised until this one has finished
            if limit is None or (pixels <= 2 * limit and not self._readers):
                return False
            if not self._readers:
                self._before = limit
            self._readers += 1
            Image.MAX_IMAGE_PIXELS = max(limit, -(-pixels // 2))
            return True

    def end(self) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                Image.MAX_IMAGE_PIXELS = self._before


_raised = _Raised()
