"""Authentication and authorization: API keys and signed tokens become a caller with scopes (``exchange/caller.py``).

Without Flask, except for the last two:

    keys.py      API keys, stored as hashes
    key_set.py   public keys of token issuers (JWKS)
    tokens.py    JSON Web Tokens of trusted issuers
    local.py     checks without access control (``--open``)
    guard.py     the caller of each request, and the scopes that routes require
"""
