"""Log-mel spectrograms: how a sound becomes the image of one channel that a network takes.

    power_t(f) = |Σ_n h(n) s(t · hop + n) e^(-2πi f n / N)|²      h: periodic Hann window;  N: the power of two from ``window``
    mel(f)     = 2595 log10(1 + f / 700)                            f in Hz
    x(b, t)    = ln max(10^-6, Σ_f w_b(f) power_t(f))               w_b: triangle of height 1, from one centre to the next

The centres are spaced evenly in mel between ``low`` and ``high``. Frames are whole: nothing is padded, and no frame reaches beyond the end.
Source: the mel scale of HTK (Young et al., The HTK Book, section 5.4).
"""

from __future__ import annotations

import functools

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.inputs import Sound

__all__ = ["FLOOR", "log_mel", "mel_filters"]

FLOOR = 1e-6
"""Least power that is told apart from silence, of samples from -1 to 1."""
BLOCK = 4096
"""Frames that are transformed at once, so that memory does not grow with the length."""


def log_mel(samples: Array, sound: Sound) -> Array:
    """Compute the spectrogram of a sound.

    Args:
        samples: Shape (n,), -1 to 1, at ``sound.rate`` samples per second.
        sound: Frames and bands.

    Returns:
        Shape (bands, frames), float32; without frames if the sound is shorter than one.
    """
    count = sound.frames(len(samples))
    found = np.empty((sound.bands, count), dtype=np.float32)
    if not count:
        return found
    frames = np.lib.stride_tricks.sliding_window_view(samples, sound.window)[:: sound.hop]
    shape = np.hanning(sound.window + 1)[:-1]  # without the last, which is the first of the next period
    size, filters = transform_size(sound), mel_filters(sound)
    for start in range(0, count, BLOCK):
        spectrum = np.fft.rfft(frames[start : start + BLOCK] * shape, size)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        found[:, start : start + BLOCK] = np.log(np.maximum(filters @ power.T, FLOOR))
    return found


def transform_size(sound: Sound) -> int:
    """Return N, the power of two from ``window`` upwards."""
    return 1 << (sound.window - 1).bit_length()


@functools.lru_cache(maxsize=8)
def mel_filters(sound: Sound) -> Array:
    """Return w, shape (bands, N / 2 + 1), float64."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (sound.low, sound.top))
    points = 700 * (10 ** (np.linspace(low, high, sound.bands + 2) / 2595) - 1)
    size = transform_size(sound)
    frequencies = np.arange(size // 2 + 1) * (sound.rate / size)
    rising = (frequencies - points[:-2, None]) / np.diff(points)[:-1, None]
    falling = (points[2:, None] - frequencies) / np.diff(points)[1:, None]
    filters: Array = np.maximum(0, np.minimum(rising, falling))
    return filters
