"""Where users' signatures are kept, in SQLite or PostgreSQL.

No HTTP here, and no look into the bytes:

    schema.py    tables
    database.py  connections, transactions, errors
    store.py     revisions: append, look up, delete; each call one transaction
    ledger.py    jobs: what takes longer than a request
"""
