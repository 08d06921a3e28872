"""Image files → samples. Pillow decodes; this module bounds what it is given and says what went wrong."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from isoform.runtime import files
from isoform.runtime.errors import InputError
from isoform.runtime.spec import Array

__all__ = ["load_image", "resize"]

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "TIFF")
PIXEL_LIMIT = 64 << 20
"""Largest image that is decoded, in pixels."""
BYTE_LIMIT = 512 << 20
"""Largest image file that is read, in bytes."""


def load_image(path: str | Path, *, shape: tuple[int, int, int]) -> Array:
    """Read an image file as one sample.

    Args:
        path: A PNG, JPEG, BMP, PPM/PGM, WebP, GIF or TIFF file of 8 bits per channel, or grey of 16. Turned as its camera
            says (EXIF); an alpha channel is laid over black.
        shape: Channels (1: grey, 3: red, green, blue), height, width of the sample; another size is resized (bilinear).

    Returns:
        Shape ``shape``, float32 in [0, 1].

    Raises:
        InputError: If the file is missing, is not an image, is cut short, is too large, or ``shape`` has no image form.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(
            f"samples of {channels} channels cannot be read from image files; pass arrays to Runtime.predict"
        )
    data = files.read_bytes(Path(path), limit=BYTE_LIMIT, error=InputError, what="image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and damaged notes in them: what matters raises
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > PIXEL_LIMIT:
                    raise Image.DecompressionBombError
                planes = _planes(ImageOps.exif_transpose(image), channels, path)
    except Image.DecompressionBombError:
        raise InputError(
            f"image {path} is larger than the {PIXEL_LIMIT:,} pixels that are read; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that can be read; {', '.join(FORMATS)} were expected") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
        EOFError,
        struct.error,
    ) as problem:
        raise InputError(
            f"image {path} cannot be read: {str(problem) or type(problem).__name__}; it is damaged or cut short"
        ) from None
    return resize(planes, height, width)


def resize(planes: Array, height: int, width: int) -> Array:
    """Resize the planes of one image, bilinear, so that every pixel of the larger one counts.

    Args:
        planes: Shape (channels, any, any), float32.
        height: Wanted height.
        width: Wanted width.

    Returns:
        Shape (channels, height, width), float32, C-contiguous.
    """
    if planes.shape[1:] == (height, width):
        return np.ascontiguousarray(planes, dtype=np.float32)
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in planes])


def _planes(image: Image.Image, channels: int, path: str | Path) -> Array:
    """Channels first, float32 in [0, 1], in the image's own size."""
    if image.mode == "F":
        raise InputError(
            f"image {path} holds floating-point pixels of unknown range; save it with 8 or 16 bits per pixel"
        )
    if image.mode.startswith("I"):
        grey = np.asarray(image.convert("I"), dtype=np.float32)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(f"image {path} has pixels of more than 16 bits; save it with 8 or 16 bits per pixel")
        return np.repeat(grey[None] / np.float32(65535), channels, axis=0)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / np.float32(255)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
