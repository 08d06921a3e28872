"""Detection of samples without content: a covered lens, a dead sensor, pure noise, a frozen image.

Neighbouring pixels of an image are correlated, and so are neighbouring time steps of a recording; those of independent noise are
not, whatever its strength. The test does not depend on contrast, so fog and low light pass. With u a channel minus its mean, P
pixels and M pairs of horizontal and vertical neighbours:

    r = (Σ_pairs uᵢ uⱼ / M) / (Σ uᵢ² / P)              correlation of neighbours
    z = r √M                                           normal with mean 0 and variance 1 for independent noise
    structure = max over channels of min(max(z₁ - ¼ √M₁, z₂), 2 z₈, 8 (1 - |difference of r in rows and in columns|))

z₁ is computed from the channel's pixels, z₂ from the means of its 2×2 blocks (of pairs, if a sample has one row), z₈ from the means of
about 8×8 cells. Noise resized with a triangle filter, as ``isoform.runtime.samples.pictures.images`` does, has a neighbour correlation of
¼; it is subtracted from z₁, and z₂ is nearly free of it. Noise that was enlarged or stored as JPEG is correlated over a few pixels,
but not over cells. Random stripes are correlated in one direction only, so the two directions differ by ½ or more. A constant sample
has structure -∞; a sample of one row or column uses z₁ and z₂ only.

An unevenly covered lens, a vignette, a spot, and a lamp-lit wall have high correlations but no content: a smooth surface plus noise.
So polynomials of x and y are fitted to the 2×2 blocks of an image by least squares. If degree 2 explains more than half of
their variance, or degree 6 more than nine tenths, structure is at most z₂ of the residual; in images of less than 32×32, the larger
of z₁ and z₂ of the residual. A fit of K terms besides the mean also removes some correlation from noise, so K √M / P is added. If
less than ``ROUNDED`` of the variance remains, the residual is 8-bit rounding, and structure is at most 0. Each sample is judged by
itself, so a digit on an uneven background, or the same sign again and again, has content.

A sample has content if its structure is at least ``CHANCE``, four standard deviations. Whatever the base was trained on is content as
well (a class "nothing there", letters of DNA): ``isoform compile`` records the structure that all but ``RARE`` of the training samples
reach, also per class with little structure, and the threshold is the minimum. If most recent samples are below it, the camera sees
nothing, and the few samples above it by chance count as without content, too. An image that equals, bit for bit, the last one with
content, or another one in its batch, is a frozen image, and counts once.

Not detected: noise with grains of an eighth of the frame or wider (enlarged from 8×8 pixels), a spot or the edge of a shadow
narrower than a third of the frame, and a vignette under noise of the same strength. Below 22×22 pixels only degree 2 is fitted,
below 10×10 none. False positives: samples that are smooth by nature (out of focus by an eighth of the frame, clouds), if the base
was not trained on such.

Sources: von Neumann 1941 (ratio of mean square differences to variance); Moran 1950 (its form on a grid); Cliff and Ord 1972 (its
mean after least squares).
"""

from __future__ import annotations

import collections
import functools
import math
import zlib

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["CHANCE", "Content", "least_structure", "structure"]

CHANCE = 4.0
"""Structure from which a sample has content, in standard deviations of noise."""
RESIZED = 0.25
"""Neighbour correlation of noise after resizing with a triangle filter."""
CELLS = 8
"""Cells along each side, if they have two pixels or more."""
COARSE = 2.0  # z₈ has about 112 pairs only: two of its standard deviations must count as much as four of z₁ and z₂
"""Weight of z₈."""
HUGE = 1e15  # squares of larger values, or of values below its inverse, would leave float32's range
"""Magnitude from which samples are rescaled first."""
RARE = 0.05
"""Share of training samples that may be below the recorded structure."""
CHUNK = 1 << 18  # bounds memory
"""Number of values processed together."""
FLAT = 1e-5  # float32 arithmetic leaves such remainders in what was constant
"""A channel that varies by less than this share of its largest value is constant."""
LEAST_PIXELS = 256
"""Minimum sample size for detecting frozen images, and for detecting noise if no training samples were measured."""
STRIPES = 8.0
"""Weight of the difference between directions: 8 (1 - ½) is ``CHANCE``."""
SURFACES = ((2, 0.5), (6, 0.1))
"""Degree of the polynomial, and the residual share of the variance below which its fit counts."""
BLOCKS_PER_TERM = 4  # with fewer, the residual has too few degrees of freedom
"""Minimum number of blocks per term of a polynomial; smaller images are not fitted."""
ROUNDED = 1e-3
"""Residual share of the variance that 8-bit rounding explains."""
RECENT = 16
"""Number of earlier samples that count as recent, besides those of the batch."""


