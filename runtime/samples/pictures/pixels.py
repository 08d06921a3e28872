"""Decoded images → planes of values in [0, 1], for every mode of Pillow with its own value range.

    1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV, LAB   8 bits or fewer per channel
    I;16, I;16L, I;16B, I;16N; I from PNG and PPM             16 bits, or as stated in a TIFF file
    I and F from TIFF, and the rest                           rejected: the value of white is unknown

Transparent pixels are composited on black. A PNG without an alpha channel can declare one grey or colour as transparent (tRNS), in
the file's bits per channel; Pillow does not scale it to the range of its pixels, so ``scale_transparency`` does.

An image much larger than the sample is first reduced by integer factors (``reduce``), which bounds the memory of its planes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError

__all__ = ["GAP", "LARGE", "depth", "planes", "scale_transparency"]

LARGE = 4 << 20
"""Number of pixels from which images are reduced by integer factors first."""
GAP = 3  # Pillow's documentation of reducing_gap: from 3.0 on nearly indistinguishable from fair resampling
"""Minimum size of a reduced image, in multiples of the sample's size."""
EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"}
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2
"""TIFF tags, and two of their values."""


def depth(image: Image.Image, path: object) -> tuple[int, bool]:
    """Return the bits per channel of an open image, and whether 0 is white and Pillow has not inverted it.

    Args:
        image: The opened image, unmodified.
        path: Its path, for messages.

    Raises:
        InputError: If the value range of its mode is unknown.
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
        what = "signed integers or integers of more than 16 bits, of unknown range, as pixels"
    else:
        what = f"pixels of Pillow's mode {image.mode}, whose range is unknown"
    raise InputError(f"image {path} holds {what}; save it with 8 or 16 bits per pixel")


def scale_transparency(image: Image.Image, head: bytes) -> None:
    """Scale a PNG's transparent grey or colour to the range of Pillow's decoded pixels.

    Pillow keeps only the upper byte of 16-bit colours, so pixels that differ from the transparent colour in the lower byte only are
    transparent, too.

    Args:
        image: The opened image, not yet decoded.
        head: At least the first 25 bytes of its file.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or key is None or isinstance(key, bytes):
        return
    bits = head[24]  # IHDR's bit depth
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(part >> 8 if bits == 16 else part & 255 for part in key)
    elif image.mode == "L":
        top = 2**bits - 1
        image.info["transparency"] = (key & top) * (255 // top)


def planes(
    image: Image.Image, channels: int, *, bits: int, white_is_zero: bool, size: tuple[int, int]
) -> Iterator[Array]:
    """Yield the planes of an image, one at a time.

    Args:
        image: The decoded image.
        channels: 1 for grey, 3 for RGB.
        bits: Bits per channel, from ``depth``.
        white_is_zero: Whether 0 is white, from ``depth``.
        size: Height and width of the sample.

    Yields:
        Shape (height, width) of the image, possibly reduced, float32 in [0, 1].
    """
    if bits > 8 or image.mode.startswith("I"):
        if (key := image.info.get("transparency")) is not None:
            pixels = np.array(image)
            pixels[pixels == key] = 0
            image = Image.fromarray(pixels)
        # converted first: Pillow cannot reduce mode I;16
        grey = np.asarray(_smaller(image.convert("I"), size), dtype=np.float32) / np.float32(2**bits - 1)
        plane = 1 - grey if white_is_zero else grey
        yield from (np.clip(plane, 0, 1) for _ in range(channels))
        return
    if image.mode in ("La", "RGBa"):  # premultiplied alpha, which Pillow can convert only to the plain form
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = _smaller(image if image.mode == "RGBA" else image.convert("RGBA"), size)
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if image.mode == "LAB":  # Pillow converts it to RGB only, not to L
        image = image.convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    image = _smaller(image if image.mode == wanted else image.convert(wanted), size)
    for channel in range(channels):
        part = image.getchannel(channel) if channels > 1 else image
        yield np.asarray(part, dtype=np.float32) / np.float32(255)


def _smaller(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image, reduced by integer factors if it is large, but at least ``GAP`` times as large as the sample."""
    if image.width * image.height <= LARGE:
        return image
    height, width = size
    return image.reduce((max(1, image.width // (GAP * width)), max(1, image.height // (GAP * height))))
