"""A PostgreSQL server for a test run, on a socket in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["POSTGRES", "postgres", "stopped"]

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""Debian's package keeps its programs there; None if it is not installed."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh database; root hands the server to the user ``postgres``, because it refuses to run as root."""
    with tempfile.TemporaryDirectory(prefix="isoform-pg-") as folder:  # a socket's path must be short
        shutil.chown(folder, _user())
        with _started(Path(folder)) as url:
            yield url


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """The database of that URL, stopped as an operator restarts it: whoever is connected is cut off. It is started again afterwards."""
    assert POSTGRES is not None
    data = Path(url.partition("?host=")[2])
    control = (str(POSTGRES / "pg_ctl"), "-D", str(data), "-w", "-s")
    subprocess.run((*control, "-m", "fast", "stop"), user=_user(), check=True, cwd=data)
    try:
        yield
    finally:
        command = (*control, "-o", _options(data), "-l", str(data / "log"), "start")
        subprocess.run(command, user=_user(), check=True, cwd=data, stdout=subprocess.DEVNULL)


def _options(data: Path) -> str:
    return f"-k {data} -c listen_addresses="


def _user() -> str:
    return "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def _started(data: Path) -> Iterator[str]:
    assert POSTGRES is not None
    user = _user()

    def run(*command: str) -> None:
        subprocess.run(command, user=user, check=True, cwd=data, stdout=subprocess.DEVNULL)

    run(str(POSTGRES / "initdb"), "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C")
    control = (str(POSTGRES / "pg_ctl"), "-D", str(data), "-w", "-s")
    run(*control, "-o", _options(data), "-l", str(data / "log"), "start")
    try:
        yield f"postgresql+psycopg://{user}@/postgres?host={data}"
    finally:
        run(*control, "-m", "fast", "stop")
