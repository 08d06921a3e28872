"""Whose turn it is: what waits, one caller after another, with a share of the places for each caller and each user.

One caller's hundred jobs delay another caller's by one: callers take turns, and each one's jobs come in their order.
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
"""A caller whose share is used up is told to come again then."""


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A place among those that wait."""

    caller: str
    user: tuple[str, str]
    """Task and name."""


class Turns(Generic[Item]):
    """A queue. Safe to use from several threads.

    Args:
        places: How many may wait.
        share: How many of one caller, and how many for one user.
    """

    def __init__(self, *, places: int, share: int) -> None:
        self._places, self._share = places, share
        self._held = set[Place]()
        self._lines = collections.OrderedDict[str, collections.deque[tuple[Place, Item]]]()
        self._changed = threading.Condition()

    def reserve(self, caller: str, user: tuple[str, str]) -> Place:
        """A place, to be given to ``put`` or ``release``.

        Args:
            caller: What tells whose request it is from all others.
            user: Task and name of whom it is for.

        Raises:
            TooManyError: If so many wait for that caller or that user already.
            BusyError: If so many wait in all.
        """
        place = Place(caller, user)
        with self._changed:
            for whose, count in (
                ("of this caller", sum(held.caller == place.caller for held in self._held)),
                ("for this user", sum(held.user == user for held in self._held)),
            ):
                if count >= self._share:
                    raise TooManyError(
                        f"{count} jobs {whose} wait in this process, and {self._share} may; try again later"
                    )
            if len(self._held) >= self._places:
                raise BusyError(f"{self._places} jobs wait in this process; try again later")
            self._held.add(place)
        return place

    def release(self, place: Place) -> None:
        """Give a place back that nothing was put into."""
        with self._changed:
            self._held.discard(place)

    def put(self, place: Place, item: Item) -> None:
        """Let something wait at a reserved place."""
        with self._changed:
            self._lines.setdefault(place.caller, collections.deque()).append((place, item))
            self._changed.notify()

    def take(self) -> Item:
        """Wait for the next one; its place is free from then on."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines)
            caller, line = self._lines.popitem(last=False)
            place, item = line.popleft()
            if line:
                self._lines[caller] = line  # behind the other callers
            self._held.discard(place)
        return item

    def drop(self, unwanted: Callable[[Item], bool]) -> None:
        """Forget what nobody wants any longer, and free its places."""
        with self._changed:
            for caller, line in list(self._lines.items()):
                gone = [place for place, item in line if unwanted(item)]
                self._held.difference_update(gone)
                kept = collections.deque(entry for entry in line if entry[0] not in gone)
                if kept:
                    self._lines[caller] = kept
                else:
                    del self._lines[caller]
