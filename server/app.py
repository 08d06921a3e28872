"""The application factory: one runtime, one store, one blueprint per concern, JSON errors everywhere.

    front.py     what every request passes before its route: queue, key, log, counters
    routes/      the HTTP API, one module per resource
    page/        the page at /
    access/      who may do what
    protocol/    the Open Inference Protocol, without Flask
    store/       where signatures are kept, without Flask

Never imports torch, train or compile.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from isoform.runtime.runtime import Runtime
from isoform.server.access.guard import Gate
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import Tokens
from isoform.server.capacity.admission import Admission
from isoform.server.exchange.problems import answer_with_json
from isoform.server.exchange.query import check_queries
from isoform.server.front import Front
from isoform.server.page import routes as page
from isoform.server.routes import events as audit
from isoform.server.routes import health, learning, monitoring, openapi, repository, signatures, templates
from isoform.server.routes.monitoring import name_routes
from isoform.server.service.draining import Draining
from isoform.server.service.service import Service, attach_service
from isoform.server.service.settings import Settings
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.store import Store

__all__ = ["create_app", "front_of"]


def create_app(
    runtime: Runtime, *, store: Store | None = None, settings: Settings | None = None, keys: Keys | None = None,
    tokens: Tokens | None = None, admission: Admission | None = None, draining: Draining | None = None,
    unloaded: Unloaded | None = None,
) -> Flask:  # fmt: skip
    """Make the WSGI application.

    Args:
        runtime: An open runtime; the application uses it from many threads and does not close it.
        store: An open store of signatures, not closed either; None to keep none.
        settings: How it behaves; None for the defaults.
        keys: API keys that are let in.
        tokens: Signed tokens that are let in. Without any of both everybody may do everything: only for loopback.
        admission: The queue of requests, of whoever hands them over; None if nobody tells of one.
        draining: Whether the server is about to stop; None if nobody tells.
        unloaded: Tasks that do not answer, as far as the server's processes know; None for none.

    Returns:
        A Flask application; every answer is JSON or what was asked for, errors are ``{"error": text}``.
    """
    settings = settings or Settings()
    # Both paths are given, because Flask cannot find them for a package whose parent is a namespace; it stores nothing there.
    here = str(Path(__file__).parent)
    app = Flask("isoform.server", static_folder=None, root_path=here, instance_path=here)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.merge_slashes = False  # two slashes are another path, not an answer in HTML that says where to go
    app.json.sort_keys = False  # type: ignore[attr-defined]
    name_routes(app)
    check_queries(app)
    admission, draining = admission or Admission(settings.queue_requests), draining or Draining()
    service = Service(runtime, store, settings, admission, draining, unloaded)
    attach_service(app, service)
    for part in (health, repository, monitoring, signatures, learning, templates, audit, openapi, page):
        app.register_blueprint(part.blueprint)
    answer_with_json(app)
    app.wsgi_app = Front(app.wsgi_app, service, Gate(keys, tokens))  # type: ignore[method-assign,assignment]
    return app


def front_of(app: Flask) -> Front:
    """What the requests of an application pass before its routes."""
    front = app.wsgi_app
    assert isinstance(front, Front)
    return front
