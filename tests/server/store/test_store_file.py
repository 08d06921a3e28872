"""The file of an SQLite store: where it is, whose it is, and what happens when it is no longer there."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from serving import ask, serving
from sqlalchemy.engine import make_url

from isoform.runtime.errors import StoreError
from isoform.server.opening import store_url
from isoform.server.store.store import Store

pytestmark = pytest.mark.trust


def append(store: Store, user: str = "a"):
    """Append a revision."""
    return store.append("t", user, digest="0" * 64, data=b"bytes", action="put", actor="me")


def delete(path: Path) -> None:
    """Remove the database, and its log."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replace(path: Path) -> None:
    """Put another database into its place, as a backup is put back."""
    backup = path.with_name("backup")
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM INTO ?", [str(backup)])
    connection.close()
    backup.replace(path)


def empty(path: Path) -> None:
    """Put an empty file into its place."""
    path.unlink()
    path.touch()


def rename_folder(path: Path) -> None:
    """Rename the folder it lies in, and make another one of that name."""
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


def remove_log(path: Path) -> None:
    """Remove the write-ahead log alone: what is committed lies in it."""
    path.with_name(f"{path.name}-wal").unlink()


def remove_index(path: Path) -> None:
    """Remove the log's index alone: the next process would make another one."""
    path.with_name(f"{path.name}-shm").unlink()


