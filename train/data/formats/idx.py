"""Read IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, plain or gzipped.

    u8 0, u8 0, u8 type (8 = unsigned byte), u8 number of dimensions d;  d × u32 big-endian sizes;  then the bytes, row-major

A folder holds ``*images-idx3-ubyte[.gz]`` and the ``*labels-idx1-ubyte[.gz]`` of the same name; ``t10k`` or ``test`` in a name
marks the test half. EMNIST stores images transposed and names its labels in ``*-mapping.txt``; both are handled.
Source: the description at the end of LeCun's MNIST page.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import DataError, InputError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.limits import data_bytes
from isoform.runtime.samples.listing import Listing
from isoform.train.data.samples import Dataset, Split

__all__ = ["read_idx", "read_idx_folder"]

HEADER_BYTES = 20
"""Longest header: 4 bytes and four sizes."""
MAPPING_LIMIT = 1 << 20
"""Largest file of label names, in bytes; EMNIST's have at most 700."""


def read_idx(path: Path) -> Array:
    """Read one IDX file of unsigned bytes.

    Returns:
        uint8, of the shape that the file declares. A fresh array.

    Raises:
        DataError: If the file is missing, not IDX, not of unsigned bytes, shorter or longer than declared, or larger than
            ``ISOFORM_MAX_DATA_BYTES``, packed or unpacked.
    """
    limit = data_bytes()
    try:
        with files.open_file(path, limit=limit + HEADER_BYTES, error=DataError, what="IDX file") as raw:
            return _content(gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw, path, limit)
    except MemoryError:
        raise DataError(f"{path} needs more memory than there is; give fewer samples") from None
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None


def _content(file: BinaryIO | gzip.GzipFile, path: Path, limit: int) -> Array:
    """Read the array of an open file. Unpacks no more than the header declares, which is compared with the limit first."""
    head = file.read(4)
    sizes = file.read(4 * min(head[3], 4)) if len(head) == 4 else b""
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes) - 3, 4))
    if head[:3] != b"\0\0\x08" or len(head) < 4 or not 1 <= head[3] == len(shape) <= 4:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes; its first bytes are {head.hex(' ')}, but 00 00 08 and a number of dimensions were expected"
        )
    declared, data = math.prod(shape), bytearray()
    if declared > limit:
        raise DataError(
            f"{path} declares {declared:,} bytes of shape {shape}, but at most {limit:,} are read; give fewer samples, or set ISOFORM_MAX_DATA_BYTES"
        )
    # One byte more than declared, to notice a longer file; never the rest, because a small gzip file can unpack to gigabytes.
    while len(data) <= declared and (more := file.read(min(1 << 20, declared + 1 - len(data)))):
        data += more
    if len(data) != declared:
        holds = f"more than {declared:,}" if len(data) > declared else f"{len(data):,}"
        raise DataError(
            f"{path} declares {declared:,} bytes of shape {shape}, but holds {holds}; it was cut short or is damaged"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_idx_folder(folder: Path, *, account: Account | None = None) -> Dataset:
    """Read the pairs of image and label files in a folder.

    Args:
        folder: The folder; hidden files and files of other names are left out.
        account: Counts the files.

    Raises:
        DataError: If there is no pair, more than one pair per half, or a pair whose shapes do not match.
    """
    halves: dict[bool, tuple[Array, Array]] = {}
    account = account or Account()
    try:
        present = Listing(folder, account).level(folder)[1]
    except InputError as problem:
        raise DataError(str(problem)) from None
    used = set()
    for file in present:
        if "images-idx3-ubyte" not in file.name:
            continue
        testing = "t10k" in file.name or "test" in file.name
        # Either file of a pair may be packed, and a packed copy may lie beside the unpacked one: each pair is read once.
        partner = folder / file.name.replace("images-idx3", "labels-idx1")
        plain = partner.with_suffix("") if partner.suffix.lower() == ".gz" else partner
        partners = [
            path for path in dict.fromkeys((plain, partner, plain.with_name(f"{plain.name}.gz"))) if path.is_file()
        ]
        copies = [file] if file.suffix.lower() == ".gz" and file.with_suffix("").is_file() else partners[1:]
        copies = [path for path in copies if path not in used]
        account.leave("packed copy", len(copies))
        used |= set(copies)
        if file in used:
            continue
        if not partners:
            raise DataError(f"{file} has no labels beside it; a file {partner.name} was expected")
        if testing in halves:
            raise DataError(
                f"{folder} has more than one file of {'test' if testing else 'training'} images; keep one data set per folder"
            )
        images, labels = read_idx(file), read_idx(partners[0])
        if images.ndim != 3 or 0 in images.shape[1:] or labels.shape != images.shape[:1]:
            raise DataError(
                f"{file} has shape {images.shape} and its labels {labels.shape}, but (n, height, width) and (n,) were expected"
            )
        used |= {file, partners[0]}
        account.files += 2
        if file.name.startswith("emnist"):
            images = images.transpose(0, 2, 1)
        halves[testing] = _scaled(images), labels
    if not halves:
        raise DataError(f"{folder} has no IDX files; names such as train-images-idx3-ubyte.gz were expected")
    # Classes are the labels of both halves: EMNIST's begin at 1, and a half may lack one.
    values = np.unique(np.concatenate([labels for _, labels in halves.values()]))
    names, mapping = _mapping(present)
    account.files += len(mapping)
    for file in set(present) - used - set(mapping):
        account.leave("file of another name", ending=file.suffix.lower())
    classes = tuple(names.get(int(value), str(value)) for value in values)
    splits = {
        key: Split(images=images, labels=np.searchsorted(values, labels).astype(np.int64))
        for key, (images, labels) in halves.items()
    }
    first = splits.get(False) or splits[True]
    if False not in splits:
        account.note("there is no training half: the test half is split")
    return Dataset(train=first, test=splits.get(True) if False in splits else None, classes=classes)


def _scaled(images: Array) -> Array:
    """Convert bytes to float32 in [0, 1], shape (n, 1, height, width), without a second array of that size."""
    return np.divide(np.ascontiguousarray(images[:, None]), np.float32(255), dtype=np.float32)


def _mapping(present: list[Path]) -> tuple[dict[int, str], list[Path]]:
    """Read EMNIST's label names from its mapping file, whose lines are a label and character codes; returns the names and the file."""
    names = {}
    found = [file for file in present if file.name.endswith("mapping.txt")][:1]
    for file in found:
        text = files.read_bytes(file, limit=MAPPING_LIMIT, error=DataError, what="file of labels")
        for line in text.decode("ascii", "replace").splitlines():
            words = line.split()
            # 0x110000 is the first number that is no code point, at which chr() fails.
            if len(words) < 2 or not all(word.isdigit() and len(word) < 8 and int(word) < 0x110000 for word in words):
                raise DataError(f"{file} has the line {line[:40]!r}, but a label and character codes were expected")
            names[int(words[0])] = "".join(chr(int(word)) for word in words[1:])
    return names, found
