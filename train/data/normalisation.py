"""Normalisation of samples: mean and standard deviation of every channel over all tasks' training samples.

    m = mean over tasks of E[x]        s² = mean over tasks of E[x²] - m²        E: over the task's samples and pixels

Tasks have equal weight, whatever their number of samples. Both are rounded to four digits, so that ``bundle.json`` shows them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.train.data.pictures import Images, Pictures, chunks, sums_of
from isoform.train.data.samples import Dataset

__all__ = ["mean_and_std"]


def mean_and_std(datasets: Mapping[str, Dataset]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation, one number per channel each, in the unit of the samples; the deviation is at least 0.001."""
    found = [_moments(dataset.train.images) for dataset in datasets.values()]
    means, squares = np.mean(found, axis=0)
    mean = tuple(round(float(m), 4) for m in means)
    # At least 0.001, because a constant channel would divide by 0; max(…, 0), because rounding can make a variance of 0 negative.
    std = tuple(max(round(math.sqrt(max(s - m * m, 0)), 4), 1e-3) for m, s in zip(means, squares, strict=True))
    return mean, std


def _moments(images: Images) -> tuple[Array, Array]:
    """Return the means of x and x² of every channel."""
    if isinstance(images, Pictures):
        return images.summary.mean, images.summary.square
    sums = sum((sums_of(images[rows]) for rows in chunks(images)), start=np.zeros((2, images.shape[1])))
    mean, square = sums / (images.size // images.shape[1])
    return mean, square
