"""Samples of sounds: each file's spectrogram, cut into windows of the network's width.

A sound that is shorter than a window gets silence on both sides, as a spoken word has; a longer one is cut, and frames at its end that do
not fill a window are left out and counted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.inputs import Sound
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.recordings.windows import windows
from isoform.runtime.samples.sounds.files import load_sound
from isoform.runtime.samples.sounds.spectrogram import log_mel

__all__ = ["check_fits", "clips", "filled"]


def check_fits(sound: Sound, shape: tuple[int, int, int], *, where: object) -> None:
    """Raise ``InputError`` if a network's samples of this shape are no spectrograms of such sounds."""
    if shape[:2] != (1, sound.bands):
        raise InputError(
            f"{where}: samples have {shape[0]} channels of {shape[1]} rows, but spectrograms of {sound.bands} bands have 1 channel of {sound.bands}"
        )


def clips(path: Path, *, sound: Sound, shape: tuple[int, int, int], stride: int | None, account: Account) -> Array:
    """Read the samples of one file.

    Args:
        path: The file.
        sound: How a sound becomes a spectrogram.
        shape: Channels (1), bands, frames of a sample.
        stride: Frames between the beginnings of two windows; None for windows that follow each other.
        account: Counts what is read and left out.

    Returns:
        Shape (n, 1, bands, frames), float32, n at least 1.

    Raises:
        InputError: If the file cannot be read.
        UsageError: If soundfile or soxr is not installed.
    """
    samples = load_sound(path, rate=sound.rate, account=account)
    if sound.frames(len(samples)) < shape[2]:
        account.note("shorter than a window: silence is added on both sides")
        samples = filled(samples, sound.samples(shape[2]))
    found, rest = windows(log_mel(samples, sound).T, shape[2], stride)
    account.take("window", len(found))
    account.take("sound")
    account.leave("frame at the end of a sound", rest)
    return found[:, None]


def filled(samples: Array, length: int) -> Array:
    """Return a sound in the middle of silence, shape (length,); of an odd number of zeros the last is at the end."""
    missing = length - len(samples)
    return np.pad(samples, (missing // 2, missing - missing // 2))
