"""``GET /metrics`` for Prometheus, and the protocol's statistics extension."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, Response, request

from isoform.server.access.guard import require_metrics
from isoform.server.exchange.record import get_record
from isoform.server.protocol.metadata import VERSION
from isoform.server.routes.inference import check_version
from isoform.server.service.service import get_service
from isoform.server.telemetry.metrics import CONTENT_TYPE

__all__ = ["blueprint", "name_routes"]

blueprint = Blueprint("monitoring", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    require_metrics()
    return Response(get_service().metrics.page(), content_type=CONTENT_TYPE)


@blueprint.get("/v2/models/stats")
def all_statistics() -> dict[str, Any]:
    """Statistics of every task."""
    return {"model_stats": [_entry(task) for task in get_service().runtime.tasks]}


@blueprint.get("/v2/models/<task>/stats")
@blueprint.get("/v2/models/<task>/versions/<version>/stats")
def statistics(task: str, version: str = VERSION) -> dict[str, Any]:
    """Statistics of one task; 404 if it does not exist or is unloaded."""
    check_version(task, version)
    get_service().tasks.check(task)
    return {"model_stats": [_entry(task)]}


def _entry(task: str) -> dict[str, Any]:
    return {"name": task, "version": VERSION, **get_service().metrics.statistics(task)}


def name_routes(app: Flask) -> None:
    """Record the matched route of every request, as the label of its metrics."""

    @app.before_request
    def name() -> None:
        # The rule and not the path: paths have users' names, and a label per user would be an unbounded number of series.
        if request.url_rule is not None:
            get_record().route = request.url_rule.rule
