"""IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, plain or gzipped.

    u8 0, u8 0, u8 type (8 = unsigned byte), u8 number of dimensions d;  d × u32 big-endian sizes;  then the bytes, row-major

A folder holds ``*images-idx3-ubyte[.gz]`` and the ``*labels-idx1-ubyte[.gz]`` of the same name; ``t10k`` or ``test`` in a name
marks the test half. EMNIST stores images transposed, and names its labels in ``*-mapping.txt``; both are taken care of.
Source: the description at the end of LeCun's MNIST page.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from isoform.runtime.errors import DataError
from isoform.runtime.spec import Array
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_idx", "read_idx_folder"]


def read_idx(path: Path) -> Array:
    """Read one IDX file of unsigned bytes.

    Returns:
        uint8, of the shape that the file declares. A fresh array.

    Raises:
        DataError: If it is missing, not IDX, not of unsigned bytes, or shorter or longer than declared.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes; its first bytes are {data[:4].hex(' ')}, but 00 00 08 and a number of dimensions were expected"
        )
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} declares {math.prod(shape):,} bytes of shape {shape}, but holds {len(data) - start:,}; it was cut short or is damaged"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def read_idx_folder(folder: Path) -> Dataset:
    """Read the pairs of image and label files in a folder.

    Raises:
        DataError: If there is no pair, more than one for a half, or a pair does not match.
    """
    halves: dict[bool, tuple[Array, Array]] = {}
    for file in sorted(folder.glob("*images-idx3-ubyte*")):
        testing = "t10k" in file.name or "test" in file.name
        partner = folder / file.name.replace("images-idx3", "labels-idx1")
        partners = [
            path
            for path in (partner, partner.with_suffix(""), partner.with_name(f"{partner.name}.gz"))
            if path.is_file()
        ]
        if file.suffix == ".gz" and file.with_suffix("").is_file():
            continue
        if not partners:
            raise DataError(f"{file} has no labels beside it; {partner.name} was expected")
        if testing in halves:
            raise DataError(
                f"{folder} has more than one file of {'test' if testing else 'training'} images; keep one data set per folder"
            )
        images, labels = read_idx(file), read_idx(partners[0])
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{file} has shape {images.shape} and its labels {labels.shape}, but (n, height, width) and (n,) were expected"
            )
        if file.name.startswith("emnist"):
            images = images.transpose(0, 2, 1)
        halves[testing] = np.ascontiguousarray(images[:, None]).astype(np.float32) / np.float32(255), labels
    if not halves:
        raise DataError(f"{folder} has no IDX files; names such as train-images-idx3-ubyte.gz were expected")
    values = np.unique(np.concatenate([labels for _, labels in halves.values()]))
    names = _mapping(folder)
    classes = tuple(names.get(int(value), str(value)) for value in values)
    splits = {
        key: Split(images=images, labels=np.searchsorted(values, labels).astype(np.int64))
        for key, (images, labels) in halves.items()
    }
    first = splits.get(False) or splits[True]
    return Dataset(train=first, test=splits.get(True) if False in splits else None, classes=classes)


def _mapping(folder: Path) -> dict[int, str]:
    """EMNIST's names: lines of a label and the codes of its characters."""
    names = {}
    for file in sorted(folder.glob("*mapping.txt"))[:1]:
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            words = line.split()
            if len(words) < 2 or not all(word.isdigit() and int(word) < 0x110000 for word in words):
                raise DataError(f"{file} has the line {line[:40]!r}, but a label and character codes were expected")
            names[int(words[0])] = "".join(chr(int(word)) for word in words[1:])
    return names
