"""A PostgreSQL server for a test run, on a socket in a folder of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url

__all__ = ["POSTGRES", "Server", "postgres", "server", "stopped"]

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""Debian's package keeps its programs there; None if it is not installed."""


class Server:
    """A server over the database of a folder, which can be stopped, started, and held."""

    def __init__(self, data: Path, programs: Path) -> None:
        self._data, self._programs = data, programs
        self._user = _user()
        url = URL.create("postgresql+psycopg", username=self._user, database="postgres", query={"host": str(data)})
        self.url = url.render_as_string(hide_password=False)

    def create(self) -> None:
        """An empty database."""
        self._run("initdb", "-D", self._data, "-A", "trust", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Until it answers."""
        options = f"-k {self._data} -c listen_addresses="
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-o", options, "-l", self._data / "log", "start")

    def stop(self) -> None:
        """Until it has ended; connections are dropped."""
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-m", "fast", "stop")

    @contextmanager
    def held(self) -> Iterator[None]:
        """It neither answers nor ends: connections stay, and nothing comes."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _run(self, program: str, *words: str | Path) -> None:
        """Root hands it to the user ``postgres``, because it refuses to run as root."""
        command = [self._programs / program, *words]
        subprocess.run(command, user=self._user, check=True, cwd=self._data, stdout=subprocess.DEVNULL)


def _user() -> str:
    return "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def server() -> Iterator[Server]:
    """A running server."""
    assert POSTGRES is not None
    with tempfile.TemporaryDirectory(prefix="isoform-pg-") as folder:  # a socket's path must be short
        shutil.chown(folder, _user())
        found = Server(Path(folder), POSTGRES)
        found.create()
        found.start()
        try:
            yield found
        finally:
            found.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh database."""
    with server() as found:
        yield found.url


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """The server of that URL, stopped, and started again afterwards."""
    assert POSTGRES is not None
    found = Server(Path(str(make_url(url).query["host"])), POSTGRES)
    found.stop()
    try:
        yield
    finally:
        found.start()
