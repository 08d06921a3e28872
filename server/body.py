"""A request's body as it was before it was compressed, and an answer compressed where that was asked for and pays.

Never more bytes than the limit, however well they were compressed.
"""

from __future__ import annotations

import gzip
import zlib

from flask import Request, Response
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from isoform.runtime.errors import InputError

__all__ = ["compressed", "read_body"]

WORTH = 4096
"""Shorter answers are sent as they are: compressing them costs more time than it saves."""
LEVEL = 1
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def read_body(request: Request, *, limit: int) -> bytes:
    """All of it.

    Args:
        request: The request.
        limit: Longest body, in bytes.

    Raises:
        RequestEntityTooLarge: If it is longer.
        UnsupportedMediaType: If it is encoded in a way that is not known.
        InputError: If it is not what its encoding says, or breaks off.
    """
    try:
        data = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # a server's own way of saying so: gunicorn's errors are no OSError
        raise InputError("the body cannot be read: its chunks are malformed, or it breaks off") from None
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
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
        raise RequestEntityTooLarge
    if not decoder.eof or decoder.unused_data:
        raise InputError(f"the body is cut short, or more follows its {encoding}")
    return plain


def compressed(response: Response, request: Request) -> Response:
    """The same answer, by gzip or deflate if the client takes it and it is long."""
    data = response.get_data()
    if len(data) < WORTH:
        return response
    accepted = request.accept_encodings
    if accepted["gzip"] > 0:
        response.set_data(gzip.compress(data, LEVEL))
        response.headers["Content-Encoding"] = "gzip"
    elif accepted["deflate"] > 0:
        response.set_data(zlib.compress(data, LEVEL))
        response.headers["Content-Encoding"] = "deflate"
    response.headers["Vary"] = "Accept-Encoding"
    return response
