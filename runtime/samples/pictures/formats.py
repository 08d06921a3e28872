"""Which files are images: formats that Pillow reads by itself, and those that it reads with a plug-in, if that is installed."""

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
"""Endings of their files, in lower case."""
PLUGINS = {
    ".heic": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".heif": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".hif": ("pillow_heif", "HEIF", "pip install pillow-heif"),
    ".avif": ("pillow_avif", "AVIF", "pip install 'pillow>=11.3'"),
    ".jxl": ("pillow_jxl", "JXL", "pip install pillow-jxl-plugin"),
}
"""Ending → the module that teaches Pillow the format, the format's name, and how to get it."""
OTHERS = {
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".psd", ".svg", ".jp2", ".j2k", ".ico", ".tga",
    ".exr", ".hdr", ".dcm", ".eps", ".emf", ".wmf", ".pcx", ".dds", ".qoi", ".icns", ".dib",
}  # fmt: skip
"""Endings of images that are not read."""
CONTENTS = {
    b"ftypheic": ".heic", b"ftypheix": ".heic", b"ftyphevc": ".heic", b"ftypmif1": ".heic", b"ftypmsf1": ".heic",
    b"ftypavif": ".avif", b"ftypavis": ".avif",
}  # fmt: skip
"""Bytes 4 to 12 of a file → the ending that it should have."""


def is_image(ending: str) -> bool:
    """Whether files of that ending, in lower case, are images that can be read here."""
    return ending in ENDINGS or (ending in PLUGINS and plugged(ending))


def formats() -> tuple[str, ...]:
    """Names of the formats that can be read here, as Pillow calls them."""
    return FORMATS + tuple(dict.fromkeys(name for ending, (_, name, _) in PLUGINS.items() if plugged(ending)))


def remedy(ending: str) -> str | None:
    """What a user does who has images of that ending; None for those that can be read, and for what is no image."""
    if ending in PLUGINS:
        return None if plugged(ending) else PLUGINS[ending][2]
    return "convert to PNG or JPEG" if ending in OTHERS else None


def remedy_of_content(head: bytes) -> tuple[str, str] | None:
    """The ending that a file should have, by its first bytes, and what a user does who has it; None if unknown or read."""
    ending = CONTENTS.get(head[4:12])
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        ending = ".jxl"
    found = remedy(ending) if ending else None
    return (ending, found) if ending and found else None


@functools.cache
def plugged(ending: str) -> bool:
    """Whether the plug-in for an ending is there; Pillow knows it from then on."""
    module, name, _ = PLUGINS[ending]
    if name.lower() in features.get_supported_modules():
        return True
    try:
        plugin = importlib.import_module(module)
        if name == "HEIF":
            plugin.register_heif_opener()
    except Exception:  # whatever somebody else's package raises, it is of no use here
        return False
    return True
