"""Check query parameters and headers: unknown ones are refused instead of being ignored."""

from __future__ import annotations

from flask import Flask, request

from isoform.runtime.errors import UsageError

__all__ = ["LAST", "PAGE_LIMIT", "check_queries", "number"]

PAGE_LIMIT = 1000
"""Most entries on a page of a list."""
LAST = (1 << 31) - 1
"""Largest number of a revision or event: the maximum of PostgreSQL's ``integer``."""
KNOWN = {
    "signatures.listed": ("after", "limit"), "signatures.file": ("revision",), "signatures.revisions": ("before", "limit"),
    "learning.personalize": ("parts",), "learning.adapt": ("method",), "templates.templates": ("signature",), "audit.listed": ("before", "limit"),
}  # fmt: skip
"""Endpoint → allowed query parameters; other endpoints have none."""
ANY = frozenset({"health.live", "health.ready", "page.index", "page.file"})
"""Endpoints that ignore their query: load balancers and links may add to it, and it cannot change the answer."""
WITHOUT_KEY = frozenset({"learning.personalize", "learning.adapt", "signatures.delete"})
"""Endpoints without support for ``Idempotency-Key``: a retried request is executed again."""


def check_queries(app: Flask) -> None:
    """Refuse requests whose query parameters or ``Idempotency-Key`` would be ignored."""

    @app.before_request
    def check() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in ANY:  # None: no such route, which is 404 or 405 anyway
            return
        known = KNOWN.get(endpoint, ())
        for name, values in request.args.lists():
            if name not in known:
                raise UsageError(
                    f"unknown query parameter {name[:80]!r}, but {' or '.join(known) or 'none'} was expected; leave it out"
                )
            if len(values) > 1:
                raise UsageError(f"query parameter {name!r} came {len(values)} times; send it once")
        # Not for OPTIONS: Flask answers it for the same endpoint, and nothing is executed.
        if "Idempotency-Key" in request.headers and endpoint in WITHOUT_KEY and request.method != "OPTIONS":
            raise UsageError(
                "Idempotency-Key is not supported here: a retried request is executed again; leave the header out, and send If-Match"
            )


def number(name: str, default: int, least: int, most: int) -> int:
    """An integer query parameter of this request, or the default if it is missing. Raises ``UsageError`` if it is out of range."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and least <= int(text) <= most):
        raise UsageError(f"{name} is {text[:40]!r}, but a whole number from {least} to {most} was expected")
    return int(text)
