"""The store of users' signatures, in SQLite or PostgreSQL.

No HTTP here, and the bytes of signatures are opaque:

    schema.py    tables
    database.py  connections, transactions, errors
    sqlite.py    the SQLite file: create, open, detect replacement
    breaker.py   circuit breaker for a database that hangs
    store.py     revisions: append, look up, delete; each call is one transaction
    revisions.py the same operations within a transaction
    upgrade.py   upgrades of databases of older versions
    ledger.py    jobs
    audit.py     the audit log
"""
