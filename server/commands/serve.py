"""The command ``isoform serve``: parse and check its arguments, then run the server. Listens on loopback by default."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import socket
import ssl
import sys
from pathlib import Path

from isoform.runtime.commands.opened import add_engine_choice
from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.samples.account import plural
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import LEEWAY_SECONDS
from isoform.server.exchange.address import networks
from isoform.server.opening import Opening, Tls, store_url
from isoform.server.process.listening import listening
from isoform.server.protocol.metadata import check_tasks
from isoform.server.service.settings import JOBS, Settings
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.store import Store

__all__ = ["add_arguments_serve", "opened", "run_serve"]

EPILOG = """example:
  isoform serve bundle/ --open
  curl localhost:8000/v2/models/plain

behind nginx:
  isoform serve bundle/ --unix /run/isoform.sock --workers 2
  and in nginx: proxy_pass http://unix:/run/isoform.sock;
  docs/examples/nginx.conf balances several servers

under another ASGI server, which has its own options for address, processes and
TLS:
  ISOFORM_SERVE='bundle/ --open' granian --interface asgi \\
    --factory isoform.server.asgi:application
  ISOFORM_SERVE='bundle/ --open' uvicorn --no-proxy-headers \\
    --factory isoform.server.asgi:application"""


def add_arguments_serve(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``isoform serve``."""
    add = parser.add_argument
    add("bundle", type=Path, help="a compiled bundle")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1)",
    )
    add("--port", type=int, default=8000, help="port to listen on; 0 picks a free one (default: 8000)")
    add(
        "--store",
        default="isoform.db",
        help="where users' signatures are kept: path of an SQLite file, a database URL (postgresql+psycopg://...), or none (default: isoform.db)",
    )
    add(
        "--unknown",
        choices=("refuse", "base"),
        default="refuse",
        help="answer for a user without a signature: refuse is 404, base uses the task's base signature (default: refuse)",
    )
    add("--workers", type=int, default=1, help="worker processes (default: 1)")
    add("--threads", type=int, default=4, help="request threads per process (default: 4)")
    add("--prediction-threads", type=int, default=1, help="threads per prediction (default: 1)")
    add_engine_choice(parser)
    add("--cache-mb", type=int, default=256, help="cache for users' folded weights, per process, in MiB (default: 256)")
    add("--queue", type=int, default=256, help="requests that may queue, per process; more get 503 (default: 256)")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="rate limit in requests/s, per key (or per address without a valid key) and process; more get 429 (default: 0, no limit)",
    )
    add(
        "--deadline-ms",
        type=float,
        default=0.0,
        help="a prediction that waited longer in the queue gets 503 (default: 0, no limit)",
    )
    add(
        "--batch",
        type=int,
        default=1,
        help="maximum batch size, in samples of concurrent requests for the same network (default: 1, no batching)",
    )
    add(
        "--batch-delay-ms",
        type=float,
        default=0.0,
        help="how long a partial batch waits for more requests (default: 0)",
    )
    add(
        "--jobs-per-caller",
        type=int,
        default=8,
        help="queued jobs per caller, and per user, in each process; more get 429 (default: 8)",
    )
    add(
        "--drain-seconds",
        type=float,
        default=0.0,
        help="after SIGTERM, keep answering for this long while /v2/health/ready is 503, then stop (default: 0)",
    )
    add(
        "--log",
        choices=("all", "errors", "none"),
        default="errors",
        help="requests to log on stderr, as JSON; errors: those that failed or changed something (default: errors)",
    )
    add("--max-body-mb", type=int, default=16, help="largest request body, in MiB (default: 16)")
    add(
        "--max-samples",
        type=int,
        default=0,
        help="samples per request (default: 0, as many as fit into the largest body as FP32)",
    )
    add("--max-answer-mb", type=int, default=16, help="largest answer to a prediction, in MiB (default: 16)")
    add(
        "--request-memory-mb",
        type=int,
        default=128,
        help="memory budget per process for requests and samples of jobs, in MiB; more get 503 (default: 128)",
    )
    add("--open", action="store_true", help="no access control: everybody may do everything; only on loopback")
    add("--token-keys", type=Path, help="file with the token issuer's public keys (JWKS), to accept JWTs")
    add("--token-issuer", action="append", default=[], help="accepted 'iss' of tokens; repeatable")
    add("--token-audience", action="append", help="accepted 'aud' of tokens; repeatable (default: isoform)")
    add(
        "--token-leeway",
        type=float,
        help=f"allowed clock skew of the issuer, in seconds (default: {LEEWAY_SECONDS:g})",
    )
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy whose X-Forwarded-For is trusted; repeatable (default: none)",
    )
    add(
        "--keep-alive",
        type=int,
        default=75,
        help="seconds an idle connection stays open; set it above the load balancer's own timeout (default: 75)",
    )
    add("--unix", type=Path, metavar="PATH", help="listen on a Unix socket instead of --host and --port")
    add("--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS: the certificate chain, PEM")
    add("--tls-key", type=Path, metavar="FILE", help="private key of the certificate, PEM")
    parser.epilog = EPILOG


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C. The first line on stdout is JSON with the address, printed once requests are answered.

    Raises:
        UsageError: If an argument is out of range, or the address cannot be bound.
        BundleError: If the bundle cannot be used.
        StoreError: If the store cannot be opened.
        EngineError: If the server cannot start.
    """
    opening, bundle = opened(arguments)
    no_key = _no_key(arguments)
    from isoform.server.process import serve  # here: --help and argument errors need not load the application

    if arguments.workers > 1 and not serve.forks():
        raise UsageError(f"--workers is {arguments.workers}, but this system cannot fork; use --threads instead")
    with listening(arguments.host, arguments.port, arguments.unix) as listener:
        where = _url(listener, tls=opening.tls is not None)

        def ready() -> None:
            # Flushed: stdout is block-buffered where it is a pipe, and scripts wait for this line.
            print(json.dumps({"url": where, "tasks": list(bundle.signatures), "template": bundle.digest}), flush=True)
            tasks = plural(len(bundle.signatures), "task")
            print(f"serving {tasks} on {where}; stop with Ctrl-C{no_key}", file=sys.stderr, flush=True)

        serve.serve(
            opening, listener, processes=arguments.workers, drain_seconds=arguments.drain_seconds, ready=ready
        )  # fmt: skip


def opened(arguments: argparse.Namespace) -> tuple[Opening, Bundle]:
    """Check the arguments, and open the bundle and the store once, so that a problem is reported once and not by every process.

    Returns:
        The settings from which each process opens its application, and the bundle.

    Raises:
        UsageError: If an argument is out of range.
        BundleError: If the bundle cannot be used.
        StoreError: If the store cannot be opened.
    """
    leeway = LEEWAY_SECONDS if arguments.token_leeway is None else arguments.token_leeway
    for name, value, least, most in (
        ("port", arguments.port, 0, 65535), ("workers", arguments.workers, 1, 256), ("threads", arguments.threads, 1, 256),
        ("prediction-threads", arguments.prediction_threads, 0, 1024), ("cache-mb", arguments.cache_mb, 0, 1 << 20),
        ("max-body-mb", arguments.max_body_mb, 1, 1024), ("max-samples", arguments.max_samples, 0, 1 << 24),
        ("max-answer-mb", arguments.max_answer_mb, 1, 1024), ("request-memory-mb", arguments.request_memory_mb, 1, 1 << 20),
        ("queue", arguments.queue, 1, 1 << 20), ("rate", arguments.rate, 0, 1e6),
        ("deadline-ms", arguments.deadline_ms, 0, 3.6e6), ("batch", arguments.batch, 1, 4096),
        ("batch-delay-ms", arguments.batch_delay_ms, 0, 1000), ("drain-seconds", arguments.drain_seconds, 0, 3600),
        ("jobs-per-caller", arguments.jobs_per_caller, 1, JOBS),
        ("token-leeway", leeway, 0, 3600), ("keep-alive", arguments.keep_alive, 1, 3600),
    ):  # fmt: skip
        if not least <= value <= most:
            raise UsageError(f"--{name} is {value}, but a value from {least} to {most:.10g} was expected")
    _check_access(arguments)
    _set_up_logs()
    opening = Opening(
        bundle=arguments.bundle, store=store_url(arguments.store), prediction_threads=arguments.prediction_threads,
        request_threads=arguments.threads, cache_bytes=arguments.cache_mb << 20,
        engine=arguments.engine, providers=tuple(arguments.provider) if arguments.provider else None,
        settings=Settings(
            max_body_bytes=arguments.max_body_mb << 20, max_samples=arguments.max_samples,
            max_answer_bytes=arguments.max_answer_mb << 20, memory_bytes=arguments.request_memory_mb << 20,
            unknown=arguments.unknown, queue_requests=arguments.queue,
            rate_per_second=arguments.rate, deadline_seconds=arguments.deadline_ms / 1e3, batch_samples=arguments.batch,
            # Requests that are long and requests that wait for jobs must together leave a thread to others. So half of the threads, and
            # fewer than half: those that wait give way, because they lose less, 202 at once instead of 503.
            batch_delay_seconds=arguments.batch_delay_ms / 1e3, long_requests=max(1, arguments.threads // 2),
            waiters=(arguments.threads - 1) // 2, log=arguments.log,
            jobs_per_caller=arguments.jobs_per_caller,
            trusted_proxies=networks(arguments.trusted_proxy),
        ),
        guarded=not arguments.open, token_keys=arguments.token_keys, token_issuers=tuple(arguments.token_issuer),
        token_audiences=tuple(arguments.token_audience or ["isoform"]), token_leeway_seconds=leeway,
        keep_alive_seconds=arguments.keep_alive, tls=_tls(arguments),
    )  # fmt: skip
    bundle = Bundle.load(arguments.bundle)
    check_tasks(bundle.signatures)
    opening.tokens()  # for its errors: a broken key set must stop the start
    if opening.store is not None:
        # Closed again before the workers are forked: a database connection must not be shared by two processes.
        with Store(opening.store) as store:
            unloaded = Unloaded(list(bundle.signatures), store.unloaded())
            store.pin()  # worker processes open the file at their first request, which may be much later
            opening = dataclasses.replace(opening, identity=store.identity, unloaded=unloaded)

    return opening, bundle


def _check_access(arguments: argparse.Namespace) -> None:
    if arguments.token_keys is None:
        given = {
            "--token-issuer": arguments.token_issuer != [], "--token-audience": arguments.token_audience is not None,
            "--token-leeway": arguments.token_leeway is not None,
        }  # fmt: skip
        for name in (name for name, is_given in given.items() if is_given):
            raise UsageError(f"{name} has no effect without --token-keys; add --token-keys, or leave {name} out")
    if arguments.open:
        # Names and no look-up: what another name resolves to may change while the server runs.
        if arguments.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(
                f"--open turns access control off and is allowed on loopback only, but --host is {arguments.host}; "
                "leave --open out, or listen on 127.0.0.1"
            )
        if arguments.token_keys is not None:
            raise UsageError("--open and --token-keys exclude each other; leave one of them out")
    elif arguments.token_keys is not None:
        if not arguments.token_issuer or not all(arguments.token_issuer):
            raise UsageError("--token-keys needs --token-issuer: the 'iss' of the tokens to accept")
    elif arguments.store == "none":
        raise UsageError(
            "API keys are kept in the store, but --store is none; give a store, or --token-keys, or --open on loopback"
        )


def _no_key(arguments: argparse.Namespace) -> str:
    """The words for a server that refuses every request, because it has no valid key and trusts no issuer of tokens; else an empty text."""
    url = store_url(arguments.store)
    if arguments.open or arguments.token_keys is not None or url is None:
        return ""
    with Store(url) as store:
        keys = Keys(store).listed()
    if any(key.revoked is None for key in keys):
        return ""
    return f"; {'every key is revoked' if keys else 'no key exists yet'}: isoform key add NAME --scope predict, with the same --store, makes one"


def _tls(arguments: argparse.Namespace) -> Tls | None:
    """The certificate and key files, loaded once to check them. Raises ``UsageError`` if they are invalid or do not match."""
    certificate, key = arguments.tls_certificate, arguments.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-certificate and --tls-key are needed together; give both, or neither for plain HTTP")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as problem:  # SSLError is a subclass
        raise UsageError(f"cannot use --tls-certificate {certificate} with --tls-key {key}: {problem}") from None
    return Tls(certificate, key)


def _url(listener: socket.socket, *, tls: bool) -> str:
    """The URL at which a listening socket is reached."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _set_up_logs() -> None:
    """Log the server's messages with a timestamp, and requests as bare lines: they are JSON and carry their own time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("isoform.access")
    # Replaced and not added: a second call in one process would log every request twice.
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False