def structure(x: Array) -> Array:
    """Compute the structure of samples.

    Args:
        x: Shape (n, channels, height, width) or (n, channels, steps), float32, finite; or vectors or tokens, which have no neighbours.

    Returns:
        Shape (n,), float32, in standard deviations; -∞ for constant samples, ∞ for vectors and tokens.
    """
    if x.ndim < 3:
        return np.full(len(x), np.inf, dtype=np.float32)
    if x.ndim == 3:
        x = x[:, :, None]
    step = max(1, CHUNK // max(1, math.prod(x.shape[1:])))
    found = [_structure(x[first : first + step]) for first in range(0, len(x), step)]
    return np.concatenate([np.empty(0, dtype=np.float32), *found])


def _structure(x: Array) -> Array:
    height, width = x.shape[2:]
    largest, smallest = x.max(axis=(2, 3)), x.min(axis=(2, 3))
    size = np.maximum(largest, -smallest)
    varies = largest / 2 - smallest / 2 > FLAT * size  # halves: 3e38 less -3e38 would overflow
    if size.max() > HUGE or size.min() < 1 / HUGE:
        x = x / np.maximum(size, np.float32(1e-37))[:, :, None, None]
    rows, columns, square = _alike(x)
    fine = _z(rows, columns, square, height, width) - _resized(x)
    found = np.maximum(fine, _likeness(_blocks(x)))
    if min(height, width) > 1:
        found = np.minimum(found, _beyond_surface(x))
        # the numbers of pairs that ``_alike`` counts: a row's last pixel and the next row's first are one
        apart = np.abs(rows / (height * width - 1) - columns / (height * width - width)) * (height * width) / square
        coarse = COARSE * _likeness(_cells(x))
        found = np.minimum(found, np.minimum(coarse, STRIPES * (1 - apart)))
    result: Array = np.where(varies, found, -np.inf).max(axis=1)
    return result


def _resized(x: Array) -> float:
    """Return ¼ √M₁."""
    return RESIZED * math.sqrt(_pairs(*x.shape[2:]))


def _beyond_surface(x: Array) -> Array:
    """Return the structure of each channel's residual after a polynomial fit, shape (n, channels); ∞ if the fit explains little."""
    blocks = _blocks(x)
    u = _centred(blocks)
    square = np.maximum(np.einsum("np,np->n", u, u), np.float32(1e-37))
    x, found = x.reshape(-1, 1, *x.shape[2:]), np.full(len(u), np.inf, dtype=np.float32)
    for degree, share in SURFACES:
        basis = _polynomials(*blocks.shape[2:], degree)
        if len(basis) < BLOCKS_PER_TERM * basis.shape[1]:
            break
        fit = u @ basis
        left = 1 - np.einsum("np,np->n", fit, fit) / square
        if (near := left < share).any():
            rest = (u[near] - fit[near] @ basis.T).reshape(-1, 1, *blocks.shape[2:])
            z = _likeness(rest)[:, 0] + _taken(rest, degree)
            if len(basis) < LEAST_PIXELS:  # below 32×32 pixels z₂ of the residual alone has too few pairs to decide
                u_fine, basis = _centred(x[near]), _polynomials(*x.shape[2:], degree)
                rest = (u_fine - (u_fine @ basis) @ basis.T).reshape(-1, *x.shape[1:])
                z = np.maximum(z, _likeness(rest)[:, 0] - _resized(rest) + _taken(rest, degree))
            found[near] = np.minimum(found[near], np.where(left[near] < ROUNDED, np.minimum(z, 0), z))
    result: Array = found.reshape(blocks.shape[:2])
    return result


def _centred(x: Array) -> Array:
    """Subtract each channel's mean; shape (n · channels, height · width)."""
    u = x.reshape(-1, math.prod(x.shape[2:]))
    result: Array = u - u.mean(axis=1, keepdims=True)
    return result


def _taken(x: Array, degree: int) -> float:
    """Return K √M / P."""
    terms, height, width = (degree + 1) * (degree + 2) // 2, x.shape[2], x.shape[3]
    return float((terms - 1) * math.sqrt(_pairs(height, width)) / (height * width))


# four: two degrees, for the blocks and for the pixels of one size of image
@functools.lru_cache(maxsize=4)
def _polynomials(height: int, width: int, degree: int) -> Array:
    """Return an orthonormal basis of polynomials of rows and columns, shape (height · width, terms), float32."""
    # Legendre: powers up to the sixth are nearly dependent (condition number 93 instead of 3.5 on 16 points)
    down, across = (np.polynomial.legendre.legvander(np.linspace(-1, 1, size), degree) for size in (height, width))
    terms = [np.outer(down[:, i], across[:, j]).ravel() for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis: Array = np.linalg.qr(np.stack(terms, axis=1, dtype=np.float32))[0]
    return basis


def _blocks(x: Array) -> Array:
    """Return sums of 2×2 blocks, or of pairs if there is one row or column; an odd row or column at the end is dropped."""
    height, width = x.shape[2:]
    x = x[:, :, : height // 2 * 2 or 1, : width // 2 * 2 or 1]
    x = x if width == 1 else x[..., ::2] + x[..., 1::2]
    return x if height == 1 else x[:, :, ::2] + x[:, :, 1::2]


def _cells(x: Array) -> Array:
    """Return sums of cells; incomplete cells at the edges are dropped."""
    n, channels, height, width = x.shape
    tall, wide = max(2, height // CELLS), max(2, width // CELLS)
    rows, columns = height // tall, width // wide
    sums = np.repeat(np.eye(columns, dtype=np.float32), wide, axis=0)
    x = x[:, :, : rows * tall, : columns * wide].reshape(-1, columns * wide) @ sums
    result: Array = x.reshape(n, channels, rows, tall, columns).sum(axis=3)
    return result


def _likeness(x: Array) -> Array:
    """Return z of every channel, shape (n, channels)."""
    return _z(*_alike(x), *x.shape[2:])


def _alike(x: Array) -> tuple[Array, Array, Array]:
    """Return Σ uᵢ uⱼ over pairs in rows and in columns, and Σ uᵢ², each of shape (n, channels).

    The last pixel of a row and the first of the next count as neighbours, so that a single product computes all pairs.
    """
    height, width = x.shape[2:]
    u = _centred(x)
    pairs = [(u[:, 1:], u[:, :-1]), (u[:, width:], u[:, :-width]), (u, u)]
    rows, columns, square = (np.einsum("np,np->n", *pair).reshape(x.shape[:2]) for pair in pairs)
    return rows, columns if min(height, width) > 1 else np.zeros_like(rows), np.maximum(square, np.float32(1e-37))


def _z(rows: Array, columns: Array, square: Array, height: int, width: int) -> Array:
    result: Array = (rows + columns) / square * np.float32(height * width / math.sqrt(max(1, _pairs(height, width))))
    return result


def _pairs(height: int, width: int) -> int:
    """Return M."""
    return height * width - 1 + ((height - 1) * width if width > 1 else 0)


def least_structure(x: Array, labels: Array) -> float:
    """Return the structure that all but ``RARE`` of the training samples reach, also within each class whose median is below ``CHANCE``.

    Args:
        x: Training samples, as for ``structure``.
        labels: Class indices, shape (n,).
    """
    found = structure(x)
    classes = [found[labels == label] for label in np.unique(labels)]
    # by the median, so that a single odd or damaged sample does not make its class one with little structure
    plain = [each for each in classes if np.quantile(each, 0.5, method="lower") < CHANCE]
    return min(float(np.quantile(each, RARE, method="lower")) for each in (found, *plain))


class Content:
    """Detects which samples of a stream have content.

    Args:
        least: ``least_structure`` of the base's training samples; None if it was not recorded.
        pixels: Height times width of a sample.
    """

    def __init__(self, least: float | None, *, pixels: int) -> None:
        if least is None:
            # float32's minimum: only constant samples, -∞, are then without content
            least = CHANCE if pixels >= LEAST_PIXELS else float(np.finfo(np.float32).min) if pixels > 1 else -math.inf
        self._least, self._freezes = min(CHANCE, least), pixels >= LEAST_PIXELS
        self.forget()

    def forget(self) -> None:
        """Reset the state: the last image's checksum, and which of the last ``RECENT`` samples had structure."""
        self._last: int | None = None
        self._lately = collections.deque[bool](maxlen=RECENT)

    def structured(self, x: Array) -> Array:
        """Return whether each sample by itself has the structure of content: shape (n,), bool."""
        result: Array = structure(x) >= self._least
        return result

    def __call__(self, x: Array) -> Array:
        """Return which of the next samples of a stream have content: shape (n,), bool."""
        result = self.structured(x)
        # checksums, not the images: samples are not stored
        sums = [zlib.crc32(sample) for sample in np.ascontiguousarray(x)] if self._freezes else list(range(len(x)))
        seen, fresh = {self._last}, np.ones(len(x), dtype=bool)
        for row, checksum in enumerate(sums):
            fresh[row] = checksum not in seen
            seen.add(checksum)
        lately = [*self._lately, *result[fresh].tolist()]
        self._lately.extend(result[fresh].tolist())
        result &= fresh
        if self._freezes and result.any():
            self._last = sums[int(np.flatnonzero(result)[-1])]
        if 2 * sum(lately) < len(lately):  # a blind camera's noise passes the test now and then by chance
            result[:] = False
        return result
