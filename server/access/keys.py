"""API keys of the form ``iso_<id>_<secret>``. The store has the id and the secret's sha256, so reading the store reveals no usable key.

A secret has 256 random bits, so one fast hash is enough; slow hashes are for passwords. Look-ups are cached: a revoked key is refused by
every process after at most ``SECONDS``. While the store does not answer, a key that was valid less than ``AWAY_SECONDS`` ago is accepted.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
from typing import Any

import sqlalchemy as sql

from isoform.runtime.errors import StoreError, UsageError
from isoform.runtime.formats.signature import check_name
from isoform.server.exchange.caller import Caller, check_scopes
from isoform.server.store.schema import events, keys
from isoform.server.store.store import Store, clock

__all__ = ["Key", "Keys"]

log = logging.getLogger("isoform.server")

SECONDS = 2.0
"""How long a look-up is cached."""
AWAY_SECONDS = 300.0
"""How long an expired cache entry is used while the store does not answer."""
PATIENCE_SECONDS = 0.5
"""How long a request with a cached key waits for a store that hangs."""
REMEMBERED = 10_000
"""Entries of the cache of known ids, and of the one of unknown ids."""
_KEY = re.compile(r"iso_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """A key, without its secret."""

    id: str
    name: str
    scopes: frozenset[str]
    created: int
    revoked: int | None
    """Time of revocation, None if active. Times are milliseconds since 1970, UTC, by the database's clock."""


class Keys:
    """The API keys of a store, with a cache. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = collections.OrderedDict[str, tuple[float, tuple[bytes, Caller]]]()
        self._unknown = collections.OrderedDict[str, float]()
        """Ids without a key (negative cache); separate, so that a flood of invalid keys cannot evict valid ones."""
        self._lock = threading.Lock()
        self._away = -SECONDS

    def add(self, name: str, scopes: list[str]) -> str:
        """Create a key.

        Args:
            name: Name of the caller, recorded with each revision as its actor.
            scopes: Scopes of the key.

        Returns:
            The key. It cannot be read again: the store has only its hash.

        Raises:
            SignatureError: If the name is invalid.
            UsageError: If a scope is invalid.
        """
        check_name(name, what="the key")
        found = " ".join(sorted(check_scopes(scopes)))
        if len(found) > 2000:
            raise UsageError("the scopes are longer than 2,000 characters together; make several keys")
        identity, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        row = {
            "id": identity,
            "name": name,
            "hash": hashlib.sha256(secret.encode()).digest(),
            "scopes": found,
        }
        with self._store.writing() as connection:
            now = clock(connection)
            connection.execute(sql.insert(keys), {**row, "created": now})
            # Without an actor: keys are made by the command line, and the event names the key by its id.
            connection.execute(sql.insert(events), {"created": now, "actor": "", "action": f"key {identity}"})
        return f"iso_{identity}_{secret}"

    def listed(self) -> list[Key]:
        """All keys, oldest first, including revoked ones."""
        with self._store.reading() as connection:
            return [_key(row) for row in connection.execute(sql.select(keys).order_by(keys.c.created, keys.c.id)).all()]

    def revoke(self, identity: str) -> bool:
        """Revoke a key. Returns whether an active key had that id."""
        query = sql.update(keys).where(keys.c.id == identity, keys.c.revoked.is_(None))
        with self._store.writing() as connection:
            now = clock(connection)
            done = bool(connection.execute(query.values(revoked=now)).rowcount)
            if done:
                connection.execute(sql.insert(events), {"created": now, "actor": "", "action": f"revoke {identity}"})
        with self._lock:  # at once in this process; others notice when their cache entry expires
            self._known.pop(identity, None)
        return done

    def caller(self, text: str) -> Caller | None:
        """The caller of a key; None if the key is invalid or revoked."""
        parts = _KEY.fullmatch(text)
        if parts is None:
            return None
        found = self._look_up(parts[1])
        hashed = hashlib.sha256(parts[2].encode()).digest()
        # In constant time, so that response times reveal nothing about the stored hash.
        if found is None or not hmac.compare_digest(found[0], hashed):
            return None
        return found[1]

    def knows(self, text: str) -> bool:
        """Whether exactly this key was valid when it was last looked up, less than ``AWAY_SECONDS`` ago."""
        parts = _KEY.fullmatch(text)
        known = None if parts is None else self._recall(parts[1])[0]
        if parts is None or known is None or known[0] <= time.monotonic() - AWAY_SECONDS:
            return False
        return hmac.compare_digest(known[1][0], hashlib.sha256(parts[2].encode()).digest())

    def at_hand(self, text: str) -> bool:
        """Whether ``caller`` can answer from the cache, without blocking on the store."""
        parts = _KEY.fullmatch(text)
        if parts is None:
            return True
        known, unknown = self._recall(parts[1])
        return max(-math.inf if known is None else known[0], unknown) > time.monotonic() - SECONDS

    def _recall(self, identity: str) -> tuple[tuple[float, tuple[bytes, Caller]] | None, float]:
        """The cache entry of an id, with its time, and the time at which the id was last found unknown."""
        with self._lock:
            return self._known.get(identity), self._unknown.get(identity, -math.inf)

    def _look_up(self, identity: str) -> tuple[bytes, Caller] | None:
        # Taken before the query: a revocation during it must not be overlooked for longer than ``SECONDS``.
        moment = time.monotonic()
        known, unknown = self._recall(identity)
        if known is not None and moment - known[0] < SECONDS:
            return known[1]
        if moment - unknown < SECONDS:
            return None
        # There is nothing to fall back on, so a store that does not answer makes this a 503.
        if known is None or moment - known[0] > AWAY_SECONDS:
            found = self._read(identity)
        elif moment - self._away < SECONDS:  # the store did not answer a moment ago: do not wait for it again
            return known[1]
        else:
            try:
                found = self._store.within(PATIENCE_SECONDS, lambda: self._read(identity))
            except StoreError as problem:
                self._away = moment
                log.error("%s; keys that were valid in the last %.0f s are accepted", problem, AWAY_SECONDS)
                return known[1]
        with self._lock:
            self._known.pop(identity, None)
            self._unknown.pop(identity, None)
            if found is not None:
                self._known[identity] = moment, found
            else:
                self._unknown[identity] = moment
            for remembered in (self._known, self._unknown):
                if len(remembered) > REMEMBERED:
                    remembered.popitem(last=False)
        return found

    def _read(self, identity: str) -> tuple[bytes, Caller] | None:
        with self._store.reading() as connection:
            row = connection.execute(sql.select(keys).where(keys.c.id == identity, keys.c.revoked.is_(None))).first()
        return (
            None
            if row is None
            else (bytes(row.hash), Caller(row.name, frozenset(row.scopes.split()), f"key:{identity}"))
        )


def _key(row: Any) -> Key:
    return Key(id=row.id, name=row.name, scopes=frozenset(row.scopes.split()), created=row.created, revoked=row.revoked)
