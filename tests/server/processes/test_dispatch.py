"""What the event loop does itself, and what it leaves to threads: it never waits for the store to say whose key came."""

import asyncio
import contextlib
import itertools
import threading
import time

import pytest
from scopes import Client, scope_of

from isoform.server.access.guard import Gate
from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.capacity.admission import Admission
from isoform.server.dispatch import HUNG_SECONDS, SLOW_SECONDS, Dispatch, Line
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


@pytest.mark.trust
def test_strangers_wait_in_a_line_of_their_own(runtime, store, monkeypatch) -> None:
    """Fifty requests without a key that is known come first; a caller who is known is answered before the second of them."""
    monkeypatch.setattr("isoform.server.dispatch.STRANGERS_SECONDS", 0.2)
    keys = Keys(store)
    key = [(b"authorization", f"Bearer {keys.add('alice', ['admin'])}".encode())]
    app, order = create_app(runtime, store=store, keys=keys), list[int]()

    async def run() -> None:
        asgi = Asgi(lambda: contextlib.nullcontext(app), threads=2, by_loop=True)

        async def answered(*fields) -> None:
            client = Client(b"")
            await asgi(scope_of(b"/v2", "GET", fields), client.receive, client.send)
            order.append(client.status)

        try:
            await answered(*key)
            await asyncio.sleep(0.25)
            strangers = [asyncio.ensure_future(answered()) for _ in range(50)]
            await asyncio.sleep(0)
            await answered(*key)
            for stranger in strangers:
                stranger.cancel()
            await asyncio.wait(strangers)
        finally:
            asgi.close()

    asyncio.run(run())
    assert order == [200, 401, 200]


def test_a_line_with_a_pause() -> None:
    """The first goes at once; those behind it go one by one, at least so far apart, in order; one that is gone takes no turn."""
    times, order = list[float](), list[int]()

    async def run() -> None:
        line = Line(1, pause=0.03)

        async def wait(number: int) -> None:
            await line.wait()
            times.append(time.monotonic())
            order.append(number)

        began = time.monotonic()
        waiting = [asyncio.ensure_future(wait(number)) for number in range(4)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.wait(waiting)
        assert times[0] - began < times[1] - times[0] + 0.03

    asyncio.run(run())
    assert order == [0, 2, 3]
    assert all(after - before >= 0.025 for before, after in itertools.pairwise(times))


def test_who_is_known(store) -> None:
    """Whose key was good a moment ago; everybody where no key is asked for; not who sends nothing, another key or secret, or any other word."""
    keys = Keys(store)
    key, other = keys.add("alice", ["admin"]), keys.add("bob", ["admin"])
    keys.caller(key)
    gate, forged = Gate(keys, None), key[:-43] + "x" * 43
    sent = {name: {"HTTP_AUTHORIZATION": f"Bearer {name}"} for name in (key, other, "eyJ.e30.x", "iso_", forged)}
    assert [gate.knows(environ) for environ in sent.values()] == [True, False, False, False, False]
    assert not gate.knows({})
    assert Gate(None, None).knows({})
    assert keys.revoke(key.split("_")[1])
    assert not gate.knows(sent[key])


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
