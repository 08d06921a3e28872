"""Revisions: appended, found, gone back to, deleted; two at once, and a process that dies. On SQLite and PostgreSQL alike."""

import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sql

from isoform.runtime.errors import ConflictError, StoreError
from isoform.server.access.keys import Keys
from isoform.server.store.audit import happened
from isoform.server.store.ledger import FORGET, Ledger
from isoform.server.store.schema import replies
from isoform.server.store.store import ANY, Reply, Store

pytestmark = pytest.mark.xdist_group("store")  # one PostgreSQL for all

NAMES = (*"ab", "c.d-e_f", "z" * 64)


def digest(text: str) -> str:
    """A digest that tells texts apart."""
    return text.encode().hex().ljust(64, "0")[:64]


def append(store: Store, user: str, text: str, **options):
    """Append a revision of task t that holds a text."""
    return store.append("t", user, digest=digest(text), data=text.encode(), action="put", actor="me", **options)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'signatures.db'}"
    return request.getfixturevalue("emptied")


@pytest.fixture
def opened(url) -> Iterator[Store]:
    """An open, empty store."""
    with Store(url, keep=3) as store:
        yield store


def test_append_and_find(opened) -> None:
    """Revisions count from 1, each names the one before it, and the newest answers; others have theirs."""
    assert opened.newest("t", "a") is None
    first, second = append(opened, "a", "one"), append(opened, "a", "two")
    append(opened, "b", "other")
    assert (first.revision, first.parent, first.digest) == (1, None, digest("one"))
    assert (second.revision, second.parent, second.digest) == (2, digest("one"), digest("two"))
    assert opened.newest("t", "a") == second
    assert opened.find("t", "a", 1) == first
    assert opened.find("t", "a", 3) is None
    assert opened.newest("u", "a") is None
    assert opened.data("t", "a", 1) == b"one"
    assert opened.data("t", "b", 1) == b"other"
    assert opened.data("t", "a", 9) is None
    assert abs(second.created - time.time() * 1000) < 60_000
    assert (second.action, second.actor) == ("put", "me")


def test_it_outlives_the_process(url) -> None:
    """What one store took in, the next one has."""
    with Store(url) as store:
        append(store, "a", "one")
    with Store(url) as store:
        assert store.data("t", "a", 1) == b"one"


def test_old_bytes_go_and_their_record_stays(opened) -> None:
    """Only the bytes of the last three are kept; who made what, and when, of all."""
    for number in range(6):
        append(opened, "a", str(number))
    assert [opened.data("t", "a", revision) for revision in range(1, 7)] == [None, None, None, b"3", b"4", b"5"]
    assert [revision.kept for revision in opened.history("t", "a")] == [True, True, True, False, False, False]


def test_pages(opened) -> None:
    """Users by name, revisions newest first, page by page; no user's revisions among another's."""
    for name in reversed(NAMES):
        append(opened, name, name)
        append(opened, name, name * 2)
    assert [revision.user for revision in opened.users("t")] == sorted(NAMES)
    assert [revision.revision for revision in opened.users("t")] == [2] * 4
    page = opened.users("t", limit=2)
    assert [r.user for r in page + opened.users("t", after=page[-1].user, limit=9)] == sorted(NAMES)
    assert [r.revision for r in opened.history("t", "a")] == [2, 1]
    assert [r.revision for r in opened.history("t", "a", limit=1)] == [2]
    assert [r.revision for r in opened.history("t", "a", before=2)] == [1]
    assert opened.users("u") == opened.history("t", "nobody") == []


def test_expectations(opened) -> None:
    """A write that expects another newest revision does nothing."""
    append(opened, "a", "one", expect=0)
    for wrong in (0, 2):
        with pytest.raises(ConflictError, match=f"of t/a is 1, but {wrong} was expected"):
            append(opened, "a", "no", expect=wrong)
    assert append(opened, "a", "two", expect=1).revision == 2
    with pytest.raises(ConflictError, match="of t/a is 2, but 1"):
        opened.delete("t", "a", actor="me", expect=1)
    assert opened.newest("t", "a").revision == 2


@pytest.mark.trust
def test_delete(opened) -> None:
    """Every revision of that user goes, nobody else's; afterwards they go on counting, and what was sent before is not done again."""
    append(opened, "a", "one", reply=Reply("k", b"1" * 32, "me"))
    append(opened, "b", "other")
    assert opened.delete("t", "a", actor="me") is True
    assert opened.delete("t", "a", actor="me") is False
    assert opened.newest("t", "a") is None
    assert opened.data("t", "a", 1) is None
    with pytest.raises(ConflictError, match="revision 1 of t/a, made with the idempotency key 'k', was deleted"):
        opened.replied(Reply("k", b"1" * 32, "me"))
    assert opened.data("t", "b", 1) == b"other"
    again = append(opened, "a", "again")
    assert (again.revision, again.parent) == (2, None)


def test_replies(opened) -> None:
    """The same key and request: what it made; the same key and another request: refused; another actor's key is another key."""
    reply = Reply("k", b"1" * 32, "me")
    assert opened.replied(reply) is None
    made = append(opened, "a", "one", reply=reply)
    append(opened, "a", "two")
    assert opened.replied(reply) == made
    assert opened.replied(dataclasses.replace(reply, sender="you")) is None
    with pytest.raises(ConflictError, match="was used for another request"):
        opened.replied(Reply("k", b"2" * 32, "me"))
    with pytest.raises(ConflictError, match="a concurrent write came first"):
        append(opened, "a", "three", reply=reply)
    assert opened.newest("t", "a").revision == 2


