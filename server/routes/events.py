"""The audit log, ``GET /v1/events?before=ID&limit=N``: deletions, loads and unloads, and changes of keys, newest first, for administrators.

Changes of a signature are in its own history (``signatures.py``): every revision with its parent, action, actor and time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flask import Blueprint

from isoform.server.access.guard import require_admin
from isoform.server.exchange.query import LAST, PAGE_LIMIT, number
from isoform.server.service.service import get_service
from isoform.server.store.audit import happened
from isoform.server.store.store import moment

__all__ = ["blueprint"]

blueprint = Blueprint("audit", __name__, url_prefix="/v1/events")


@blueprint.get("")
def listed() -> dict[str, Any]:
    """A page of events; ``next`` is the ``before`` of the next page, null at the end."""
    require_admin()
    service = get_service()
    limit = number("limit", service.settings.page, 1, PAGE_LIMIT)
    # One more than the page holds, to know whether there is a next one.
    found = happened(service.users.store, before=number("before", 0, 1, LAST) or None, limit=limit + 1)
    told = [
        {**dataclasses.asdict(event), "signature": event.user, "created": moment(event.created)}
        for event in found[:limit]
    ]
    for entry in told:
        del entry["user"]
    return {"events": told, "next": told[-1]["id"] if len(found) > limit else None}
