"""Labelled samples from a user's files: images by class, recordings of sensors, or arrays.

    folder/<label>/*.png          one image per sample
    folder/<label>/*.csv          recordings: a header, then one row per moment, one column per channel
    samples.csv                   columns "file" and "label": images, paths relative to the file
                                  columns "label" and one per channel: one row per moment, a run of equal labels is a recording
    samples.npz                   arrays "x", shape (n, channels, height, width), and "labels", texts or whole numbers

A recording is cut into windows of the network's width that do not overlap; what is left at its end is dropped. A column without
a name is a row's number, as pandas writes it, and ignored.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from isoform.runtime import files
from isoform.runtime.errors import InputError
from isoform.runtime.samples.images import load_image
from isoform.runtime.spec import Array

__all__ = ["IMAGE_ENDINGS", "SIZE_LIMIT", "Labelled", "image_files", "read_arrays", "read_labelled", "read_recording"]

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp", ".gif", ".tif", ".tiff"}
SIZE_LIMIT = 1 << 30
"""Largest file of recordings or arrays that is read, in bytes."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Samples with the names of their classes."""

    x: Array
    """Shape (n, channels, height, width), float32."""
    labels: tuple[str, ...]
    """n names."""


def read_labelled(path: Path, *, shape: tuple[int, int, int]) -> Labelled:
    """Read labelled samples.

    Args:
        path: A folder, a .csv or an .npz file, as above.
        shape: Channels, height, width of the network's samples.

    Raises:
        InputError: If there is nothing there, or a file is malformed; names the file, and the row where there is one.
    """
    if path.is_dir():
        found = _folder(path, shape)
    elif path.suffix == ".npz":
        return _arrays(path)
    elif path.suffix == ".csv":
        found = _table(path, shape)
    else:
        problem = "is none of these" if path.exists() else "does not exist"
        raise InputError(f"{path} {problem}: a folder with a folder per label, a .csv or an .npz file was expected")
    samples, labels = [], []
    for sample, label in found:
        samples.append(sample)
        labels.append(label)
    if not samples:
        raise InputError(f"{path} has no samples; a window needs {shape[2]} rows of one label")
    return Labelled(np.stack(samples), tuple(labels))


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_ENDINGS)


def read_recording(path: Path, *, shape: tuple[int, int, int]) -> Iterator[Array]:
    """The windows of a .csv file with one column per channel and one row per moment; ``InputError`` if it is none."""
    header, rows = _rows(path)
    return _windows(_numbers(rows, [i for i, name in enumerate(header) if name], path, shape), shape)


def _folder(folder: Path, shape: tuple[int, int, int]) -> Iterator[tuple[Array, str]]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} has no folders, but one per label, with images or .csv files in it, was expected")
    for entry in classes:
        images, recordings = image_files(entry), sorted(entry.glob("*.csv"))
        if not images and not recordings:
            raise InputError(f"{entry} has neither images nor .csv files; put some there, or remove the folder")
        for path in images:
            yield load_image(path, shape=shape), entry.name
        for path in recordings:
            yield from ((window, entry.name) for window in read_recording(path, shape=shape))


def _table(path: Path, shape: tuple[int, int, int]) -> Iterator[tuple[Array, str]]:
    header, rows = _rows(path)
    if "label" not in header:
        raise InputError(f"{path} has columns {', '.join(header)}, but one named label was expected")
    labels = [row[header.index("label")] for row in rows]
    if "file" in header:
        for row, label in zip(rows, labels, strict=True):
            yield load_image(path.parent / row[header.index("file")], shape=shape), label
        return
    values = _numbers(rows, [i for i, name in enumerate(header) if name not in ("", "label")], path, shape)
    start = 0
    for end in range(1, len(labels) + 1):
        if end == len(labels) or labels[end] != labels[start]:
            yield from ((window, labels[start]) for window in _windows(values[start:end], shape))
            start = end


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, all rows of the header's length."""
    data = files.read_bytes(path, limit=SIZE_LIMIT, error=InputError, what="CSV file")
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"{path} is not a CSV file in UTF-8: {problem}") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise InputError(f"{path} has {len(rows)} rows, but a header and at least one more were expected")
    header, *rest = rows
    for number, row in enumerate(rest, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}, has {len(row)} fields, but the header has {len(header)}")
    return [name.strip() for name in header], rest


def _numbers(rows: Sequence[Sequence[str]], columns: Sequence[int], path: Path, shape: tuple[int, int, int]) -> Array:
    """Chosen columns as numbers, shape (moments, channels), float32."""
    channels, height, _ = shape
    if height != 1:
        raise InputError(
            f"{path} holds rows of numbers, but this network's samples are images of {height} rows; give image files"
        )
    if len(columns) != channels:
        raise InputError(f"{path} has {len(columns)} columns of numbers, but the network has {channels} channels")
    try:
        return np.array([[row[i] for i in columns] for row in rows], dtype=np.float64).astype(np.float32)
    except ValueError:
        for number, row in enumerate(rows, start=2):
            for i in columns:
                try:
                    float(row[i])
                except ValueError:
                    raise InputError(
                        f"{path}, row {number}, holds {row[i][:40]!r}, but a number was expected"
                    ) from None
        raise


def _windows(values: Array, shape: tuple[int, int, int]) -> Iterator[Array]:
    """(moments, channels) cut into windows (channels, 1, width)."""
    width = shape[2]
    for start in range(0, len(values) - width + 1, width):
        yield np.ascontiguousarray(values[start : start + width].T[:, None, :])


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays ``x`` and ``labels`` of an .npz file, those that it has; ``InputError`` if they cannot be read without pickle."""
    data = files.read_bytes(path, limit=SIZE_LIMIT, error=InputError, what="file of arrays")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("x", "labels") if name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as problem:
        raise InputError(f"{path} cannot be read as numpy arrays: {problem}") from None


def _arrays(path: Path) -> Labelled:
    arrays = read_arrays(path)
    if not {"x", "labels"} <= set(arrays):
        raise InputError(f"{path} has no arrays x and labels; write it with numpy.savez(path, x=..., labels=...)")
    x, labels = arrays["x"], arrays["labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or x.ndim < 1 or len(x) != len(labels):
        raise InputError(
            f"{path} holds labels of shape {labels.shape}, {labels.dtype}, for samples of shape {x.shape}, but one text or number per sample was expected"
        )
    return Labelled(x, tuple(str(label) for label in labels.tolist()))
