"""Reading of sound files by soundfile (libsndfile), at the rate that a network was trained with."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.extras import needs
from isoform.runtime.formats.files import open_file
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.limits import data_bytes

__all__ = ["ENDINGS", "is_sound", "load_sound"]

ENDINGS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
"""File extensions of sounds, in lower case."""


def is_sound(ending: str) -> bool:
    """Return whether files with that extension, in lower case, are sounds."""
    return ending in ENDINGS


def load_sound(path: Path, *, rate: int, account: Account) -> Array:
    """Read a file.

    Args:
        path: The file. Of several channels the mean is taken.
        rate: Samples per second that are wanted; a file of another rate is resampled, which is noted.
        account: Receives the notes.

    Returns:
        Shape (n,), float32, -1 to 1 unless the file has larger numbers.

    Raises:
        InputError: If the file cannot be read, is no regular file, has no samples, is larger than ``ISOFORM_MAX_DATA_BYTES`` when it is
            unpacked, or a sample is not finite.
        UsageError: If soundfile or soxr is not installed.
    """
    with needs(f"reading {path}", extra="sound"):
        import soundfile
        import soxr

    limit = data_bytes()
    try:
        # no sample takes more bytes in a file than a float64
        with (
            open_file(path, limit=2 * limit, error=InputError, what="sound") as data,
            soundfile.SoundFile(data) as file,
        ):
            size = 4 * file.frames * max(file.channels, math.ceil(rate / file.samplerate))
            if size > limit:
                long = f"{file.frames / file.samplerate:,.0f} s of sound, {size:,} bytes"
                raise InputError(
                    f"{path} has {long}, but at most {limit:,} are read; cut it, or set ISOFORM_MAX_DATA_BYTES"
                )
            samples, found = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, OSError, RuntimeError) as problem:
        raise InputError(f"{path} cannot be read as a sound: {_reason(problem)}; convert it to WAV") from None
    if not len(samples):
        raise InputError(f"{path} holds no sound; remove it")
    if not np.isfinite(samples).all():
        raise InputError(f"{path} holds a sample that is not finite; repair or remove it")
    if samples.shape[1] > 1:
        account.note("several channels: their mean is taken")
    mono = samples.mean(axis=1)
    if found != rate:
        account.note(f"sounds of {found:,} Hz: resampled to {rate:,} Hz")
        mono = soxr.resample(mono, found, rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _reason(problem: Exception) -> str:
    """Return libsndfile's reason, without the path that stands before it."""
    return str(getattr(problem, "error_string", None) or getattr(problem, "strerror", None) or problem)[:200].rstrip(
        ". "
    )
