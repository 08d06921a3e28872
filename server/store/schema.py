"""The tables. A user of a task has revisions 1, 2, …, and the newest answers. Revisions are appended, never changed.
Numbers never restart: those of a deleted user are not reused.

    revisions   (task, user, revision) → digest, parent, action, actor, created, data
    numbers     (task, user) → the last revision number when the user was deleted
    replies     (actor, key) → the revision made by a request with this idempotency key; the actor's id, not its name
    events      the audit log: deletions, loads and unloads of tasks, changes of keys
    unloaded    unloaded tasks
    keys        API keys: hashes of their secrets, names and scopes
    jobs        jobs: caller, action, progress and result; never samples
    doubts      open jobs without a heartbeat, and since when they are doubted
    version     version of these tables

``data`` is the signature file's bytes, NULL for revisions too old to roll back to. Digests are 32 bytes; times are milliseconds since
1970, UTC, by the database's clock (``revisions.clock``), so that times of several servers can be compared. Reading a user's newest
revision is one look-up by the primary key.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.engine import Connection

__all__ = [
    "METADATA",
    "create",
    "doubts",
    "events",
    "jobs",
    "keys",
    "numbers",
    "replies",
    "revisions",
    "unloaded",
    "version",
]

METADATA = MetaData()

# PostgreSQL enforces the lengths of texts and SQLite does not, so callers check them first.
revisions = Table(
    "isoform_revisions",
    METADATA,
    Column("task", String(64), primary_key=True),
    Column("user", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("parent", LargeBinary(32)),
    Column("action", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("data", LargeBinary),
)

numbers = Table(
    "isoform_numbers",
    METADATA,
    Column("task", String(64), primary_key=True),
    Column("user", String(64), primary_key=True),
    Column("last", Integer, nullable=False),
)

# Without a foreign key to revisions: a reply outlives them, so that a retried write is refused after a deletion.
replies = Table(
    "isoform_replies",
    METADATA,
    Column("actor", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("task", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    # Expired replies are deleted at every write with an idempotency key.
    Index("isoform_replies_created", "created"),
)

events = Table(
    "isoform_events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("task", String(64)),
    Column("user", String(64)),
    Column("revision", Integer),
)

unloaded = Table("isoform_unloaded", METADATA, Column("task", String(64), primary_key=True))

jobs = Table(
    "isoform_jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("task", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("revision", Integer),
    Column("message", String(400)),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Index("isoform_jobs_whose", "task", "user", "created"),
    Index("isoform_jobs_updated", "updated"),
)

doubts = Table(
    "isoform_doubts",
    METADATA,
    Column("job", String(32), primary_key=True),
    Column("updated", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
)

version = Table("isoform_version", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

keys = Table(
    "isoform_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("scopes", String(2000), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)


def create(connection: Connection) -> None:
    """Create missing tables, in the caller's transaction. The caller must hold the lock for it."""
    METADATA.create_all(connection)
