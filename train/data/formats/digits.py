"""The embedded data set: 1,797 real scans of handwritten digits from scikit-learn's package; nothing is downloaded.

Each scan is 8×8 with 17 grey levels (UCI "Optical Recognition of Handwritten Digits", test part: 13 writers). It is enlarged to
32×32 by cubic interpolation, because domains such as edges and thick strokes need pixels to act on.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from scipy import ndimage

from isoform.runtime.arrays import Array
from isoform.runtime.extras import needs

__all__ = ["digits"]


@functools.cache
def digits() -> tuple[Array, Array]:
    """Load the scans, once per process.

    Returns:
        Images, shape (1797, 1, 32, 32), float32 in [0, 1], bright ink on black; labels, shape (1797,), int64 in 0..9. Read-only.
    """
    images, labels = _scans()
    small = images.reshape(-1, 8, 8).astype(np.float64) / 16
    # grid_mode: pixels are areas. Without it their centres would be spread from edge to edge, which stretches the image.
    large = ndimage.zoom(small, (1, 4, 4), order=3, mode="nearest", grid_mode=True)
    # Cubic interpolation overshoots at strokes, so the result is clipped to the range of the scans.
    result = np.clip(large, 0, 1).astype(np.float32)[:, None], labels.astype(np.int64)
    # Read-only, because the cache hands the same arrays to every caller.
    for array in result:
        array.flags.writeable = False
    return result


def _scans() -> tuple[Array, Array]:
    """Return the scans, shape (1797, 64), 0 to 16, and their labels, shape (1797,)."""
    # scikit-learn's file itself if it is where it always was: importing scikit-learn to read it would take two seconds
    found = importlib.util.find_spec("sklearn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz" if found and found.origin else None
    if file and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1]
    with needs("the data set 'digits'", extra="train"):
        from sklearn.datasets import load_digits

    result: tuple[Array, Array] = load_digits(return_X_y=True)
    return result
