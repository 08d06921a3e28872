"""Every request's caller, found before its route runs; and what routes ask of it.

Without a key: 401. With one that may not: 403, and no word on whether there is such a user. Open to all are only the questions
whether the server lives and is ready, and the page, which asks for a key itself. Where no key is asked for (``--open``), ``local.py`` judges.
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
"""Characters of a key or a token."""


class Gate:
    """Who is let in.

    Args:
        keys: API keys.
        tokens: Signed tokens; both None for no access control.
    """

    def __init__(self, keys: Keys | None, tokens: Tokens | None) -> None:
        self._keys, self._tokens = keys, tokens

    def find(self, environ: dict[str, Any]) -> Caller:
        """A WSGI request's caller; ``NOBODY`` where no key is needed and there is access control.

        Raises:
            UnknownCallerError: If it has no valid key.
            ForbiddenError: If no key is asked for, and another site's page may have sent it.
        """
        if self._keys is None and self._tokens is None:
            check_local(environ)
            return ANYBODY
        if _is_open(environ.get("PATH_INFO", "")):
            return NOBODY
        text, found = _sent(environ), None
        if text.startswith("iso_"):
            found = self._keys.caller(text) if self._keys is not None else None
        elif text and self._tokens is not None:
            try:
                found = self._tokens.caller(text)
            except TokenError as problem:
                raise UnknownCallerError(str(problem)) from None
        if found is None:
            raise UnknownCallerError("a key was expected: Authorization: Bearer KEY; 'isoform key add' makes one")
        return found

    def knows(self, environ: dict[str, Any]) -> bool:
        """Whether a caller is expected to be let in, by what is in memory: nobody without a key or a token, where one is needed."""
        if self._keys is None and self._tokens is None:
            return True
        text = _sent(environ)
        who = self._keys if text.startswith("iso_") else self._tokens
        return who is not None and who.knows(text)

    def at_hand(self, environ: dict[str, Any]) -> bool:
        """Whether ``find`` would wait for nothing, as for a store that has to be asked whose key that is."""
        return self._keys is None or _is_open(environ.get("PATH_INFO", "")) or self._keys.at_hand(_sent(environ))


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(PAGE)


def _sent(environ: dict[str, Any]) -> str:
    """The key or token that was sent, whatever it is; empty for none."""
    kind, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    text = text.strip()
    return text if kind.lower() == "bearer" and len(text) <= LONGEST else ""


def actor() -> str:
    """The caller's name, for people; several callers may have the same."""
    return get_record().caller.name


def caller_id() -> str:
    """What tells the caller from all others."""
    return get_record().caller.id


def check_scopes_of(caller: Caller) -> None:
    """Raise ``ForbiddenError`` if a caller is known, by a token, but may do nothing here."""
    if not caller.scopes and caller is not NOBODY:
        raise ForbiddenError(
            "the token has none of this server's scopes, like predict or write:NAME; ask its issuer for one"
        )


def check_predict(caller: Caller, user: str | None) -> None:
    """Raise ``ForbiddenError`` if a caller may not use that user's signature; None for the base signature."""
    if not caller.may_predict(user):
        needed = f"predict:{user}" if user else "predict"
        raise ForbiddenError(f"this key may not predict as {user or 'a base signature'}; it needs the scope {needed}")


def require_predict(user: str | None) -> None:
    """Raise ``ForbiddenError`` if this request's caller may not use that user's signature; None for the base signature."""
    check_predict(get_record().caller, user)


def may_write(user: str) -> bool:
    """Whether the caller may change that user's signature, and see all of it."""
    return get_record().caller.may_write(user)


def require_write(user: str) -> None:
    """Raise ``ForbiddenError`` if the caller may not change that user's signature."""
    if not get_record().caller.may_write(user):
        raise ForbiddenError(f"this key may not do that for {user!r}; it needs the scope write:{user}")


def require_metrics() -> None:
    """Raise ``ForbiddenError`` if the caller may not read Prometheus' page."""
    if not get_record().caller.may_read_metrics:
        raise ForbiddenError("this key may not read metrics; it needs the scope metrics")


def require_admin() -> None:
    """Raise ``ForbiddenError`` if the caller is no administrator."""
    if not get_record().caller.is_admin:
        raise ForbiddenError("this key may not do that; it needs the scope admin")
