"""Who may do what: API keys and signed tokens become a caller with scopes.

Without Flask, but for the last:

    scopes.py    what a caller may do
    keys.py      API keys, of which the store has only hashes
    tokens.py    JSON Web Tokens of an issuer that is trusted
    guard.py     every request's caller, and whether it may
"""
