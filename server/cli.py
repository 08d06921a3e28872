"""``isoform serve``: the application behind gunicorn, or waitress where that cannot run; on loopback unless told otherwise."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import logging
import socket
import sys
from pathlib import Path

from isoform.runtime.bundle import Bundle
from isoform.runtime.errors import UsageError
from isoform.server.access.address import networks
from isoform.server.access.tokens import LEEWAY_SECONDS
from isoform.server.opening import Opening, store_url
from isoform.server.settings import JOBS, Settings
from isoform.server.store.store import Store
from isoform.server.unloaded import Unloaded

__all__ = ["add_arguments_serve", "run_serve"]


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
    add(
        "--behind",
        choices=("gunicorn", "waitress"),
        help="what speaks HTTP (default: gunicorn; waitress where it cannot run)",
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
    parser.epilog = "example:\n  isoform serve bundle/ --open\n  curl localhost:8000/v2/models/plain"


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C. The first line on stdout is JSON with the address, once requests are answered.

    Raises:
        UsageError: If an argument is out of range, or nobody can listen there.
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
    behind = arguments.behind or ("gunicorn" if _gunicorn_runs() else "waitress")
    if behind == "waitress" and arguments.workers > 1:
        raise UsageError(
            f"--workers is {arguments.workers}, but waitress has one process; take --threads, or --behind gunicorn"
        )
    _set_up_logs()
    opening = Opening(
        bundle=arguments.bundle, store=store_url(arguments.store), prediction_threads=arguments.prediction_threads,
        request_threads=arguments.threads, cache_bytes=arguments.cache_mb << 20,
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
        keep_alive_seconds=arguments.keep_alive,
    )  # fmt: skip
    bundle = Bundle.load(
        arguments.bundle
    )  # what is wrong with the bundle or the store is said once, here, and not by every process
    opening.tokens()
    if opening.store is not None:
        with Store(opening.store) as store:
            unloaded = Unloaded(list(bundle.signatures), store.unloaded())
            store.pin()  # the processes that serve open the file when somebody asks for it, which may be much later
            opening = dataclasses.replace(opening, identity=store.identity, unloaded=unloaded)

    def ready(host: str, port: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(json.dumps({"url": url, "tasks": list(bundle.signatures), "template": bundle.digest}), flush=True)
        print(f"serving {len(bundle.signatures)} tasks on {url}; stop with Ctrl-C", file=sys.stderr)

    if behind == "waitress":
        from isoform.server.http import waitress

        waitress.serve(
            opening, host=arguments.host, port=arguments.port, drain_seconds=arguments.drain_seconds, ready=ready
        )
    else:
        from isoform.server.http import gunicorn

        _check_free(arguments.host, arguments.port)
        gunicorn.serve(
            opening, host=arguments.host, port=arguments.port, processes=arguments.workers,
            drain_seconds=arguments.drain_seconds, ready=ready,
        )  # fmt: skip


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


def _gunicorn_runs() -> bool:
    return importlib.util.find_spec("fcntl") is not None and importlib.util.find_spec("gunicorn") is not None


def _check_free(host: str, port: int) -> None:
    """One line if nobody can listen there: gunicorn would try five times, and tell of each."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        raise UsageError(f"cannot listen on {host}:{port}: {problem}; choose another --host or --port") from None


def _set_up_logs() -> None:
    """Words of the server with their time; requests as they are, because they are JSON with a time of its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("isoform.access")
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False
