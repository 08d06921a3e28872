"""``isoform serve``: its arguments, and what they come to; on loopback unless told otherwise."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import socket
import ssl
import sys
from pathlib import Path

from isoform.runtime.errors import UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.server.access.tokens import LEEWAY_SECONDS
from isoform.server.exchange.address import networks
from isoform.server.opening import Opening, Tls, store_url
from isoform.server.process.listening import listening
from isoform.server.service.settings import JOBS, Settings
from isoform.server.service.unloaded import Unloaded
from isoform.server.store.store import Store

__all__ = ["add_arguments_serve", "opened", "run_serve"]

EPILOG = """example:
  isoform serve bundle/ --open
  curl localhost:8000/v2/models/plain

behind nginx:
  isoform serve bundle/ --unix /run/isoform.sock --workers 2
  and in nginx: proxy_pass http://unix:/run/isoform.sock; docs/examples/nginx.conf balances several servers

under another ASGI server, which then has its own words for address, processes and TLS:
  ISOFORM_SERVE='bundle/ --open' granian --interface asgi --factory isoform.server.asgi:application
  ISOFORM_SERVE='bundle/ --open' uvicorn --factory isoform.server.asgi:application --no-proxy-headers"""


def add_arguments_serve(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform serve``'s arguments."""
    add = parser.add_argument
    add("bundle", type=Path, help="a compiled bundle")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1)",
    )
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    add(
        "--store",
        default="isoform.db",
        help="where users' signatures are kept: a path of an SQLite file, a URL (begins like postgresql+psycopg://), or none (default: isoform.db)",
    )
    add(
        "--unknown",
        choices=("refuse", "base"),
        default="refuse",
        help="what a user without a signature gets: 404, or the task's base signature (default: refuse)",
    )
    add("--workers", type=int, default=1, help="processes (default: 1)")
    add("--threads", type=int, default=4, help="requests that a process handles at once (default: 4)")
    add("--prediction-threads", type=int, default=1, help="threads per prediction (default: 1)")
    add("--engine", default="auto", help="auto, onnx, sessions or reference: what runs the network (default: auto)")
    add(
        "--provider",
        action="append",
        metavar="NAME",
        help="an execution provider of ONNX Runtime; again for one to fall back to (default: the CPU)",
    )
    add(
        "--cache-mb", type=int, default=256, help="memory of a process for users' folded weights, in MiB (default: 256)"
    )
    add("--queue", type=int, default=256, help="requests that may wait in a process; more get 503 (default: 256)")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="requests a second from one key, or one address without a valid key, to one process; more get 429 (default: any number)",
    )
    add(
        "--deadline-ms",
        type=float,
        default=0.0,
        help="a prediction that waited longer gets 503 (default: no limit)",
    )
    add(
        "--batch",
        type=int,
        default=1,
        help="samples of concurrent requests for the same network that run together (default: 1, none)",
    )
    add(
        "--batch-delay-ms",
        type=float,
        default=0.0,
        help="how long a batch that is not full waits for more (default: 0)",
    )
    add(
        "--jobs-per-caller",
        type=int,
        default=8,
        help="jobs that may wait in a process for one caller, and for one user; more get 429 (default: 8)",
    )
    add(
        "--drain-seconds",
        type=float,
        default=0.0,
        help="after SIGTERM, say so long that it is not ready, and answer, then stop (default: 0)",
    )
    add(
        "--log",
        choices=("all", "errors", "none"),
        default="errors",
        help="requests written down on stderr, as JSON: all, refused and changing ones, none (default: errors)",
    )
    add("--max-body-mb", type=int, default=16, help="longest request body, in MiB (default: 16)")
    add(
        "--max-samples",
        type=int,
        default=0,
        help="samples of one request (default: as many as the longest body has as FP32)",
    )
    add("--max-answer-mb", type=int, default=16, help="longest answer to a prediction, in MiB (default: 16)")
    add(
        "--request-memory-mb",
        type=int,
        default=128,
        help="memory of a process for requests and the samples of jobs together, in MiB; more get 503 (default: 128)",
    )
    add("--open", action="store_true", help="let everybody do everything, without a key; only on loopback")
    add("--token-keys", type=Path, help="file with the key set of whoever signs tokens (JWT), JSON")
    add("--token-issuer", action="append", default=[], help="'iss' of those tokens; several are fine")
    add("--token-audience", action="append", help="'aud' of those tokens; several are fine (default: isoform)")
    add(
        "--token-leeway",
        type=float,
        help=f"seconds that the issuer's clock may differ (default: {LEEWAY_SECONDS:g})",
    )
    add(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy whose X-Forwarded-For is believed; several are fine (default: none)",
    )
    add(
        "--keep-alive",
        type=int,
        default=75,
        help="seconds that an idle connection stays open; longer than the balancer in front keeps it (default: 75)",
    )
    add("--unix", type=Path, metavar="PATH", help="listen on a Unix socket instead of --host and --port")
    add("--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS: certificate and those of its issuers, PEM")
    add("--tls-key", type=Path, metavar="FILE", help="the certificate's key, PEM")
    parser.epilog = EPILOG


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C. The first line on stdout is JSON with the address, once requests are answered.

    Raises:
        UsageError: If an argument is out of range, or nobody can listen there.
        BundleError: If the bundle cannot be used.
        StoreError: If the store cannot be opened.
        EngineError: If the server cannot start.
    """
    opening, bundle = opened(arguments)
    from isoform.server.process import serve

    if arguments.workers > 1 and not serve.forks():
        raise UsageError(f"--workers is {arguments.workers}, but this system has no fork; take --threads")
    with listening(arguments.host, arguments.port, arguments.unix) as listener:
        where = _url(listener, tls=opening.tls is not None)

        def ready() -> None:
            print(json.dumps({"url": where, "tasks": list(bundle.signatures), "template": bundle.digest}), flush=True)
            print(f"serving {len(bundle.signatures)} tasks on {where}; stop with Ctrl-C", file=sys.stderr, flush=True)

        serve.serve(
            opening, listener, processes=arguments.workers, drain_seconds=arguments.drain_seconds, ready=ready
        )  # fmt: skip


def opened(arguments: argparse.Namespace) -> tuple[Opening, Bundle]:
    """What the arguments say that is to be served; what is wrong with the bundle or the store is said here, and not by every process.

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
            raise UsageError(f"--{name} is {value}, but {least} to {most:.10g} was expected")
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
            batch_delay_seconds=arguments.batch_delay_ms / 1e3, waiters=arguments.threads // 2,
            long_requests=max(1, arguments.threads // 2), log=arguments.log,
            jobs_per_caller=arguments.jobs_per_caller,
            trusted_proxies=networks(arguments.trusted_proxy),
        ),
        guarded=not arguments.open, token_keys=arguments.token_keys, token_issuers=tuple(arguments.token_issuer),
        token_audiences=tuple(arguments.token_audience or ["isoform"]), token_leeway_seconds=leeway,
        keep_alive_seconds=arguments.keep_alive, tls=_tls(arguments),
    )  # fmt: skip
    bundle = Bundle.load(arguments.bundle)
    opening.tokens()
    if opening.store is not None:
        with Store(opening.store) as store:
            unloaded = Unloaded(list(bundle.signatures), store.unloaded())
            store.pin()  # the processes that serve open the file when somebody asks for it, which may be much later
            opening = dataclasses.replace(opening, identity=store.identity, unloaded=unloaded)

    return opening, bundle


