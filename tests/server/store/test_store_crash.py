"""``kill -9`` of several writers at random moments, again and again: what was acknowledged is there, whole and in order. SQLite and PostgreSQL."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from isoform.server.store.store import Store

ROUNDS, WRITERS = 5, 3
WRITER = """
import hashlib, sys
from isoform.runtime.errors import ConflictError
from isoform.server.store.store import Reply, Store
url, name = sys.argv[1:]
with Store(url) as store:
    print("up", flush=True)
    for number in range(100_000):
        text = f"{name}-{number}".encode()
        reply = Reply(text.decode(), hashlib.sha256(text).digest(), "me") if number % 3 == 0 else None
        try:
            made = store.append("t", "ab"[number % 2], digest=hashlib.sha256(text).hexdigest(), data=text * 40, action="put", actor=name, reply=reply)
        except ConflictError:
            continue
        sys.stdout.write(f"{made.user} {made.revision} {made.digest}\\n")
        sys.stdout.flush()
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_at_random(kind, tmp_path, request) -> None:
    """Three writers of the same two users, all killed, some while they open the store: five times."""
    url = f"sqlite:///{tmp_path / 's.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql")
    rng, told = random.Random(0), dict[tuple[str, int], str]()
    Store(url, keep=1_000_000).close()
    for turn in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, url]
        writers = [
            subprocess.Popen([*command, f"w{turn}{i}"], stdout=subprocess.PIPE, text=True) for i in range(WRITERS)
        ]
        if turn % 4:  # else somewhere in starting
            assert [writer.stdout.readline() for writer in writers] == ["up\n"] * WRITERS
        for writer in writers:
            time.sleep(rng.uniform(0, 0.4))
            os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            whole = [
                line
                for line in writer.stdout.read().splitlines(keepends=True)
                if line.endswith("\n") and line != "up\n"
            ]
            writer.stdout.close()
            writer.wait()
            for user, revision, digest in map(str.split, whole):
                assert told.setdefault((user, int(revision)), digest) == digest  # nobody is told the same twice
    assert len(told) > 100
    with Store(url) as store:
        for user in "ab":
            kept = {revision.revision: revision for revision in store.history("t", user, limit=1_000_000)}
            assert sorted(kept) == [*range(1, len(kept) + 1)]
            assert all(kept[n].parent == kept[n - 1].digest for n in range(2, len(kept) + 1))
            mine = {revision: digest for (name, revision), digest in told.items() if name == user}
            assert all(kept[revision].digest == digest for revision, digest in mine.items())
            assert len(kept) - len(mine) <= ROUNDS * WRITERS  # at most one each that nobody was told of


def test_sqlite_waits_for_the_disk(tmp_path) -> None:
    """What was acknowledged outlives the machine, not only the process: every commit is flushed; and the file is whole after a kill."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    with Store(url) as store, store.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    with subprocess.Popen([sys.executable, "-c", WRITER, url, "w"], stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(50):
            assert writer.stdout.readline()
        writer.kill()
    connection = sqlite3.connect(tmp_path / "s.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
