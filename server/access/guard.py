"""Every request's caller, found before its route runs; and what routes ask of it.

Without a key: 401. With one that may not: 403, and no word on whether there is such a user. Open to all are only the questions
whether the server lives and is ready, and the page, which asks for a key itself.
"""

from __future__ import annotations

from flask import Flask, g, request

from isoform.server.access.keys import Keys
from isoform.server.access.scopes import ANYBODY, Caller
from isoform.server.access.tokens import Tokens
from isoform.server.problems import ForbiddenError, UnknownCallerError

__all__ = ["actor", "guard", "may_write", "require_admin", "require_metrics", "require_predict", "require_write"]

OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
OPEN_BLUEPRINT = "page"


def guard(app: Flask, *, keys: Keys | None, tokens: Tokens | None) -> None:
    """Find the caller of every request of an application; both None for no access control."""

    @app.before_request
    def find() -> None:
        if keys is None and tokens is None:
            g.caller = ANYBODY
            return
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        found = None
        if kind.lower() == "bearer" and len(text) <= 8192:
            text = text.strip()
            if text.startswith("iso_"):
                found = keys.caller(text) if keys is not None else None
            elif tokens is not None:
                found = tokens.caller(text)
        if found is None and request.path not in OPEN and request.blueprint != OPEN_BLUEPRINT:
            raise UnknownCallerError("a key was expected: Authorization: Bearer KEY; 'isoform key add' makes one")
        g.caller = found


def _caller() -> Caller:
    caller: Caller = g.caller
    return caller


def actor() -> str:
    """The caller's name."""
    return _caller().name


def require_predict(user: str | None) -> None:
    """Raise ``ForbiddenError`` if the caller may not use that user's signature; None for the base signature."""
    if not _caller().may_predict(user):
        needed = f"predict:{user}" if user else "predict"
        raise ForbiddenError(f"this key may not predict as {user or 'a base signature'}; it needs the scope {needed}")


def may_write(user: str) -> bool:
    """Whether the caller may change that user's signature, and see all of it."""
    return _caller().may_write(user)


def require_write(user: str) -> None:
    """Raise ``ForbiddenError`` if the caller may not change that user's signature."""
    if not _caller().may_write(user):
        raise ForbiddenError(f"this key may not do that for {user!r}; it needs the scope write:{user}")


def require_metrics() -> None:
    """Raise ``ForbiddenError`` if the caller may not read Prometheus' page."""
    if not _caller().may_read_metrics:
        raise ForbiddenError("this key may not read metrics; it needs the scope metrics")


def require_admin() -> None:
    """Raise ``ForbiddenError`` if the caller is no administrator."""
    if not _caller().is_admin:
        raise ForbiddenError("this key may not do that; it needs the scope admin")
