"""JSON Web Tokens (RFC 7519) of issuers that are trusted, checked by their public keys: for people who have an identity provider.

``sub`` is who it is: any printable text of 1 to 255 characters. ``scope``, ``scp`` or ``scopes``, words in a text (RFC 8693) or a list, say what
it may do; words that are no scopes of ours do not count. ``iss``, ``aud`` and ``exp`` must be there and right. Source: RFC 8725.
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
SUBJECT = 255
RECENT_SECONDS, REMEMBERED = 300.0, 10_000
"""How long, and how many, tokens that were good are remembered, for ``knows`` alone."""
NAME = 64
"""Longest name of a caller that the store's tables hold."""
_CLAIM: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "exp", jwt.InvalidIssuedAtError: "iat", jwt.InvalidAudienceError: "aud", jwt.InvalidIssuerError: "iss",
    jwt.exceptions.InvalidSubjectError: "sub", jwt.exceptions.InvalidJTIError: "jti",
}  # fmt: skip


class TokenError(IsoformError):
    """A token that is not accepted. The text says which claim is wrong, or that no known key signed it."""


class Tokens:
    """What trusted issuers sign.

    Args:
        keys: A file with their key set.
        issuer: ``iss`` of their tokens; one, or several.
        audience: ``aud`` of tokens that are meant for this server; one, or several.
        leeway: Seconds that clocks may differ.

    Raises:
        UsageError: If the file has no key set.
        MissingExtraError: If the library that checks signatures is not installed.
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
        """Digests of tokens that were good, and when."""

    def knows(self, text: str) -> bool:
        """Whether that very token was good in the last ``RECENT_SECONDS``; it need not be good now."""
        with self._lock:
            return self._recent.get(_digest(text), -math.inf) > time.monotonic() - RECENT_SECONDS

    def caller(self, text: str) -> Caller:
        """Whose token that is; without scopes if none of its scopes is ours.

        Raises:
            TokenError: If no known key signed it, or a claim is missing or wrong.
        """
        claims = self._claims(text)
        with self._lock:
            self._recent[_digest(text)] = time.monotonic()
            self._recent.move_to_end(_digest(text))
            if len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        subject = claims["sub"]  # a text, which jwt.decode has seen to
        if not (0 < len(subject) <= SUBJECT and subject.isprintable()):
            raise TokenError(f"the token's 'sub' is wrong: 1 to {SUBJECT} printable characters were expected")
        identity = hashlib.sha256(json.dumps([claims["iss"], subject]).encode()).hexdigest()[:48]
        if len(subject) > NAME:
            subject = f"{subject[: NAME - 9]}…{identity[:8]}"
        return Caller(subject, frozenset(filter(is_scope, _words(claims))), f"token:{identity}")

    def _claims(self, text: str) -> dict[str, Any]:
        """A token's claims, all of them checked."""
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenError(
                "that is no token; a JSON Web Token, or a key of 'isoform key add', was expected"
            ) from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenError(
                f"the token's 'alg' is {str(algorithm)[:20]!r}, but one of {', '.join(ALGORITHMS)} was expected"
            )
        if "crit" in header:
            raise TokenError("the token's 'crit' names extensions, and none are known here")
        for key in self._keys.find(algorithm, header.get("kid")):
            try:
                claims: dict[str, Any] = jwt.decode(
                    text, key, algorithms=[algorithm], issuer=self._issuers, audience=self._audiences, leeway=self._leeway,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )  # fmt: skip
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as problem:
                raise TokenError(self._reason(problem)) from None
            except (ValueError, TypeError, OverflowError, RecursionError):
                raise TokenError("the token's claims cannot be read") from None
            return claims
        raise TokenError(
            "no key of the key set has signed the token; get a new one, or let the server have the issuer's new keys"
        )

    def _reason(self, problem: jwt.PyJWTError) -> str:
        """Which claim is wrong."""
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
