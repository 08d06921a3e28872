"""Find the signature that answers a request: a task's base signature, or the newest revision of a user's.

The newest revision is read from the store for every request, so that a write in one process is visible at once in all. Only decoded
signatures are cached, by digest, because they never change. A user without a signature gets 404 or the base signature, as configured,
and never another user's.
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

NO_STORE = "this server has no store for users' signatures; start it with --store"


@dataclasses.dataclass(frozen=True)
class Whose:
    """A signature, with the user and revision that the answer reports."""

    signature: Signature
    name: str | None = None
    """The user; None if the request named none."""
    revision: int | None = None
    """The user's revision; 0 for the base signature instead of a missing one; None if the request named no user."""

    def parameters(self) -> dict[str, object]:
        """The parameters of an answer: ``digest``, and for a named user ``signature`` and ``revision``."""
        named = {} if self.name is None else {"signature": self.name, "revision": self.revision}
        return {**named, "digest": self.signature.digest}


class Users:
    """Users' signatures from a store, with a cache of decoded ones. Safe to use from several threads.

    Args:
        runtime: The open runtime.
        store: The store; None for a server without users' signatures.
        settings: Gives the answer for unknown users, and the size of the cache.
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
        """The store. Raises ``NotFoundError`` if this server has none."""
        if self._store is None:
            raise NotFoundError(NO_STORE)
        return self._store

    def find(self, task: str, name: str | None) -> Whose:
        """Find the signature that answers.

        Args:
            task: Name of the task.
            name: The user; None for the task's base signature.

        Raises:
            NotFoundError: If the user has no signature and ``settings.unknown`` is ``refuse``.
            BundleError: If the task does not exist.
            SignatureError: If the name is invalid, or the stored signature was made for other templates.
            StoreError: If the store does not answer, or the stored signature is damaged.
        """
        base = self._runtime.signature(task)
        if name is None:
            return Whose(base)
        # Before the query: PostgreSQL refuses some texts, such as those with NUL, which would be a 503.
        check_name(name, what="signature")
        newest = self.store.newest(task, name)
        if newest is not None:
            return Whose(self.signature(newest), name, newest.revision)
        if self._settings.unknown == "base":
            return Whose(base, name, 0)
        raise NotFoundError(f"there is no signature {name!r} for task {task!r}")

    def signature(self, revision: Revision) -> Signature:
        """Decode a revision's signature, from the cache on a hit.

        Raises:
            NotFoundError: If its bytes are no longer kept.
            SignatureError: If it was made for other templates.
            StoreError: If its bytes are damaged, or do not match the stored digest or task.
        """
        with self._lock:
            held = self._decoded.get(revision.digest)
            if held is not None:
                self._decoded.move_to_end(revision.digest)
                return held[0]
        data = self.store.data(revision.task, revision.user, revision.revision)
        if data is None:
            raise NotFoundError(
                f"the bytes of revision {revision.revision} of {revision.task}/{revision.user} are no longer kept"
            )
        signature = whole(revision, data)
        self._runtime.bundle.resolve(signature)  # for its errors, before it is cached as usable
        with self._lock:
            # Another thread may have decoded it meanwhile; its bytes count once.
            if revision.digest not in self._decoded:
                self._decoded[revision.digest] = signature, len(data)
                self._bytes += len(data)
            while self._bytes > self._settings.decoded_bytes:
                _, (_, size) = self._decoded.popitem(last=False)
                self._bytes -= size
        return signature


def whole(revision: Revision, data: bytes) -> Signature:
    """Decode the signature in a revision's bytes.

    Raises:
        StoreError: If they are damaged, or do not match the stored digest or task. Not a ``SignatureError``: the bytes were valid when
            they were stored, so it is not the caller's fault.
    """
    try:
        signature = Signature.decode(data, name=f"{revision.task}/{revision.user}")
    except SignatureError as problem:
        raise StoreError(f"revision {revision.revision} in the store is damaged: {problem}") from None
    if signature.digest != revision.digest or signature.task != revision.task:
        raise StoreError(
            f"revision {revision.revision} of {revision.task}/{revision.user} does not match its stored digest or task"
        )
    return signature
