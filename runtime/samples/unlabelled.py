"""Samples of a stream from a user's files, with labels only where these happen to be known: adaptation never sees them.

    folder/*.png, folder/*.csv    one image per sample, or recordings, in the order of their names
    samples.csv                   one column per channel, one row per moment
    samples.npz                   an array "x", shape (n, channels, height, width)

and every form of ``labelled.py``, whose labels then say how much was right. Recordings are cut into windows as there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from isoform.runtime import files
from isoform.runtime.errors import InputError
from isoform.runtime.samples.images import load_image
from isoform.runtime.samples.labelled import SIZE_LIMIT, image_files, read_arrays, read_labelled, read_recording
from isoform.runtime.spec import Array

__all__ = ["Stream", "read_stream"]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Samples in order."""

    x: Array
    """Shape (n, channels, height, width), float32."""
    labels: tuple[str, ...] | None
    """n names, for counting what is right; None if nobody knows."""


def read_stream(path: Path, *, shape: tuple[int, int, int]) -> Stream:
    """Read samples.

    Args:
        path: A folder, a .csv or an .npz file, as above.
        shape: Channels, height, width of the network's samples.

    Raises:
        InputError: If there is nothing there, or a file is malformed; names the file, and the row where there is one.
    """
    if path.is_dir():
        images, recordings = image_files(path), sorted(path.glob("*.csv"))
        if not images and not recordings:
            return _labelled(path, shape)
        samples = [load_image(image, shape=shape) for image in images]
        samples += [window for recording in recordings for window in read_recording(recording, shape=shape)]
        return _stream(path, samples, shape)
    if path.suffix == ".npz":
        return _arrays(path, shape)
    if path.suffix == ".csv":
        header = files.read_bytes(path, limit=SIZE_LIMIT, error=InputError, what="CSV file").split(b"\n", 1)[0]
        if b"label" not in [name.strip().strip(b'"') for name in header.removeprefix(b"\xef\xbb\xbf").split(b",")]:
            return _stream(path, list(read_recording(path, shape=shape)), shape)
    return _labelled(path, shape)


def _stream(path: Path, samples: list[Array], shape: tuple[int, int, int]) -> Stream:
    if not samples:
        raise InputError(f"{path} has no samples; a window needs {shape[2]} rows")
    return Stream(np.stack(samples), None)


def _labelled(path: Path, shape: tuple[int, int, int]) -> Stream:
    found = read_labelled(path, shape=shape)
    return Stream(found.x, found.labels)


def _arrays(path: Path, shape: tuple[int, int, int]) -> Stream:
    arrays = read_arrays(path)
    if "labels" in arrays:
        return _labelled(path, shape)
    if "x" not in arrays:
        raise InputError(f"{path} has no array x; write it with numpy.savez(path, x=...)")
    return Stream(arrays["x"], None)
