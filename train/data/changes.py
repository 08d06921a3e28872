"""Random changes of samples as another camera, sensor or hand would make them, in the units of the training data.

With μ, s the data's mean and deviation per channel, one draw for all samples of a call; each kind of change has its own probability:

    contrast and brightness    μ + g (x - μ) + s o          g = 2^u, u uniform in [-3, 1]; o normal; both with a smaller part per channel
    mixed channels             (1 + 0.2 Z) (x - μ) + μ      Z a matrix of normal numbers: another balance of colours, a turned sensor
    blur                       Gaussian, σ up to 2 of 32 pixels
    noise                      normal, up to s / 2
    slant, turn and size       up to 0.5, 25° and a quarter; images only

They are no augmentation: a network is not trained on them, only what they do to its BN statistics is measured.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from isoform.runtime.arrays import Array

__all__ = ["changed"]


def changed(x: Array, *, mean: Array, std: Array, rng: np.random.Generator) -> Array:
    """Draw a change, and apply it to all samples.

    Args:
        x: Samples, shape (n, channels, height, width), float32.
        mean: μ, shape (channels,).
        std: s, shape (channels,), above 0.
        rng: Generator of the draw.

    Returns:
        The same shape, float32.
    """
    _, channels, height, width = x.shape
    centre, unit = np.reshape(mean, (1, -1, 1, 1)), np.reshape(std, (1, -1, 1, 1))
    kinds = rng.uniform(size=5) < (0.7, 0.3, 0.3, 0.3, 0.3)
    z = x - centre
    if kinds[4] and height > 1:
        z = _warped(z, rng)
    if kinds[1] and channels > 1:
        mixing = np.eye(channels) + 0.2 * rng.normal(size=(channels, channels))
        z = np.einsum("dc,nchw->ndhw", mixing, z / unit) * unit
    if kinds[0]:
        gain = np.exp2(rng.uniform(-3, 1) + 0.3 * rng.normal(size=(1, channels, 1, 1)))
        offset = rng.normal() + 0.3 * rng.normal(size=(1, channels, 1, 1))
        z = gain * z + offset * unit
    if kinds[2]:
        sigma = rng.uniform(0, 2) * max(height, width) / 32
        z = ndimage.gaussian_filter(z, sigma=(0, 0, sigma if height > 1 else 0, sigma), mode="nearest")
    if kinds[3]:
        z = z + rng.uniform(0, 0.5) * unit * rng.normal(size=x.shape)
    return np.ascontiguousarray(z + centre, dtype=np.float32)


def _warped(z: Array, rng: np.random.Generator) -> Array:
    """Slant, turn and resize about the middle; edges are repeated."""
    angle, slant, size = np.deg2rad(rng.uniform(-25, 25)), rng.uniform(-0.5, 0.5), np.exp2(rng.uniform(-0.3, 0.3))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix, middle = size * turn @ np.array([[1, 0], [slant, 1]]), (np.array(z.shape[2:]) - 1) / 2
    whole = np.eye(4)
    whole[2:, 2:] = matrix
    # output to input coordinates, as ``affine_transform`` wants
    warped: Array = ndimage.affine_transform(
        z, whole, offset=(0, 0, *(middle - matrix @ middle)), order=1, mode="nearest"
    )
    return warped
