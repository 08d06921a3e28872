"""Directions of BN's statistics: the few along which domains, people and devices differ, for ``bn.coefficients``.

For every task, its training samples are changed at random (``train/data/changes.py``), and those of other tasks are run through its
network as they are. With m, σ the task's own mean and deviation of a BN channel, and m', σ' those of the changed samples,

    r = ((m' - m) / σ,  log(σ' / σ))             2 N numbers for each change
    r = Σ_j a_j d_j + rest                        d_j: right singular vectors of all r, times their singular value over the root of the
                                                  number of rows, so that the mean square of a_j is 1

Not centred: no change is the origin. Statistics are computed layer after layer with the new ones, as ``runtime/learn`` re-estimates
them. Sources: Hotelling 1933 (principal components); Schneider et al. 2020 (statistics are what a corruption changes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isoform.runtime.arrays import Array
from isoform.runtime.learn.samples import spaced_rows
from isoform.train.data.changes import changed
from isoform.train.data.pictures import Images
from isoform.train.kinds.mixture.network import IsometricNetwork

__all__ = ["find_directions"]

SAMPLES, PIXELS = (16, 128), 1 << 20
"""Samples per change: as few and as many, and between them as many as have so many pixels."""
CHANGES = 192
"""Changes of all tasks together, but at least ``LEAST`` per task."""
LEAST = 8


@torch.no_grad()
def find_directions(network: IsometricNetwork, samples: Sequence[Images], *, count: int, seed: int) -> Array:
    """Measure changes, and return the leading directions.

    Args:
        network: A trained network with its final BN statistics. They are the same after the call.
        samples: Training samples of every task, shape (n, channels, height, width), float32.
        count: D.
        seed: Seed of the changes.

    Returns:
        Shape (D, 2, N), float32; zeros for the last ones if there are fewer changes than D.
    """
    spec, rng = network.spec, np.random.default_rng((seed, 2))
    least, most = SAMPLES
    size = max(least, min(most, PIXELS // (spec.input_shape[1] * spec.input_shape[2])))
    some = [x[rng.permutation(spaced_rows(len(x), 16 * size))[:size]] for x in samples]
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    rows = []
    for task in range(len(some)):
        for _ in range(max(LEAST, CHANGES // len(some))):
            rows.append(_difference(network, task, changed(some[task], mean=mean, std=std, rng=rng)))
        others = [other for other in range(len(some)) if other != task]
        rows += [_difference(network, task, some[other]) for other in rng.permutation(others)[:LEAST]]
    found = np.stack(rows).reshape(len(rows), -1)
    _, singular, right = np.linalg.svd(found, full_matrices=False)
    directions = np.zeros((count, found.shape[1]), dtype=np.float32)
    leading = min(count, len(right))
    directions[:leading] = right[:leading] * (singular[:leading, None] / np.sqrt(len(rows)))
    return directions.reshape(count, 2, -1)


def _difference(network: IsometricNetwork, task: int, x: Array) -> Array:
    """Return r of samples, shape (2, N), float64."""
    own = network.bn_statistics[task]
    before: Tensor = own.clone()
    network(torch.from_numpy(x).to(own.device), task, momentum=1.0)
    (m0, v0), (m1, v1) = before.double().cpu().numpy(), own.double().cpu().numpy()
    own.copy_(before)
    s0, s1 = np.sqrt(v0 + network.spec.bn_eps), np.sqrt(v1 + network.spec.bn_eps)
    return np.stack([(m1 - m0) / s0, np.log(s1 / s0)])
