"""``isoform serve``: the application behind waitress, on loopback unless told otherwise."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from pathlib import Path

from waitress.server import create_server

from isoform.runtime.errors import UsageError
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app

__all__ = ["add_arguments_serve", "run_serve"]


def add_arguments_serve(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform serve``'s arguments."""
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; there is no access control yet, so think before opening it (default: 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    parser.add_argument("--workers", type=int, default=4, help="requests handled at once (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="threads per prediction (default: 1)")
    parser.add_argument("--max-body-mb", type=int, default=16, help="longest request body, in MiB (default: 16)")
    parser.epilog = "example:\n  isoform serve bundle/ --port 8000\n  curl localhost:8000/v2/models/plain"


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C. The first line on stdout is JSON with the address, once requests are answered."""
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port is {arguments.port}, but 0 to 65535 was expected")
    if not 1 <= arguments.workers <= 256:
        raise UsageError(f"--workers is {arguments.workers}, but 1 to 256 was expected")
    if not 1 <= arguments.max_body_mb <= 1024:
        raise UsageError(f"--max-body-mb is {arguments.max_body_mb}, but 1 to 1024 was expected")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    with Runtime.open(arguments.bundle, threads=arguments.threads) as runtime:
        app = create_app(runtime, max_body_bytes=arguments.max_body_mb << 20)
        try:
            # The application refuses long bodies itself, with JSON; waitress is only kept from reading without an end.
            server = create_server(
                app,
                host=arguments.host,
                port=arguments.port,
                threads=arguments.workers,
                ident="isoform",
                max_request_body_size=4 * (arguments.max_body_mb << 20),
            )
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"cannot listen on {arguments.host}:{arguments.port}: {problem}; choose another --host or --port"
            ) from None
        signal.signal(signal.SIGTERM, _stop)
        host, port = (
            server.effective_listen[0]
            if hasattr(server, "effective_listen")
            else (arguments.host, server.effective_port)
        )
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(json.dumps({"url": url, "tasks": list(runtime.tasks), "template": runtime.bundle.digest}), flush=True)
        print(f"serving {len(runtime.tasks)} tasks on {url}; stop with Ctrl-C", file=sys.stderr)
        try:
            server.run()
        finally:
            server.task_dispatcher.shutdown()
            server.close()


def _stop(*_: object) -> None:
    raise SystemExit(0)
