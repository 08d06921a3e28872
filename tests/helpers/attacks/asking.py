"""A request straight to a WSGI application, as a server would pass it on, and what every answer has to be like."""

import io
import json
import urllib.parse

from flask import Flask
from hostile import Ask
from werkzeug.test import run_wsgi_app

__all__ = ["LONGEST_ERROR", "ask", "check"]

LONGEST_ERROR = 2000


def ask(app: Flask, asked: Ask) -> tuple[int, dict, bytes]:
    """Status, headers in lower case and body, straight from the WSGI application, which has to bear what servers let through."""
    environ = {
        "REQUEST_METHOD": asked.method, "SCRIPT_NAME": "", "PATH_INFO": urllib.parse.unquote_to_bytes(asked.path).decode("latin-1"),
        "QUERY_STRING": asked.query, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(asked.body)), "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(asked.body),
        "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in asked.headers:
        name = name.upper().replace("-", "_")
        environ[name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"] = value
    content, status, headers = run_wsgi_app(app, environ, buffered=True)
    body = b"".join(content)
    return int(status.split()[0]), {name.lower(): value for name, value in headers}, body


def check(asked: Ask, answer: tuple[int, dict, bytes]) -> None:
    """No failure of ours; and errors are one line of JSON."""
    status, headers, body = answer
    told = (status, body[:300])
    busy = status == 503 and (b"wait in this process" in body or asked.path.endswith("ready"))
    assert status < 500 or busy, told
    if status >= 400 and body and b'"ready":false' not in body:
        assert headers["content-type"] == "application/json", told
        error = json.loads(body)["error"]
        assert error
        assert len(error.splitlines()) == 1, told
        assert len(error) <= LONGEST_ERROR, told
