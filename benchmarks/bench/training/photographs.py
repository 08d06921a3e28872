"""Makes photographs: JPEGs whose content compresses as that of a camera does, in a folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def make(folder: Path, count: int, *, size: int = 224) -> None:
    """Write ``count`` pictures of ``size`` pixels, quality 90: smooth shapes of a class's colours, with grain.

    Args:
        folder: Where the folders of the classes are made.
        count: Number of pictures, of all classes together.
        size: Height and width in pixels.
    """
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (size, size, 3))
    for number in range(count):
        label = number % CLASSES
        coarse = rng.integers(0, 256, (7, 7, 3)) * 0.6 + 25 * label * np.array([0.4, -0.2, 0.1])
        smooth = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(smooth) + np.roll(grain, number, axis=(0, 1))
        path = folder / f"class{label}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
