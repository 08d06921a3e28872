"""Image formats: those that Pillow reads, and those that it reads with a plug-in, if that is installed."""

from __future__ import annotations

import functools
import importlib

from PIL import features

__all__ = ["ENDINGS", "FORMATS", "formats", "is_image", "remedy", "remedy_of_content"]

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "TIFF")
ENDINGS = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".webp", ".gif",
    ".tif", ".tiff",
}  # fmt: skip
"""Their file extensions, in lower case."""
PLUGINS = {
    ".heic": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".heif": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".hif": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".avif": ("pillow_avif", "AVIF", "pip install 'pillow>=11.3'"),
    ".jxl": ("pillow_jxl", "JXL", "pip install pillow-jxl-plugin"),
}
"""Extension → module that adds the format to Pillow, name of the format, and the command to install it."""
OTHERS = {
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".psd", ".svg", ".jp2", ".j2k", ".ico", ".tga",
    ".exr", ".hdr", ".dcm", ".eps", ".emf", ".wmf", ".pcx", ".dds", ".qoi", ".icns", ".dib",
}  # fmt: skip
"""Extensions of images that are not supported."""
# HEIF and AVIF are ISO media files: four bytes of length, "ftyp", and the brand
CONTENTS = {
    b"ftypheic": ".heic", b"ftypheix": ".heic", b"ftyphevc": ".heic", b"ftypmif1": ".heic", b"ftypmsf1": ".heic",
    b"ftypavif": ".avif", b"ftypavis": ".avif",
}  # fmt: skip
"""Bytes 4 to 12 of a file → the extension that it should have."""


def is_image(ending: str) -> bool:
    """Return whether files with that extension, in lower case, are images that can be read here."""
    return ending in ENDINGS or (ending in PLUGINS and plugged(ending))


def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that can be read here."""
    return FORMATS + tuple(dict.fromkeys(name for ending, (_, name, _) in PLUGINS.items() if plugged(ending)))


def remedy(ending: str) -> str | None:
    """Return how to make images with that extension readable; None if they are readable already or not images."""
    if ending in PLUGINS:
        return None if plugged(ending) else PLUGINS[ending][2]
    return "convert to PNG or JPEG" if ending in OTHERS else None


def remedy_of_content(head: bytes) -> tuple[str, str] | None:
    """Return the extension that a file should have, by its first bytes, and its ``remedy``; None if unknown or readable."""
    ending = CONTENTS.get(head[4:12])
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        ending = ".jxl"
    found = remedy(ending) if ending else None
    return (ending, found) if ending and found else None


@functools.cache
def plugged(ending: str) -> bool:
    """Return whether the plug-in for an extension is installed, and register it with Pillow."""
    module, name, _ = PLUGINS[ending]
    if name.lower() in features.get_supported_modules():
        return True
    try:
        plugin = importlib.import_module(module)
        if name == "HEIF":  # the other plug-ins register themselves on import
            plugin.register_heif_opener()
    except Exception:  # a third-party package may raise anything on import; then it cannot be used
        return False
    return True
