"""What every request can reach: the runtime, the users and the settings of the application that handles it."""

from __future__ import annotations

import dataclasses
import functools

from flask import Flask, current_app

from isoform.runtime.runtime import Runtime
from isoform.server.availability import Availability
from isoform.server.metrics import Metrics
from isoform.server.settings import Settings
from isoform.server.store.ledger import Ledger
from isoform.server.users import Users
from isoform.server.worker import Worker

__all__ = ["Service", "attach_service", "get_service"]


@dataclasses.dataclass(frozen=True)
class Service:
    """One application's."""

    runtime: Runtime
    users: Users
    tasks: Availability
    settings: Settings
    metrics: Metrics

    @functools.cached_property
    def ledger(self) -> Ledger:
        """Jobs; raises ``NotFoundError`` if this server keeps no signatures."""
        return Ledger(self.users.store)

    @functools.cached_property
    def worker(self) -> Worker:
        """What learns in this process; raises ``NotFoundError`` if it keeps no signatures."""
        return Worker(self.users.store)


def attach_service(app: Flask, service: Service) -> None:
    """Give an application its service."""
    app.extensions["isoform"] = service


def get_service() -> Service:
    """The service of the application that handles this request."""
    service: Service = current_app.extensions["isoform"]
    return service
