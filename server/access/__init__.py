"""Who may do what: API keys and signed tokens become a caller with scopes.

Without Flask, but for the last two:

    scopes.py    what a caller may do
    keys.py      API keys, of which the store has only hashes
    key_set.py   public keys of whoever signs tokens
    tokens.py    JSON Web Tokens of issuers that are trusted
    address.py   whose address it is, where there is no key
    local.py     what is let in where no key is asked for
    guard.py     every request's caller, and whether it may
"""
