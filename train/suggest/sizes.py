"""Sizes of a network that fit some data: pure functions of what ``survey.py`` has found.

images     the median size, at most 224; square unless one side is half as long again as the other; the kernel makes at most 16×16 positions
windows    a multiple of 8 rows, at most 128, so that nine recordings of ten have a window, and every class about four; about 24
               positions
vectors    one position
sounds     40 bands; the median length in frames of 10 ms, at most 2 s; about 10×14 positions
"""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np

from isoform.runtime.errors import UsageError
from isoform.runtime.inputs import Sound
from isoform.train.suggest.survey import Survey
from isoform.train.suggest.times import rows_of

__all__ = ["Sizes", "sizes_for", "steps_for"]

LARGEST, GRID, ELONGATED = 224, 16, 1.5
WINDOW, POSITIONS = 128, 24
RATE, SECONDS = 16000, 2.0
"""Rate of sounds, at most, and length."""
EPOCHS, LEAST, MOST = 20, 400, 10_000
"""Epochs of training, and the least and largest number of steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Fields of a recipe."""

    input_shape: tuple[int, int, int]
    adapter_kernel: tuple[int, int]
    kernel: int = 3
    shift: int = 0
    stride: int = 0
    sound: Sound | None = None

    @property
    def grid(self) -> str:
        """Positions of the layers, ``16×16``."""
        return "×".join(str(size // part) for size, part in zip(self.input_shape[1:], self.adapter_kernel, strict=True))

    def samples(self, survey: Survey) -> list[int]:
        """Return the number of samples of each image, recording, sound, or array's sample."""
        if survey.what in ("image", "array"):
            return [1] * len(survey.labels)
        width, lengths = self.input_shape[2], [*survey.lengths]
        if self.sound is not None:  # silence is added to those that are shorter
            lengths = [
                max(width, self.sound.frames(round(length * self.sound.rate / (survey.rate or 1))))
                for length in lengths
            ]
        return [max(0, 1 + (length - width) // (self.stride or width)) for length in lengths]


def sizes_for(survey: Survey, *, window: str | None = None, stride: str | None = None) -> Sizes:
    """Choose sizes.

    Args:
        survey: What the data are.
        window: Rows of a recording, or ``2.5 s``; None to choose.
        stride: The same between the beginnings of two windows; None for windows that follow each other.

    Raises:
        UsageError: If the flags do not fit the data.
    """
    channels, height, width = survey.shape
    if survey.what == "recording":
        return _window(survey, window, stride)
    if survey.what == "sound":
        return _spectrogram(survey, window, stride)
    if window or stride:
        raise UsageError(f"--window and --stride are for recordings and sounds, but these are {survey.what}s")
    if survey.what == "array":
        kernel = _divisor(height, 12), _divisor(width, 12 if height > 1 else POSITIONS)
        return Sizes(input_shape=survey.shape, adapter_kernel=kernel, kernel=1 if height == width == 1 else 3)
    if max(height, width) < ELONGATED * min(height, width):
        height = width = round(math.sqrt(height * width))
    scale = min(1, LARGEST / max(height, width))
    (high, wide), (kernel_high, kernel_wide) = zip(
        *(_side(round(scale * side)) for side in (height, width)), strict=True
    )
    return Sizes(
        input_shape=(channels, high, wide), adapter_kernel=(kernel_high, kernel_wide), shift=max(1, min(high, wide) // GRID)
    )  # fmt: skip


def steps_for(samples: int, batch: int) -> int:
    """Return the number of steps for so many training samples: two digits, up."""
    steps = min(MOST, max(LEAST, EPOCHS * samples / batch))
    unit = 10 ** (math.floor(math.log10(steps)) - 1)
    return math.ceil(steps / unit) * unit


def _side(side: int) -> tuple[int, int]:
    """Return the nearest size whose quotient by the kernel is whole, and the kernel."""
    kernel = -(-max(1, side) // GRID)
    return kernel * max(1, round(side / kernel)), kernel


def _divisor(size: int, wanted: int) -> int:
    """Return the divisor of a size that leaves about as many positions as wanted."""
    divisors = [one for one in range(1, size + 1) if size % one == 0]
    return min(divisors, key=lambda one: abs(math.log(size / one / wanted)))


def _window(survey: Survey, window: str | None, stride: str | None) -> Sizes:
    if window is not None:
        rows = rows_of(window, flag="--window", rate=survey.rate)
        # a length in seconds is nearly met; rows are as they are given
        rows = max(4, 4 * round(rows / 4)) if "s" in window else rows
    else:
        of_class: dict[str, list[int]] = collections.defaultdict(list)
        for label, length in zip(survey.labels, survey.lengths, strict=True):
            of_class[label].append(length)
        few = min(min(max(lengths), sum(lengths) // 4) for lengths in of_class.values())
        rows = min(WINDOW, int(np.quantile(survey.lengths, 0.1, method="lower")), few)
        rows = rows // 8 * 8 or max(1, rows)
    step = 0 if stride is None else rows_of(stride, flag="--stride", rate=survey.rate)
    return Sizes(
        input_shape=(survey.shape[0], 1, rows), adapter_kernel=(1, _divisor(rows, POSITIONS)), shift=min(64, rows // 16), stride=step
    )  # fmt: skip


def _spectrogram(survey: Survey, window: str | None, stride: str | None) -> Sizes:
    assert survey.rate is not None
    rate = int(min(RATE, survey.rate))
    sound = Sound(rate=rate, window=rate // 40, hop=rate // 100)  # frames of 25 ms, every 10 ms
    each = rate / sound.hop
    seconds = min(SECONDS, float(np.median(survey.lengths)) / survey.rate)
    frames = max(1, sound.frames(round(seconds * rate)))
    if window is not None:
        frames = rows_of(window, flag="--window", rate=each, what="frames")
    kernel = -(-frames // GRID)
    frames = kernel * max(1, frames // kernel)
    step = 0 if stride is None else rows_of(stride, flag="--stride", rate=each, what="frames")
    return Sizes(
        input_shape=(1, sound.bands, frames), adapter_kernel=(_divisor(sound.bands, 12), kernel), shift=2, stride=step, sound=sound
    )  # fmt: skip