def test_tasks_that_do_not_answer(opened) -> None:
    """Unloaded once or twice is unloaded."""
    for loaded in (False, False, True, True, False):
        opened.set_loaded("t", loaded=loaded, actor="me")
        assert opened.unloaded() == (set() if loaded else {"t"})


def test_a_task_is_unloaded_by_many_at_once(opened) -> None:
    """Eight threads unload and then load the same task, ten times: none fails, and one of them is the one that changed it."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            loaded = bool(turn % 2)
            list(pool.map(lambda name, loaded=loaded: opened.set_loaded("t", loaded=loaded, actor=name), "abcdefgh"))
            assert opened.unloaded() == (set() if loaded else {"t"})
    events = happened(opened)
    assert [event.action for event in events] == ["load", "unload"] * 10


def test_clocks_of_replicas_may_differ(emptied, monkeypatch) -> None:
    """A replica whose clock is ten minutes late, after another: neither the history, the events nor the keys go back in time."""
    with Store(emptied) as store:
        keys, true = Keys(store), time.time_ns
        for late, unit in ((0, "a"), (600 * 10**9, "b")):
            monkeypatch.setattr(time, "time_ns", lambda late=late: true() - late)
            append(store, "a", unit, reply=Reply(unit, b"1" * 32, "me"))
            keys.revoke(keys.add(unit, ["predict"]).split("_")[1])
            store.set_loaded("t", loaded=unit == "b", actor="me")
            append(store, unit * 2, unit)
            store.delete("t", unit * 2, actor="me")
        monkeypatch.undo()
        with store.reading() as connection:
            replied = list(connection.execute(sql.select(replies.c.created).order_by(replies.c.key)).scalars())
        made = [revision.created for revision in reversed(store.history("t", "a"))]
        told = [event.created for event in reversed(happened(store))]
        listed = [moment for key in keys.listed() for moment in (key.created, key.revoked)]
    assert [len(times) for times in (made, replied, told, listed)] == [2, 2, 8, 4]
    for times in (made, replied, told, listed):
        assert times == sorted(times)
        assert abs(times[-1] - time.time() * 1000) < 60_000


def test_many_at_once_lose_nothing(opened) -> None:
    """Eight threads append to two users: every append has a revision of its own, in one unbroken chain."""

    def work(number: int) -> list:
        made = []
        for turn in range(20):
            made.append(append(opened, "ab"[number % 2], f"{number}-{turn}"))
        return made

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = [revision for part in pool.map(work, range(8)) for revision in part]
    assert len(made) == 160
    for user in "ab":
        mine = sorted((r for r in made if r.user == user), key=lambda r: r.revision)
        assert [r.revision for r in mine] == list(range(1, len(mine) + 1))
        assert [r.parent for r in mine] == [None, *(r.digest for r in mine[:-1])]
        assert opened.newest("t", user).revision == len(mine)


@pytest.mark.trust
def test_many_old_jobs(opened) -> None:
    """However many jobs are to be forgotten at once, a new one is taken in, and soon none of them is left."""
    jobs, count = Ledger(opened), 70_000
    with opened.writing() as connection:
        connection.exec_driver_sql(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            'INSERT INTO isoform_jobs (id, task, "user", action, actor, state, step, steps, created, updated) '
            "SELECT 'job' || i, 't', 'a', 'adapt', 'me', CASE WHEN i / 2 * 2 = i THEN 'done' ELSE 'queued' END, 0, 0, 1, 1 FROM n"
        )
    for left in (count - FORGET, count - 2 * FORGET):
        assert jobs.add("t", "b", action="adapt", actor="me", expect=ANY).state == "queued"
        with opened.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM isoform_jobs WHERE \"user\" = 'a'").scalar() == left
    assert opened.delete("t", "a", actor="me") is True  # and cancels 34,500 at once


WRITER = """
import sys
from isoform.server.store.store import Store
store = Store(sys.argv[1])
print("up", flush=True)
for number in range(100_000):
    text = f"{number:06d}"
    store.append("t", sys.argv[2], digest=text.encode().hex().ljust(64, "0"), data=text.encode(), action="put", actor="me")
    print(text, flush=True)
"""


def test_a_killed_writer_loses_nothing(url) -> None:
    """kill -9 in the middle: whatever was acknowledged is there, whole; at most one more."""
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, url, f"u{turn}"], stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout.readline() == "up\n"
            time.sleep(0.3 + 0.1 * turn)
            os.kill(process.pid, signal.SIGKILL)
            told = process.stdout.read().split("\n")[:-1]
        assert len(told) > 10
        with Store(url) as store:
            newest = store.newest("t", f"u{turn}")
            assert newest.revision in (len(told), len(told) + 1)
            assert store.data("t", f"u{turn}", newest.revision) == f"{newest.revision - 1:06d}".encode()
            assert append(store, f"u{turn}", "more").revision == newest.revision + 1


def test_what_cannot_be_opened(tmp_path) -> None:
    """A URL without sense, a folder that is not there, a file that is no database: one line."""
    (tmp_path / "text.db").write_text("not a database, " * 100)
    for url in ("nosuch://x", "x", f"sqlite:///{tmp_path}/no/folder.db", f"sqlite:///{tmp_path}/text.db"):
        with pytest.raises(StoreError, match="cannot open the signature store: ") as caught:
            Store(url)
        assert "\n" not in str(caught.value)
