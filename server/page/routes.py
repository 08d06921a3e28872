"""``GET /`` and the static files of the page. They need no key: they contain no data, and the page asks for a key itself.

The security headers restrict scripts, styles and requests to this server, forbid framing, and send no referrer. The page may
ask for the camera and the microphone, and not for the location, payments or USB.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from flask import Blueprint, Response, request

from isoform.server.exchange.problems import NotFoundError
from isoform.server.service.service import get_service

__all__ = ["FILES", "blueprint"]

blueprint = Blueprint("page", __name__)

INDEX = "index.html"
SCRIPTS = {
    "": ("answer", "api", "charts", "collected", "layers", "page", "people", "revisions", "state", "teach", "tour"),
    "drawing/": ("domains", "examples", "framing", "paper", "strokes"),
    "samples/": ("bytes", "chart", "csv", "intake", "kinds", "names", "pictures", "recordings", "sketch", "sounds", "spectrogram", "table", "tray", "windows"),
    "devices/": ("camera", "capture", "decode", "microphone", "open", "wave"),
}  # fmt: skip
"""Folder → names of its modules."""
FILES = {"icon.svg": "image/svg+xml", "page.css": "text/css"} | {
    f"{folder}{name}.js": "text/javascript" for folder, names in SCRIPTS.items() for name in names
}
"""File name → media type. Only these are served, so a name cannot escape the folder."""

POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "base-uri 'none'",
    "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
))  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=(self), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # may be cached, but must be revalidated by its ETag
}


@blueprint.get("/")
def index() -> Response:
    """The page, with the server's limit of a request filled in."""
    return _sent(INDEX, "text/html")


@blueprint.get("/page/<name>")
@blueprint.get("/page/<folder>/<name>")
def file(name: str, folder: str = "") -> Response:
    """A file of the page. Raises ``NotFoundError`` for other names."""
    name = f"{folder}/{name}" if folder else name
    if name not in FILES:
        raise NotFoundError(f"the page has no file {name[:64]!r}")
    return _sent(name, FILES[name])


def _sent(name: str, media: str) -> Response:
    data, tag = _read(name, get_service().settings.max_body_bytes)
    response = Response(data, content_type=f"{media}; charset=utf-8")
    response.headers.update(HEADERS)
    response.set_etag(tag)
    if "If-Match" in request.headers:  # werkzeug's make_conditional would answer 412 with the file in the body
        return response
    return response.make_conditional(request)  # type: ignore[return-value]


@functools.cache
def _read(name: str, limit: int) -> tuple[bytes, str]:
    """A file's bytes and their ETag, cached for the life of the process; the page is told the limit of a request, in bytes."""
    folder = Path(__file__).parent / ("scripts" if name.endswith(".js") else "")
    data = (folder / name).read_bytes().replace(b"{max-body-bytes}", str(limit).encode())
    return data, hashlib.sha256(data).hexdigest()[:32]
