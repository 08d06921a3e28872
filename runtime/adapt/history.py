"""History of an adapter: records of its calls, and the signatures available for rollback, in memory or in a persistent folder.

In a folder every signature is a file named after its digest. It names its parent, so the chain can be audited. ``head``
holds the digest of the current signature; it is replaced after the signature has been flushed to the disk, so that a process that
dies at any moment leaves the last update or the one before it. At most ``keep`` signatures are kept, besides the start.

Memory never gets ahead of the disk: a signature that could not be written is neither current nor available for rollback. A folder
has one adapter at a time, which holds the lock of the file ``lock`` during its lifetime.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import weakref
from pathlib import Path
from typing import Literal

from isoform.runtime.errors import IsoformError, SignatureError, UsageError
from isoform.runtime.formats import files
from isoform.runtime.formats.signature import Signature

__all__ = ["Chain", "Event", "Record"]

Event = Literal["update", "hold", "new domain", "reset", "rejected", "rollback"]
HEAD = "head"
LOCK = "lock"
SUFFIX = ".safetensors"
RECORDS = 10_000
"""Maximum number of records kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One call of an adapter."""

    samples: int
    """Number of samples so far, including this call's."""
    event: Event
    """``update``: a new signature. ``hold``: no update. ``new domain``: an update after a change of domain. ``reset``: return to the
    last good signature. ``rejected``: an update with non-finite numbers was discarded. ``rollback``: requested by the caller."""
    digest: str
    """Digest of the signature after this call, which has seen all of these samples. It predicted this call's, unless the event is
    ``reset``."""
    parent: str | None
    entropy: float
    """Mean entropy of the predictions, in nats."""
    concentration: float
    """κ of the predictions: 0 if all classes are equally frequent, 1 if there is only one; see ``losses.py``."""
    shift: float | None
    """Distance of the samples from the base's training samples, in squared spreads of these; None if the method does not measure it."""
    blank: int = 0
    """Number of this call's samples without content, which were predicted but not used for adaptation."""


