"""Arrays of samples from .npz files, read without pickle and without believing what a file says of itself.

Every size is known, and compared with the limit and with what the archive holds, before memory is taken for it.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.formats import files
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.limits import data_bytes

__all__ = ["read_arrays"]

HEADER_LIMIT = 10_000
"""Longest description of an array's type and shape that is read, in bytes; those of plain arrays have 118."""
END, END_MARK = struct.Struct("<4sHHHHIIH"), b"PK\5\6"
LOCATOR, LOCATOR_MARK = struct.Struct("<4sIQI"), b"PK\6\7"
"""What archives above 2 GiB have before their end: where the zip64 record is, which tells the list's size instead."""
RECORD, RECORD_MARK = struct.Struct("<4sQHHIIQQQQ"), b"PK\6\6"
COMMENT_LIMIT = (1 << 16) - 1
DIRECTORY_LIMIT = 1 << 20
"""Longest list of an archive's files, in bytes: more than 10,000 files, of which zipfile makes about 10 MB."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, TypeError, SyntaxError,
    OverflowError, NotImplementedError, RuntimeError, KeyError, IndexError, AttributeError, RecursionError,
)  # fmt: skip
"""What zipfile and numpy raise over damaged archives; neither has one class for it. ``test_arrays.py`` tries over a thousand of them."""


def read_arrays(path: Path, account: Account) -> dict[str, Array]:
    """The arrays ``x`` and ``labels`` of an .npz file, those that it has.

    Args:
        path: The file.
        account: Counts the arrays that are left out.

    Raises:
        InputError: If the file is missing, damaged or encrypted, an array holds Python objects, or is too large.
    """
    limit = data_bytes()
    with files.open_file(path, limit=limit, error=InputError, what="file of arrays") as file:
        try:
            _check_directory(file, path)
            with zipfile.ZipFile(file) as archive:
                return {
                    name: _member(archive, entry, f"{path} cannot be read as numpy arrays: {name}", limit)
                    for name, entry in _entries(archive, path, account).items()
                }
        except MemoryError:
            raise InputError(f"{path} needs more memory than there is; give fewer samples") from None
        except DAMAGED as problem:
            raise InputError(
                f"{path} cannot be read as numpy arrays: {str(problem)[:200] or type(problem).__name__}; write it with numpy.savez(path, x=..., labels=...)"
            ) from None


def _check_directory(file: BinaryIO, path: Path) -> None:
    """``InputError`` if the archive lists so many files that the list alone, which zipfile reads at once, would take much memory.

    The list's size stands in the record at the archive's end, found as zipfile finds it, and for large archives in the zip64 record.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - COMMENT_LIMIT - END.size))
    tail = file.read()
    whole = tail[-END.size :]
    at = len(tail) - END.size if whole.startswith(END_MARK) and whole.endswith(b"\0\0") else tail.rfind(END_MARK)
    if at < 0 or len(tail) - at < END.size:
        return  # no archive: zipfile says so
    listed = _listed(file, size - len(tail) + at, END.unpack_from(tail, at)[5])
    if listed > DIRECTORY_LIMIT:
        raise InputError(
            f"{path} lists its files in {listed:,} bytes, but at most {DIRECTORY_LIMIT:,} are read; write it with numpy.savez(path, x=..., labels=...)"
        )


def _listed(file: BinaryIO, end: int, said: int) -> int:
    """Bytes of an archive's list of files, which ``said`` gives in the end record at ``end`` and a zip64 record otherwise.

    Some versions of zipfile take the zip64 record just before its locator, others the one that the locator points to: the larger counts.
    """
    near = end - LOCATOR.size - RECORD.size
    if near < 0:
        return said
    file.seek(near)
    before = file.read(RECORD.size + LOCATOR.size)
    mark, _, place, _ = LOCATOR.unpack_from(before, RECORD.size)
    if mark != LOCATOR_MARK:
        return said
    file.seek(min(place, near))
    records = (before[: RECORD.size], file.read(RECORD.size))
    return max(size if mark == RECORD_MARK else said for mark, *_, size, _ in map(RECORD.unpack, records))


def _entries(archive: zipfile.ZipFile, path: Path, account: Account) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if entry.filename not in ("x.npy", "labels.npy"):
            account.leave("other array")
        elif name in found:
            raise InputError(f"{path} has two arrays named {name}; write it anew")
        else:
            found[name] = entry
    return found


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str, limit: int) -> Array:
    if entry.flag_bits & 1:
        raise InputError(f"{what} is encrypted; write it without a password")
    with archive.open(entry) as stream:
        shape, fortran, dtype, start = _header(stream, what)
        count = math.prod(shape)
        size = count * dtype.itemsize
        if max(size, 4 * count) > limit:
            raise InputError(
                f"{what} has shape {shape}, {max(size, 4 * count):,} bytes, but at most {limit:,} are read; give fewer samples, or set ISOFORM_MAX_DATA_BYTES"
            )
        if entry.file_size != start + size:
            raise InputError(
                f"{what} is damaged: its shape {shape} has {size:,} bytes, but {entry.file_size - start:,} are there"
            )
        content, done = np.empty(size, dtype=np.uint8), 0
        while done < size and (more := stream.read(min(1 << 20, size - done))):
            content[done : done + len(more)] = np.frombuffer(more, dtype=np.uint8)
            done += len(more)
        if done != size or stream.read(1):  # reading to the end is what checks the checksum
            raise InputError(f"{what} is damaged: it ends after {done:,} of {size:,} bytes")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, order, type, and the bytes before the numbers."""
    start = stream.read(8)
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{what} is of the .npy format {version[0]}.{version[1]}, but 1.0 or 2.0 was expected")
    width = 2 if version == (1, 0) else 4
    start += stream.read(width)
    length = int.from_bytes(start[8:], "little")
    if length > HEADER_LIMIT:
        raise InputError(f"{what} is described by {length:,} bytes, but at most {HEADER_LIMIT:,} are read")
    start += stream.read(length)
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    text = io.BytesIO(start[8:])
    shape, fortran, dtype = read(text)
    if dtype.hasobject:
        raise InputError(f"{what} holds Python objects, which are never opened; write texts with labels.astype(str)")
    if dtype.names is not None or dtype.subdtype is not None or min(shape, default=0) < 0:
        raise InputError(f"{what} is {dtype} of shape {shape}, but an array of numbers or texts was expected")
    return shape, fortran, dtype, len(start)
