"""Find the caller of every request before its route runs, and check the scopes that a route requires.

Without a valid key: 401. Without the scope: 403, whether or not the user exists. Only the health routes and the page need no key; the
page asks for one itself. With ``--open`` there are no keys, and ``local.py`` checks requests instead.
"""

from __future__ import annotations

from typing import Any

from isoform.server.access.keys import Keys
from isoform.server.access.local import check_local
from isoform.server.access.tokens import TokenError, Tokens
from isoform.server.exchange.caller import ANYBODY, NOBODY, Caller
from isoform.server.exchange.problems import ForbiddenError, UnknownCallerError
from isoform.server.exchange.record import get_record

__all__ = [
    "Gate", "actor", "caller_id", "check_predict", "check_scopes_of", "may_write", "require_admin", "require_metrics",
    "require_predict", "require_write",
]  # fmt: skip

OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/"})
PAGE = "/page/"
LONGEST = 8192
"""Longest key or token, in characters."""


class Gate:
    """Authenticates requests.

    Args:
        keys: API keys to accept.
        tokens: Signed tokens to accept. Without keys and tokens there is no access control.
    """

    def __init__(self, keys: Keys | None, tokens: Tokens | None) -> None:
        self._keys, self._tokens = keys, tokens

    def find(self, environ: dict[str, Any]) -> Caller:
        """The caller of a request: ``NOBODY`` on routes that need no key, ``ANYBODY`` without access control.

        Raises:
            UnknownCallerError: If the request has no valid key or token.
            ForbiddenError: If there is no access control, and another site's page may have sent the request.
        """
        if self._keys is None and self._tokens is None:
            check_local(environ)
            return ANYBODY
        if _is_open(environ.get("PATH_INFO", "")):
            return NOBODY
        text, found = _sent(environ), None
        # No token begins like that: decoded from base64, "iso_" is not the start of a JSON object.
        if text.startswith("iso_"):
            found = self._keys.caller(text) if self._keys is not None else None
        elif text and self._tokens is not None:
            try:
                found = self._tokens.caller(text)
            except TokenError as problem:
                raise UnknownCallerError(str(problem)) from None
        if found is None:
            # One message for a missing, malformed, unknown and revoked key: it tells a guesser nothing.
            raise UnknownCallerError("a valid key was expected: Authorization: Bearer KEY; 'isoform key add' makes one")
        return found

    def knows(self, environ: dict[str, Any]) -> bool:
        """Whether the request's key or token was valid recently, by what is in memory alone. For scheduling, not for access."""
        if self._keys is None and self._tokens is None:
            return True
        text = _sent(environ)
        who = self._keys if text.startswith("iso_") else self._tokens
        return who is not None and who.knows(text)

    def at_hand(self, environ: dict[str, Any]) -> bool:
        """Whether ``find`` can run without blocking, that is without looking a key up in the store."""
        return self._keys is None or _is_open(environ.get("PATH_INFO", "")) or self._keys.at_hand(_sent(environ))


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(PAGE)


def _sent(environ: dict[str, Any]) -> str:
    """The key or token in the ``Authorization`` header, unchecked; empty for none."""
    # The scheme is case-insensitive (RFC 9110, 11.1); the length is bounded before anything is hashed or decoded.
    kind, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    text = text.strip()
    return text if kind.lower() == "bearer" and len(text) <= LONGEST else ""


def actor() -> str:
    """Name of this request's caller, for display; not unique."""
    return get_record().caller.name


def caller_id() -> str:
    """Unique id of this request's caller."""
    return get_record().caller.id


def check_scopes_of(caller: Caller) -> None:
    """Raise ``ForbiddenError`` if the caller's token is valid but has no scope of this server."""
    if not caller.scopes and caller is not NOBODY:
        raise ForbiddenError(
            "the token has none of this server's scopes, like predict or write:NAME; request one from its issuer"
        )


def check_predict(caller: Caller, user: str | None) -> None:
    """Raise ``ForbiddenError`` if a caller may not predict with a user's signature; None for the base signature."""
    if not caller.may_predict(user):
        needed = f"predict:{user}" if user else "predict"
        raise ForbiddenError(f"this key may not predict with {user or 'a base signature'}; it needs the scope {needed}")


def require_predict(user: str | None) -> None:
    """Raise ``ForbiddenError`` if this request's caller may not predict with a user's signature; None for the base signature."""
    check_predict(get_record().caller, user)


def may_write(user: str) -> bool:
    """Whether this request's caller may change and read a user's signature."""
    return get_record().caller.may_write(user)


def require_write(user: str) -> None:
    """Raise ``ForbiddenError`` if this request's caller may not change a user's signature."""
    if not get_record().caller.may_write(user):
        raise ForbiddenError(f"this key may not do that for {user!r}; it needs the scope write:{user}")


def require_metrics() -> None:
    """Raise ``ForbiddenError`` if this request's caller may not read ``/metrics``."""
    if not get_record().caller.may_read_metrics:
        raise ForbiddenError("this key may not read metrics; it needs the scope metrics")


def require_admin() -> None:
    """Raise ``ForbiddenError`` if this request's caller is not an administrator."""
    if not get_record().caller.is_admin:
        raise ForbiddenError("this key may not do that; it needs the scope admin")