class Chain:
    """Signatures by digest, the newest last.

    Args:
        start: The first signature, which is always kept.
        keep: Maximum number of further signatures.
        directory: Folder for the signatures; None to keep them in memory. An existing chain from the same start is resumed.

    Raises:
        UsageError: If the folder holds another chain, is not a folder, or is in use by another adapter.
        SignatureError: If the current signature in it is damaged.
        IsoformError: If it cannot be written to.
    """

    def __init__(self, start: Signature, *, keep: int, directory: Path | None) -> None:
        self.start, self._keep, self._directory = start, keep, directory
        self._kept: collections.OrderedDict[str, Signature | None] = collections.OrderedDict()
        self.records: collections.deque[Record] = collections.deque(maxlen=RECORDS)
        self.newest = start
        self._release: weakref.finalize[..., Chain] | None = None
        self._process = os.getpid()
        self._created: list[Path] = []
        """Files and folders that opening has created, each before the folder that it is in."""
        if directory is not None:
            try:
                self._open(directory)
            except BaseException as problem:
                self.discard()  # now, not when this object is freed: the traceback keeps it alive
                if isinstance(problem, OSError):
                    raise IsoformError(
                        f"{directory} cannot be used as an adapter's folder: {problem.strerror}"
                    ) from None
                raise

    def _open(self, directory: Path) -> None:
        if directory.exists() and not directory.is_dir():
            raise UsageError(f"{directory} is a file, but a folder was expected; choose another name")
        self._created = [step for step in (directory, *directory.parents) if not step.exists()]
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # signatures tell about a user's samples
        origin = directory / f"start{SUFFIX}"
        # before the lock, so that no lock file is left in a folder of other files
        self._check_ours(directory, origin)
        busy = UsageError(
            f"{directory} is in use by another adapter, in this or another process; close that adapter, or choose another folder"
        )
        lock = directory / LOCK
        new = not lock.exists()
        release = files.hold(lock, busy=busy)
        self._release = weakref.finalize(self, release)
        if new:
            self._created.insert(0, lock)
        # again, now with the lock: another adapter may have started a chain in the meantime
        if self._check_ours(directory, origin):
            self._read(directory, origin)
        else:
            self._created.insert(0, origin)
            self.start.save(origin)

    def _check_ours(self, directory: Path, origin: Path) -> bool:
        """Return whether the folder holds a chain. Raises ``UsageError`` if it holds other files."""
        if origin.exists():
            return True
        if any(path.name != LOCK and not files.is_left_over(path) for path in directory.iterdir()):
            raise UsageError(f"{directory} holds other files, but an empty folder or an adapter's own was expected")
        return False

    def _read(self, directory: Path, origin: Path) -> None:
        found = Signature.load(origin)
        if found.digest != self.start.digest:
            raise UsageError(
                f"{directory} holds an adaptation that started from signature {found.digest[:8]}, but {self.start.digest[:8]} was given; choose another folder"
            )
        names = [path for path in directory.glob(f"*{SUFFIX}") if path != origin]
        # digests have no order, but a signature that becomes current is written again: the times have it
        for path in sorted(names, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            self._kept[path.name.removesuffix(SUFFIX)] = None
        if (head := self._head(directory)) is not None:
            self.newest = self.find(head)

    def _head(self, directory: Path) -> str | None:
        """Return the digest in ``head``; None before the first update."""
        head = directory / HEAD
        if not head.exists():
            return None
        return files.read_bytes(head, limit=1024, error=SignatureError, what="head").decode("ascii", "replace").strip()

    def close(self) -> None:
        """Release the folder; nothing can be added afterwards. Garbage collection and the end of the process do so as well."""
        if self._release is not None:
            self._release()

    def discard(self) -> None:
        """Close, and delete what opening has created; for a start that failed, before anything is added. Older files stay."""
        for path in self._created:  # while the lock is held, so that none of it is another adapter's
            with contextlib.suppress(OSError):  # a folder in which another program has put a file meanwhile
                path.rmdir() if path.is_dir() else path.unlink()
        self.close()

    def add(self, signature: Signature) -> None:
        """Make a signature the current one; with a folder, it is on the disk when this returns.

        Raises:
            IsoformError: If it cannot be written; nothing has changed then.
            UsageError: If the chain is closed, or the process was forked from the one that opened it.
        """
        if self._directory is not None:
            self._write(self._directory, signature)
        if signature.digest != self.start.digest:
            self._kept.pop(signature.digest, None)  # after a rollback it becomes the newest
            self._kept[signature.digest] = signature if self._directory is None else None
        self.newest = signature
        while len(self._kept) > self._keep:
            digest = next(iter(self._kept))
            if self._directory is not None:
                try:
                    (self._directory / f"{digest}{SUFFIX}").unlink(missing_ok=True)
                except OSError:  # a file that cannot be deleted stays available for rollback
                    break
            del self._kept[digest]

    def _write(self, directory: Path, signature: Signature) -> None:
        if self._release is None or not self._release.alive:
            raise UsageError(f"the adapter of {directory} is closed; open another one")
        # the lock belongs to the open file, which a forked process shares: both would write
        if os.getpid() != self._process:
            raise UsageError(
                f"the adapter of {directory} belongs to process {self._process}, from which this one was forked; open one with a folder of its own here"
            )
        file = directory / f"{signature.digest}{SUFFIX}"
        new = signature.digest != self.start.digest and signature.digest not in self._kept
        try:
            if signature.digest != self.start.digest:
                signature.save(file)
            files.write_bytes(directory / HEAD, f"{signature.digest}\n".encode())
        except IsoformError:
            if new and self._head(directory) != signature.digest:  # never current, so not available for rollback
                file.unlink(missing_ok=True)
            raise

    def find(self, digest: str) -> Signature:
        """Return a signature of the chain. Raises ``SignatureError`` if it is unknown or no longer kept."""
        if digest == self.start.digest:
            return self.start
        if digest not in self._kept:
            raise SignatureError(
                f"there is no signature {digest[:12]!r}; the last {len(self._kept)} and the start {self.start.digest[:8]} are kept"
            )
        kept = self._kept[digest]
        if kept is None:
            assert self._directory is not None
            kept = Signature.load(self._directory / f"{digest}{SUFFIX}")
            if kept.digest != digest:
                raise SignatureError(f"the file of signature {digest[:8]} holds {kept.digest[:8]}; it was changed")
        return kept

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests available to ``find``: the start, then the others, oldest first."""
        return (self.start.digest, *self._kept)
