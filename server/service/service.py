"""The shared state of an application, which every request can reach."""

from __future__ import annotations

import threading

from flask import Flask, current_app

from isoform.runtime.runtime import Runtime
from isoform.server.capacity.admission import Admission
from isoform.server.capacity.memory import Memory
from isoform.server.exchange.problems import NotFoundError
from isoform.server.service.availability import Availability
from isoform.server.service.batching import Batching
from isoform.server.service.draining import Draining
from isoform.server.service.settings import Settings
from isoform.server.service.shared import Shared
from isoform.server.service.unloaded import Unloaded
from isoform.server.service.users import NO_STORE, Users
from isoform.server.service.worker import Worker
from isoform.server.store.ledger import Ledger
from isoform.server.store.store import Store
from isoform.server.telemetry.metrics import Metrics

__all__ = ["Service", "attach_service", "get_service", "service_of"]


class Service:
    """The shared state of one application.

    Args:
        runtime: An open runtime.
        store: An open store of signatures; None for a server without users' signatures.
        settings: Limits and behaviour.
        admission: The request queue.
        draining: The flag that says whether the server is about to stop.
        unloaded: Tasks last known to be unloaded, shared by the server's processes; None for none.
    """

    def __init__(
        self, runtime: Runtime, store: Store | None, settings: Settings, admission: Admission, draining: Draining,
        unloaded: Unloaded | None = None,
    ) -> None:  # fmt: skip
        self.runtime, self.settings, self.admission, self.draining = runtime, settings, admission, draining
        # The largest input of any task, because one limit of samples applies to all tasks.
        sample_bytes = max(runtime.input_of(task).nbytes for task in runtime.tasks)
        self.memory = Memory(
            settings.memory_bytes, samples=settings.max_samples or max(1, settings.max_body_bytes // sample_bytes),
            long_requests=settings.long_requests,
        )  # fmt: skip
        """Memory budget of requests and of samples of jobs."""
        self.users = Users(runtime, store, settings)
        self.tasks = Availability(runtime, store, unloaded or Unloaded(runtime.tasks))
        self.readiness = Shared(lambda: not self.tasks.unloaded and (store is None or store.ready()))
        """The readiness check: every task is loaded, and the store answers."""
        self.metrics = Metrics(runtime, admission, self.memory)
        self.batching = Batching(
            runtime.predict, samples=settings.batch_samples, delay_seconds=settings.batch_delay_seconds, ran=self.metrics.batch,
            alike=(lambda signature: (signature.task, len(runtime.labels(signature)))) if runtime.mixes else None,
        )  # fmt: skip
        self.waiters = threading.Semaphore(settings.waiters)
        """Requests that may block a thread while they wait for a job to end."""
        self._jobs = None if store is None else (Ledger(store), Worker(store, share=settings.jobs_per_caller))

    @property
    def ledger(self) -> Ledger:
        """The store's jobs. Raises ``NotFoundError`` if this server has no store."""
        return self._needed()[0]

    @property
    def worker(self) -> Worker:
        """This process's worker for jobs. Raises ``NotFoundError`` if this server has no store."""
        return self._needed()[1]

    def _needed(self) -> tuple[Ledger, Worker]:
        if self._jobs is None:
            raise NotFoundError(NO_STORE)
        return self._jobs

    def close(self, *, seconds: float) -> None:
        """Stop the worker: the running job may finish within that time, queued jobs fail."""
        if self._jobs:
            self._jobs[1].close(seconds=seconds)


def attach_service(app: Flask, service: Service) -> None:
    """Attach a service to an application."""
    app.extensions["isoform"] = service


def get_service() -> Service:
    """The service of the application that handles this request."""
    return service_of(current_app)


def service_of(app: Flask) -> Service:
    """The service of an application."""
    service: Service = app.extensions["isoform"]
    return service
