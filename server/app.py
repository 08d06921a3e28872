"""The application factory: one runtime, one store, one blueprint per resource, JSON errors everywhere.

    front.py     runs before every route: authentication, rate limits, log, metrics
    routes/      the HTTP API, one module per resource
    page/        the page at /
    access/      authentication and authorization
    protocol/    the Open Inference Protocol, without Flask
    store/       users' signatures in a database, without Flask

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
from isoform.server.protocol.metadata import check_tasks
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
    """Create the WSGI application.

    Args:
        runtime: An open runtime, used from many threads. The caller closes it.
        store: An open store of signatures; the caller closes it. None for a server without users' signatures.
        settings: Limits and behaviour; None for the defaults.
        keys: API keys to accept.
        tokens: Signed tokens to accept. With neither keys nor tokens everybody may do everything: for loopback only.
        admission: The request queue of the server that calls the application; None for an empty one of the default size.
        draining: The flag that says whether the server is about to stop; None for one that nobody sets.
        unloaded: Tasks last known to be unloaded, shared by the server's processes; None for none.

    Returns:
        A Flask application. Errors are JSON: ``{"error": text}``.

    Raises:
        BundleError: If a task has a name that the protocol reserves.
    """
    check_tasks(runtime.tasks)
    settings = settings or Settings()
    # Flask cannot derive these paths for a package whose parent is a namespace package. Nothing is stored there.
    here = str(Path(__file__).parent)
    app = Flask("isoform.server", static_folder=None, root_path=here, instance_path=here)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.merge_slashes = False  # a double slash is 404 in JSON, not an HTML redirect
    app.json.sort_keys = False  # type: ignore[attr-defined]  # members in the order of the protocol's documentation
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
    """The ``Front`` of an application made by ``create_app``."""
    front = app.wsgi_app
    assert isinstance(front, Front)
    return front
