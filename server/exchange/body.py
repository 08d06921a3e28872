"""A request's body as it was before it was compressed, and an answer compressed where that was asked for and pays.

Never more bytes than the limit, however well they were compressed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_accept_header
from werkzeug.wsgi import get_input_stream

from isoform.runtime.errors import InputError, IsoformError

__all__ = ["check_body", "compressed", "read_body"]

WORTH = 4096
"""Shorter answers are sent as they are: compressing them costs more time than it saves."""
LEVEL = 1
PIECE = 1 << 18
"""Bytes that are read or unpacked at a time where nobody says how many come."""
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def read_body(environ: dict[str, Any], *, limit: int, hold: Callable[[int], object] | None = None) -> bytes | bytearray:
    """All of it.

    Args:
        environ: The request, as WSGI has it.
        limit: Longest body, in bytes, before and after decompression.
        hold: Called with numbers of bytes before they are read, so that they are counted; None for bodies that are short.

    Raises:
        RequestEntityTooLarge: If it is longer.
        UnsupportedMediaType: If it is encoded in a way that is not known.
        InputError: If it is not what its encoding says, or breaks off.
        TooLargeError: From ``hold``.
        BusyError: From ``hold``.
    """
    check_body(environ, limit=limit)
    encoding = _encoding(environ)
    try:
        data = _plain(environ, limit, hold)
    except RequestEntityTooLarge:
        raise _too_long(limit) from None
    except (HTTPException, IsoformError, MemoryError):
        raise
    except Exception:  # a server's own way of saying so: gunicorn's errors are no OSError
        raise InputError("the body cannot be read: its chunks are malformed, or it breaks off") from None
    return _unpacked(data, encoding, limit, hold) if encoding in _WINDOWS else data


def check_body(environ: dict[str, Any], *, limit: int) -> int:
    """Check what a request's head says of its body. Returns the length in bytes that it says; 0 if it says none.

    Args:
        environ: The request, as WSGI has it.
        limit: Longest body, in bytes.

    Raises:
        RequestEntityTooLarge: If it is longer.
        UnsupportedMediaType: If it is encoded in a way that is not known.
    """
    encoding, length = _encoding(environ), environ.get("CONTENT_LENGTH", "")
    if encoding not in ("", "identity", *_WINDOWS):
        raise UnsupportedMediaType(f"Content-Encoding is {encoding[:40]!r}, but gzip, deflate or none was expected")
    if not (length.isascii() and length.isdigit()):
        return 0
    if len(length) > 12 or int(length) > limit:
        raise _too_long(limit)
    return int(length)


def _encoding(environ: dict[str, Any]) -> str:
    return str(environ.get("HTTP_CONTENT_ENCODING", "identity")).strip().lower()


def _unpacked(data: bytes | bytearray, encoding: str, limit: int, hold: Callable[[int], object] | None) -> bytearray:
    """A body before it was compressed, piece by piece, so that no more than the limit is ever unpacked."""
    decoder, plain, rest = zlib.decompressobj(_WINDOWS[encoding]), bytearray(), bytes(data)
    while not decoder.eof:
        try:
            piece = decoder.decompress(rest, PIECE)
        except zlib.error:
            raise InputError(f"the body is not {encoding}, as its Content-Encoding says") from None
        plain += piece
        rest = decoder.unconsumed_tail
        if len(plain) > limit:
            raise _too_long(limit)
        if not piece and not decoder.eof:
            break
        if hold is not None:
            hold(2 * len(data) + 2 * len(plain))
    if not decoder.eof or decoder.unused_data:
        raise InputError(f"the body is cut short, or more follows its {encoding}")
    return plain


def compressed(data: bytes, accepted: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """An answer's body, by gzip or deflate if it is long and the client takes it; and the headers that say so.

    Args:
        data: The body.
        accepted: The request's ``Accept-Encoding``.
    """
    if len(data) < WORTH:
        return data, ()
    vary, wanted = ("Vary", "Accept-Encoding"), parse_accept_header(accepted, Accept)
    if wanted["gzip"] > 0:
        return gzip.compress(data, LEVEL), (("Content-Encoding", "gzip"), vary)
    if wanted["deflate"] > 0:
        return zlib.compress(data, LEVEL), (("Content-Encoding", "deflate"), vary)
    return data, (vary,)


def _plain(environ: dict[str, Any], limit: int, hold: Callable[[int], object] | None) -> bytes | bytearray:
    """As it came."""
    length = environ.get("CONTENT_LENGTH", "")
    if length.isascii() and length.isdigit():
        size = int(length)
        if hold is not None:
            hold(2 * size)  # once in a server's buffer, once as what is returned
        data: bytes | bytearray = environ["wsgi.input"].read(size)
        if len(data) < size:
            raise InputError(f"the body breaks off after {len(data)} of {size} bytes")
        return data
    found, stream = bytearray(), get_input_stream(environ, max_content_length=limit + 1)
    while piece := stream.read(PIECE):
        found += piece
        if len(found) > limit:
            raise _too_long(limit)
        if hold is not None:
            hold(2 * len(found))
    return found


def _too_long(limit: int) -> RequestEntityTooLarge:
    return RequestEntityTooLarge(
        f"the body is longer than the {limit:,} bytes that this server reads; send fewer samples at a time"
    )
