"""What every request passes, whatever it asks for and whoever speaks HTTP.

    begin     which id does it have                         exchange/record.py
    judge     who sent it, and may it send so much          access/, admission.py
    answer    a prediction is answered here, the rest by Flask
    end       counted, written down, traced                 telemetry/

As a WSGI application it does one after the other; ``http/asgi.py`` does other things in between. Predictions are most of the requests
and Flask would take as long for one as the network does, so they do not pass it.
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

ALWAYS = ("X-Content-Type-Options", "nosniff")
FREE = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Answered however many requests there are, so that a busy server is not taken for a dead one."""
PAGE_FILES = 64
"""An address may ask for so many files of the page at once: a browser loads all of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request: as it came, and what is known of it so far."""

    environ: dict[str, Any]
    """As WSGI has it."""
    record: Record

    @property
    def path(self) -> str:
        """Without what is mounted before it."""
        return str(self.environ.get("PATH_INFO", ""))


class Front:
    """A WSGI application around Flask's. Safe to use from several threads.

    Args:
        flask: That one.
        service: What both share.
        gate: Who is let in.
    """

    def __init__(self, flask: WSGIApplication, service: Service, gate: Gate) -> None:
        self.service = service
        self._flask, self._gate = flask, gate
        rate = service.settings.rate_per_second
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
        """A request came."""
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
        """A span around all that follows ``begin``, up to ``end``, if spans are sent anywhere."""
        if self._tracing is None:
            yield
            return
        with self._tracing.span(request.environ) as span:
            yield
            span.end(request.record)

    def knows(self, request: Request) -> bool:
        """Whether its key or token was good a moment ago, or all are let in."""
        return self._gate.knows(request.environ)

    def at_hand(self, request: Request) -> bool:
        """Whether ``judge`` would wait for nothing: neither for the store, nor for anything else."""
        return self._gate.at_hand(request.environ) and (request.record.model is None or self.service.tasks.at_hand)

    def judge(self, request: Request) -> None:
        """See who sent it, and whether it may: before its body is read. Raises what ``refuse`` answers with."""
        environ, record, proxies = request.environ, request.record, self.service.settings.trusted_proxies
        try:
            caller = record.caller = self._gate.find(environ)
        except UnknownCallerError:
            self._strangers.spend(client_address(environ, proxies))
            raise
        if request.path not in FREE:
            if caller is NOBODY:
                self._visitors.spend(client_address(environ, proxies))
            else:
                self._rates.spend(caller.id)
        check_scopes_of(caller)
        if record.model is not None and record.method != "OPTIONS":
            check_head(self.service, caller, environ, *record.model)

    def predict(self, request: Request) -> Answer:
        """Answer a request for a prediction, whose body is there or can be read. Raises what ``refuse`` answers with."""
        record = request.record
        if record.method == "OPTIONS":
            return Answer(200, b"", (("Allow", "OPTIONS, POST"),))
        assert record.model is not None
        return infer(self.service, record, request.environ, *record.model)

    def by_flask(self, request: Request) -> Answer:
        """Let Flask answer a request that is no prediction."""
        told = list[tuple[int, list[tuple[str, str]]]]()

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            told[:] = [(int(status[:3]), headers)]

        parts = self._flask(request.environ, start)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        ((status, headers),) = told
        return Answer(status, body, tuple(headers))

    def refuse(self, request: Request, problem: Exception) -> Answer:
        """What to answer to a request that failed."""
        record = request.record
        answer, record.error = refusal(problem)
        if record.model is not None:
            self.service.metrics.fail(record.model[0])
        return answer

    def end(self, request: Request, answer: Answer) -> tuple[tuple[str, str], ...]:
        """Count a request that has its answer, and write it down. Returns what every answer's head says."""
        metrics, record = self.service.metrics, request.record
        record.status = answer.status
        if record.error is not None:
            metrics.error(record.error)
        seconds = time.perf_counter() - record.arrived
        metrics.request(record.route, answer.status, seconds)
        self._recorder.write(record, size=len(answer.body), seconds=seconds)
        return ("X-Request-Id", record.id), ALWAYS
