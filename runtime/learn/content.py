"""Which samples carry content: a covered lens, a dead sensor, pure noise and a frozen picture carry none.

Neighbouring pixels of a picture are alike, and so are neighbouring moments of a recording; those of independent noise are not,
whatever its strength. So the test does not look at contrast: fog and low light pass. With u a channel less its mean, P pixels and
M pairs of horizontal and vertical neighbours:

    r = (Σ_pairs uᵢ uⱼ / M) / (Σ uᵢ² / P)              correlation of neighbours
    z = r √M                                           normal with mean 0 and variance 1 for independent noise
    structure = max over channels of min(max(z₁ - ¼ √M₁, z₂), 2 z₈, 8 (1 - |difference of r in rows and in columns|))

z₁ is of the channel's pixels, z₂ of the means of its 2×2 blocks (of pairs, where a sample has one row), z₈ of the means of about 8×8
cells. Noise that was resized by a triangle filter, as ``isoform.runtime.samples.pictures.images`` does, has neighbours with a correlation of ¼;
this is taken off z₁, and z₂ is nearly free of it. Noise that was enlarged or stored as JPEG is alike over a few pixels, but not
over cells. Random stripes are alike in one direction only, by ½ or more. A constant sample has structure -∞; one row or column of
numbers has z₁ and z₂ alone.

A lens that is covered unevenly, a vignette, a spot and a wall under a lamp are alike everywhere, and show nothing: they are a smooth
surface, and noise. So polynomials of x and y are fitted to the 2×2 blocks of a picture by least squares. Where one of degree 2
explains more than half of their variance, or one of degree 6 more than nine tenths, z₂ of what remains counts as well, if it is
smaller; in pictures of less than 32×32 the larger of z₁ and z₂. A fit of K terms besides the mean takes some correlation from noise
too, for which K √M / P is added. If less than ``ROUNDED`` of the variance remains, that is the rounding of 8 bits, and structure is 0
at most. Each sample is judged by itself, so a digit on an uneven ground, or the same sign again and again, counts.

A sample carries content if its structure is at least ``CHANCE``, four standard deviations. What the base was trained on is content
as well, whatever it looks like (a class "nothing there", letters of DNA): ``isoform compile`` records the structure that all but
``RARE`` of the training samples reach, and of each class that has little, and the smaller number counts. Where most samples of late have
less, the camera sees nothing, and the few that reach it by chance carry no content either. A picture that is bit for bit the last
with content, or one of its batch, is a frozen picture, and counts once.

Not noticed: noise whose grains are an eighth of the frame or wider (enlarged from 8×8 pixels), a spot or the edge of a shadow that is
narrower than a third of the frame, and a vignette under noise as strong as itself. Smaller than 22×22 pixels only degree 2 is fitted,
smaller than 10×10 none. Mistaken: what is smooth by nature (out of focus by an eighth of the frame, clouds), if the base saw none.

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
RESIZED = 0.25
CELLS = 8
"""Along each side, where they have two pixels or more."""
COARSE = 2.0
"""Two standard deviations of z₈, of about 112 pairs, are asked where four are of the others."""
HUGE = 1e15
"""Samples with numbers beyond this, or all below its inverse, are scaled first: their products would leave float32."""
RARE = 0.05
CHUNK = 1 << 18
"""Numbers of samples that are looked at together, which bounds memory."""
FLAT = 1e-5
"""A channel that varies by less than this share of its largest value is constant: float32 arithmetic leaves such remainders."""
LEAST_PIXELS = 256
"""Frozen pictures, and noise if no facts of training samples were recorded, are only told from content in samples of at least this size."""
STRIPES = 8.0
SURFACES = ((2, 0.5), (6, 0.1))
"""Degree, and the share of the variance that remains where the fit counts."""
BLOCKS_PER_TERM = 4
"""Smaller pictures have too few for what remains of the fit to tell anything."""
ROUNDED = 1e-3
RECENT = 16
"""Samples that "of late" means, besides those of the batch."""


def structure(x: Array) -> Array:
    """Structure of samples.

    Args:
        x: Shape (n, channels, height, width) or (n, channels, steps), float32, finite; or vectors and tokens, which have no neighbours.

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
        apart = np.abs(rows / (height * width - 1) - columns / (height * width - width)) * (height * width) / square
        coarse = COARSE * _likeness(_cells(x))
        found = np.minimum(found, np.minimum(coarse, STRIPES * (1 - apart)))
    result: Array = np.where(varies, found, -np.inf).max(axis=1)
    return result


def _resized(x: Array) -> float:
    """¼ √M₁."""
    return RESIZED * math.sqrt(_pairs(*x.shape[2:]))


