"""Recordings of spoken words as pictures: log-mel spectrograms of 48 × 96, which a network for pictures can read."""

from __future__ import annotations

import dataclasses
import wave
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array

__all__ = ["Words", "spoken", "spectrogram"]

BANDS, FRAMES = 48, 96
WINDOW, HOP, RATE = 256, 80, 8000
"""Samples of a window and between two, and per second."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Recordings."""

    x: Array
    """Shape (n, 3, 48, 96), float32, each of mean 0 and deviation 1; three channels are the same."""
    labels: Array
    people: Array
    """Names, shape (n,)."""
    classes: tuple[str, ...]


def spoken(folder: Path) -> Words:
    """Read files named ``<word>_<person>_<number>.wav``, 16 bits, 8 kHz, one channel, as the Free Spoken Digit Dataset's are."""
    paths = sorted(folder.glob("*_*_*.wav"))
    if not paths:
        raise SystemExit(f"{folder} has no files named WORD_PERSON_NUMBER.wav")
    names = [path.stem.split("_") for path in paths]
    classes = tuple(sorted({name[0] for name in names}))
    pictures = np.stack([spectrogram(_samples(path)) for path in paths])
    return Words(
        np.repeat(pictures[:, None], 3, axis=1), np.array([classes.index(name[0]) for name in names]),
        np.array([name[1] for name in names]), classes,
    )  # fmt: skip


def spectrogram(samples: Array) -> Array:
    """Return the logarithm of the energy in mel bands, shape (48, 96), float32, mean 0, deviation 1: longer ones are cut, shorter padded."""
    padded = np.pad(samples, (WINDOW // 2, 3 * WINDOW // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    energy = np.log(np.abs(np.fft.rfft(windows)) ** 2 @ _bands().T + 1e-6).T[:, :FRAMES]
    missing = FRAMES - energy.shape[1]
    energy = np.pad(energy, ((0, 0), (missing // 2, missing - missing // 2)), constant_values=energy.min())
    found: Array = ((energy - energy.mean()) / max(energy.std(), 1e-6)).astype(np.float32)
    return found


def _samples(path: Path) -> Array:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (RATE, 2, 1):
            raise SystemExit(f"{path} is not 16 bits, {RATE} Hz, one channel")
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float64) / 32768


def _bands() -> Array:
    """Triangles that are evenly spaced in mel, shape (48, WINDOW / 2 + 1)."""

    def mel(hertz: float) -> float:
        return 2595 * float(np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(60), mel(RATE / 2), BANDS + 2) / 2595) - 1)
    hertz, low, middle, high = np.fft.rfftfreq(WINDOW, 1 / RATE), edges[:-2, None], edges[1:-1, None], edges[2:, None]
    found: Array = np.maximum(0, np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
    return found
