"""Upgrade databases of older versions when they are opened: missing data is added, and nothing is changed.

version 0    without the table ``version``: revision numbers restarted after a deletion
version 1    with the table ``numbers``, filled with the last number of every deleted user from the events
"""

from __future__ import annotations

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from isoform.runtime.errors import StoreError
from isoform.server.store.schema import events, numbers, version

__all__ = ["VERSION", "upgrade"]

VERSION = 1


def upgrade(connection: Connection) -> None:
    """Upgrade a database to ``VERSION``, in the transaction that created its tables.

    Raises:
        StoreError: If it was made by a newer isoform.
    """
    found = connection.execute(sql.select(sql.func.max(version.c.version))).scalar() or 0
    if found > VERSION:
        raise StoreError(
            f"the signature store has version {found}, but at most {VERSION} was expected; open it with the isoform that made it"
        )
    if found < 1:
        # A database that was just created comes here too: it has no events, so nothing is copied.
        last = sql.select(events.c.task, events.c.user, sql.func.max(events.c.revision)).where(
            events.c.action == "delete", events.c.task.is_not(None), events.c.user.is_not(None), events.c.revision.is_not(None)
        )  # fmt: skip
        grouped = last.group_by(events.c.task, events.c.user)
        connection.execute(sql.insert(numbers).from_select(["task", "user", "last"], grouped))
        connection.execute(sql.insert(version), {"version": VERSION})
