"""What a request's query and headers say: numbers, and nothing that is not known, because it would be ignored."""

from __future__ import annotations

from flask import Flask, request

from isoform.runtime.errors import UsageError

__all__ = ["LAST", "PAGE_LIMIT", "check_queries", "number"]

PAGE_LIMIT = 1000
"""Longest page of a list."""
LAST = (1 << 31) - 1
"""Nothing that is numbered has a higher number; PostgreSQL could not compare one with it."""
KNOWN = {
    "signatures.listed": ("after", "limit"), "signatures.file": ("revision",), "signatures.revisions": ("before", "limit"),
    "learning.personalize": ("parts",), "learning.adapt": ("method",), "templates.templates": ("signature",), "audit.listed": ("before", "limit"),
}  # fmt: skip
"""Endpoint → names that its query may have; all others have none."""
ANY = frozenset({"health.live", "health.ready", "page.index", "page.file"})
"""Whatever a balancer or a link adds to these is left alone: it cannot change what their answer means."""
WITHOUT_KEY = frozenset({"learning.personalize", "learning.adapt", "signatures.delete"})
"""Endpoints that would do again what is sent again, whatever its ``Idempotency-Key``."""


def check_queries(app: Flask) -> None:
    """Let every request of an application be refused whose query or ``Idempotency-Key`` would be ignored."""

    @app.before_request
    def check() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in ANY:
            return
        known = KNOWN.get(endpoint, ())
        for name, values in request.args.lists():
            if name not in known:
                raise UsageError(
                    f"the query names {name[:80]!r}, but {' or '.join(known) or 'none'} was expected; leave it out"
                )
            if len(values) > 1:
                raise UsageError(f"the query names {name!r} {len(values)} times, but once was expected")
        if "Idempotency-Key" in request.headers and endpoint in WITHOUT_KEY and request.method != "OPTIONS":
            raise UsageError(
                "Idempotency-Key was sent, but what this does is done again if it is sent again; leave the header out, and send If-Match"
            )


def number(name: str, default: int, least: int, most: int) -> int:
    """A whole number of this request's query, or the default if it is not there. Raises ``UsageError`` if it is out of range."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and least <= int(text) <= most):
        raise UsageError(f"{name} is {text[:40]!r}, but a whole number from {least} to {most} was expected")
    return int(text)
