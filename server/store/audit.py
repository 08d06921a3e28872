"""What happened that is no revision: signatures deleted, tasks loaded and unloaded, keys made and revoked. Read only; who does it writes."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sql

from isoform.server.store.schema import events
from isoform.server.store.store import Store

__all__ = ["Event", "happened"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One thing."""

    id: int
    """Rising."""
    created: int
    """Milliseconds since 1970, UTC."""
    actor: str
    """Whose key it was; empty for the command line."""
    action: str
    """``delete``, ``load``, ``unload``, ``key ID``, ``revoke ID``."""
    task: str | None
    user: str | None
    revision: int | None
    """The newest one that was deleted; None if there were but jobs."""


def happened(store: Store, *, before: int | None = None, limit: int = 100) -> list[Event]:
    """Events, newest first.

    Args:
        store: The store.
        before: Only those with a lower id; None for all.
        limit: At most so many.
    """
    query = sql.select(events).order_by(events.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(events.c.id < before)
    with store.reading() as connection:
        return [Event(**row._mapping) for row in connection.execute(query)]
