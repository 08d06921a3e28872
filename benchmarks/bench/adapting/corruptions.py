"""MNIST-C's corruptions, at the severities that it was published with, and two of ImageNet-C's: images of any size and channels.

    shot noise       Poisson(3 x) / 3                        motion blur   half a Gaussian, σ = 3, 21 taps, along a line of -45° to 45°
    impulse noise    salt and pepper on 17 % of the numbers  shear, rotate by ±0.4, ±0.4 rad, about the centre
    gaussian noise   σ = 0.26                                scale         to 70 %
    glass blur       σ = 0.7 before and after 2 rounds of    translate     by ±3 pixels both ways
                     swaps with neighbours                   stripe        the left and right quarter inverted
    brightness       + 0.5                                   dotted line   a line of dashes of 2 pixels, 2.3 pixels to its edge
    contrast         20 % about the image's mean             zigzag        a line of teeth of 4 × 2 pixels
    fog              + 3 · plasma fractal, decay 1.4         canny edges   scikit-image's, σ = 1
    spatter          blurred noise above 0.65 as mud of 63/255

Each is a function of images in [0, 1], shape (n, channels, height, width), float32, and a generator. The line corruptions were
drawn on 28 pixels and are scaled to the image's width. Randomness is numpy's, not theirs, so images are of their kind, not theirs.
Sources: Mu and Gilmer 2019, "MNIST-C"; Hendrycks and Dietterich 2019, "Benchmarking neural network robustness" (gaussian noise and
contrast, severity 4 and 3); ImageMagick's documentation of motion blur.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage import feature

from isoform.runtime.arrays import Array

__all__ = ["CORRUPTIONS", "corrupted"]

Rng = np.random.Generator
MAP = 256
"""Side of a plasma fractal; images take its corner."""


def corrupted(x: Array, name: str, *, seed: int) -> Array:
    """Images seen through a corruption: shape (n, channels, height, width), float32, 0 to 1."""
    found = CORRUPTIONS[name](x, np.random.default_rng([seed, *name.encode()]))
    return np.ascontiguousarray(np.clip(found, 0, 1), dtype=np.float32)


def _shot_noise(x: Array, rng: Rng) -> Array:
    return rng.poisson(3 * x.astype(np.float64)) / 3


def _impulse_noise(x: Array, rng: Rng) -> Array:
    hit, white = rng.random(x.shape) < 0.17, rng.random(x.shape) < 0.5
    return np.where(hit, white, x)


def _gaussian_noise(x: Array, rng: Rng) -> Array:
    return x + rng.normal(scale=0.26, size=x.shape)


def _blurred(x: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(x, sigma=(0, 0, sigma, sigma), mode="nearest")


def _glass_blur(x: Array, rng: Rng) -> Array:
    result, rows = _blurred(x, 0.7), np.arange(len(x))
    height, width = x.shape[2:]
    for _ in range(2):
        for row in range(height - 1, 1, -1):
            for column in range(width - 1, 1, -1):
                down, right = rng.integers(-1, 1, (2, len(x))) * rng.integers(0, 2, len(x))
                there = rows, slice(None), row + down, column + right
                held = result[there].copy()
                result[there] = result[:, :, row, column]
                result[:, :, row, column] = held
    return _blurred(result, 0.7)


def _motion_blur(x: Array, rng: Rng) -> Array:
    angle = np.radians(rng.uniform(-45, 45, len(x)))
    kernel = np.exp(-(np.arange(21) ** 2) / (2 * 3**2))
    rows, columns = np.indices(x.shape[2:])
    result, samples = np.zeros(x.shape), np.arange(len(x))[:, None, None]
    for tap, weight in enumerate(kernel / kernel.sum()):
        down, right = (np.ceil(tap * f(angle) - 0.5).astype(int)[:, None, None] for f in (np.sin, np.cos))
        row, column = np.clip(rows + down, 0, x.shape[2] - 1), np.clip(columns + right, 0, x.shape[3] - 1)
        result += weight * x[samples, :, row, column].transpose(0, 3, 1, 2)
    return result


def _warped(x: Array, matrices: Array, offset: Array | float = 0.0) -> Array:
    """Output pixel p shows input pixel M (p - centre) + centre + offset, for (rows, columns); linear between pixels, 0 outside."""
    centre = (np.array(x.shape[2:]) - 1) / 2
    moves = centre - matrices @ centre + offset
    result = np.empty(x.shape)
    for target, image, matrix, move in zip(result, x, matrices, moves, strict=True):
        for to, of in zip(target, image, strict=True):
            ndimage.affine_transform(of, matrix, offset=move, output=to, order=1)
    return result


def _signs(x: Array, rng: Rng, count: int) -> Array:
    return rng.choice([-1.0, 1.0], (len(x), count))


def _shear(x: Array, rng: Rng) -> Array:
    angle = 0.4 * _signs(x, rng, 1)[:, 0]
    # Columns move with rows: x' = x - tan(angle) y in the newer scikit-image, -sin(angle) y beside cos(angle) y in MNIST-C's.
    return _warped(x, np.stack([[[np.cos(a), 0], [-np.sin(a), 1]] for a in angle]))


def _rotate(x: Array, rng: Rng) -> Array:
    angle = 0.4 * _signs(x, rng, 1)[:, 0]
    return _warped(x, np.stack([[[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]] for a in angle]))


def _scale(x: Array, _: Rng) -> Array:
    return _warped(x, np.broadcast_to(np.eye(2) / 0.7, (len(x), 2, 2)))


def _translate(x: Array, rng: Rng) -> Array:
    return _warped(x, np.broadcast_to(np.eye(2), (len(x), 2, 2)), 3 * _signs(x, rng, 2))


def _brightness(x: Array, _: Rng) -> Array:
    if x.shape[1] == 1:
        return x + 0.5
    value = x.max(axis=1, keepdims=True)  # HSV's V: the largest channel grows, hue and saturation stay
    raised = np.minimum(value + 0.5, 1)
    return np.where(value > 0, x * (raised / np.maximum(value, 1e-6)), raised)


def _contrast(x: Array, _: Rng) -> Array:
    mean = x.mean(axis=(2, 3), keepdims=True)
    return mean + 0.2 * (x - mean)


def _stripe(x: Array, _: Rng) -> Array:
    result, quarter = x.copy(), x.shape[3] // 4
    for place in (slice(0, quarter), slice(3 * quarter, None)):
        result[:, :, :, place] = 1 - x[:, :, :, place]
    return result


def _fog(x: Array, rng: Rng) -> Array:
    top = x.max(axis=(1, 2, 3), keepdims=True)
    parts = [_plasma(min(64, len(x) - i), rng)[:, None, : x.shape[2], : x.shape[3]] for i in range(0, len(x), 64)]
    return (x + 3 * np.concatenate(parts)) * top / (top + 3)


def _plasma(count: int, rng: Rng) -> Array:
    """Fractals by diamonds and squares that wrap around, 0 to 1: shape (count, MAP, MAP)."""
    field, step, wibble = np.zeros((count, MAP, MAP)), MAP, 100.0

    def middle(total: Array) -> Array:
        return total / 4 + wibble * rng.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        field[:, half::step, half::step] = middle(pairs + np.roll(pairs, -1, axis=2))
        centres, corners = field[:, half::step, half::step], field[:, ::step, ::step]
        down = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        field[:, ::step, half::step] = middle(down)
        across = centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        field[:, half::step, ::step] = middle(across)
        step, wibble = half, wibble / 1.4
    field -= field.min(axis=(1, 2), keepdims=True)
    return field / field.max(axis=(1, 2), keepdims=True)


def _spatter(x: Array, rng: Rng) -> Array:
    liquid = ndimage.gaussian_filter(rng.normal(0.65, 0.3, (len(x), *x.shape[2:])), (0, 1, 1), mode="nearest")
    mud = ndimage.gaussian_filter((liquid > 0.65).astype(float), (0, 1.5, 1.5), mode="nearest")[:, None]
    mud[mud < 0.8] = 0
    return x * (1 - mud) + mud * 63 / 255


def _lines(x: Array, points: Array) -> Array:
    """Lines between points (n, 2, 2), each (column, row) on 28 pixels: how dark every pixel gets, (n, 1, height, width)."""
    height, width = x.shape[2:]
    rows, columns = (np.linspace(0, 27, size) for size in (height, width))
    (c0, r0), (c1, r1) = (points[:, i].T[:, :, None, None] for i in (0, 1))
    gap = np.abs(rows[:, None] - (r0 + (r1 - r0) / np.maximum(c1 - c0, 1e-6) * (columns - c0)))
    dark = np.log(1 - np.clip(gap, 0, 2.3 - 1e-10) / 2.3) + 1
    dark[np.broadcast_to((columns < np.floor(c0)) | (columns >= np.ceil(c1)), dark.shape)] = 0
    return np.clip(dark, 0, 1)[:, None]


def _dotted_line(x: Array, rng: Rng) -> Array:
    ends = rng.integers(0, 27, (len(x), 2))
    dark = _lines(
        x, np.stack([np.stack([np.full(len(x), c), ends[:, i]], axis=1) for i, c in enumerate((0, 27))], axis=1)
    )
    columns = np.linspace(0, 27, x.shape[3])
    return x + dark * ((columns.astype(int) // 2) % 2)


def _zigzag(x: Array, rng: Rng) -> Array:
    start = rng.integers(0, 27, len(x)).astype(float)
    angle = np.arctan(rng.integers(-5, 5, len(x)) / 23)
    along = np.array([0, *range(2, 23, 4)], dtype=float)
    across = np.array([0, *(2 * (-1) ** i for i in range(len(along) - 1))], dtype=float)
    turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    teeth = (turn @ np.stack([along, across])).transpose(0, 2, 1) + np.stack([np.full(len(x), 2.0), start], axis=1)[
        :, None
    ]
    dark = sum(_lines(x, teeth[:, i : i + 2]) for i in range(len(along) - 1))
    return x + dark


def _canny_edges(x: Array, _: Rng) -> Array:
    grey = x.mean(axis=1)
    return np.stack([feature.canny(image.astype(np.float64)) for image in grey])[:, None].repeat(x.shape[1], axis=1)


CORRUPTIONS: dict[str, Callable[[Array, Rng], Array]] = {
    f.__name__[1:].replace("_", " "): f
    for f in (
        _shot_noise, _impulse_noise, _gaussian_noise, _glass_blur, _motion_blur, _shear, _rotate, _scale, _translate, _brightness,
        _contrast, _fog, _spatter, _stripe, _dotted_line, _zigzag, _canny_edges,
    )
}  # fmt: skip
"""Name → function."""
