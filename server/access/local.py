"""Checks for ``--open``: accept programs on this machine and the server's own page, and refuse other web pages.

Any web page can make its visitor's browser send requests to loopback. Such a request is refused because

    Host                                             is not loopback: DNS rebinding; the authority of an absolute target likewise,
                                                     where the server tells it: WSGI servers do, ASGI has no place for it
    Sec-Fetch-Site                                   is neither ``same-origin`` nor ``none``
    Origin                                           is not the origin that Host names; ``null`` is none
    Content-Type, where something is changed         is there and neither ``application/json`` nor ``application/octet-stream``: a form's and
                                                     ``text/plain`` are sent across sites without a preflight; or is not there, with a body
                                                     that a browser sends by POST, which a page may do as well

Programs send only Host, or harmless values of the others. ``X-Forwarded-Host`` and the like are ignored. Links to the page may be
followed from any site. Sources: Fetch Metadata Request Headers (W3C), RFC 6454, the Fetch standard's CORS-safelisted request headers.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from werkzeug.exceptions import UnsupportedMediaType

from isoform.server.exchange.address import parsed
from isoform.server.exchange.problems import ForbiddenError

__all__ = ["check_local"]

# none: the user typed the address or opened a bookmark, so no page has sent the request.
SITES = frozenset({"same-origin", "none"})
MEDIA = ("application/json", "application/octet-stream")
READS = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253}))(?::\d{1,5})?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def check_local(environ: dict[str, Any]) -> None:
    """Check a request to a server without access control.

    Raises:
        ForbiddenError: If another site's page may have sent it.
        UnsupportedMediaType: If it changes something, with a content type that any page can send without a CORS preflight.
    """
    host: str | None = environ.get("HTTP_HOST")
    # PEP 3333 has no place for the target as it was sent: gunicorn adds RAW_URI, other servers REQUEST_URI.
    target = _ABSOLUTE.match(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "")
    # A request without Host passes: browsers always send one.
    for name in (host, target and target[1]):
        if name is not None and not _is_loopback(name):
            raise ForbiddenError(
                f"Host is {name[:80]!r}, but with --open a loopback name like localhost was expected; use keys instead of --open for other names"
            )
    site = environ.get("HTTP_SEC_FETCH_SITE", "none").strip().lower()
    if site not in SITES and not _follows_link(environ):
        raise ForbiddenError(
            f"a page of another site sent this (Sec-Fetch-Site: {site[:40]}); --open accepts only the server's own page"
        )
    origin: str | None = environ.get("HTTP_ORIGIN")
    if origin is not None and not _is_own(origin.strip().lower(), (host or "").lower()):
        raise ForbiddenError(
            f"Origin is {origin[:80]!r}, but Host is {(host or '')[:80]!r}; --open accepts only the server's own page"
        )
    media = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if not _changes(environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")) or media in MEDIA:
        return
    browser = (
        origin is not None or "HTTP_SEC_FETCH_SITE" in environ
    )  # some clients of the protocol send no content type
    # A page can also POST a body without any content type, and browsers send that without a preflight too.
    if media or (browser and environ["REQUEST_METHOD"] == "POST" and _has_body(environ)):
        raise UnsupportedMediaType(
            f"Content-Type is {media[:80]!r}, but {' or '.join(MEDIA)} was expected; use curl --json, or curl -T for a PUT without one"
        )


@functools.lru_cache(256)
def _is_loopback(authority: str) -> bool:
    """Whether ``host`` or ``host:port`` names this machine."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return False
    name = (parts[1] or parts[2].removesuffix(".")).lower()
    if name == "localhost":
        return True
    try:  # an address literal, never a DNS look-up: DNS rebinding is what this defends against
        return parsed(name).is_loopback
    except ValueError:
        return False


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin's host is the request's own. The scheme may differ: a proxy may terminate TLS."""
    scheme, _, authority = origin.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    return port is not None and bool(host) and authority.removesuffix(port) == host.removesuffix(port)


def _follows_link(environ: dict[str, Any]) -> bool:
    """Whether a browser navigates to the page, from a link or a bookmark."""
    return (
        environ["REQUEST_METHOD"] == "GET"
        and environ.get("PATH_INFO") == "/"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )


def _has_body(environ: dict[str, Any]) -> bool:
    return environ.get("CONTENT_LENGTH", "").strip() not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


def _changes(method: str, path: str) -> bool:
    """Whether a request may change something. Predictions and the repository index are POST but read-only."""
    return method not in READS and not path.endswith("/infer") and path != "/v2/repository/index"
