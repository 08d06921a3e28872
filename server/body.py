"""A request's body as it was before it was compressed, and an answer compressed where that was asked for and pays.

Never more bytes than the limit, however well they were compressed.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_accept_header
from werkzeug.wsgi import get_input_stream

from isoform.runtime.errors import InputError

__all__ = ["compressed", "read_body"]

WORTH = 4096
"""Shorter answers are sent as they are: compressing them costs more time than it saves."""
LEVEL = 1
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def read_body(environ: dict[str, Any], *, limit: int) -> bytes:
    """All of it.

    Args:
        environ: The request, as WSGI has it.
        limit: Longest body, in bytes.

    Raises:
        RequestEntityTooLarge: If it is longer.
        UnsupportedMediaType: If it is encoded in a way that is not known.
        InputError: If it is not what its encoding says, or breaks off.
    """
    try:
        data = _plain(environ, limit)
    except RequestEntityTooLarge:
        raise _too_long(limit) from None
    except HTTPException:
        raise
    except Exception:  # a server's own way of saying so: gunicorn's errors are no OSError
        raise InputError("the body cannot be read: its chunks are malformed, or it breaks off") from None
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in _WINDOWS:
        raise UnsupportedMediaType(f"Content-Encoding is {encoding[:40]!r}, but gzip, deflate or none was expected")
    decoder = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = decoder.decompress(data, limit + 1)
    except zlib.error:
        raise InputError(f"the body is not {encoding}, as its Content-Encoding says") from None
    if len(plain) > limit:
        raise _too_long(limit)
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


def _plain(environ: dict[str, Any], limit: int) -> bytes:
    """As it came."""
    length = environ.get("CONTENT_LENGTH", "")
    if not (length.isascii() and length.isdigit() and int(length) <= limit):
        found: bytes = get_input_stream(environ, max_content_length=limit).read()
        return found
    data: bytes = environ["wsgi.input"].read(int(length))  # most bodies say how long they are
    if len(data) < int(length):
        raise InputError(f"the body breaks off after {len(data)} of {length} bytes")
    return data


def _too_long(limit: int) -> RequestEntityTooLarge:
    return RequestEntityTooLarge(
        f"the body is longer than the {limit:,} bytes that this server reads; send fewer samples at a time"
    )
