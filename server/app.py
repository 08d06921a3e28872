"""The application factory: one runtime, one blueprint per concern, JSON errors everywhere.

    health.py      is it up, what is it, which models does it have
    inference.py   predictions
    protocol.py    the Open Inference Protocol's JSON, without Flask

Bodies over four times the limit never reach the application: waitress refuses them itself, in plain text.
Never imports torch, train or compile.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flask import Flask, Response, current_app, jsonify
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from isoform.runtime.errors import InputError, IsoformError, SignatureError, UsageError
from isoform.runtime.runtime import Runtime
from isoform.server import health, inference
from isoform.server.state import attach_runtime

__all__ = ["create_app"]

log = logging.getLogger("isoform.server")


def create_app(runtime: Runtime, *, max_body_bytes: int = 16 << 20) -> Flask:
    """Make the WSGI application.

    Args:
        runtime: An open runtime; the application uses it from many threads and does not close it.
        max_body_bytes: Longest request body that is read; a longer one gets 413.

    Returns:
        A Flask application; every answer is JSON, errors are ``{"error": text}``.

    Raises:
        UsageError: If ``max_body_bytes`` is below 1.
    """
    if max_body_bytes < 1:
        raise UsageError(f"max_body_bytes is {max_body_bytes}, but 1 or more was expected")
    # Both paths are given, because Flask cannot find them for a package whose parent is a namespace; it stores nothing there.
    here = str(Path(__file__).parent)
    app = Flask("isoform.server", static_folder=None, root_path=here, instance_path=here)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    attach_runtime(app, runtime)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(inference.blueprint)
    app.register_error_handler(IsoformError, _our_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen_error)
    return app


def _our_error(problem: IsoformError) -> tuple[Response, int]:
    status = 400 if isinstance(problem, InputError | SignatureError | UsageError) else 500
    if status == 500:
        log.error("%s", problem)
    return jsonify(error=str(problem)), status


def _http_error(problem: HTTPException) -> tuple[Response, int]:
    text = problem.description or problem.name
    if isinstance(problem, RequestEntityTooLarge):
        text = f"the body is longer than the {current_app.config['MAX_CONTENT_LENGTH']:,} bytes that this server reads; send fewer samples at a time"
    response = jsonify(error=text)
    for name, value in problem.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response, problem.code or 500


def _unforeseen_error(problem: Exception) -> tuple[Response, int]:
    log.exception("a request failed", exc_info=problem)
    return jsonify(error="an error inside the server; its log has the details"), 500
