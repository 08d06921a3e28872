"""An issuer's public keys (RFC 7517), from a file that is read again when it changes.

Taken are keys for signatures: ``use`` and ``key_ops`` say so or nothing, and their type, curve and ``alg`` fit an algorithm that is accepted.
Others, of unknown types too, are skipped. A file that is damaged or gone is logged once, and the keys that were read before stay in use.
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
"""At most this often the file's stamp is looked at; at once where a token names a key that is not known."""
LARGEST = 1 << 20
"""Longest file, in bytes: hundreds of keys."""
_BY_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*_RSA, *dict.fromkeys(_BY_CURVE.values()))
"""Signatures by public keys alone: a shared secret would have to be known here, and ``none`` proves nothing (RFC 8725)."""

_Found = tuple[tuple[object, dict[str, jwt.PyJWK]], ...]


class KeySet:
    """A key set's file. Safe to use from several threads.

    Args:
        path: The file, JSON: ``{"keys": [...]}``.

    Raises:
        UsageError: If it has no key that can be used.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stamp, self._looked = _stamp(path), time.monotonic()
        self._keys = _read(path)

    def find(self, algorithm: str, identity: object) -> list[jwt.PyJWK]:
        """Keys that may have made a signature.

        Args:
            algorithm: A token's ``alg``.
            identity: Its ``kid``; None for every key.
        """
        if time.monotonic() - self._looked > SECONDS:
            self._renew()
        found = self._matching(algorithm, identity)
        if not found:
            self._renew()
            found = self._matching(algorithm, identity)
        return found

    def _matching(self, algorithm: str, identity: object) -> list[jwt.PyJWK]:
        return [
            ways[algorithm]
            for name, ways in self._keys
            if algorithm in ways and (name is None or identity in (None, name))
        ]

    def _renew(self) -> None:
        """Read the file if it is another one than before."""
        with self._lock:
            self._looked, stamp = time.monotonic(), _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp  # of before reading, so that what is written meanwhile is seen the next time
            try:
                self._keys = _read(self._path)
            except UsageError as problem:
                log.error("%s; the keys that were read before stay in use", problem)
            else:
                log.warning("%s was read again: %d keys", self._path, len(self._keys))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _read(path: Path) -> _Found:
    """Each key's ``kid``, and the key for each algorithm that it may be used with."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it is longer than {LARGEST:,} bytes")
        content = json.loads(data)
        entries = content["keys"] if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError("it has no list 'keys'")
        found = [(entry.get("kid"), _ways(entry)) for entry in entries if isinstance(entry, dict)]
        keys = tuple((name, ways) for name, ways in found if ways)
        if not keys:
            raise ValueError(f"none of its {len(entries)} keys is a public key for signatures")
    except (OSError, ValueError, KeyError, RecursionError) as problem:
        raise UsageError(f'{path} holds no key set: {problem}; a file like {{"keys": [...]}} was expected') from None
    return keys


def _ways(entry: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """A key for each algorithm that it may be used with; none if it is not for signatures."""
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
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):  # damaged, or of a type that is not known
                return {}
    return ways
