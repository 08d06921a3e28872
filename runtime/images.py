"""Image files → samples. Pillow decodes; this module bounds what it is given and says what went wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from isoform.runtime.errors import InputError
from isoform.runtime.spec import Array

__all__ = ["load_image"]

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "GIF", "TIFF")
PIXEL_LIMIT = 64 << 20
"""Largest image that is decoded, in pixels."""


def load_image(path: str | Path, *, shape: tuple[int, int, int]) -> Array:
    """Read an image file as one sample.

    Args:
        path: A PNG, JPEG, BMP, PPM/PGM, WebP, GIF or TIFF file. An alpha channel is laid over black.
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > PIXEL_LIMIT:
                    raise InputError(
                        f"image {path} has {image.width}×{image.height} pixels, but at most {PIXEL_LIMIT:,} are read; make it smaller"
                    )
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    layer = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)  # type: ignore[assignment]
                deep = image.mode.startswith("I")
                image = image.convert("F") if deep else image.convert("L" if channels == 1 else "RGB")  # type: ignore[assignment]
                if deep and channels == 3:
                    image = Image.merge("RGB", [Image.fromarray((np.asarray(image) / 257).astype(np.uint8))] * 3)  # type: ignore[assignment]
                if image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.BILINEAR)  # type: ignore[assignment]
                pixels = np.asarray(image, dtype=np.float32)
    except FileNotFoundError:
        raise InputError(f"image {path} does not exist") from None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise InputError(f"{path} is not an image that can be read; {', '.join(FORMATS)} were expected") from None
    except (OSError, SyntaxError, ValueError, MemoryError) as problem:
        raise InputError(
            f"image {path} cannot be read: {str(problem) or type(problem).__name__}; it is damaged or cut short"
        ) from None
    scale = 65535 if deep and channels == 1 else 255
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes / np.float32(scale))
