"""A great many distinct signature files, quickly, and three places to keep them: the server's store, a folder of files, a plain table."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sqlalchemy as sql

from isoform.runtime import Signature
from isoform.runtime.formats import files
from isoform.server.store.schema import revisions
from isoform.server.store.store import Store

__all__ = ["TASK", "Folder", "Table", "fill_store", "name_of", "signature_files"]

TASK = "plain"
LAYERS, TEMPLATES = 8, 4
"""Of the quickstart's network: 32 numbers."""
AT_ONCE = 5000


def name_of(number: int) -> str:
    """A user's name; neighbours in time are not neighbours in order, as with names that people choose."""
    return f"user-{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:16]}"


def signature_files(count: int, *, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """Digest and bytes of so many files, all different, each as ``Signature.encode`` writes it.

    One is encoded; of the others only the numbers differ, and the digest, which is the sha256 over the file with zeros in its place.
    """
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("template", "base")}
    mixture = np.zeros((LAYERS, TEMPLATES), np.float32)
    one = Signature(parts={"mixture": mixture}, task=TASK, parent=digests["base"], **digests)
    whole, size = one.encode(), 4 * LAYERS * TEMPLATES
    head, zeros = whole[:-size], b"0" * 64
    place = head.index(one.digest.encode())
    before, after = head[:place], head[place + 64 :]
    rng = np.random.default_rng([2, start])
    for first in range(0, count, AT_ONCE):
        numbers = rng.normal(size=(min(AT_ONCE, count - first), LAYERS * TEMPLATES)).astype("<f4")
        for row in numbers:
            data = row.tobytes()
            digest = hashlib.sha256(before + zeros + after + data).hexdigest()
            yield digest, before + digest.encode() + after + data


def fill_store(store: Store, count: int) -> None:
    """Give so many users a first revision, many in one transaction."""
    rows = list[dict[str, object]]()
    for number, (digest, data) in enumerate(signature_files(count)):
        rows.append(
            {
                "task": TASK, "user": name_of(number), "revision": 1, "digest": bytes.fromhex(digest), "parent": None, "action": "put",
                "actor": "import", "created": 1_700_000_000_000 + number, "data": data,
            }
        )  # fmt: skip
        if len(rows) == AT_ONCE or number == count - 1:
            with store.writing() as connection:
                connection.execute(sql.insert(revisions), rows)
            rows.clear()


class Folder:
    """The rival that everybody begins with: a file for every user, in 256 folders."""

    def __init__(self, path: Path) -> None:
        self._path = path
        for number in range(256):
            (path / f"{number:02x}").mkdir(parents=True)

    def fill(self, count: int) -> None:
        """Write them; nothing is flushed to the disk but by the system."""
        for number, (_, data) in enumerate(signature_files(count)):
            self.place(name_of(number)).write_bytes(data)

    def place(self, name: str) -> Path:
        """Where a user's file is."""
        return self._path / name[5:7] / name

    def read(self, name: str) -> bytes:
        """A user's file."""
        with open(self.place(name), "rb", buffering=0) as file:
            return file.read()

    def append(self, name: str, data: bytes) -> None:
        """Replace a user's file, so that it is on the disk: write, fsync, rename, fsync."""
        files.write_bytes(self.place(name), data)

    def allocated_bytes(self, *, sample: int, count: int) -> float:
        """What they take on the disk, by a sample of them."""
        step = max(1, count // sample)
        taken = [512 * self.place(name_of(number)).stat().st_blocks for number in range(0, count, step)]
        return sum(taken) / len(taken) * count


class Table:
    """The floor: names and bytes in one SQLite table, straight through Python's own module, no revisions, no digests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE IF NOT EXISTS signatures (name TEXT PRIMARY KEY, data BLOB)")

    def fill(self, count: int) -> None:
        """Write them."""
        self._connection.execute("BEGIN")
        rows = ((name_of(number), data) for number, (_, data) in enumerate(signature_files(count)))
        self._connection.executemany("INSERT INTO signatures VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def read(self, name: str) -> bytes:
        """A user's bytes."""
        found: bytes = self._connection.execute("SELECT data FROM signatures WHERE name = ?", (name,)).fetchone()[0]
        return found

    def append(self, name: str, data: bytes) -> None:
        """Replace a user's bytes, so that they are on the disk."""
        self._connection.execute("UPDATE signatures SET data = ? WHERE name = ?", (data, name))

    def close(self) -> None:
        """Write everything to its place, and close."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    @property
    def allocated_bytes(self) -> float:
        """What it takes on the disk."""
        return float(sum(os.stat(path).st_blocks * 512 for path in self._path.parent.glob(f"{self._path.name}*")))
