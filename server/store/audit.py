"""Read the audit log: deletions of signatures, loads and unloads of tasks, created and revoked keys. Each of these writes its own event."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sql

from isoform.server.store.schema import events
from isoform.server.store.store import Store

__all__ = ["Event", "happened"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One event of the audit log."""

    id: int
    """Ascending number."""
    created: int
    """Milliseconds since 1970, UTC, by the database's clock."""
    actor: str
    """Name of the caller; empty for the command line."""
    action: str
    """``delete``, ``load``, ``unload``, ``key ID``, ``revoke ID``."""
    task: str | None
    user: str | None
    revision: int | None
    """The newest deleted revision; None if only jobs were cancelled, and for other actions."""


def happened(store: Store, *, before: int | None = None, limit: int = 100) -> list[Event]:
    """List events, newest first.

    Args:
        store: The store.
        before: Only events with a lower id; None for all.
        limit: Most events to return.
    """
    query = sql.select(events).order_by(events.c.id.desc()).limit(limit)
    # By id and not by OFFSET: new events shift every later offset while a client reads page after page.
    if before is not None:
        query = query.where(events.c.id < before)
    with store.reading() as connection:
        return [Event(**row._mapping) for row in connection.execute(query)]
