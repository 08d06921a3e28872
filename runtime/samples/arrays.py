"""Reader of untrusted .npz files, and of .npy files, which are mapped into memory, without pickle.

Every size is compared with the limit and with the file's actual content before memory is allocated for it.

    x.npz                                       arrays x, labels and groups, the latter two where there are some
    x.npy, labels.npy, groups.npy in a folder   the same; x stays on disk if it is float32 in C order, so that it may be larger than the memory
"""

from __future__ import annotations

import io
import lzma
import math
import os
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

__all__ = ["is_arrays", "read_arrays"]

HEADER_LIMIT = 10_000
"""Maximum length of an .npy header, in bytes; those of plain arrays have 118."""
END, END_MARK = struct.Struct("<4sHHHHIIH"), b"PK\5\6"
LOCATOR, LOCATOR_MARK = struct.Struct("<4sIQI"), b"PK\6\7"
"""Locator of the zip64 record, before the end of archives above 2 GiB; that record then has the size of the directory."""
RECORD, RECORD_MARK = struct.Struct("<4sQHHIIQQQQ"), b"PK\6\6"
COMMENT_LIMIT = (1 << 16) - 1
DIRECTORY_LIMIT = 1 << 20
"""Maximum size of an archive's directory, in bytes: more than 10,000 files, for which zipfile allocates about 10 MB."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, TypeError, SyntaxError,
    OverflowError, NotImplementedError, RuntimeError, KeyError, IndexError, AttributeError, RecursionError,
)  # fmt: skip
"""Exceptions of zipfile and numpy for damaged archives; neither has a common class. ``test_arrays.py`` tries over a thousand archives."""


def is_arrays(path: Path) -> bool:
    """Return whether a path is an .npz file, an .npy file of samples, or a folder with ``x.npy``."""
    # os.path, because Path.is_dir raises OSError on names that are too long or folders that may not be entered
    return os.path.isfile(path / "x.npy") or (path.suffix.lower() in (".npz", ".npy") and not os.path.isdir(path))


def read_arrays(path: Path, account: Account, *, limited: bool = True) -> dict[str, Array]:
    """Read the arrays ``x``, ``labels`` and ``groups``, if present.

    Args:
        path: An .npz file, a folder with ``x.npy``, or that file or one of another name, whose labels and groups are beside it.
        account: Counts the arrays that are skipped.
        limited: Whether x may have at most ``ISOFORM_MAX_DATA_BYTES`` where it is mapped.

    Raises:
        InputError: If the file is missing, damaged or encrypted, an array holds Python objects, or is too large.
    """
    limit = data_bytes()
    if path.suffix.lower() == ".npy" or os.path.isdir(path):
        samples = path / "x.npy" if os.path.isdir(path) else path
        others = {name: samples.with_name(f"{name}.npy") for name in ("labels", "groups")}
        found = {"x": _mapped(samples, limit if limited else 1 << 62)}
        return found | {
            name: _mapped(file, limit) for name, file in others.items() if file != samples and file.exists()
        }
    with files.open_file(path, limit=limit, error=InputError, what="file of arrays") as file:
        try:
            _check_directory(file, path)
            with zipfile.ZipFile(file) as archive:
                return {
                    name: _member(archive, entry, f"{path} cannot be read as numpy arrays: {name}", limit)
                    for name, entry in _entries(archive, path, account).items()
                }
        except MemoryError:
            raise InputError(f"{path} needs more memory than is available; give fewer samples") from None
        except DAMAGED as problem:
            raise InputError(
                f"{path} cannot be read as numpy arrays: {str(problem)[:200] or type(problem).__name__}; write it with numpy.savez(path, x=..., labels=...)"
            ) from None


def _mapped(path: Path, limit: int) -> Array:
    """Map the array of an .npy file into memory. Raises ``InputError``."""
    what = f"{path} cannot be read as a numpy array: it"
    with files.open_file(path, limit=1 << 62, error=InputError, what="array") as file:
        try:
            shape, fortran, dtype, start = _header(file, what)
            size, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - start
            if max(size, 4 * math.prod(shape)) > limit:
                raise InputError(
                    f"{path} has shape {shape}, {size:,} bytes, but at most {limit:,} are read; give fewer samples, or set ISOFORM_MAX_DATA_BYTES"
                )
            if size != there:
                raise InputError(
                    f"{what} is damaged: its shape {shape} needs {size:,} bytes, but the file has {there:,}"
                )
            if not size:
                return np.empty(shape, dtype)
            return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C")
        except OSError as problem:
            raise InputError(f"array {path} cannot be read: {problem.strerror or problem}") from None
        except DAMAGED as problem:
            raise InputError(f"{what} is damaged: {str(problem)[:200] or type(problem).__name__}") from None


def _check_directory(file: BinaryIO, path: Path) -> None:
    """Raise ``InputError`` if the archive's directory, which zipfile reads at once, would need too much memory.

    Its size is in the record at the archive's end, searched for as zipfile does, or for large archives in the zip64 record.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - COMMENT_LIMIT - END.size))
    tail = file.read()
    whole = tail[-END.size :]
    # zipfile tries the end of the file first, and searches for the mark only if there is a comment.
    at = len(tail) - END.size if whole.startswith(END_MARK) and whole.endswith(b"\0\0") else tail.rfind(END_MARK)
    if at < 0 or len(tail) - at < END.size:
        return  # not an archive: zipfile reports it
    listed = _listed(file, size - len(tail) + at, END.unpack_from(tail, at)[5])
    if listed > DIRECTORY_LIMIT:
        raise InputError(
            f"{path} has a directory of {listed:,} bytes, but at most {DIRECTORY_LIMIT:,} are read; write it with numpy.savez(path, x=..., labels=...)"
        )


