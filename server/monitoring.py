"""``GET /metrics`` for Prometheus, and the protocol's statistics of tasks."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Flask, Response, g, request

from isoform.server.access.guard import require_metrics
from isoform.server.inference import check_version
from isoform.server.metrics import CONTENT_TYPE
from isoform.server.protocol.metadata import VERSION
from isoform.server.state import get_service

__all__ = ["blueprint", "count_requests"]

blueprint = Blueprint("monitoring", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """What Prometheus scrapes."""
    require_metrics()
    return Response(get_service().metrics.page(), content_type=CONTENT_TYPE)


@blueprint.get("/v2/models/stats")
def all_statistics() -> dict[str, Any]:
    """Of every task."""
    return {"model_stats": [_entry(task) for task in get_service().runtime.tasks]}


@blueprint.get("/v2/models/<task>/stats")
@blueprint.get("/v2/models/<task>/versions/<version>/stats")
def statistics(task: str, version: str = VERSION) -> dict[str, Any]:
    """Of one task; 404 if there is none of that name."""
    check_version(task, version)
    get_service().tasks.check(task)
    return {"model_stats": [_entry(task)]}


def _entry(task: str) -> dict[str, Any]:
    return {"name": task, "version": VERSION, **get_service().metrics.statistics(task)}


def count_requests(app: Flask) -> None:
    """Count and time every request of an application, by the route that it took."""

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else "none"
        get_service().metrics.request(route, response.status_code, time.perf_counter() - g.began)
        return response
