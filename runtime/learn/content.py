"""Which samples carry content: a covered lens, a dead sensor, pure noise and a frame that shows what others do carry none.

Neighbouring pixels of a picture are alike, and so are neighbouring moments of a recording; those of independent noise are not,
whatever its strength. So the test does not look at contrast: fog and low light pass. With u a channel less its mean, P pixels and
M pairs of horizontal and vertical neighbours:

    r = (Σ_pairs uᵢ uⱼ / M) / (Σ uᵢ² / P)              correlation of neighbours
    z = r √M                                           normal with mean 0 and variance 1 for independent noise
    structure = max over channels of min(max(z₁ - ¼ √M₁, z₂), 2 z₈, 8 (1 - |difference of r in rows and in columns|))

z₁ is of the channel as it is, z₂ of the means of its 2×2 blocks (of pairs, where a sample has one row), z₈ of the means of about 8×8
cells. Noise that was resized by a triangle filter, as ``isoform.runtime.samples.pictures.images`` does, has neighbours with a correlation of ¼;
this is taken off z₁, and z₂ is nearly free of it. Noise that was enlarged or stored as JPEG is alike over a few pixels, but not
over cells. Random stripes are alike in one direction only, by ½ or more. A constant sample has structure -∞; one row or column of
numbers has z₁ and z₂ alone.

Structure is not enough: a lens that is covered unevenly, a gradient and a still scene are smooth. So a sample is also compared with the
two before it and the two after, or the nearest four that there are. With u the means of its 2×2 blocks less each channel's mean, and
e what remains of u after least squares on theirs, it shows nothing new if Σ e² < ``EXPLAINED`` Σ u² and z of e is below ``CHANCE``, or if
Σ e² < ``ROUNDED`` Σ u². Samples of one class differ by more, and if more
than ``FEW`` of those of late are new, all count as new. This is only asked of samples with ``LEAST_NEW`` pixels or more.

A sample carries content if its structure is at least ``CHANCE``, four standard deviations, and it shows something new. What the base was
trained on is content as well, whatever it looks like (a class "nothing there", letters of DNA): ``isoform compile`` records the
structure that all but ``RARE`` of every class's training samples reach, and the smaller number counts. Where most samples of late have
less, the camera sees nothing, and the few that reach it by chance carry no content either.

Not noticed: noise whose grains are an eighth of the frame or wider (enlarged from 8×8 pixels), the first sample of a
covered lens that comes alone (three of a gradient that turns), and smooth shapes that change and are no content.

Sources: von Neumann 1941 (ratio of mean square differences to variance); Moran 1950 (its form on a grid).
"""

from __future__ import annotations

import collections
import math
import zlib

import numpy as np

from isoform.runtime.spec import Array

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
CHUNK = 256
"""Samples that are looked at together, which bounds memory."""
FLAT = 1e-5
"""A channel that varies by less than this share of its largest value is constant: float32 arithmetic leaves such remainders."""
LEAST_PIXELS = 256
"""If no facts of training samples were recorded, noise is only told from content in samples of at least this size."""
STRIPES = 8.0
NEIGHBOURS = 4
EXPLAINED, ROUNDED = 0.5, 1e-3
"""What remains of a sample of 8 bits without noise is its rounding: a thousandth or less."""
FEW = 0.34
"""Samples that show nothing new are only left out where no more than this share of late does: small digits of one class are alike."""
LEAST_NEW = 512
RECENT = 16
"""Samples that "of late" means, besides those of the batch."""


def structure(x: Array) -> Array:
    """Structure of samples.

    Args:
        x: Shape (n, channels, height, width), float32, finite.

    Returns:
        Shape (n,), float32, in standard deviations; -∞ for constant samples.
    """
    height, width = x.shape[2:]
    largest, smallest = x.max(axis=(2, 3)), x.min(axis=(2, 3))
    size = np.maximum(largest, -smallest)
    varies = largest / 2 - smallest / 2 > FLAT * size  # halves: 3e38 less -3e38 would overflow
    if size.max(initial=0) > HUGE or size.min(initial=HUGE) < 1 / HUGE:
        x = x / np.maximum(size, np.float32(1e-37))[:, :, None, None]
    rows, columns, square = _alike(x)
    fine = _z(rows, columns, square, height, width) - RESIZED * math.sqrt(_pairs(height, width))
    found = np.maximum(fine, _likeness(_blocks(x)))
    if min(height, width) > 1:
        apart = np.abs(rows / (height * width - 1) - columns / (height * width - width)) * (height * width) / square
        coarse = COARSE * _likeness(_cells(x))
        found = np.minimum(found, np.minimum(coarse, STRIPES * (1 - apart)))
    result: Array = np.where(varies, found, -np.inf).max(axis=1)
    return result


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
    u = x.reshape(-1, height * width)
    u = u - u.mean(axis=1, keepdims=True)
    pairs = [(u[:, 1:], u[:, :-1]), (u[:, width:], u[:, :-width]), (u, u)]
    rows, columns, square = (np.einsum("np,np->n", *pair).reshape(x.shape[:2]) for pair in pairs)
    return rows, columns if min(height, width) > 1 else np.zeros_like(rows), np.maximum(square, np.float32(1e-37))


