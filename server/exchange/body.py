"""Read and decompress request bodies; compress answers where the client accepts it and it pays.

The limit applies before and after decompression, so that a small compressed body cannot expand beyond it.
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
"""Smallest answer in bytes that is compressed: for shorter ones it costs more time than it saves."""
LEVEL = 1
"""zlib's fastest level."""
PIECE = 1 << 18
"""Bytes read or decompressed at a time where the total size is unknown."""
# 16 makes zlib expect gzip's header. HTTP's "deflate" is the zlib format (RFC 9110, 8.4.1.2), not raw deflate.
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def read_body(environ: dict[str, Any], *, limit: int, hold: Callable[[int], object] | None = None) -> bytes | bytearray:
    """Read and decompress a request's body.

    Args:
        environ: The request's WSGI environment.
        limit: Largest body, in bytes, before and after decompression.
        hold: Called with the bytes that the body needs in all, to reserve memory: before a body of known length is read, and after each
            piece, of at most ``PIECE`` bytes, of one that is in chunks or decompressed. None for short bodies.

    Raises:
        RequestEntityTooLarge: If the body exceeds the limit.
        UnsupportedMediaType: If its encoding is not supported.
        InputError: If it does not match its encoding, or is truncated.
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
    except Exception:  # servers raise their own errors here: gunicorn's are not OSErrors
        raise InputError("the body cannot be read: its chunks are malformed, or it is cut short") from None
    return _unpacked(data, encoding, limit, hold) if encoding in _WINDOWS else data


def check_body(environ: dict[str, Any], *, limit: int) -> int:
    """Check a body's declared length and encoding. Returns the declared length in bytes; 0 if there is none.

    Args:
        environ: The request's WSGI environment.
        limit: Largest body, in bytes.

    Raises:
        RequestEntityTooLarge: If the declared length exceeds the limit.
        UnsupportedMediaType: If the encoding is not supported.
    """
    encoding, length = _encoding(environ), environ.get("CONTENT_LENGTH", "")
    if encoding not in ("", "identity", *_WINDOWS):
        raise UnsupportedMediaType(f"Content-Encoding is {encoding[:40]!r}, but gzip, deflate or none was expected")
    # int() alone accepts signs, spaces, underscores and other scripts' digits.
    if not (length.isascii() and length.isdigit()):
        return 0
    if len(length) > 12 or int(length) > limit:
        raise _too_long(limit)
    return int(length)


def _encoding(environ: dict[str, Any]) -> str:
    return str(environ.get("HTTP_CONTENT_ENCODING", "identity")).strip().lower()


def _unpacked(data: bytes | bytearray, encoding: str, limit: int, hold: Callable[[int], object] | None) -> bytearray:
    """Decompress a body piece by piece, and stop as soon as it exceeds the limit, or ``hold`` refuses what it has become."""
    decoder, plain, rest = zlib.decompressobj(_WINDOWS[encoding]), bytearray(), bytes(data)
    while not decoder.eof:
        try:
            piece = decoder.decompress(rest, PIECE)
        except zlib.error:
            raise InputError(f"the body is not valid {encoding}, but its Content-Encoding says so") from None
        plain += piece
        rest = decoder.unconsumed_tail
        if len(plain) > limit:
            raise _too_long(limit)
        if not piece and not decoder.eof:  # truncated: there is no input left
            break
        if hold is not None:
            # Twice each: ``rest`` is a copy of ``data``, and a growing bytearray may be moved, which needs both places.
            hold(2 * len(data) + 2 * len(plain))
    if not decoder.eof or decoder.unused_data:
        raise InputError(f"the {encoding} body is cut short, or followed by more bytes")
    return plain


def compressed(data: bytes, accepted: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Compress an answer's body by gzip or deflate, if it is long enough and the client accepts it.

    Args:
        data: The body.
        accepted: The request's ``Accept-Encoding``.

    Returns:
        The body, compressed or not, and the headers to add.
    """
    if len(data) < WORTH:
        return data, ()
    vary, wanted = ("Vary", "Accept-Encoding"), parse_accept_header(accepted, Accept)
    # Above 0, because ``gzip;q=0`` means "not gzip" (RFC 9110, 12.4.2).
    if wanted["gzip"] > 0:
        return gzip.compress(data, LEVEL), (("Content-Encoding", "gzip"), vary)
    if wanted["deflate"] > 0:
        return zlib.compress(data, LEVEL), (("Content-Encoding", "deflate"), vary)
    # Vary also uncompressed: a cache must know that the answer depends on Accept-Encoding (RFC 9110, 12.5.5).
    return data, (vary,)


def _plain(environ: dict[str, Any], limit: int, hold: Callable[[int], object] | None) -> bytes | bytearray:
    """Read a body as it was sent, still compressed."""
    length = environ.get("CONTENT_LENGTH", "")
    if length.isascii() and length.isdigit():
        size = int(length)
        if hold is not None:
            hold(2 * size)  # the server's buffer, and the copy that is returned
        data: bytes | bytearray = environ["wsgi.input"].read(size)
        if len(data) < size:
            raise InputError(f"the body is cut short after {len(data)} of {size} bytes")
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
        f"the body exceeds this server's limit of {limit:,} bytes; send fewer samples at a time"
    )
