"""Convert an ASGI scope to a WSGI environment. Source: ASGI's "WSGI Compatibility", and PEP 3333.

The body is not part of it: reading ``wsgi.input`` raises ``BodyNeeded`` until ``set_body`` is called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Never
from urllib.parse import unquote_to_bytes

__all__ = ["BodyNeeded", "environ_of", "set_body"]


class BodyNeeded(BaseException):
    """A route reads the body, which is not there yet. Not an ``Exception``, so that no route handles it as an error."""


class _NotRead:
    def read(self, *_: object) -> Never:
        raise BodyNeeded

    readline = readlines = __iter__ = __next__ = read


class _Whole:
    """A received body as a file. Reading all of it at once returns it without a copy and drops the reference."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._rest = body

    def read(self, size: int = -1) -> bytes | bytearray:
        size = len(self._rest) if size is None or size < 0 else size
        if size >= len(self._rest):
            found, self._rest = self._rest, b""
        else:
            found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def readline(self, size: int = -1) -> bytes | bytearray:
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        return self.read(end if size is None or size < 0 else min(end, size))

    def readlines(self, _hint: int = -1) -> list[bytes | bytearray]:
        return list(self)

    def __iter__(self) -> Iterator[bytes | bytearray]:
        return iter(self.readline, b"")


def environ_of(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Create the WSGI environment of a request, without its body.

    Args:
        scope: An ASGI scope of type ``http``. Headers with an underscore in their name are dropped: in WSGI they would collide with
            others, like ``X_Forwarded_For`` with ``X-Forwarded-For``.
    """
    root = scope.get("root_path", "")
    path = scope["path"].removeprefix(root) if root else scope["path"]
    if "\ufffd" in path and not root and scope.get("raw_path"):  # ASGI servers replace bytes that are not UTF-8
        path = unquote_to_bytes(scope["raw_path"]).decode("utf-8", "surrogateescape")
    client, server = scope.get("client"), scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"], "SCRIPT_NAME": _latin(root), "PATH_INFO": _latin(path),
        "QUERY_STRING": scope["query_string"].decode("latin-1"), "SERVER_NAME": server[0], "SERVER_PORT": str(server[1] or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}", "wsgi.version": (1, 0), "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": _NotRead(), "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
        "wsgi.input_terminated": True,  # else werkzeug takes a chunked body, which has no length, for an empty one
    }  # fmt: skip
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in scope["headers"]:
        key = _key(name)
        if key is not None:
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


def set_body(environ: dict[str, Any], body: bytes | bytearray) -> None:
    """Set a request's received body, and describe it as one with a length and not as chunked."""
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = _Whole(body), str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)


@functools.lru_cache(1024)
def _key(name: bytes) -> str | None:
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"


def _latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
