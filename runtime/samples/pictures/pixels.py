"""A decoded image → planes of numbers in [0, 1], from every mode that Pillow has, each in its own range.

    1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV, LAB   8 bits or fewer per channel
    I;16, I;16L, I;16B, I;16N; I from PNG and PPM             16 bits, or as many as a TIFF file says
    I and F from TIFF, and the rest                           refused: nobody says which number is white

Transparent pixels are laid over black. A PNG without an alpha channel can name one grey or colour as transparent (tRNS), in the file's
own bits per channel; Pillow does not bring that to the range of its pixels, ``scale_transparency`` does.

An image far larger than its sample is first made smaller by whole factors (``reduce``), so that its planes need no memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError

__all__ = ["GAP", "LARGE", "depth", "planes", "scale_transparency"]

LARGE = 4 << 20
"""Images of more pixels are made smaller by whole factors first."""
GAP = 3
"""How many times larger than the sample they still are then; Pillow's documentation calls 3 indistinguishable from the best."""
EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"}
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2
"""TIFF's tags, and two values."""


def depth(image: Image.Image, path: object) -> tuple[int, bool]:
    """Bits per channel of an open image, and whether its zero is white although Pillow has not turned it.

    Args:
        image: Opened, not changed yet.
        path: Its name, for messages.

    Raises:
        InputError: If the mode's range is unknown.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode in EIGHT_BITS and SIGNED not in tags.get(SAMPLE_FORMAT, ()):
        return 8, False
    if image.mode.startswith("I;16"):
        bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
        return bits, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 16, False
    if image.mode == "F":
        what = "floating-point pixels of unknown range"
    elif image.mode == "I" or image.mode in EIGHT_BITS:
        what = "whole numbers with a sign or of more than 16 bits, of unknown range, as pixels"
    else:
        what = f"pixels of Pillow's mode {image.mode}, whose range is unknown"
    raise InputError(f"image {path} holds {what}; save it with 8 or 16 bits per pixel")


def scale_transparency(image: Image.Image, head: bytes) -> None:
    """Bring a PNG's transparent grey or colour to the range of its pixels as Pillow decodes them.

    Of 16-bit colours Pillow keeps the upper byte, so pixels that differ from the transparent one only below that are transparent too.

    Args:
        image: Opened, not decoded yet.
        head: The first 25 bytes of its file, or more.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or key is None or isinstance(key, bytes):
        return
    bits = head[24]
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(part >> 8 if bits == 16 else part & 255 for part in key)
    elif image.mode == "L":
        top = 2**bits - 1
        image.info["transparency"] = (key & top) * (255 // top)


def planes(
    image: Image.Image, channels: int, *, bits: int, white_is_zero: bool, size: tuple[int, int]
) -> Iterator[Array]:
    """The planes of an image, one at a time.

    Args:
        image: Decoded.
        channels: 1 for grey, 3 for red, green and blue.
        bits: Per channel, and
        white_is_zero: as ``depth`` found them.
        size: Height and width of the sample that it is for.

    Yields:
        Shape (height, width) of the image, or of a smaller one, float32 in [0, 1].
    """
    if bits > 8 or image.mode.startswith("I"):
        if (key := image.info.get("transparency")) is not None:
            pixels = np.array(image)
            pixels[pixels == key] = 0
            image = Image.fromarray(pixels)
        grey = np.asarray(_smaller(image.convert("I"), size), dtype=np.float32) / np.float32(2**bits - 1)
        plane = 1 - grey if white_is_zero else grey
        yield from (np.clip(plane, 0, 1) for _ in range(channels))
        return
    if image.mode in ("La", "RGBa"):  # colours already over black
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = _smaller(image if image.mode == "RGBA" else image.convert("RGBA"), size)
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if image.mode == "LAB":
        image = image.convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    image = _smaller(image if image.mode == wanted else image.convert(wanted), size)
    for channel in range(channels):
        part = image.getchannel(channel) if channels > 1 else image
        yield np.asarray(part, dtype=np.float32) / np.float32(255)


def _smaller(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image, or a smaller one still ``GAP`` times as large as the sample."""
    if image.width * image.height <= LARGE:
        return image
    height, width = size
    return image.reduce((max(1, image.width // (GAP * width)), max(1, image.height // (GAP * height))))
