"""The cache of built things: borrowing, making room, waiting, failing."""

import threading

import pytest

from isoform.runtime.engines.cache import Cache


def made(value: str, size: int = 10):
    """A builder that makes room first, and says what it was handed."""
    return lambda make_room: ([value, make_room()], size)


def test_what_is_dropped_is_handed_to_the_next_builder() -> None:
    """At the limit a new entry gets the longest unused one's memory, and the bytes stay within the limit."""
    cache: Cache[list] = Cache(20)
    for key, handed in (("a", None), ("b", None), ("c", "a"), ("d", "b")):
        with cache.borrow(key, made(key)) as entry:
            assert (entry[1] and entry[1][0]) == handed
            assert cache.stats()["bytes"] <= 20
    with cache.borrow("c", made("never")) as entry:
        assert entry[0] == "c"
    with cache.borrow("e", made("e")) as entry:
        assert entry[1][0] == "d"


def test_what_is_borrowed_is_never_dropped() -> None:
    """Borrowed entries stay beyond the limit, and go when they are given back."""
    cache: Cache[list] = Cache(20)
    with cache.borrow("a", made("a")), cache.borrow("b", made("b")), cache.borrow("c", made("c")) as c:
        assert c[1] is None
        assert cache.stats()["bytes"] == 30
        with cache.borrow("a", made("never")):
            assert cache.stats()["hits"] == 1
    stats = cache.stats()
    assert (stats["bytes"], stats["entries"], stats["evictions"]) == (20, 2, 1)


def test_small_entries_make_room_for_a_large_one() -> None:
    """One large entry drops as many small ones as it needs; the entry used last stays even if it is too large."""
    cache: Cache[list] = Cache(50)
    for key in "abcde":
        with cache.borrow(key, made(key)):
            pass
    with cache.borrow("large", made("large", 45)):
        pass
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (1, 45)
    with cache.borrow("huge", made("huge", 99)):
        pass
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (1, 99)


def test_a_failed_build_is_tried_again_by_those_who_wait() -> None:
    """If the builder fails, the next in line builds; the failure reaches only its own caller."""
    cache: Cache[list] = Cache(20)
    began, go, results = threading.Event(), threading.Event(), []

    def fail(_):
        began.set()
        go.wait(10)
        raise OSError("no")

    def first() -> None:
        with pytest.raises(OSError, match="no"), cache.borrow("a", fail):
            pass

    def second() -> None:
        with cache.borrow("a", made("good")) as entry:
            results.append(entry[0])

    one = threading.Thread(target=first)
    one.start()
    began.wait(10)
    others = [threading.Thread(target=second) for _ in range(3)]
    for thread in others:
        thread.start()
    go.set()
    for thread in (one, *others):
        thread.join(10)
    assert results == ["good"] * 3
    assert (cache.stats()["misses"], cache.stats()["hits"]) == (1, 2)


def test_clearing_while_something_is_borrowed() -> None:
    """A borrowed entry outlives ``clear``, and giving it back does not disturb the one that took its place."""
    cache: Cache[list] = Cache(20)
    with cache.borrow("a", made("old")) as old:
        cache.clear()
        with cache.borrow("a", made("new")) as new:
            assert (old[0], new[0]) == ("old", "new")
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (1, 10)

    def clearing(_):
        cache.clear()
        return ["lost"], 10

    with cache.borrow("b", clearing) as entry:
        assert entry == ["lost"]
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (0, 0)


def test_an_interrupt_while_waiting_gives_the_entry_back(monkeypatch) -> None:
    """Whoever is interrupted while another builds does not pin the entry."""
    cache: Cache[list] = Cache(0)

    class Interrupted:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *_):
            raise AssertionError

    def build(_):
        entry = cache._entries["a"]
        real, entry.building = entry.building, Interrupted()
        with pytest.raises(KeyboardInterrupt), cache.borrow("a", made("never")):
            pass
        entry.building = real
        return ["a"], 10

    with cache.borrow("a", build):
        pass
    assert cache._entries["a"].borrowers == 0


def test_one_entry_can_be_let_go() -> None:
    """Discarding takes an entry's bytes off; one that is borrowed or unknown stays as it is."""
    cache: Cache[list] = Cache(50)
    for key in "ab":
        with cache.borrow(key, made(key)):
            pass
    cache.discard("a")
    cache.discard("nobody")
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (1, 10)
    with cache.borrow("b", made("never")):
        cache.discard("b")
        assert cache.stats()["entries"] == 1
    cache.discard("b")
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (0, 0)
