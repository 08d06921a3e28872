"""Where users' signatures are kept, in SQLite or PostgreSQL.

No HTTP here, and no look into the bytes:

    schema.py    tables
    database.py  connections, transactions, errors
    sqlite.py    the file of SQLite: made, opened, watched
    breaker.py   what happens while the database hangs
    store.py     revisions: append, look up, delete; each call one transaction
    revisions.py the same within a transaction: numbers that never restart
    upgrade.py   databases of older versions
    ledger.py    jobs: what takes longer than a request
"""
