"""What every request passes, whatever it asks for: WSGI, before Flask.

    how long did it wait, are there too many      admission.py
    which id does it have                         record.py
    who sent it, and may it send so much          access/, admission.py
    a prediction is answered here, the rest by Flask
    counted, written down, traced                 metrics.py, record.py, tracing.py

Predictions are most of the requests and Flask would take as long for one as the network does, so they do not pass it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from isoform.server.access.address import client_address
from isoform.server.access.guard import NOBODY, Gate, check_scopes_of
from isoform.server.access.scopes import Caller
from isoform.server.admission import Rates
from isoform.server.answer import Answer
from isoform.server.inference import infer, route_of
from isoform.server.problems import REASON, UnknownCallerError, refusal
from isoform.server.record import RECORD, Ids, Record, Recorder
from isoform.server.state import Service
from isoform.server.tracing import Tracing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["Front"]

Environ = dict[str, Any]

ALWAYS = (("X-Content-Type-Options", "nosniff"),)
FREE = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Answered however many requests there are, so that a busy server is not taken for a dead one."""
PAGE_FILES = 64
"""An address may ask for so many files of the page at once: a browser loads all of them."""


class Front:
    """A WSGI application around Flask's.

    Args:
        flask: That one.
        service: What both share.
        gate: Who is let in.
    """

    def __init__(self, flask: WSGIApplication, service: Service, gate: Gate) -> None:
        self._flask, self._service, self._gate = flask, service, gate
        rate = service.settings.rate_per_second
        self._rates = Rates(rate)
        self._strangers = Rates(rate, who="an address without a valid key")
        self._visitors = Rates(rate, who="an address without a key", at_once=PAGE_FILES)
        self._ids, self._recorder = Ids(), Recorder(service.settings.log)
        self._tracing = Tracing.found()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if self._tracing is None:
            return self._answered(environ, start)
        with self._tracing.span(environ) as span:
            answered = self._answered(environ, start)
            span.end(environ[RECORD], environ["isoform.status"])
            return answered

    def _answered(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        record = environ[RECORD] = Record(self._ids.of(environ))
        path: str = environ.get("PATH_INFO", "")
        more = (("X-Request-Id", record.request), *ALWAYS)
        arrived, predicts = time.perf_counter(), route_of(path)
        if predicts is not None:
            record.route, task, version = predicts
        try:
            arrived = self._admitted(path)
            caller = self._known(environ, path, record)
            check_scopes_of(caller)
            if predicts is None:
                return self._by_flask(environ, start, more, arrived)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                answer = Answer(200, b"", (("Allow", "OPTIONS, POST"),))
            else:
                answer = infer(self._service, caller, environ, task, version, arrived=arrived, record=record)
        except Exception as problem:
            answer, environ[REASON] = refusal(problem)
            if predicts is not None:
                self._service.metrics.fail(task)
        self._end(environ, record, answer.status, len(answer.body), arrived)
        hold = getattr(environ.get("gunicorn.socket"), "hold", None)
        if hold is not None and answer.body and environ["REQUEST_METHOD"] != "HEAD":
            hold()
        return answer.send(start, *more)

    def _known(self, environ: Environ, path: str, record: Record) -> Caller:
        """Who sent it. Raises ``TooManyError`` if it sent too much: by its key, or without a valid one by its address."""
        proxies = self._service.settings.trusted_proxies
        try:
            caller = self._gate.find(environ)
        except UnknownCallerError:
            self._strangers.spend(client_address(environ, proxies))
            raise
        record.caller, record.caller_id = caller.name, caller.id
        if path not in FREE:
            if caller is NOBODY:
                self._visitors.spend(client_address(environ, proxies))
            else:
                self._rates.spend(caller.id)
        return caller

    def _admitted(self, path: str) -> float:
        """When the request came. Raises ``BusyError`` if there are too many before it."""
        try:
            return self._service.admission.take()
        except Exception:
            if path in FREE:
                return time.perf_counter()
            raise

    def _by_flask(
        self, environ: Environ, start: StartResponse, more: Iterable[tuple[str, str]], arrived: float
    ) -> Iterable[bytes]:
        told = {"status": 500, "size": 0}

        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            told["status"] = int(status[:3])
            told["size"] = int(next((value for name, value in headers if name == "Content-Length"), "0"))
            return start(status, [*headers, *more], *rest)

        body = self._flask(environ, started)
        self._end(environ, environ[RECORD], told["status"], told["size"], arrived)
        return body

    def _end(self, environ: Environ, record: Record, status: int, size: int, arrived: float) -> None:
        """Count it, write it down."""
        environ["isoform.status"] = status
        metrics, record.error = self._service.metrics, environ.get(REASON)
        if record.error is not None:
            metrics.error(record.error)
        seconds = time.perf_counter() - arrived
        metrics.request(record.route, status, seconds)
        self._recorder.write(record, environ, status=status, size=size, seconds=seconds)
