"""The stages that every request passes, under any HTTP server.

    begin              assign the request id                         exchange/record.py
    judge              authenticate, check rate limit and scopes     access/, capacity/admission.py
    predict, by_flask  answer: predictions directly, the rest by Flask
    end                metrics, access log, trace                    telemetry/

``Front`` as a WSGI application runs the stages in order; ``http/asgi.py`` calls them one by one and reads bodies in between.
Predictions bypass Flask: its dispatch would take as long as a small network's forward pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from isoform.server.access.guard import Gate, check_scopes_of
from isoform.server.capacity.admission import Rates
from isoform.server.exchange.address import client_address
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.caller import NOBODY
from isoform.server.exchange.problems import UnknownCallerError, refusal
from isoform.server.exchange.record import Ids, Record, attach_record
from isoform.server.routes.inference import check_head, infer, route_of
from isoform.server.service.service import Service
from isoform.server.telemetry.access_log import Recorder
from isoform.server.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

__all__ = ["FREE", "Front", "Request"]

# Users upload files, and errors quote what was sent: a browser must not guess that either is HTML.
ALWAYS = ("X-Content-Type-Options", "nosniff")
FREE = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Exempt from rate limits and the queue limit, so that an overloaded server is not taken for a dead one."""
PAGE_FILES = 64
"""Burst of requests without a key that one address may send: a browser loads all files of the page at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request: its WSGI environment, and what is known about it so far."""

    environ: dict[str, Any]
    """The WSGI environment."""
    record: Record

    @property
    def path(self) -> str:
        """The path below the application's mount point."""
        return str(self.environ.get("PATH_INFO", ""))


class Front:
    """A WSGI application around Flask's. Safe to use from several threads.

    Args:
        flask: Flask's WSGI application.
        service: The state that both share.
        gate: Finds the caller of a request.
    """

    def __init__(self, flask: WSGIApplication, service: Service, gate: Gate) -> None:
        self.service = service
        self._flask, self._gate = flask, gate
        rate = service.settings.rate_per_second
        # Three limits: anonymous traffic from one address must not use up the rate of a key behind that address.
        self._rates = Rates(rate)
        self._strangers = Rates(rate, who="an address without a valid key")
        self._visitors = Rates(rate, who="an address without a key", at_once=PAGE_FILES)
        self._ids, self._recorder = Ids(), Recorder(service.settings.log)
        self._tracing = Tracing.found()

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        request = self.begin(environ)
        with self.traced(request):
            try:
                self.judge(request)
                answer = self.by_flask(request) if request.record.model is None else self.predict(request)
            except Exception as problem:
                answer = self.refuse(request, problem)
            fields = self.end(request, answer)
        return answer.send(start, *fields)

    def begin(self, environ: dict[str, Any]) -> Request:
        """Start a request: assign its id, note its arrival, and see whether it is a prediction."""
        record = Record(self._ids.of(environ), str(environ["REQUEST_METHOD"]), time.perf_counter())
        attach_record(environ, record)
        request = Request(environ, record)
        predicts = route_of(request.path)
        if predicts is not None:
            record.route, *model = predicts
            record.model = model[0], model[1]
        return request

    @contextlib.contextmanager
    def traced(self, request: Request) -> Iterator[None]:
        """Wrap everything from ``begin`` to ``end`` in a trace span, if traces are exported."""
        if self._tracing is None:
            yield
            return
        with self._tracing.span(request.environ) as span:
            yield
            span.end(request.record)

    def knows(self, request: Request) -> bool:
        """Whether the request's key or token was valid recently, or there is no access control."""
        return self._gate.knows(request.environ)

    def at_hand(self, request: Request) -> bool:
        """Whether ``judge`` can run without blocking, that is without a query to the store."""
        return self._gate.at_hand(request.environ) and (request.record.model is None or self.service.tasks.at_hand)

    def judge(self, request: Request) -> None:
        """Authenticate and authorize a request, and apply the rate limit, before its body is read. Raises what ``refuse`` turns into an answer."""
        environ, record, proxies = request.environ, request.record, self.service.settings.trusted_proxies
        try:
            caller = record.caller = self._gate.find(environ)
        except UnknownCallerError:
            # Invalid keys are limited by address, or guessing them would be free; 429 then replaces the 401.
            self._strangers.spend(client_address(environ, proxies))
            raise
        if request.path not in FREE:
            if caller is NOBODY:
                self._visitors.spend(client_address(environ, proxies))
            else:
                self._rates.spend(caller.id)
        check_scopes_of(caller)
        if record.model is not None and record.method != "OPTIONS":  # a prediction has no Flask route that would check
            check_head(self.service, caller, environ, *record.model)

    def predict(self, request: Request) -> Answer:
        """Answer a prediction request whose body can be read. Raises what ``refuse`` turns into an answer."""
        record = request.record
        if record.method == "OPTIONS":
            return Answer(200, b"", (("Allow", "OPTIONS, POST"),))
        assert record.model is not None
        return infer(self.service, record, request.environ, *record.model)

    def by_flask(self, request: Request) -> Answer:
        """Answer any other request by Flask."""
        told = list[tuple[int, list[tuple[str, str]]]]()

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            told[:] = [(int(status[:3]), headers)]

        parts = self._flask(request.environ, start)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):  # required of WSGI servers by PEP 3333
                parts.close()
        ((status, headers),) = told
        return Answer(status, body, tuple(headers))

    def refuse(self, request: Request, problem: Exception) -> Answer:
        """The answer to a request that failed."""
        record = request.record
        answer, record.error = refusal(problem)
        if record.model is not None:
            self.service.metrics.fail(record.model[0])
        return answer

    def end(self, request: Request, answer: Answer) -> tuple[tuple[str, str], ...]:
        """Count and log an answered request. Returns the headers that every answer carries."""
        metrics, record = self.service.metrics, request.record
        record.status = answer.status
        if record.error is not None:
            metrics.error(record.error)
        seconds = time.perf_counter() - record.arrived
        metrics.request(record.route, answer.status, seconds)
        self._recorder.write(record, size=len(answer.body), seconds=seconds)
        return ("X-Request-Id", record.id), ALWAYS
