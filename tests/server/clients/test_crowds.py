"""Many requests at the same moment, whole ones and half ones: who waits for whom, and how much memory they take meanwhile."""

import asyncio
import contextlib
import itertools
import socket
import time
import tracemalloc

import numpy as np
import pytest
from bodies import INFER, binary
from serving import ask, serving

from isoform.server.capacity.admission import Admission
from isoform.server.clients.transfer import TOTAL_BYTES, Body, Transfers
from isoform.server.dispatch import Dispatch, Line
from isoform.server.exchange.answer import Answer
from isoform.server.exchange.problems import BusyError

pytestmark = pytest.mark.trust


def test_a_crowd_is_let_on_a_few_at_a_time() -> None:
    """In the order in which they came, so that the loop looks at its connections in between: health is asked on one of them."""

    async def crowd() -> tuple[list[int], list[int]]:
        line, let_on, seen = Line(3), list[int](), [0]

        async def one(number: int) -> None:
            await line.wait()
            let_on.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(20)]
        tasks[11].cancel()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            seen.append(len(let_on))
        await line.wait()  # whoever comes later is let on too
        return let_on, seen

    let_on, seen = asyncio.run(crowd())
    assert let_on == [number for number in range(20) if number != 11]
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 3


def test_readiness_is_looked_at_once_for_all_who_ask() -> None:
    """Hundreds who ask at the same time get the answer of one look, and one of them that goes takes it from nobody."""
    looks = list[str]()

    def look() -> Answer:
        looks.append("look")
        time.sleep(0.05)
        return Answer(200, b"", ())

    async def crowd() -> list[int]:
        dispatch = Dispatch(Admission(4), threads=1, by_loop=True)
        asked = [asyncio.ensure_future(dispatch.when_ready("GET", look)) for _ in range(300)]
        await asyncio.sleep(0.01)
        asked[0].cancel()
        found = [(await one).status for one in asked[1:]]
        assert (await dispatch.when_ready("GET", look)).status == 200
        dispatch.close()
        return found

    assert asyncio.run(crowd()) == [200] * 299
    assert len(looks) == 2


def test_half_requests_take_no_places_of_the_queue(compiled, tmp_path) -> None:
    """While 60 clients announce a signature and send none, a server whose queue has 4 places answers every prediction."""
    body, headers = binary(np.zeros((1, 1, 32, 32)))
    head = b"PUT /v1/models/plain/signatures/alice HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    found = list[int]()
    with (
        serving(compiled, "--store", tmp_path / "s.db", "--open", "--queue", "4") as server,
        contextlib.ExitStack() as stack,
    ):
        for number in range(60):
            stack.enter_context(socket.create_connection(server.address, timeout=10)).sendall(head)
            if number % 6 == 5:
                found.append(ask(server, "POST", INFER, body, headers)[0])
    assert found == [200] * 10


def test_bodies_that_are_given_up_are_forgotten_at_once() -> None:
    """Two hundred bodies of a megabyte that come in the same turn of the loop take no more memory than all of them together may."""

    async def crowd() -> tuple[int, int]:
        transfers, never = Transfers(), asyncio.Event()

        async def one() -> bytes:
            sizes = iter([1 << 20])

            async def receive() -> dict[str, object]:
                size = next(sizes, 0)
                if not size:
                    await never.wait()
                return {"type": "http.request", "body": bytes(size), "more_body": True}

            return await Body(transfers, receive, {"CONTENT_LENGTH": "2000000"}, limit=1 << 22).read()

        tracemalloc.start()
        tasks = [asyncio.ensure_future(one()) for _ in range(200)]
        await asyncio.sleep(0.05)
        peak, problems = tracemalloc.get_traced_memory()[1], [task.exception() for task in tasks if task.done()]
        tracemalloc.stop()
        assert all(isinstance(problem, BusyError) for problem in problems)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert transfers.bytes == 0
        return peak, len(problems)

    peak, given_up = asyncio.run(crowd())
    assert given_up == 200 - (TOTAL_BYTES >> 20)
    assert peak < 1.1 * TOTAL_BYTES
