"""Who sent a request, and what that caller may do: words of a key or a token, called scopes.

    predict            with the base signatures
    predict:NAME       and with the signature of that user, of any task; ``predict:*`` with everybody's
    write:NAME         and put, personalize, adapt, roll back, delete, read the files and the history of that user; ``write:*``
    metrics            read Prometheus' page
    admin              everything, and load and unload tasks, and list users

``write`` includes ``predict`` of the same user, every one but ``metrics`` the base signatures.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from isoform.runtime.errors import UsageError

__all__ = ["ANYBODY", "NOBODY", "Caller", "check_scopes", "is_scope"]

_SCOPE = re.compile(r"admin|metrics|predict|(?:predict|write):(?:\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63})")


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """A set of scopes.

    Raises:
        UsageError: If one is none, or there are none.
    """
    found = frozenset(scopes)
    wrong = sorted(scope for scope in found if not is_scope(scope))
    if wrong or not found:
        came = f"the scope {wrong[0][:80]!r} came" if wrong else "none came"
        raise UsageError(
            f"scopes like admin, metrics, predict, predict:NAME, predict:*, write:NAME or write:* were expected, but {came}"
        )
    return found


def is_scope(word: str) -> bool:
    """Whether a word is a scope of this server; an identity provider's tokens have others beside."""
    return _SCOPE.fullmatch(word) is not None


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    name: str
    """Of the key, or the token's subject; what revisions say of who made them."""
    scopes: frozenset[str]
    id: str = ""
    """Who it is among all that have the same name: the key's id, or the token's issuer and subject. At most 64 characters; empty for nobody."""

    def may_predict(self, user: str | None) -> bool:
        """Whether it may use a user's signature; None for the base signature."""
        if user is None:
            return any(scope != "metrics" for scope in self.scopes)
        return self.may_write(user) or not self.scopes.isdisjoint(("predict:*", f"predict:{user}"))

    def may_write(self, user: str) -> bool:
        """Whether it may change a user's signature, and see all of it."""
        return not self.scopes.isdisjoint(("admin", "write:*", f"write:{user}"))

    @property
    def may_read_metrics(self) -> bool:
        """Whether it may read Prometheus' page."""
        return not self.scopes.isdisjoint(("admin", "metrics"))

    @property
    def is_admin(self) -> bool:
        """Whether it may do everything."""
        return "admin" in self.scopes


ANYBODY = Caller("", frozenset({"admin"}))
"""Where there is no access control: on loopback, by an explicit flag."""
NOBODY = Caller("", frozenset())
"""Who is not known, or not yet."""
