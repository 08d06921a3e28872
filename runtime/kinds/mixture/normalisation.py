"""BN of a signature: its statistics, moved by ``bn.coefficients``, and one multiplication and one addition per channel.

With m, v the running statistics, σ = √(v + ε), and d_j the directions that the bundle stores, (p_j, q_j) for every channel:

    (p, q) = Σ_j z_j (p_j, q_j),        z = ``STEP`` · the whole numbers of ``bn.coefficients``
    m̃ = m + σ p,      σ̃ = σ exp(q)
    s = γ / σ̃,        t = β - m̃ s                                 every BN channel at once

A domain shifts the statistics of thousands of channels along few directions, which ``isoform train`` finds (``train/kinds/mixture/directions.py``).
So a few dozen numbers stand for a user's 2 N statistics. The directions are int8 with one scale each.

``nearest`` is the other way round: the coefficients of given statistics. Directions are scaled so that training's changes have
coefficients of mean square 1, which is the prior; what n samples say about a channel has the variance u² / n. So z is a ridge regression,

    z = argmin Σ_c n / u² (r_c - Σ_j z_j d_jc)² + ‖z‖²,        r = ((m' - m) / σ, log(σ' / σ)),   u = ``DOUBT``

Sources: Ioffe and Szegedy 2015 (BN); Efron and Morris 1973 (empirical Bayes). Must never import torch or onnx.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.directions import STEP
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = [
    "FARTHEST",
    "bn_directions",
    "bn_scale_shift",
    "mean_and_deviation",
    "moved_by",
    "nearest",
    "own_statistics",
    "packed",
]

FARTHEST = 12.0  # exp(12) is 160,000
"""|q| above which a deviation does not move any more, so that no file can make it 0 or infinite."""
DOUBT = 8.0  # single samples differ by about 1; but the channels of a network are far from independent
"""u, in deviations σ."""


def bn_directions(tensors: Mapping[str, Array]) -> Array:
    """Return the directions d, shape (D, 2, N), float32: p_j in deviations σ, and q_j in logarithms."""
    found: Array = tensors["bn.directions"] * tensors["bn.direction_scales"][:, None, None]
    return found


def packed(directions: Array) -> dict[str, Array]:
    """Return the bundle's tensors for directions of shape (D, 2, N): int8, and one scale each, float32."""
    scales = np.maximum(np.abs(directions).max(axis=(1, 2)) / 127, 1e-12)
    whole = np.rint(directions / scales[:, None, None]).astype(np.int8)
    return {"bn.directions": whole, "bn.direction_scales": scales.astype(np.float32)}


def moved_by(tensors: Mapping[str, Array], coefficients: Array) -> Array:
    """Return (p, q), shape (2, N), float64.

    Args:
        tensors: ``templates.safetensors``' arrays.
        coefficients: A signature's ``bn.coefficients``, shape (D,).
    """
    weights = STEP * coefficients.astype(np.float64) * tensors["bn.direction_scales"]
    moved: Array = np.tensordot(weights, tensors["bn.directions"], axes=1)
    np.clip(moved[1], -FARTHEST, FARTHEST, out=moved[1])
    return moved


def mean_and_deviation(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Return m̃ and σ̃, each of shape (N,), float64.

    Args:
        spec: The network's sizes, for ε.
        tensors: ``templates.safetensors``' arrays.
        parts: A signature's ``bn.statistics``, (2, N), and its ``bn.coefficients``, (D,), which may be absent.
    """
    mean, variance = parts["bn.statistics"].astype(np.float64)
    deviation = np.sqrt(variance + spec.bn_eps)
    coefficients = parts.get("bn.coefficients")
    if coefficients is None or not coefficients.any():
        return mean, deviation
    p, q = moved_by(tensors, coefficients)
    return mean + deviation * p, deviation * np.exp(q)


def bn_scale_shift(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]) -> tuple[Array, Array]:
    """Convert BN to one multiplication and one addition per channel.

    Args:
        spec: The network's sizes, for ε.
        tensors: ``templates.safetensors``' arrays.
        parts: All BN parts of a signature, as ``Bundle.resolve`` returns them.

    Returns:
        s and t, each of shape (N,), float64.
    """
    gamma, beta = parts["bn.affine"].astype(np.float64)
    mean, deviation = mean_and_deviation(spec, tensors, parts)
    scale = gamma / deviation
    return scale, beta - mean * scale


def own_statistics(spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array]) -> Array:
    """Return statistics that normalise as the parts do without ``bn.coefficients``: m̃ and σ̃² - ε, not below 0; shape (2, N), float32."""
    mean, deviation = mean_and_deviation(spec, tensors, parts)
    return np.stack([mean, np.maximum(deviation**2 - spec.bn_eps, 0)]).astype(np.float32)


def nearest(spec: NetworkSpec, tensors: Mapping[str, Array], given: Array, found: Array, *, samples: int) -> Array:
    """Estimate the coefficients of statistics.

    Args:
        spec: The network's sizes, for ε.
        tensors: ``templates.safetensors``' arrays.
        given: The statistics that coefficients refer to, shape (2, N).
        found: The statistics of samples, shape (2, N).
        samples: n, at least 1.

    Returns:
        z / ``STEP``, shape (D,), float64, not rounded.
    """
    (m0, v0), (m1, v1) = given.astype(np.float64), found.astype(np.float64)
    s0, s1 = np.sqrt(v0 + spec.bn_eps), np.sqrt(v1 + spec.bn_eps)
    r = np.concatenate([(m1 - m0) / s0, np.log(s1 / s0)])
    rows = bn_directions(tensors).reshape(spec.bn_directions, -1).astype(np.float64)
    trust = samples / DOUBT**2
    z: Array = np.linalg.solve(trust * rows @ rows.T + np.eye(len(rows)), trust * rows @ r)
    return z / STEP