def _beyond_surface(x: Array) -> Array:
    """Structure of what remains of every channel after a polynomial, shape (n, channels); ∞ where that explains little."""
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
            if len(basis) < LEAST_PIXELS:  # too few to tell by themselves
                u_fine, basis = _centred(x[near]), _polynomials(*x.shape[2:], degree)
                rest = (u_fine - (u_fine @ basis) @ basis.T).reshape(-1, *x.shape[1:])
                z = np.maximum(z, _likeness(rest)[:, 0] - _resized(rest) + _taken(rest, degree))
            found[near] = np.minimum(found[near], np.where(left[near] < ROUNDED, np.minimum(z, 0), z))
    result: Array = found.reshape(blocks.shape[:2])
    return result


def _centred(x: Array) -> Array:
    """Every channel less its mean, shape (n · channels, height · width)."""
    u = x.reshape(-1, math.prod(x.shape[2:]))
    result: Array = u - u.mean(axis=1, keepdims=True)
    return result


def _taken(x: Array, degree: int) -> float:
    """K √M / P."""
    terms, height, width = (degree + 1) * (degree + 2) // 2, x.shape[2], x.shape[3]
    return float((terms - 1) * math.sqrt(_pairs(height, width)) / (height * width))


@functools.lru_cache(maxsize=4)
def _polynomials(height: int, width: int, degree: int) -> Array:
    """An orthonormal basis of polynomials of rows and columns, shape (height · width, terms), float32."""
    down, across = (np.polynomial.legendre.legvander(np.linspace(-1, 1, size), degree) for size in (height, width))
    terms = [np.outer(down[:, i], across[:, j]).ravel() for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis: Array = np.linalg.qr(np.stack(terms, axis=1, dtype=np.float32))[0]
    return basis


def _blocks(x: Array) -> Array:
    """Sums of 2×2 blocks, of pairs where there is one row or column; an odd one at the end is left out."""
    height, width = x.shape[2:]
    x = x[:, :, : height // 2 * 2 or 1, : width // 2 * 2 or 1]
    x = x if width == 1 else x[..., ::2] + x[..., 1::2]
    return x if height == 1 else x[:, :, ::2] + x[:, :, 1::2]


def _cells(x: Array) -> Array:
    """Sums of cells; what is left over at the ends is left out."""
    n, channels, height, width = x.shape
    tall, wide = max(2, height // CELLS), max(2, width // CELLS)
    rows, columns = height // tall, width // wide
    sums = np.repeat(np.eye(columns, dtype=np.float32), wide, axis=0)
    x = x[:, :, : rows * tall, : columns * wide].reshape(-1, columns * wide) @ sums
    result: Array = x.reshape(n, channels, rows, tall, columns).sum(axis=3)
    return result


def _likeness(x: Array) -> Array:
    """z of every channel, shape (n, channels)."""
    return _z(*_alike(x), *x.shape[2:])


def _alike(x: Array) -> tuple[Array, Array, Array]:
    """Σ uᵢ uⱼ over pairs in rows and in columns, and Σ uᵢ², each of shape (n, channels).

    The last pixel of a row and the first of the next count as neighbours: one product for all.
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
    """M."""
    return height * width - 1 + ((height - 1) * width if width > 1 else 0)


def least_structure(x: Array, labels: Array) -> float:
    """What all but ``RARE`` of the training samples reach, and of those of every class of which half is below ``CHANCE``.

    A single odd or damaged sample of a class does not count, however few the class has.

    Args:
        x: Training samples, as for ``structure``.
        labels: Indices of classes, shape (n,).
    """
    found = structure(x)
    classes = [found[labels == label] for label in np.unique(labels)]
    plain = [each for each in classes if np.quantile(each, 0.5, method="lower") < CHANCE]
    return min(float(np.quantile(each, RARE, method="lower")) for each in (found, *plain))


class Content:
    """Tells which samples of a stream carry content.

    Args:
        least: ``least_structure`` of the base's training samples; None if it was not recorded.
        pixels: Height times width of a sample.
    """

    def __init__(self, least: float | None, *, pixels: int) -> None:
        if least is None:
            least = CHANCE if pixels >= LEAST_PIXELS else float(np.finfo(np.float32).min) if pixels > 1 else -math.inf
        self._least, self._freezes = min(CHANCE, least), pixels >= LEAST_PIXELS
        self.forget()

    def forget(self) -> None:
        """Forget what was seen: a checksum, and which of the last ``RECENT`` had structure."""
        self._last: int | None = None
        self._lately = collections.deque[bool](maxlen=RECENT)

    def structured(self, x: Array) -> Array:
        """Whether each sample by itself has the structure of content: shape (n,), bool."""
        result: Array = structure(x) >= self._least
        return result

    def __call__(self, x: Array) -> Array:
        """Judge the next samples of a stream: shape (n,), bool."""
        result = self.structured(x)
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
        if 2 * sum(lately) < len(lately):
            result[:] = False
        return result
