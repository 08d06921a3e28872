"""Image files → samples. Pillow decodes; this module bounds what it is given and says what went wrong."""

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
from isoform.runtime.samples.pictures.pixels import GAP, LARGE, depth, planes, scale_transparency

__all__ = ["load_image", "resize"]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of the files."""
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError,
    struct.error,
)  # fmt: skip
"""What Pillow's decoders raise over damaged files, and plug-ins may."""


def load_image(path: str | Path, *, shape: tuple[int, int, int], account: Account | None = None) -> Array:
    """Read an image file as one sample.

    Args:
        path: A PNG, JPEG, BMP, PPM/PGM/PBM, WebP, GIF or TIFF file of 8 bits per channel, or grey of 12 or 16; HEIC, AVIF and
            JPEG XL where Pillow or a plug-in reads them. Turned as its camera says (EXIF); an alpha channel is laid over
            black; of several pictures in one file, the first.
        shape: Channels (1: grey, 3: red, green, blue), height, width of the sample; another size is resized (bilinear).
        account: Counts the image, and remembers what was left out of it.

    Returns:
        Shape ``shape``, float32 in [0, 1].

    Raises:
        InputError: If the file is missing, is not an image, is cut short, is too large, its range is unknown, or ``shape``
            has no image form.
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
                warnings.simplefilter("ignore")  # of large images and damaged notes in them: what matters raises
                with Image.open(file, formats=formats()) as image:
                    if image.width * image.height > limit:
                        raise Image.DecompressionBombError
                    bits, white_is_zero = depth(image, path)
                    scale_transparency(image, head)
                    several = _several(image)
                    if image.width * image.height > LARGE:
                        image.draft(None, (GAP * max(height, width),) * 2)  # JPEG is decoded smaller; others ignore it
                    ImageOps.exif_transpose(image, in_place=True)
                    parts = planes(image, channels, bits=bits, white_is_zero=white_is_zero, size=(height, width))
                    sample = np.concatenate([resize(plane[None], height, width) for plane in parts])
        except Image.DecompressionBombError:
            raise InputError(
                f"image {path} is larger than the {limit:,} pixels that are read; make it smaller, or set ISOFORM_MAX_IMAGE_PIXELS"
            ) from None
        except MemoryError:
            raise InputError(f"image {path} needs more memory than there is; make it smaller") from None
        except UnidentifiedImageError:
            other = remedy_of_content(head)
            also = f" (it is {other[0]}: {other[1]})" if other else "; replace or remove it"
            if head.startswith(TIFF):
                also = " (it is TIFF of a kind that is not read: save it with 8 bits per channel, or grey with 16)"
            raise InputError(
                f"{path} is not an image that can be read; {', '.join(formats())} were expected{also}"
            ) from None
        except DAMAGED as problem:
            raise InputError(
                f"image {path} cannot be read: {str(problem) or type(problem).__name__}; it is damaged or cut short, replace or remove it"
            ) from None
    if account is not None:
        account.take("image")
        if several:
            account.note("a file holds several pictures: the first was taken")
    return sample


def _several(image: Image.Image) -> bool:
    """Whether an open file holds more pictures; not how many, because Pillow counts those of TIFF in quadratic time."""
    animated = getattr(image, "is_animated", None)
    return getattr(image, "n_frames", 1) > 1 if animated is None else bool(animated)


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