def _listed(file: BinaryIO, end: int, said: int) -> int:
    """Return the size of an archive's directory: ``said`` by the end record at offset ``end``, or by a zip64 record if there is one."""
    # Some versions of zipfile use the zip64 record just before its locator, others the one that the locator points to: take the larger.
    near = end - LOCATOR.size - RECORD.size
    if near < 0:
        return said
    file.seek(near)
    before = file.read(RECORD.size + LOCATOR.size)
    mark, _, place, _ = LOCATOR.unpack_from(before, RECORD.size)
    if mark != LOCATOR_MARK:
        return said
    # clipped, because a false offset must not lead beyond the file
    file.seek(min(place, near))
    records = (before[: RECORD.size], file.read(RECORD.size))
    return max(size if mark == RECORD_MARK else said for mark, *_, size, _ in map(RECORD.unpack, records))


def _entries(archive: zipfile.ZipFile, path: Path, account: Account) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if entry.filename not in ("x.npy", "labels.npy", "groups.npy"):
            account.leave("other array")
        elif name in found:
            raise InputError(f"{path} has two arrays named {name}; write it again")
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
        # 4 bytes for every value: whatever the dtype, samples become float32
        if max(size, 4 * count) > limit:
            raise InputError(
                f"{what} has shape {shape}, {max(size, 4 * count):,} bytes, but at most {limit:,} are read; give fewer samples, or set ISOFORM_MAX_DATA_BYTES"
            )
        if entry.file_size != start + size:
            raise InputError(
                f"{what} is damaged: its shape {shape} needs {size:,} bytes, but the file has {entry.file_size - start:,}"
            )
        # In pieces, into the final array: one read() would hold the content twice.
        content, done = np.empty(size, dtype=np.uint8), 0
        while done < size and (more := stream.read(min(1 << 20, size - done))):
            content[done : done + len(more)] = np.frombuffer(more, dtype=np.uint8)
            done += len(more)
        if done != size or stream.read(1):  # zipfile verifies the checksum only when the end is read
            raise InputError(f"{what} is damaged: it ends after {done:,} of {size:,} bytes")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Read an .npy header: shape, order, dtype, and its length in bytes."""
    start = stream.read(8)
    version = np.lib.format.read_magic(io.BytesIO(start))
    # 3.0 differs only in the names of structured fields, and structured arrays are refused anyway.
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"{what} has .npy format {version[0]}.{version[1]}, but 1.0 or 2.0 was expected")
    width = 2 if version == (1, 0) else 4
    start += stream.read(width)
    length = int.from_bytes(start[8:], "little")
    if length > HEADER_LIMIT:
        raise InputError(f"{what} has a header of {length:,} bytes, but at most {HEADER_LIMIT:,} are read")
    start += stream.read(length)
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    text = io.BytesIO(start[8:])
    shape, fortran, dtype = read(text)
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects, which are never unpickled; write strings with labels.astype(str)"
        )
    if dtype.names is not None or dtype.subdtype is not None or min(shape, default=0) < 0:
        raise InputError(f"{what} is {dtype} of shape {shape}, but an array of numbers or strings was expected")
    return shape, fortran, dtype, len(start)
