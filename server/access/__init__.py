"""Who may do what: API keys and signed tokens become a caller with scopes (``exchange/caller.py``).

Without Flask, but for the last two:

    keys.py      API keys, of which the store has only hashes
    key_set.py   public keys of whoever signs tokens
    tokens.py    JSON Web Tokens of issuers that are trusted
    local.py     what is let in where no key is asked for
    guard.py     every request's caller, and whether it may
"""
