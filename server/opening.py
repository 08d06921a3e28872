"""From the command's arguments to an application: what every process of a server does first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flask import Flask
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from isoform.runtime.errors import StoreError
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import LEEWAY_SECONDS, Tokens
from isoform.server.capacity.admission import Admission
from isoform.server.capacity.memory import give_back_freed_memory
from isoform.server.service.draining import Draining
from isoform.server.service.settings import Settings
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.database import file_url
from isoform.server.store.sqlite import Identity
from isoform.server.store.store import Store

__all__ = ["Opening", "Tls", "store_url"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
JOB_SECONDS = 20.0
"""How long a job that is running may go on when the server stops."""


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files in PEM."""

    certificate: Path
    """With those of its issuers behind it."""
    key: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening:
    """What to open."""

    bundle: Path
    store: URL | None
    """The database, which is there already; None to keep no signatures."""
    identity: Identity | None = None
    """The only SQLite file that is accepted there, also by a process that is started again later; None for PostgreSQL."""
    unloaded: Unloaded | None = None
    """Tasks that do not answer, for processes that start while the store does not answer; None for none."""
    prediction_threads: int
    """Threads that one prediction may use."""
    request_threads: int
    """Requests that a process handles at once."""
    cache_bytes: int
    """Of folded weights, as ``Runtime.open``."""
    engine: str = "auto"
    """What runs the network, as ``Runtime.open``."""
    providers: tuple[str, ...] | None = None
    """ONNX Runtime's execution providers; None for the CPU."""
    settings: Settings
    guarded: bool = True
    """Whether a key or a token is asked for."""
    token_keys: Path | None = None
    """The key set of whoever signs tokens; None to take none."""
    token_issuers: tuple[str, ...] = ()
    token_audiences: tuple[str, ...] = ()
    token_leeway_seconds: float = LEEWAY_SECONDS
    """How much clocks may differ."""
    keep_alive_seconds: int = 75
    """How long a connection without a request stays open."""
    tls: Tls | None = None
    """For HTTPS; None for plain HTTP."""

    @contextmanager
    def app(self, *, admission: Admission | None = None, draining: Draining | None = None) -> Iterator[Flask]:
        """The application, and everything that it needs, for as long as the ``with`` block lasts.

        Args:
            admission: The queue of requests, of whoever accepts connections.
            draining: Whether the server is about to stop.

        Raises:
            BundleError: If the bundle cannot be used.
            StoreError: If the store can never be opened; one that is away now is waited for.
        """
        from isoform.runtime.runtime import Runtime  # here, not above: ONNX Runtime's threads do not survive a fork
        from isoform.server.app import create_app
        from isoform.server.service.service import service_of
        from isoform.server.telemetry.tracing import export_traces, flush_traces

        give_back_freed_memory()
        with ExitStack() as stack:
            runtime = stack.enter_context(
                Runtime.open(
                    self.bundle,
                    threads=self.prediction_threads,
                    cache_bytes=self.cache_bytes,
                    engine=self.engine,
                    providers=self.providers,
                )
            )
            store = (
                None
                if self.store is None
                else stack.enter_context(
                    Store(self.store, connections=self.request_threads + 2, create=False, identity=self.identity)
                )
            )
            keys = Keys(store) if self.guarded and store is not None else None
            if export_traces():
                stack.callback(flush_traces)
            app = create_app(
                runtime, store=store, settings=self.settings, keys=keys, tokens=self.tokens(), admission=admission,
                draining=draining, unloaded=self.unloaded,
            )  # fmt: skip
            stack.callback(service_of(app).close, seconds=JOB_SECONDS)
            yield app

    def tokens(self) -> Tokens | None:
        """What checks tokens; None if none are taken. Raises ``UsageError`` if the key set makes no sense."""
        if not self.guarded or self.token_keys is None:
            return None
        return Tokens(
            self.token_keys, issuer=self.token_issuers, audience=self.token_audiences, leeway=self.token_leeway_seconds
        )


def store_url(text: str) -> URL | None:
    """What ``--store`` means: ``none``; a URL, if it begins like one (``postgresql+psycopg://``); else a file for SQLite, as it is spelt.

    Raises:
        StoreError: If it begins like a URL and is none.
    """
    if text == "none":
        return None
    if _URL.match(text) is None:
        return file_url(Path(text).absolute())
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        start = text.partition("://")[0]  # the rest may hold a password
        raise StoreError(
            f"--store begins like a URL, {start}://, but is none; a file of that name begins with ./"
        ) from None
