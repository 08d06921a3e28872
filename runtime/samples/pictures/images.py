"""Image files → samples. Pillow decodes; this module limits its input and reports its errors."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.limits import data_bytes, image_pixels
from isoform.runtime.samples.pictures.formats import formats, remedy_of_content
from isoform.runtime.samples.pictures.pillow_limit import pillow_allows
from isoform.runtime.samples.pictures.pixels import GAP, LARGE, depth, planes, scale_transparency

__all__ = ["load_image", "resize"]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF files."""
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError,
    struct.error,
)  # fmt: skip
"""Exceptions of Pillow's decoders and plug-ins for damaged files."""


def load_image(path: str | Path, *, shape: tuple[int, int, int], account: Account | None = None) -> Array:
    """Read an image file as one sample.

    Args:
        path: A PNG, JPEG, BMP, PPM/PGM/PBM, WebP, GIF or TIFF file of 8 bits per channel, or grey of 12 or 16; HEIC, AVIF and
            JPEG XL if Pillow or a plug-in reads them. Rotated by its EXIF orientation; transparency is composited on
            black; of several images in one file, the first is read.
        shape: Channels (1: grey, 3: RGB), height, width of the sample; other sizes are resized (bilinear).
        account: Counts the image, and notes what was ignored in it.

    Returns:
        Shape ``shape``, float32 in [0, 1].

    Raises:
        InputError: If the file is missing, not an image, truncated or too large, its value range is unknown, or ``shape``
            does not have 1 or 3 channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(
            f"samples of {channels} channels cannot be read from image files; pass arrays to Runtime.predict"
        )
    limit = image_pixels()
    with files.open_file(Path(path), limit=data_bytes(), error=InputError, what="image") as file:
        head = file.read(32)
        if not head:
            raise InputError(f"{path} is not an image: it is empty; remove it")
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on large images and damaged metadata; real problems raise exceptions
                with pillow_allows(limit), Image.open(file, formats=formats()) as image:
                    if image.width * image.height > limit:
                        raise Image.DecompressionBombError  # up to twice its own limit Pillow only warns
                    bits, white_is_zero = depth(image, path)
                    scale_transparency(image, head)
                    several = _several(image)
                    if image.width * image.height > LARGE:
                        # JPEG is decoded at reduced size; others ignore it
                        image.draft(None, (GAP * max(height, width),) * 2)  # square: EXIF may still turn the image
                    ImageOps.exif_transpose(image, in_place=True)
                    parts = planes(image, channels, bits=bits, white_is_zero=white_is_zero, size=(height, width))
                    # resized as float32: of 8-bit images Pillow rounds the result to whole numbers
                    sample = np.concatenate([resize(plane[None], height, width) for plane in parts])
        except Image.DecompressionBombError:
            raise InputError(
                f"image {path} is larger than the limit of {limit:,} pixels; make it smaller, or set ISOFORM_MAX_IMAGE_PIXELS"
            ) from None
        except MemoryError:
            raise InputError(f"image {path} needs more memory than is available; make it smaller") from None
        except UnidentifiedImageError:
            other = remedy_of_content(head)
            also = f" (it is {other[0]}: {other[1]})" if other else "; replace or remove it"
            if head.startswith(TIFF):
                also = " (it is an unsupported type of TIFF: save it with 8 bits per channel, or grey with 16)"
            raise InputError(
                f"{path} is not an image that can be read; {', '.join(formats())} were expected{also}"
            ) from None
        except DAMAGED as problem:
            raise InputError(
                f"image {path} cannot be read: {str(problem) or type(problem).__name__}; it is damaged or truncated, replace or remove it"
            ) from None
    if account is not None:
        account.take("image")
        if several:
            account.note("a file holds several images: the first was read")
    return sample


def _several(image: Image.Image) -> bool:
    """Return whether an open file holds several images."""
    # not n_frames alone: Pillow counts the images of a TIFF file in quadratic time
    animated = getattr(image, "is_animated", None)
    return getattr(image, "n_frames", 1) > 1 if animated is None else bool(animated)


def resize(planes: Array, height: int, width: int) -> Array:
    """Resize the planes of one image, bilinear and antialiased: when downscaling, every source pixel contributes.

    Args:
        planes: Shape (channels, any, any), float32.
        height: Target height.
        width: Target width.

    Returns:
        Shape (channels, height, width), float32, C-contiguous.
    """
    if planes.shape[1:] == (height, width):
        return np.ascontiguousarray(planes, dtype=np.float32)
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in planes])