def _z(rows: Array, columns: Array, square: Array, height: int, width: int) -> Array:
    result: Array = (rows + columns) / square * np.float32(height * width / math.sqrt(max(1, _pairs(height, width))))
    return result


def _pairs(height: int, width: int) -> int:
    """M."""
    return height * width - 1 + ((height - 1) * width if width > 1 else 0)


def _unit(x: Array) -> Array:
    """u of samples, each of length 1, shape (n, channels, rows, columns)."""
    size = np.maximum(x.max(axis=(1, 2, 3)), -x.min(axis=(1, 2, 3)))
    if size.max() > HUGE or size.min() < 1 / HUGE:
        x = x / np.maximum(size, np.float32(1e-37))[:, None, None, None]
    x = _blocks(x)
    x = x - x.mean(axis=(2, 3), keepdims=True)
    result: Array = x / np.maximum(np.sqrt(np.einsum("nchw,nchw->n", x, x)), np.float32(1e-20))[:, None, None, None]
    return result


def _new(u: Array, first: int) -> Array:
    """Whether samples show something that their neighbours do not: shape (n - first,), bool, for those from ``first`` on."""
    n, k = len(u), min(NEIGHBOURS, len(u) - 1)
    if k < 1:
        return np.ones(n - first, dtype=bool)
    flat, rows = u.reshape(n, -1), np.arange(first, n)
    near = np.clip(rows - k // 2, 0, n - k - 1)[:, None] + np.arange(k)
    near += near >= rows[:, None]
    alike = (flat @ flat.T).astype(np.float64)
    square = alike[near[:, :, None], near[:, None, :]] + 1e-5 * np.eye(k)
    shares = np.zeros((len(rows), n), dtype=np.float32)
    shares[np.arange(len(rows))[:, None], near] = np.linalg.solve(square, alike[rows[:, None], near][:, :, None])[
        ..., 0
    ]
    rest = flat[first:] - shares @ flat
    left = np.einsum("np,np->n", rest, rest)
    structured = _likeness(rest.reshape(-1, *u.shape[1:])).max(axis=1) >= CHANCE
    result: Array = (left >= EXPLAINED) | (structured & (left >= ROUNDED))
    return result


def least_structure(x: Array, labels: Array) -> float:
    """What all but ``RARE`` of every class's training samples reach.

    Args:
        x: Training samples, as for ``structure``.
        labels: Indices of classes, shape (n,).
    """
    found = structure(x)
    return min(float(np.quantile(found[labels == label], RARE, method="lower")) for label in np.unique(labels))


class Content:
    """Tells which samples of a stream carry content.

    Args:
        least: ``least_structure`` of the base's training samples; None if it was not recorded.
        pixels: Height times width of a sample.
    """

    def __init__(self, least: float | None, *, pixels: int) -> None:
        if least is None:
            least = CHANCE if pixels >= LEAST_PIXELS else float(np.finfo(np.float32).min) if pixels > 1 else -math.inf
        self._least, self._compares = min(CHANCE, least), pixels >= LEAST_NEW
        self.forget()

    def forget(self) -> None:
        """Forget what was seen: a checksum, ``NEIGHBOURS`` samples at half their size, and which of the last ``RECENT`` had structure."""
        self._last: int | None = None
        self._before: Array | None = None
        self._news = collections.deque[bool](maxlen=RECENT)
        self._lately = collections.deque[bool](maxlen=RECENT)

    def __call__(self, x: Array) -> Array:
        """Judge the next samples: shape (n,), bool. One that repeats one of its batch, or the last one before it, tells nothing new."""
        found = np.concatenate([structure(x[first : first + CHUNK]) for first in range(0, len(x), CHUNK)])
        result: Array = found >= self._least
        sums = [zlib.crc32(sample) for sample in np.ascontiguousarray(x)]
        seen, fresh = set() if self._last is None else {self._last}, np.ones(len(x), dtype=bool)
        for row, checksum in enumerate(sums):
            fresh[row] = checksum not in seen
            seen.add(checksum)
        lately = [*self._lately, *result[fresh].tolist()]
        self._lately.extend(result[fresh].tolist())
        result &= fresh
        if result.any():
            self._last = sums[int(np.flatnonzero(result)[-1])]
        if self._compares:
            self._compare(x, np.flatnonzero(result & (found >= CHANCE)), result)
        if 2 * sum(lately) < len(lately):
            result[:] = False
        return result

    def _compare(self, x: Array, rows: Array, result: Array) -> None:
        """Take out those of the rows that show nothing new."""
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            u = _unit(x[part])
            known = u[:0] if self._before is None else self._before
            u = np.concatenate([known, u])
            new = _new(u, len(known))
            news = [*self._news, *new.tolist()]
            self._news.extend(new.tolist())
            if sum(news) <= FEW * len(news):
                result[part] &= new
            self._before = u[-NEIGHBOURS:].copy()
