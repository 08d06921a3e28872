"""A token issuer's public keys (JWKS, RFC 7517), from a file that is reloaded when it changes.

A key is used if ``use`` and ``key_ops`` allow signatures or are absent, and its type, curve and ``alg`` fit an accepted algorithm. Other
keys, including unknown types, are skipped. If the file is damaged or missing, that is logged once and the previous keys stay in use.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import jwt

from isoform.runtime.errors import UsageError

__all__ = ["ALGORITHMS", "KeySet"]

log = logging.getLogger("isoform.server")

SECONDS = 1.0
"""Interval between checks whether the file has changed; a token with an unknown key triggers a check at once."""
LARGEST = 1 << 20
"""Largest file, in bytes; enough for hundreds of keys."""
_BY_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*_RSA, *dict.fromkeys(_BY_CURVE.values()))
"""Accepted algorithms, asymmetric only: HMAC would need the secret here, and ``none`` proves nothing (RFC 8725)."""

_Found = tuple[tuple[object, dict[str, jwt.PyJWK]], ...]


class KeySet:
    """The keys in a JWKS file. Safe to use from several threads.

    Args:
        path: The file, JSON: ``{"keys": [...]}``.

    Raises:
        UsageError: If it has no usable key.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stamp, self._looked = _stamp(path), time.monotonic()
        self._keys = _read(path)

    def find(self, algorithm: str, identity: object) -> list[jwt.PyJWK]:
        """Candidate keys for verifying a token.

        Args:
            algorithm: The token's ``alg``.
            identity: The token's ``kid``; None for every key.
        """
        if time.monotonic() - self._looked > SECONDS:
            self._renew()
        found = self._matching(algorithm, identity)
        if not found:  # the issuer may have rotated its keys a moment ago
            self._renew()
            found = self._matching(algorithm, identity)
        return found

    def _matching(self, algorithm: str, identity: object) -> list[jwt.PyJWK]:
        return [
            ways[algorithm]
            for name, ways in self._keys
            # Without a ``kid`` in the key or in the token, only the signature can tell whether they belong together.
            if algorithm in ways and (name is None or identity in (None, name))
        ]

    def _renew(self) -> None:
        """Reload the file if it has changed."""
        with self._lock:
            self._looked, stamp = time.monotonic(), _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp  # taken before reading, so that a write during the read is noticed the next time
            try:
                self._keys = _read(self._path)
            except UsageError as problem:
                log.error("%s; the previous keys stay in use", problem)
            else:
                log.warning("reloaded %s: %d keys", self._path, len(self._keys))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    # Not the mtime alone: ``cp -p`` and archives keep an old one, and two quick writes may have the same.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _read(path: Path) -> _Found:
    """Read a JWKS file: each key's ``kid``, and the key for each algorithm that it may be used with."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST:,} bytes")
        content = json.loads(data)
        entries = content["keys"] if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError("it has no list 'keys'")
        found = [(entry.get("kid"), _ways(entry)) for entry in entries if isinstance(entry, dict)]
        keys = tuple((name, ways) for name, ways in found if ways)
        if not keys:
            raise ValueError(f"none of its {len(entries)} keys is a public key for signatures")
    except (OSError, ValueError, KeyError, RecursionError) as problem:
        raise UsageError(
            f'{path} is not a valid key set: {problem}; a file like {{"keys": [...]}} was expected'
        ) from None
    return keys


def _ways(entry: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """A JWK as a key for each algorithm that it may be used with; empty if it is not for signatures."""
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use") not in (None, "sig") or not isinstance(operations, list) or "verify" not in operations:
        return {}
    names = _RSA if entry.get("kty") == "RSA" else (_BY_CURVE.get(str(entry.get("crv")), ""),)
    only = entry.get("alg")
    ways = dict[str, jwt.PyJWK]()
    for name in names:
        if name and only in (None, name):
            try:
                ways[name] = jwt.PyJWK.from_dict(entry, algorithm=name)
            # Damaged or unsupported: skip it, as RFC 7517 (5) asks.
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                return {}
    return ways
