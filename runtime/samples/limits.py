"""How much a file may make us read, so that a small device survives a large one. Set by the environment.

ISOFORM_MAX_IMAGE_PIXELS   width × height of an image, checked before it is decoded
ISOFORM_MAX_DATA_BYTES     bytes of a file, of an array in it, and of all samples that a command holds at once (as float32)
"""

from __future__ import annotations

import os

from isoform.runtime.errors import UsageError

__all__ = ["data_bytes", "image_pixels"]


def image_pixels() -> int:
    """Largest image, in pixels; by default 33,554,432, which take at most about 300 MB while they are decoded."""
    return _setting("ISOFORM_MAX_IMAGE_PIXELS", 32 << 20)


def data_bytes() -> int:
    """Largest file and largest array of samples, in bytes; by default 256 MiB."""
    return _setting("ISOFORM_MAX_DATA_BYTES", 256 << 20)


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
        raise UsageError(f"{name} is {text[:40]!r}, but a whole number above 0 was expected")
    return int(text)
