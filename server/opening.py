"""Open an application from the command's arguments: what every process of a server does first."""

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
"""How long a running job may continue when the server stops."""


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files for HTTPS, in PEM."""

    certificate: Path
    """The certificate, followed by those of its issuers."""
    key: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening:
    """Everything a process needs to open its application."""

    bundle: Path
    store: URL | None
    """The database, which must exist; None for a server without users' signatures."""
    identity: Identity | None = None
    """The only SQLite file accepted at that path, also by a process that is restarted later; None for PostgreSQL."""
    unloaded: Unloaded | None = None
    """Unloaded tasks, for processes that start while the store does not answer; None for none."""
    prediction_threads: int
    """Threads per prediction."""
    request_threads: int
    """Threads that handle requests in a process."""
    cache_bytes: int
    """Size of the cache of folded weights, as for ``Runtime.open``."""
    engine: str = "auto"
    """The engine, as for ``Runtime.open``."""
    providers: tuple[str, ...] | None = None
    """ONNX Runtime's execution providers; None for the CPU."""
    settings: Settings
    guarded: bool = True
    """Whether callers need a key or a token."""
    token_keys: Path | None = None
    """File with the token issuer's public keys (JWKS); None to accept no tokens."""
    token_issuers: tuple[str, ...] = ()
    token_audiences: tuple[str, ...] = ()
    token_leeway_seconds: float = LEEWAY_SECONDS
    """Allowed clock skew of the issuer."""
    keep_alive_seconds: int = 75
    """How long an idle connection stays open."""
    tls: Tls | None = None
    """For HTTPS; None for plain HTTP."""

    @contextmanager
    def app(self, *, admission: Admission | None = None, draining: Draining | None = None) -> Iterator[Flask]:
        """Open the application with its runtime and store, for as long as the ``with`` block lasts.

        Args:
            admission: The request queue of the server that accepts connections.
            draining: The flag that says whether the server is about to stop.

        Raises:
            BundleError: If the bundle cannot be used.
            StoreError: If the store can never be opened. A store that is unreachable now is opened at its first use.
        """
        # Here, not above: --help and argument errors need not load the runtime and the application.
        from isoform.runtime.runtime import Runtime
        from isoform.server.app import create_app
        from isoform.server.service.service import service_of
        from isoform.server.telemetry.tracing import export_traces, flush_traces

        give_back_freed_memory()  # first: malloc settings apply to threads that start later
        with ExitStack() as stack:
            # Not before the fork: the threads of ONNX Runtime's sessions do not survive one.
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
                    # Request threads, and room for readiness checks and jobs beside them.
                    Store(self.store, connections=self.request_threads + 2, create=False, identity=self.identity)
                )
            )
            keys = Keys(store) if self.guarded and store is not None else None
            if export_traces():
                stack.callback(flush_traces)
            # After the exporter: the application looks for a tracer provider when it is created.
            app = create_app(
                runtime, store=store, settings=self.settings, keys=keys, tokens=self.tokens(), admission=admission,
                draining=draining, unloaded=self.unloaded,
            )  # fmt: skip
            stack.callback(service_of(app).close, seconds=JOB_SECONDS)
            yield app

    def tokens(self) -> Tokens | None:
        """The verifier of tokens; None if tokens are not accepted. Raises ``UsageError`` if the key set is invalid."""
        if not self.guarded or self.token_keys is None:
            return None
        return Tokens(
            self.token_keys, issuer=self.token_issuers, audience=self.token_audiences, leeway=self.token_leeway_seconds
        )


def store_url(text: str) -> URL | None:
    """Parse ``--store``: ``none``, a database URL (``postgresql+psycopg://…``), or else a path of an SQLite file, taken literally.

    Raises:
        StoreError: If it starts like a URL but is not a valid one.
    """
    if text == "none":
        return None
    if _URL.match(text) is None:
        return file_url(Path(text).absolute())
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        start = text.partition("://")[0]  # never quote the rest: it may contain a password
        raise StoreError(
            f"--store starts with {start}:// but is not a valid database URL; for a file of that name, put ./ before it"
        ) from None
