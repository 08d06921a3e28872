"""The commands of docs/server.md that back a store up and restore it, run as they stand there."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from postgres import POSTGRES
from support import ROOT

from isoform.server.access.keys import Keys
from isoform.server.store.store import Store

pytestmark = [pytest.mark.trust, pytest.mark.xdist_group("store")]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "server.md").read_text(encoding="utf-8"), flags=re.DOTALL)
BACK_UP, RESTORE = BLOCKS[:2], BLOCKS[2:]


def run(commands: str, folder: Path, url: str = "") -> None:
    """In a shell that stops at the first command that fails."""
    path = f"{os.environ['PATH']}{os.pathsep}{POSTGRES}"
    environment = {**os.environ, "PATH": path, "DATABASE": url.replace("+psycopg", "")}
    subprocess.run(["sh", "-e", "-c", commands], cwd=folder, env=environment, check=True, capture_output=True)


def append(store: Store, text: str) -> None:
    """Append a revision of user a."""
    store.append("t", "a", digest=text.encode().hex().ljust(64, "0"), data=text.encode(), action="put", actor="me")


def check_round_trip(where: Path | str, folder: Path, kind: int, url: str = "") -> None:
    """What was there at the time of the backup is there after the restore, and nothing else; the backup is its owner's alone."""
    with Store(where) as store:
        append(store, "one")
        key = Keys(store).add("me", ["admin"])
        run(BACK_UP[kind], folder, url)  # while it is open
        append(store, "lost")
    backup = next(folder.glob(["*-backup.db", "*.dump"][kind]))
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    run(RESTORE[kind], folder, url)
    with Store(where) as store:
        assert [revision.revision for revision in store.history("t", "a")] == [1]
        assert store.data("t", "a", 1) == b"one"
        assert Keys(store).caller(key).is_admin
        append(store, "two")
        assert store.ready()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed; Debian's package is 'sqlite3'")
def test_sqlite(tmp_path) -> None:
    """A backup of a file that is open, restored by the commands of the docs."""
    check_round_trip(tmp_path / "isoform.db", tmp_path, 0)
    assert stat.S_IMODE((tmp_path / "isoform.db").stat().st_mode) == 0o600


def test_postgresql(postgresql, tmp_path) -> None:
    """A dump of a database that is open, restored by the commands of the docs."""
    check_round_trip(postgresql, tmp_path, 1, postgresql)
