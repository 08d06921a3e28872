"""Where users' signatures are kept: one table of revisions, in SQLite or PostgreSQL.

schema.py    tables
store.py     revisions: append, look up, delete; each call one transaction
ledger.py    jobs: what takes longer than a request
"""
