"""Two replicas of the server behind nginx, with one PostgreSQL: the recipe for many machines, on one.

    apt-get install nginx postgresql
    python docs/examples/scale_out.py quickstart/bundle -o scale-out

Starts everything in the folder, which keeps the database for the next time, and prints one line of JSON: nginx's address, the
replicas' addresses, the database's URL, and an administrator's key, which is good as long as it runs. Ctrl-C or SIGTERM stops all of it.
On real machines systemd or Kubernetes does what this script does; nginx.conf beside it is the part to take over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import URL

from isoform.server.access.keys import Keys
from isoform.server.store.store import Store

HERE = Path(__file__).parent
ISOFORM = [sys.executable, "-m", "isoform.runtime.cli"]


def main() -> None:
    """Start, wait, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a compiled bundle")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("scale-out"), help="folder for the database (default: scale-out)"
    )
    parser.add_argument("--ports", type=int, nargs=3, default=(8000, 8001, 8002), help="of nginx and of both replicas")
    arguments = parser.parse_args()
    nginx, programs = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), _postgresql()
    if nginx is None or programs is None:
        raise SystemExit("nginx and PostgreSQL are needed: apt-get install nginx postgresql")
    folder = arguments.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_database(programs, folder / "postgresql"))
        replicas = [stack.enter_context(_replica(arguments.bundle, url, port)) for port in arguments.ports[1:]]
        address = stack.enter_context(_balancer(nginx, folder / "nginx", arguments.ports))
        store = stack.enter_context(Store(url))
        keys = Keys(store)
        secret = keys.add("example", ["admin"])
        stack.callback(keys.revoke, secret.split("_")[1])
        print(json.dumps({"url": address, "replicas": replicas, "store": url, "key": secret}), flush=True)
        print(
            f"{address}, stop with Ctrl-C; for example:\ncurl -H 'Authorization: Bearer {secret}' {address}/v2",
            file=sys.stderr,
        )
        while True:
            signal.pause()


@contextlib.contextmanager
def _database(programs: Path, data: Path) -> Iterator[str]:
    """PostgreSQL on a socket; root hands it to the user ``postgres``, because it refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    data.mkdir(exist_ok=True)
    shutil.chown(data, user)

    def run(*command: str | Path) -> None:
        subprocess.run(command, user=user, check=True, cwd=data, stdout=subprocess.DEVNULL)

    if not (data / "PG_VERSION").exists():
        run(programs / "initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--locale=C")
    control = (programs / "pg_ctl", "-D", data, "-w", "-s")
    run(*control, "-o", f"-k {data} -c listen_addresses=", "-l", data / "log", "start")
    try:
        url = URL.create("postgresql+psycopg", username=user, database="postgres", query={"host": str(data)})
        yield url.render_as_string(hide_password=False)
    finally:
        run(*control, "-m", "fast", "stop")


@contextlib.contextmanager
def _replica(bundle: Path, store: str, port: int) -> Iterator[dict[str, object]]:
    """One server, once it answers."""
    command = [
        *ISOFORM,
        "serve",
        str(bundle),
        "--port",
        str(port),
        "--store",
        store,
        "--workers",
        "1",
        "--threads",
        "8",
        "--drain-seconds",
        "1",
    ]
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the replica on port {port} did not start")
        yield {"url": json.loads(line)["url"], "pid": process.pid}


@contextlib.contextmanager
def _balancer(nginx: str, folder: Path, ports: tuple[int, int, int]) -> Iterator[str]:
    """nginx with the configuration beside this file, and these ports."""
    (folder / "temporary").mkdir(parents=True, exist_ok=True)
    text = (HERE / "nginx.conf").read_text(encoding="utf-8")
    for default, port in zip((8000, 8001, 8002), ports, strict=True):
        text = text.replace(f"127.0.0.1:{default}", f"127.0.0.1:{port}")
    (folder / "nginx.pid").unlink(missing_ok=True)  # of one that was killed
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    with _process([nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]) as process:
        until = time.monotonic() + 10
        while not (folder / "nginx.pid").exists() or not (folder / "nginx.pid").read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("nginx did not start")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{ports[0]}"


@contextlib.contextmanager
def _process(command: list[str], **options: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, so that Ctrl-C reaches this script alone; told to stop at the end."""
    process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _postgresql() -> Path | None:
    """Where PostgreSQL's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    beside = shutil.which("initdb")
    return Path(beside).parent if beside else next(iter(found), None)


def _stop(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