@pytest.mark.parametrize("harm", [delete, replace, empty, rename_folder, remove_log, remove_index])
def test_no_write_is_acknowledged_that_is_lost(tmp_path, harm) -> None:
    """When the database is no longer the file at its path, writes fail, also on new connections, and no new file is made."""
    path = tmp_path / "folder" / "s.db"
    path.parent.mkdir()
    with Store(path) as store:
        append(store)
        assert store.ready()
        harm(path)
        there = sorted(os.listdir(path.parent))
        for _ in range(3):
            with pytest.raises(StoreError, match=r"is not the file that is open: it was deleted, replaced or moved"):
                append(store)
        assert not store.ready()
        failed = list[Exception]()
        threads = [threading.Thread(target=lambda: failed.append(_failure(store))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(problem) for problem in failed] == [StoreError] * 3
        assert sorted(os.listdir(path.parent)) == there


def _failure(store: Store) -> Exception | None:
    try:
        append(store)
    except Exception as problem:
        return problem
    return None


def test_a_symbolic_link_that_is_moved(tmp_path) -> None:
    """The path of a store may be a symbolic link; when it leads elsewhere, writes fail until it leads back."""
    link, first, second = tmp_path / "link.db", tmp_path / "1.db", tmp_path / "2.db"
    link.symlink_to(first)
    Store(second).close()
    with Store(link) as store:
        append(store)
        link.unlink()
        link.symlink_to(second)
        assert not store.ready()
        with pytest.raises(StoreError, match="deleted, replaced or moved"):
            append(store)
        link.unlink()
        link.symlink_to(first)
        assert store.ready()
        assert append(store).revision == 2
    with Store(second) as other:
        assert other.newest("t", "a") is None


NAMES = [
    "a b.db", "what?.db", "a?mode=memory", "a#b.db", "a%20b.db", "100%.db", "é ü.db", "\udcff.db", "'\".db", ":memory:", "none ",
    "a://b.db", "-x.db",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_file_that_is_named_is_opened(tmp_path, monkeypatch, name) -> None:
    """--store opens the file of exactly that name, whatever its characters mean in a URL; anew as well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:").mkdir()
    for revision in (1, 2):
        with Store(store_url(name if "://" not in name else f"./{name}")) as store:
            assert append(store).revision == revision
        found = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [os.fsencode(path) for path in found] == [os.fsencode(tmp_path / Path(name))]


@pytest.mark.parametrize(
    "url", ["sqlite://host/x.db", "sqlite://me@/x.db", "sqlite://me:secret@host/x.db", "sqlite://:80/x.db", "sqlite://x.db", "sqlite:///x.db?mode=memory",
            "sqlite+pysqlite://host/x.db", "sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///x.db"],
)  # fmt: skip
def test_an_sqlite_url_that_says_more_than_a_file_is_refused(tmp_path, monkeypatch, url) -> None:
    """A host, a port, a user or options that nobody would heed are one line that shows no password, and no file is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="sqlite:///FILE was expected, with three slashes") as refused:
        Store(store_url(url))
    assert "secret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_a_url_and_what_is_a_path(tmp_path) -> None:
    """Only what begins with a scheme is a URL; one for SQLite names a file and nothing else."""
    assert store_url("none") is None
    assert store_url("folder/x://y").drivername == "sqlite"
    assert store_url("postgresql+psycopg://me:p%40ss@host/x").password == "p@ss"
    assert store_url("sqlite:///x.db") == make_url("sqlite:///x.db")
    with pytest.raises(StoreError, match=r"needs psycopg2, which is not installed; .*isoform\[postgresql\]"):
        Store("postgresql+psycopg2://host/x")
    with pytest.raises(
        StoreError,
        match="starts with x:// but is not a valid database URL; for a file of that name, put \\./ before it",
    ):
        store_url("x://y:z/")
    with pytest.raises(StoreError, match="is not a file"):
        Store(tmp_path)


def test_its_owner_alone_can_read_it(tmp_path, caplog) -> None:
    """The database and its log can be read by nobody else; those of earlier versions are tightened, with a word; a group keeps its right."""
    old = os.umask(0o022)
    try:
        with Store(tmp_path / "s.db") as store:
            append(store)
            files = sorted(tmp_path.iterdir())
            assert [(file.name, stat.S_IMODE(file.stat().st_mode)) for file in files] == [
                (f"s.db{end}", 0o600) for end in ("", "-shm", "-wal")
            ]
    finally:
        os.umask(old)
    for mode, then in ((0o644, 0o600), (0o666, 0o600), (0o640, 0o640)):
        (tmp_path / "s.db").chmod(mode)
        caplog.clear()
        Store(tmp_path / "s.db").close()
        assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == then
        assert ("was readable by everybody" in caplog.text) == (then != mode)


def test_what_is_no_database_stays_as_it_is(tmp_path) -> None:
    """A file that is no database keeps its bytes and its permissions."""
    (tmp_path / "x").write_text("not a database, " * 100)
    (tmp_path / "x").chmod(0o644)
    with pytest.raises(StoreError, match="cannot open the signature store: .*not a database"):
        Store(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "not a database, " * 100
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


OPENER = """
import sys
from pathlib import Path
from isoform.server.store.store import Store
print("up", flush=True)
sys.stdin.readline()
with Store(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])) as store:
    for _ in range(3):
        store.append("t", "a", digest="0" * 64, data=b"x", action="put", actor="me")
"""


def open_together(where: str) -> list[str]:
    """What processes say that open one store at the same moment."""
    processes = [
        subprocess.Popen([sys.executable, "-c", OPENER, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=120)[1] for process in processes]


def test_processes_that_start_together(tmp_path) -> None:
    """Processes that open one SQLite file at the same moment, where there is none, all come up."""
    assert open_together(str(tmp_path / "s.db")) == [""] * 4
    with Store(tmp_path / "s.db") as store:
        assert store.newest("t", "a").revision == 12


@pytest.mark.xdist_group("store")
def test_replicas_that_start_together(postgresql) -> None:
    """Replicas that open one empty PostgreSQL at the same moment all come up."""
    assert open_together(postgresql) == [""] * 4


def test_another_file_never_takes_the_place_of_one_that_nobody_used_yet(compiled, tmp_path) -> None:
    """A database deleted and made anew before the first request for it, and after a restart, is refused, as its inode is never given again."""
    path, other = tmp_path / "s.db", tmp_path / "other.db"
    Store(other).close()
    signature = next((compiled / "compiled" / "signatures").glob("plain*")).read_bytes()
    with serving(compiled, "--store", path, "--open") as server:
        first = path.stat().st_ino
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for turn in range(2):
            for _ in range(50):  # a file system that gives inodes again does so at once
                delete(path)
                shutil.copy(other, path)
                assert path.stat().st_ino != first
            assert ask(server, "GET", "/v2/health/ready")[0] == 503
            assert ask(server, "PUT", "/v1/models/plain/signatures/alice", signature)[0] == 503
            assert path.read_bytes() == other.read_bytes()
            if turn == 0:
                os.kill(int(children.read_text().split()[0]), 9)


@pytest.mark.parametrize("harm", ["deleted", "replaced"])
def test_a_server_whose_file_is_deleted(harm, compiled, tmp_path) -> None:
    """Writes are 503 with Retry-After, it is not ready, base predictions go on, and a process that is started again accepts no other file."""
    path, other = tmp_path / "s.db", tmp_path / "other.db"
    tensor = {"name": "image", "shape": [1, 1, 32, 32], "datatype": "FP32", "data": [0.5] * 1024}
    Store(other).close()
    before = other.read_bytes()
    body = json.dumps({"inputs": [tensor]}).encode()
    signature = next((compiled / "compiled" / "signatures").glob("plain*")).read_bytes()
    user, plain = "/v1/models/plain/signatures/alice", {"Content-Type": "application/octet-stream"}
    with serving(compiled, "--store", path, "--open") as server:
        assert ask(server, "PUT", user, signature, plain)[0] == 201
        if harm == "deleted":
            assert ask(server, "POST", "/v2/repository/models/edges/unload", b"", plain)[0] == 200
            shutil.rmtree(tmp_path)
        else:
            path.rename(tmp_path / "moved.db")
            other.rename(path)  # the first one's log lies beside it
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for turn in range(2):
            status, head, answer = ask(server, "PUT", user, signature, plain)
            assert (status, head["Retry-After"]) == (503, "1")
            assert answer == {"error": "the signature store does not answer; try again"}
            assert ask(server, "GET", "/v2/health/ready")[0] == 503
            assert ask(server, "GET", "/v2/health/live")[0] == 200
            assert ask(server, "POST", "/v2/models/plain/infer", body, plain)[0] == 200
            edges = ask(server, "POST", "/v2/models/edges/infer", body, plain)[0]
            assert edges == (404 if harm == "deleted" else 200)  # it was unloaded, and stays so
            assert path.read_bytes() == before if harm == "replaced" else not tmp_path.exists()
            if turn == 0:
                os.kill(int(children.read_text().split()[0]), 9)
        if harm == "replaced":
            (tmp_path / "moved.db").replace(path)
            assert ask(server, "GET", user)[0] == ask(server, "GET", "/v2/health/ready")[0] == 200
