"""JSON Web Tokens (RFC 7519) of trusted issuers, verified by their public keys: for deployments with an identity provider.

``sub`` is the caller: any printable text of 1 to 255 characters. ``scope``, ``scp`` or ``scopes``, a text of words (RFC 8693) or a list,
are its scopes; words that are not scopes of this server are ignored. ``iss``, ``aud`` and ``exp`` are required and checked. Source: RFC 8725.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt

from isoform.runtime.errors import IsoformError, MissingExtraError
from isoform.server.access.key_set import ALGORITHMS, KeySet
from isoform.server.exchange.caller import Caller, is_scope

__all__ = ["LEEWAY_SECONDS", "TokenError", "Tokens"]

LEEWAY_SECONDS = 10.0
"""Default for the allowed clock skew of the issuer."""
SUBJECT = 255
"""Longest ``sub``, in characters."""
RECENT_SECONDS, REMEMBERED = 300.0, 10_000
"""Lifetime and number of entries of the cache of valid tokens, which ``knows`` alone uses."""
NAME = 64
"""Longest name of a caller in the store's tables, in characters."""
_CLAIM: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "exp", jwt.InvalidIssuedAtError: "iat", jwt.InvalidAudienceError: "aud", jwt.InvalidIssuerError: "iss",
    jwt.exceptions.InvalidSubjectError: "sub", jwt.exceptions.InvalidJTIError: "jti",
}  # fmt: skip


class TokenError(IsoformError):
    """A rejected token. The message names the wrong claim, or says that no known key signed it."""


class Tokens:
    """Verifies tokens of trusted issuers.

    Args:
        keys: A file with their key set (JWKS).
        issuer: Accepted ``iss``; one or several.
        audience: Accepted ``aud``; one or several.
        leeway: Allowed clock skew, in seconds.

    Raises:
        UsageError: If the file is not a valid key set.
        MissingExtraError: If the package cryptography is not installed.
    """

    def __init__(
        self, keys: Path, *, issuer: str | Sequence[str], audience: str | Sequence[str], leeway: float = LEEWAY_SECONDS
    ) -> None:
        if not jwt.algorithms.has_crypto:
            raise MissingExtraError("--token-keys needs the package cryptography; pip install 'isoform[server]'")
        self._issuers = [issuer] if isinstance(issuer, str) else list(issuer)
        self._audiences = [audience] if isinstance(audience, str) else list(audience)
        self._leeway, self._keys = leeway, KeySet(keys)
        self._recent, self._lock = collections.OrderedDict[bytes, float](), threading.Lock()
        """sha256 of a valid token → when it was last verified."""

    def knows(self, text: str) -> bool:
        """Whether exactly this token was valid in the last ``RECENT_SECONDS``; it may have expired since."""
        with self._lock:
            return self._recent.get(_digest(text), -math.inf) > time.monotonic() - RECENT_SECONDS

    def caller(self, text: str) -> Caller:
        """The caller of a token; without scopes if the token has none of this server's.

        Raises:
            TokenError: If no known key signed it, or a claim is missing or wrong.
        """
        claims = self._claims(text)
        with self._lock:
            self._recent[_digest(text)] = time.monotonic()
            self._recent.move_to_end(_digest(text))
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        subject = claims["sub"]  # a text: jwt.decode has checked that
        if not (0 < len(subject) <= SUBJECT and subject.isprintable()):
            raise TokenError(f"the token's 'sub' is wrong: 1 to {SUBJECT} printable characters were expected")
        # Hashed as JSON, so that no issuer can choose a subject that collides with another issuer's.
        # 48 of its 64 digits, so that the id fits into the store's columns with its prefix.
        identity = hashlib.sha256(json.dumps([claims["iss"], subject]).encode()).hexdigest()[:48]
        if len(subject) > NAME:
            subject = f"{subject[: NAME - 9]}…{identity[:8]}"
        return Caller(subject, frozenset(filter(is_scope, _words(claims))), f"token:{identity}")

    def _claims(self, text: str) -> dict[str, Any]:
        """The claims of a token, after verifying its signature and every claim."""
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenError(
                "the token is malformed; a JSON Web Token, or a key made by 'isoform key add', was expected"
            ) from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenError(
                f"the token's 'alg' is {str(algorithm)[:20]!r}, but one of {', '.join(ALGORITHMS)} was expected"
            )
        if "crit" in header:
            raise TokenError("the token's 'crit' requires extensions, but none are supported")  # RFC 7515, 4.1.11
        # Every key of ``find`` was made for this algorithm, so a public key is never used as an HMAC secret (RFC 8725, 3.1).
        for key in self._keys.find(algorithm, header.get("kid")):
            try:
                claims: dict[str, Any] = jwt.decode(
                    text, key, algorithms=[algorithm], issuer=self._issuers, audience=self._audiences, leeway=self._leeway,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )  # fmt: skip
            except jwt.InvalidSignatureError:
                # Another candidate may have signed it: without a ``kid`` all of them are tried.
                continue
            except jwt.PyJWTError as problem:
                raise TokenError(self._reason(problem)) from None
            except (ValueError, TypeError, OverflowError, RecursionError):
                raise TokenError("the token's claims cannot be read") from None
            return claims
        raise TokenError("no key of the key set signed the token; get a new token, or update the server's key set")

    def _reason(self, problem: jwt.PyJWTError) -> str:
        """A message that names the wrong claim and what was expected."""
        if isinstance(problem, jwt.MissingRequiredClaimError):
            return f"the token's {problem.claim!r} is missing"
        claim = _CLAIM.get(type(problem))
        expected = {"iss": self._issuers, "aud": self._audiences}.get(claim or "")
        more = "" if expected is None else f"; {' or '.join(map(repr, expected))} was expected"
        return f"the token's {f'{claim!r} is wrong' if claim else 'claims are wrong'}: {problem}{more}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _words(claims: dict[str, Any]) -> list[str]:
    found = list[str]()
    for claim in ("scope", "scp", "scopes"):
        value = claims.get(claim)
        if isinstance(value, str):
            found += value.split()
        elif isinstance(value, list):
            found += [word for word in value if isinstance(word, str)]
        elif value is not None:
            raise TokenError(f"the token's {claim!r} is wrong: a text or a list of texts was expected")
    return found
