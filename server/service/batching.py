"""Batching: run concurrent requests for the same network together; of several users where the engine can (``Runtime.mixes``).

While a batch of a signature runs, new requests for it queue; the first of them then leads the next batch. So no request waits while the
network is idle, unless ``delay_seconds`` lets a partial batch wait for more. Requests are never split, and one with at least as many
samples as a full batch runs alone. A request whose deadline passes in the queue is not run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import IsoformError
from isoform.runtime.formats.signature import Signature
from isoform.server.exchange.problems import DeadlineError

__all__ = ["Batching"]

Predict = Callable[[Array, Signature | Sequence[Signature]], Array]
"""Samples, and their signature or one for each → logits."""
_Alike = tuple[Hashable, tuple[int, ...]]
"""Key of requests that can share a batch: what ``alike`` says of the signature, and shape of a sample."""


class _Request:
    def __init__(self, x: Array, signature: Signature, until: float) -> None:
        self.x, self.signature, self.until = x, signature, until
        self.turn = threading.Event()
        """Set when the request is answered, or is to lead the next batch."""
        self.leads = False
        self.logits: Array | None = None
        self.problem: Exception | None = None


class _Line:
    """The queue of requests that are alike, while a batch of them runs or fills."""

    def __init__(self) -> None:
        self.waiting: list[_Request] = []
        self.full = threading.Event()


class Batching:
    """Predicts, with concurrent requests batched. Meant to be called from several threads.

    Args:
        predict: The function that runs a batch.
        samples: Maximum batch size, in samples; 1 for no batching.
        delay_seconds: How long a partial batch waits for more requests.
        ran: Called with the task and number of samples of every batch.
        alike: Signature → what those that may share a batch have in common, the task and the number of classes among it; None if only
            samples with the same signature may.
    """

    def __init__(
        self, predict: Predict, *, samples: int = 1, delay_seconds: float = 0.0, ran: Callable[[str, int], None],
        alike: Callable[[Signature], Hashable] | None = None,
    ) -> None:  # fmt: skip
        self._predict, self._samples, self._delay, self._ran = predict, samples, delay_seconds, ran
        self._alike = alike or (lambda signature: signature.digest)
        self._lines: dict[_Alike, _Line] = {}
        self._lock = threading.Lock()

    def predict(self, x: Array, signature: Signature, *, until: float = np.inf) -> Array:
        """Predict logits, as ``Runtime.predict``.

        Args:
            x: Samples, shape (n, …), checked.
            signature: The signature to predict with.
            until: Deadline, by ``time.perf_counter()``.

        Raises:
            DeadlineError: If the deadline passed before the request could run.
            InputError: As ``Runtime.predict``, for this request's samples alone.
        """
        if self._samples <= 1 or len(x) >= self._samples or not len(x):
            _check(until)
            self._ran(signature.task, len(x))
            return self._predict(x, signature)
        request, alike = _Request(x, signature, until), (self._alike(signature), x.shape[1:])
        with self._lock:
            line = self._lines.get(alike)
            leads = line is None
            if line is None:
                line = self._lines[alike] = _Line()
            line.waiting.append(request)
            if sum(len(other.x) for other in line.waiting) >= self._samples:
                line.full.set()
        if not leads:
            request.turn.wait()
        if leads or request.leads:
            self._lead(line, alike)
        if request.problem is not None:
            raise request.problem
        assert request.logits is not None
        return request.logits

    def _lead(self, line: _Line, alike: _Alike) -> None:
        """Run one batch, led by the calling thread's request, then hand the lead to the first request that queued meanwhile."""
        if self._delay:
            line.full.wait(self._delay)
        batch = list[_Request]()
        try:
            with self._lock:
                count = 0
                # In order of arrival, without skipping a large request for small ones behind it: that could starve it.
                while line.waiting and (not batch or count + len(line.waiting[0].x) <= self._samples):
                    batch.append(line.waiting.pop(0))
                    count += len(batch[-1].x)
                line.full.clear()
            self._run(batch)
        finally:
            # After an error too, or the requests that queue here would wait for a leader for ever.
            with self._lock:
                if line.waiting:
                    line.waiting[0].leads = True
                    line.waiting[0].turn.set()
                    if sum(len(other.x) for other in line.waiting) >= self._samples:
                        line.full.set()
                else:
                    self._lines.pop(alike, None)
            for request in batch:
                request.turn.set()

    def _run(self, batch: list[_Request]) -> None:
        """Set the logits or the error of every request in a batch, whatever fails."""
        try:
            self._try(batch)
        except Exception as problem:
            for request in batch:
                if request.logits is None and request.problem is None:
                    request.problem = problem

    def _try(self, batch: list[_Request]) -> None:
        live = list[_Request]()
        for request in batch:
            try:
                _check(request.until)
                live.append(request)
            except DeadlineError as problem:
                request.problem = problem
        if len(live) > 1:
            try:
                logits = self._predict(np.concatenate([request.x for request in live]), _signatures(live))
            except IsoformError:
                pass  # run each alone below, so that only the request whose samples or signature are at fault fails
            else:
                begin = 0
                for request in live:
                    request.logits = logits[begin : begin + len(request.x)]
                    begin += len(request.x)
                self._ran(live[0].signature.task, len(logits))
                return
        for request in live:
            self._ran(request.signature.task, len(request.x))
            try:
                request.logits = self._predict(request.x, request.signature)
            except Exception as problem:
                request.problem = problem


def _signatures(batch: Sequence[_Request]) -> Signature | list[Signature]:
    """Return the signature of a batch's samples, or a list with one for each if they differ."""
    first = batch[0].signature
    if all(request.signature.digest == first.digest for request in batch):
        return first
    return [request.signature for request in batch for _ in request.x]


def _check(until: float) -> None:
    late = time.perf_counter() - until
    if late > 0:
        raise DeadlineError(
            f"the deadline passed {1e3 * late:.1f} ms before the prediction could run; allow more time, or send fewer requests"
        )
