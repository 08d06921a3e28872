"""A PostgreSQL server for a test run, on a socket in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["POSTGRES", "postgres"]

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""Debian's package keeps its programs there; None if it is not installed."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh database; root hands the server to the user ``postgres``, because it refuses to run as root."""
    with tempfile.TemporaryDirectory(prefix="isoform-pg-") as folder:  # a socket's path must be short
        shutil.chown(folder, _user())
        with _started(Path(folder)) as url:
            yield url


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
    run(*control, "-o", f"-k {data} -c listen_addresses=", "-l", str(data / "log"), "start")
    try:
        yield f"postgresql+psycopg://{user}@/postgres?host={data}"
    finally:
        run(*control, "-m", "fast", "stop")
