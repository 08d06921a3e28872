"""Whose network is to run: a task's base signature, or the newest revision of a user's.

The store is asked every time which revision that is, so that what one process wrote the next one sees at once; only the bytes, which
never change for a digest, are kept in memory. A user who has none is refused, or gets the base signature by that name, as it is set:
never anybody else's.
"""

from __future__ import annotations

import collections
import dataclasses
import threading

from isoform.runtime.errors import SignatureError, StoreError
from isoform.runtime.formats.signature import Signature, check_name
from isoform.runtime.runtime import Runtime
from isoform.server.exchange.problems import NotFoundError
from isoform.server.service.settings import Settings
from isoform.server.store.store import Revision, Store

__all__ = ["NO_STORE", "Users", "Whose"]

NO_STORE = "this server keeps no signatures; start it with --store"


@dataclasses.dataclass(frozen=True)
class Whose:
    """A signature, and what an answer says of it."""

    signature: Signature
    name: str | None = None
    """The user; None if nobody was named."""
    revision: int | None = None
    """The user's; 0 for the base signature in the place of one; None if nobody was named."""

    def parameters(self) -> dict[str, object]:
        """For an answer: ``digest``, and where somebody was named ``signature`` and ``revision``."""
        named = {} if self.name is None else {"signature": self.name, "revision": self.revision}
        return {**named, "digest": self.signature.digest}


class Users:
    """Signatures of users, from a store. Safe to use from several threads.

    Args:
        runtime: The open runtime.
        store: Where they are; None if this server keeps none.
        settings: What to do with names that are not known.
    """

    def __init__(self, runtime: Runtime, store: Store | None, settings: Settings) -> None:
        self._runtime, self._store, self._settings = runtime, store, settings
        self._decoded = collections.OrderedDict[str, tuple[Signature, int]]()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def keeps(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    @property
    def store(self) -> Store:
        """Raises ``NotFoundError`` if this server keeps no signatures."""
        if self._store is None:
            raise NotFoundError(NO_STORE)
        return self._store

    def find(self, task: str, name: str | None) -> Whose:
        """The signature that answers.

        Args:
            task: The task.
            name: The user; None for the task's base signature.

        Raises:
            NotFoundError: If there is no such user and that is refused.
            BundleError: If there is no such task.
            SignatureError: If that is no name, or the stored signature was made for other templates.
            StoreError: If the store does not answer, or what it has is damaged.
        """
        base = self._runtime.signature(task)
        if name is None:
            return Whose(base)
        check_name(name, what="signature")
        newest = self.store.newest(task, name)
        if newest is not None:
            return Whose(self.signature(newest), name, newest.revision)
        if self._settings.unknown == "base":
            return Whose(base, name, 0)
        raise NotFoundError(f"there is no signature {name!r} for task {task!r}")

    def signature(self, revision: Revision) -> Signature:
        """A revision's signature, from memory if it is there.

        Raises:
            NotFoundError: If its bytes are not kept any longer.
            SignatureError: If they were made for other templates.
            StoreError: If they are damaged, or not what the store says they are.
        """
        with self._lock:
            held = self._decoded.get(revision.digest)
            if held is not None:
                self._decoded.move_to_end(revision.digest)
                return held[0]
        data = self.store.data(revision.task, revision.user, revision.revision)
        if data is None:
            raise NotFoundError(
                f"revision {revision.revision} of {revision.task}/{revision.user} is not kept any longer"
            )
        signature = whole(revision, data)
        self._runtime.bundle.resolve(signature)
        with self._lock:
            if revision.digest not in self._decoded:
                self._decoded[revision.digest] = signature, len(data)
                self._bytes += len(data)
            while self._bytes > self._settings.decoded_bytes:
                _, (_, size) = self._decoded.popitem(last=False)
                self._bytes -= size
        return signature


def whole(revision: Revision, data: bytes) -> Signature:
    """The signature in a revision's bytes.

    Raises:
        StoreError: If they are damaged, or not what the store says they are: they were whole when they were taken in, and the caller has
            sent nothing wrong.
    """
    try:
        signature = Signature.decode(data, name=f"{revision.task}/{revision.user}")
    except SignatureError as problem:
        raise StoreError(f"revision {revision.revision} is damaged in the store: {problem}") from None
    if signature.digest != revision.digest or signature.task != revision.task:
        raise StoreError(
            f"revision {revision.revision} of {revision.task}/{revision.user} holds another signature than it says"
        )
    return signature
