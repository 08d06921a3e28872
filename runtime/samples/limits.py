"""Limits on the size of input files, which protect the memory of small devices. Set by environment variables.

ISOFORM_MAX_IMAGE_PIXELS   width × height of an image, checked before decoding
ISOFORM_MAX_DATA_BYTES     size of a file, of an array in it, and of all samples in memory (as float32), in bytes
"""

from __future__ import annotations

import os

from isoform.runtime.errors import UsageError

__all__ = ["data_bytes", "image_pixels"]


def image_pixels() -> int:
    """Return the maximum size of an image in pixels; by default 33,554,432, which need up to about 300 MB during decoding."""
    return _setting("ISOFORM_MAX_IMAGE_PIXELS", 32 << 20)


def data_bytes() -> int:
    """Return the maximum size of a file and of an array of samples, in bytes; by default 256 MiB."""
    return _setting("ISOFORM_MAX_DATA_BYTES", 256 << 20)


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    # isdigit alone accepts "²", which int() rejects; 18 digits fit into 64 bits
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
        raise UsageError(f"{name} is {text[:40]!r}, but a whole number above 0 was expected")
    return int(text)