def _check_access(arguments: argparse.Namespace) -> None:
    if arguments.token_keys is None:
        given = {
            "--token-issuer": arguments.token_issuer != [], "--token-audience": arguments.token_audience is not None,
            "--token-leeway": arguments.token_leeway is not None,
        }  # fmt: skip
        for name in (name for name, is_given in given.items() if is_given):
            raise UsageError(
                f"{name} says which tokens are taken, but without --token-keys none is; add it, or leave {name} out"
            )
    if arguments.open:
        if arguments.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError(
                f"--open on {arguments.host} would let everybody in; leave --open out, or listen on 127.0.0.1"
            )
        if arguments.token_keys is not None:
            raise UsageError("--open lets everybody in, and --token-keys only some; leave one of them out")
    elif arguments.token_keys is not None:
        if not arguments.token_issuer or not all(arguments.token_issuer):
            raise UsageError("--token-keys needs --token-issuer, so that only that issuer's tokens are taken")
    elif arguments.store == "none":
        raise UsageError(
            "keys are kept in the store, and --store is none; name one, or --token-keys, or on loopback --open"
        )


def _tls(arguments: argparse.Namespace) -> Tls | None:
    """Certificate and key, which are tried here. Raises ``UsageError`` if they are none, or not of each other."""
    certificate, key = arguments.tls_certificate, arguments.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-certificate and --tls-key belong together; give both, or none for plain HTTP")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as problem:  # an SSLError is one
        raise UsageError(f"cannot use --tls-certificate {certificate} with --tls-key {key}: {problem}") from None
    return Tls(certificate, key)


def _url(listener: socket.socket, *, tls: bool) -> str:
    """Where a socket is reached."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _set_up_logs() -> None:
    """Words of the server with their time; requests as they are, because they are JSON with a time of its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("isoform.access")
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False
