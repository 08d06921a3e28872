"""What every request can reach: the runtime, the users and the settings of the application that handles it."""

from __future__ import annotations

import dataclasses
import functools
import threading

from flask import Flask, current_app

from isoform.runtime.runtime import Runtime
from isoform.server.admission import Admission
from isoform.server.availability import Availability
from isoform.server.batching import Batching
from isoform.server.draining import Draining
from isoform.server.metrics import Metrics
from isoform.server.settings import Settings
from isoform.server.store.ledger import Ledger
from isoform.server.users import Users
from isoform.server.worker import Worker

__all__ = ["Service", "attach_service", "get_service", "service_of"]


@dataclasses.dataclass(frozen=True)
class Service:
    """One application's."""

    runtime: Runtime
    users: Users
    tasks: Availability
    settings: Settings
    metrics: Metrics
    batching: Batching
    admission: Admission
    draining: Draining

    @functools.cached_property
    def ledger(self) -> Ledger:
        """Jobs; raises ``NotFoundError`` if this server keeps no signatures."""
        return Ledger(self.users.store)

    @functools.cached_property
    def worker(self) -> Worker:
        """What learns in this process; raises ``NotFoundError`` if it keeps no signatures."""
        return Worker(self.users.store)

    @functools.cached_property
    def waiters(self) -> threading.Semaphore:
        """Places for requests that wait for a job to end."""
        return threading.Semaphore(self.settings.waiters)

    def close(self, *, seconds: float) -> None:
        """Let the job that is running end, if it does within so long; those behind it are not begun."""
        if "worker" in self.__dict__:
            self.worker.close(seconds=seconds)


def attach_service(app: Flask, service: Service) -> None:
    """Give an application its service."""
    app.extensions["isoform"] = service


def get_service() -> Service:
    """The service of the application that handles this request."""
    return service_of(current_app)


def service_of(app: Flask) -> Service:
    """The service of an application."""
    service: Service = app.extensions["isoform"]
    return service
