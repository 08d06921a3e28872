"""JSON Web Tokens (RFC 7519) of one issuer, checked by its public keys (RFC 7517): for people who have an identity provider.

``sub`` is who it is, ``scope`` (words, RFC 8693) or ``scopes`` (a list) what it may do; ``iss``, ``aud`` and ``exp`` must be there and
right. Only signatures by public keys are taken: none that are shared secrets, and not ``none``. Source: RFC 8725.
"""

from __future__ import annotations

import json
from pathlib import Path

import jwt

from isoform.runtime.errors import IsoformError, MissingExtraError, UsageError
from isoform.runtime.signature import check_name
from isoform.server.access.scopes import Caller, check_scopes

__all__ = ["Tokens"]

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LEEWAY_SECONDS = 10


class Tokens:
    """What an issuer signs.

    Args:
        keys: A file with its key set, JSON: ``{"keys": [...]}``.
        issuer: ``iss`` of its tokens.
        audience: ``aud`` of tokens that are meant for this server.

    Raises:
        UsageError: If the file has no key set.
        MissingExtraError: If the library that checks signatures is not installed.
    """

    def __init__(self, keys: Path, *, issuer: str, audience: str) -> None:
        self._issuer, self._audience = issuer, audience
        if not jwt.algorithms.has_crypto:
            raise MissingExtraError("--token-keys needs the package cryptography; pip install 'isoform[server]'")
        try:
            self._keys = jwt.PyJWKSet.from_dict(json.loads(keys.read_bytes()))
        except (OSError, ValueError, jwt.PyJWTError, AttributeError, TypeError) as problem:
            raise UsageError(
                f'{keys} holds no key set: {problem}; a file like {{"keys": [...]}} was expected'
            ) from None

    def caller(self, text: str) -> Caller | None:
        """Whose token that is; None if it is not signed by the issuer, has expired, or is not for this server."""
        try:
            identity = jwt.get_unverified_header(text).get("kid")
            key = next(key for key in self._keys.keys if identity is None or key.key_id == identity)
            claims = jwt.decode(
                text, key, algorithms=ALGORITHMS, issuer=self._issuer, audience=self._audience, leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
            scopes = claims.get("scopes", claims.get("scope", ""))
            words = scopes.split() if isinstance(scopes, str) else scopes
            known = [word for word in words if isinstance(word, str) and _is_scope(word)]
            return Caller(check_name(claims["sub"], what="the token's subject"), check_scopes(known))
        except (jwt.PyJWTError, IsoformError, StopIteration, TypeError):
            return None


def _is_scope(word: str) -> bool:
    """Whether it is one of ours: an issuer's tokens may have scopes for others, which do not count."""
    try:
        check_scopes([word])
    except UsageError:
        return False
    return True
