"""Shifts of BN statistics along the bundle's directions: few numbers, which few samples can tell, and what they leave over.

A bundle stores directions d_j along which changes of lighting, of a camera or of a sensor move BN's statistics (``isoform train``).
Almost all of a domain's shift is along them, and little of what chance and a stream's classes do: so they separate the two better than
the size of a shift can. Layer after layer, with r the stream's shift in all layers so far, (p, q) as in the directions, and S what one
sample differs by:

    r = Σ_j z_j d_j + rest,        r ~ N(D z, ``DOUBT`` ν S²),        z ~ N(0, τ²)        the directions' own scale is τ = 1
    τ                              of 0 … 1 the likeliest; ℓ(τ) its log likelihood
    P = 1 - exp((ℓ(0) - ℓ(τ)) / ``TEMPER``)                           how sure it is that there is a shift; channels are not independent
    z                              P times its posterior mean
    shift = D z + b · rest,        b = max(P max(0, 1 - g ν / R), c E / (c E + g ν))

ν is the doubt of ``shrinkage.py``: the mean square of (r / S) without any shift. R and E are those of the rest and of D z, g = ``OUTSIDE``
the share of chance outside the directions, and c = ``REST`` what shifts of training's kinds leave over.

Sources: Efron and Morris 1973 (empirical Bayes); Tipping and Bishop 1999 (probabilistic principal components).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["LEAST", "DirectedShift"]

DOUBT = (
    8.0  # chance is 5 to 20 times as large along the directions as in all channels on average (docs/log.md, 2026-11-26)
)
TEMPER = 4.0
OUTSIDE = 0.5
REST = 0.25
VARIANCES = np.concatenate([[0.0], np.geomspace(0.1, 1, 9)]) ** 2
"""τ²: 0, and 0.01 to 1."""
LEAST = 0.02  # a batch in which a channel is constant would otherwise divide by almost 0
"""Minimum variance of a channel, as a share of the base's."""
FARTHEST = 12.0
"""Maximum of |p| and |q|; beyond it exp(2 q) would leave float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """The directions in one BN layer, and in all layers up to it."""

    rows: Array
    """d, shape (D, 2 c)."""
    weighted: Array
    """d / S²."""
    precision: Array
    """Σ d dᵀ / S² over these layers, shape (D, D)."""
    values: Array
    """Its eigenvalues, shape (D,)."""
    vectors: Array
    """Its eigenvectors in columns."""


class DirectedShift:
    """The believed shift of a stream, layer by layer.

    Args:
        directions: d, shape (D, 2, N): p_j in deviations, q_j in logarithms of deviations.
        spread: Source statistics' ``spread``, shape (2, N).
        rest: Whether to keep something of the rest, too.
    """

    def __init__(self, directions: Array, spread: Array, *, rest: bool = True) -> None:
        self._directions = directions.astype(np.float64)
        # a second moment's spread is twice that of a deviation's logarithm
        self._unit = spread.astype(np.float64) * np.array([[1.0], [0.5]])
        self._spread, self._rest = spread.astype(np.float64), rest
        self._layers = dict[int, _Layer]()
        self.begin()

    def begin(self) -> None:
        """Begin a forward pass."""
        self._evidence = np.zeros(len(self._directions))
        self._last: _Layer | None = None
        self.z = np.zeros(len(self._directions))
        """z by all layers so far, shape (D,)."""

    def shift(self, place: slice, delta: Array, doubt: float) -> tuple[Array, float]:
        """Return the part of a layer's shift that is believed; layers must come in order.

        Args:
            place: The layer's slice of the N channels.
            delta: Moments less the base's, in spreads, shape (2, c).
            doubt: ν.

        Returns:
            The same for the believed part; and its share of all of it, 0 to 1.
        """
        layer, unit = self._layer(place), self._unit[:, place]
        moved = delta * self._spread[:, place]
        p = moved[0]
        r = np.stack([p, 0.5 * np.log(np.maximum(1 + moved[1] - p**2, LEAST))])
        self._evidence = self._evidence + layer.weighted @ r.reshape(-1)
        sure = self._estimate(layer, doubt * DOUBT)
        inside = (self.z @ layer.rows).reshape(r.shape)
        believed = inside
        if self._rest:
            rest, chance = r - inside, OUTSIDE * doubt
            left, kind = float(((rest / unit) ** 2).mean()), REST * float(((inside / unit) ** 2).mean())
            kept = max(sure * max(0.0, 1 - chance / left) if left > 0 else 0.0, kind / (kind + chance))
            believed = inside + kept * rest
        believed = np.clip(believed, -FARTHEST, FARTHEST)
        size = float(((r / unit) ** 2).sum())
        share = float((believed * r / unit**2).sum()) / size if size > 0 else 0.0
        squares = np.maximum(np.exp(2 * believed[1]), LEAST) + believed[0] ** 2 - 1
        return np.stack([believed[0], squares]) / self._spread[:, place], min(1.0, max(0.0, share))

    def _estimate(self, layer: _Layer, noise: float) -> float:
        """Set z, and return P."""
        found = (self._evidence @ layer.vectors) / layer.values
        variances = noise / layer.values + VARIANCES[:, None]
        likelihoods = -0.5 * (np.log(variances) + found**2 / variances).sum(axis=1)
        best = int(np.argmax(likelihoods))
        sure = 1 - float(np.exp((likelihoods[0] - likelihoods[best]) / TEMPER))
        self.z = sure * (layer.vectors @ (VARIANCES[best] / variances[best] * found))
        return sure

    def _layer(self, place: slice) -> _Layer:
        if place.start not in self._layers:
            rows, unit = self._directions[:, :, place], self._unit[:, place]
            scaled = (rows / unit).reshape(len(rows), -1)
            precision = scaled @ scaled.T + (0 if self._last is None else self._last.precision)
            values, vectors = np.linalg.eigh(precision)
            values = np.maximum(values, 1e-9)
            flat, weighted = rows.reshape(len(rows), -1), (rows / unit**2).reshape(len(rows), -1)
            self._layers[place.start] = _Layer(flat, weighted, precision, values, vectors)
        self._last = self._layers[place.start]
        return self._last
