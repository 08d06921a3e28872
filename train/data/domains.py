"""Domains: image transforms that leave the labels as they are, as if seen through another camera.

Each domain is a deterministic function on images in [0, 1], shape (n, channels, height, width), float32 in and out.
``plain``, ``inverted``, ``blurred`` and ``edges`` are for training (after Figure 2b of Compositional Models: label tasks crossed with
image transforms); ``turned`` is that of the 4-MNISTs; ``slanted``, ``thick`` and ``low_contrast`` are held out for new users.
Lengths are given for 32×32 images and scale with the image's height.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from isoform.runtime.arrays import Array
from isoform.runtime.errors import RecipeError

__all__ = ["DOMAINS", "NEW_USERS", "transform"]

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float32)


def plain(x: Array) -> Array:
    """Return the images unchanged."""
    return x


def inverted(x: Array) -> Array:
    """Invert: 1 - x."""
    return 1 - x


def blurred(x: Array) -> Array:
    """Apply a Gaussian blur with σ = 2 pixels at height 32, edges repeated."""
    sigma = 2 * x.shape[2] / 32
    return ndimage.gaussian_filter(x, sigma=(0, 0, sigma, sigma), mode="nearest")


def edges(x: Array) -> Array:
    """Compute the Sobel gradient magnitude, divided by 4 (a step of height 1 gives 1) and clipped to [0, 1]."""
    # Not ndimage.sobel: that smooths along every other axis too, and so mixes neighbouring samples.
    across = ndimage.correlate(x, SOBEL[None, None], mode="nearest")
    down = ndimage.correlate(x, SOBEL.T[None, None], mode="nearest")
    return np.clip(np.hypot(across, down) / 4, 0, 1)


def slanted(x: Array) -> Array:
    """Shear by 0.6 about the centre row, like slanted handwriting; linear interpolation, 0 outside."""
    # affine_transform maps output to input coordinates: column = column + 0.6 (row - middle).
    middle = (x.shape[2] - 1) / 2
    matrix = np.eye(4)
    matrix[3, 2] = 0.6
    return ndimage.affine_transform(x, matrix, offset=(0, 0, 0, -0.6 * middle), order=1, mode="constant")


def thick(x: Array) -> Array:
    """Thicken strokes, like a broad pen: grey dilation with a disc of 5 pixels at height 32."""
    radius = 2.5 * x.shape[2] / 32
    reach = int(radius)
    grid = np.arange(-reach, reach + 1)
    disc = grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2
    return ndimage.grey_dilation(x, footprint=disc[None, None], mode="nearest")


def low_contrast(x: Array) -> Array:
    """Reduce the contrast, like faded ink on grey paper: 0.4 + 0.2 x."""
    return np.float32(0.4) + np.float32(0.2) * x


def turned(x: Array) -> Array:
    """Turn by 90° clockwise (Gumbel-Matrix, section V-A)."""
    return np.rot90(x, -1, axes=(2, 3))


DOMAINS: dict[str, Callable[[Array], Array]] = {
    f.__name__: f for f in (plain, inverted, blurred, edges, slanted, thick, low_contrast, turned)
}
NEW_USERS = ("slanted", "thick", "low_contrast")
"""Domains that no shipped recipe trains on."""


def transform(x: Array, *, domain: str) -> Array:
    """Apply a domain's transform to images.

    Args:
        x: Images in [0, 1], shape (n, channels, height, width), float32.
        domain: A key of ``DOMAINS``.

    Returns:
        The same shape, float32, C-contiguous.

    Raises:
        RecipeError: If there is no such domain.
    """
    if domain not in DOMAINS:
        raise RecipeError(f"domain is {domain!r}, but one of {', '.join(sorted(DOMAINS))} was expected")
    return np.ascontiguousarray(DOMAINS[domain](x), dtype=np.float32)
