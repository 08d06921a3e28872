"""What the event loop does itself, and what it leaves to threads: it never waits for the store to say whose key came."""

import asyncio
import contextlib
import threading
import time

import pytest
from scopes import Client, scope_of

from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.capacity.admission import Admission
from isoform.server.dispatch import HUNG_SECONDS, SLOW_SECONDS, Dispatch
from isoform.server.http.asgi import Asgi

INFER, LIVE = b"/v2/models/plain/infer", b"/v2/health/live"


@pytest.mark.trust
@pytest.mark.parametrize(
    ("path", "method"), [(b"/v2", "GET"), (INFER, "POST"), (b"/v1/models/plain/signatures", "GET")]
)
def test_the_loop_does_not_wait_for_the_store(path, method, runtime, store, monkeypatch) -> None:
    """A key that nobody knows yet is looked up by a thread: while the store hangs, the server lives and refuses who has no key at all."""
    keys, asked, go = Keys(store), threading.Event(), threading.Event()
    key = keys.add("alice", ["admin"])
    app, read, threads = create_app(runtime, store=store, keys=keys), Keys._read, list[threading.Thread]()

    def hangs(*arguments):
        threads.append(threading.current_thread())
        asked.set()
        assert go.wait(20)
        return read(*arguments)

    monkeypatch.setattr(Keys, "_read", hangs)
    known = [(b"authorization", f"Bearer {key}".encode()), (b"content-length", b"0")]

    async def run() -> None:
        asgi = Asgi(lambda: contextlib.nullcontext(app), threads=2, by_loop=True)

        async def answered(*scope) -> int:
            client = Client(b"")
            await asgi(scope_of(*scope), client.receive, client.send)
            return client.status

        try:
            slow = asyncio.ensure_future(answered(path, method, known))
            while not asked.is_set():
                await asyncio.sleep(0.001)
            assert await answered(LIVE) == 200
            assert await answered(b"/v2") == 401
            assert not slow.done()
            go.set()
            first = await slow
            assert first in (200, 400)
            assert await answered(path, method, known) == first
        finally:
            go.set()
            asgi.close()

    asyncio.run(run())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_which_keys_are_at_hand(store, monkeypatch) -> None:
    """Those that were looked up a moment ago, somebody's or nobody's, and what is no key; not one that was revoked here, or is old."""
    keys = Keys(store)
    key = keys.add("alice", ["predict"])
    nobodys = f"iso_{'0' * 16}_{'x' * 43}"
    assert [keys.at_hand(text) for text in (key, nobodys, "iso_", "")] == [False, False, True, True]
    assert (keys.caller(key).name, keys.caller(nobodys)) == ("alice", None)
    assert keys.at_hand(key)
    assert keys.at_hand(nobodys)
    monkeypatch.setattr("isoform.server.access.keys.SECONDS", 0.0)
    assert not keys.at_hand(key)
    assert not keys.at_hand(nobodys)
    monkeypatch.undo()
    assert keys.revoke(key.split("_")[1])
    assert not keys.at_hand(key)


@pytest.mark.parametrize(("slow", "by_loop"), [((0.0,), True), ((2,), False), ((1, 1), False), ((1, 0, 1), True)])
def test_what_is_slow_gets_threads(slow, by_loop) -> None:
    """Two slow predictions in a row, or one during which the store seems to hang; one slow one alone may be the machine's."""
    dispatch = Dispatch(Admission(1), threads=1, by_loop=True)
    try:
        for how in slow:
            dispatch.by_this_loop(lambda how=how: time.sleep((0.0, 2 * SLOW_SECONDS, 1.1 * HUNG_SECONDS)[int(how)]))
        assert dispatch.by_loop == by_loop
    finally:
        dispatch.close()
