"""The caller of a request, and the scopes of its key or token that say what it may do.

    predict            predict with base signatures
    predict:NAME       also predict with that user's signatures; ``predict:*`` with every user's
    write:NAME         also upload, personalize, adapt, roll back, delete and read that user's signatures; ``write:*`` every user's
    metrics            read ``/metrics``
    admin              everything, including loading and unloading tasks and listing users

``write:NAME`` includes ``predict:NAME``. Every scope but ``metrics`` includes ``predict``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from isoform.runtime.errors import UsageError

__all__ = ["ANYBODY", "NOBODY", "Caller", "check_scopes", "is_scope"]

_SCOPE = re.compile(r"admin|metrics|predict|(?:predict|write):(?:\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63})")


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Check that scopes are valid, and return them as a set.

    Raises:
        UsageError: If one is invalid, or there are none.
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
    """Whether a word is a scope of this server; tokens of an identity provider may have others too."""
    return _SCOPE.fullmatch(word) is not None


@dataclasses.dataclass(frozen=True)
class Caller:
    """The caller of a request."""

    name: str
    """Name of the key, or subject of the token; recorded with each revision as its actor."""
    scopes: frozenset[str]
    id: str = ""
    """Unique id, at most 64 characters: the key's id, or a hash of the token's issuer and subject; empty for an anonymous caller."""

    def may_predict(self, user: str | None) -> bool:
        """Whether the caller may predict with a user's signature; None for the base signature."""
        if user is None:
            return any(scope != "metrics" for scope in self.scopes)
        return self.may_write(user) or not self.scopes.isdisjoint(("predict:*", f"predict:{user}"))

    def may_write(self, user: str) -> bool:
        """Whether the caller may change and read a user's signature."""
        return not self.scopes.isdisjoint(("admin", "write:*", f"write:{user}"))

    @property
    def may_read_metrics(self) -> bool:
        """Whether the caller may read ``/metrics``."""
        return not self.scopes.isdisjoint(("admin", "metrics"))

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an administrator, who may do everything."""
        return "admin" in self.scopes


ANYBODY = Caller("", frozenset({"admin"}))
"""The caller of every request when there is no access control (``--open``)."""
NOBODY = Caller("", frozenset())
"""An anonymous caller, or one that is not authenticated yet."""
