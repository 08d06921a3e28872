"""A fair queue: callers take turns (round robin), and each caller and user may hold a share of its places.

One caller's hundred queued items delay another caller's by one. The items of one caller keep their order.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from isoform.server.exchange.problems import BusyError, TooManyError

__all__ = ["Place", "Turns"]

Item = TypeVar("Item")


# Compared by identity: two places of one caller and user count as two.
@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A reserved place in the queue."""

    caller: str
    user: tuple[str, str]
    """Task and name of the user."""


class Turns(Generic[Item]):
    """The fair queue. Safe to use from several threads.

    Args:
        places: Capacity of the queue.
        share: Most places of one caller, and of one user.
    """

    def __init__(self, *, places: int, share: int) -> None:
        self._places, self._share = places, share
        self._held = set[Place]()
        self._lines = collections.OrderedDict[str, collections.deque[tuple[Place, Item]]]()
        self._changed = threading.Condition()

    def reserve(self, caller: str, user: tuple[str, str]) -> Place:
        """Reserve a place, to be passed to ``put`` or ``release``.

        Args:
            caller: Unique id of the caller.
            user: Task and name of the user.

        Raises:
            TooManyError: If the caller or the user has used up its share.
            BusyError: If the queue is full.
        """
        place = Place(caller, user)
        with self._changed:
            for whose, count in (
                ("of this caller", sum(held.caller == place.caller for held in self._held)),
                ("for this user", sum(held.user == user for held in self._held)),
            ):
                if count >= self._share:
                    raise TooManyError(
                        f"{count} jobs {whose} wait in this process, and the limit is {self._share}; try again later"
                    )
            if len(self._held) >= self._places:
                raise BusyError(f"the queue is full: {self._places} jobs wait in this process; try again later")
            self._held.add(place)
        return place

    def release(self, place: Place) -> None:
        """Free a reserved place that is not needed."""
        with self._changed:
            self._held.discard(place)

    def put(self, place: Place, item: Item) -> None:
        """Queue an item at a reserved place."""
        with self._changed:
            self._lines.setdefault(place.caller, collections.deque()).append((place, item))
            self._changed.notify()

    def take(self) -> Item:
        """Wait for the next item and remove it; its place is free from then on."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines)
            caller, line = self._lines.popitem(last=False)
            place, item = line.popleft()
            if line:
                self._lines[caller] = line  # at the end: the other callers come first now
            self._held.discard(place)
        return item

    def drop(self, unwanted: Callable[[Item], bool]) -> None:
        """Remove unwanted items, such as cancelled jobs, and free their places."""
        with self._changed:
            for caller, line in list(self._lines.items()):
                gone = [place for place, item in line if unwanted(item)]
                self._held.difference_update(gone)
                kept = collections.deque(entry for entry in line if entry[0] not in gone)
                if kept:
                    self._lines[caller] = kept
                else:
                    del self._lines[caller]
