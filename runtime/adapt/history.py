"""What an adapter has done, and every signature that it can go back to: in memory, or in a folder that outlives the process.

In a folder every signature is a file of its own, named after its digest; it names its parent, so the chain can be audited. ``head``
holds the digest of the one that is in use; it is replaced after the signature has reached the disk, so that a process that dies at
any moment leaves the last update or the one before it. At most ``keep`` signatures stay, besides the start.

Memory follows the disk: a signature that could not be written is neither in use nor something to go back to. A folder has one
adapter at a time, which holds the lock of the file ``lock`` for as long as it lives.
"""

from __future__ import annotations

import collections
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
"""So many records are remembered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One call of an adapter."""

    samples: int
    """Samples seen so far, this call's included."""
    event: Event
    """``update``: a new signature. ``hold``: none was needed. ``new domain``: an update that begins anew. ``reset``: back to the last
    good signature. ``rejected``: an update with a number that is not finite was not taken. ``rollback``: the caller went back."""
    digest: str
    """Of the signature that predicted this call's samples."""
    parent: str | None
    entropy: float
    """Mean entropy of the predictions, in nats."""
    concentration: float
    """κ of the predictions: 0 if all classes are alike frequent, 1 if there is one; see ``losses.py``."""
    shift: float | None
    """How far the samples are from the base's, in squared spreads between its samples; None if the method does not know."""
    blank: int = 0
    """Samples of this call without content: predicted, but nothing was learned from them."""


class Chain:
    """Signatures by digest, the newest last.

    Args:
        start: Where the chain begins; never dropped.
        keep: How many more are kept.
        directory: Where; None for memory alone. If it holds a chain from the same start, that one goes on.

    Raises:
        UsageError: If the folder holds another chain, is no folder, or is another adapter's at this moment.
        SignatureError: If its signature is damaged.
        IsoformError: If it cannot be written to.
    """

    def __init__(self, start: Signature, *, keep: int, directory: Path | None) -> None:
        self.start, self._keep, self._directory = start, keep, directory
        self._kept: collections.OrderedDict[str, Signature | None] = collections.OrderedDict()
        self.records: collections.deque[Record] = collections.deque(maxlen=RECORDS)
        self.newest = start
        self._release: weakref.finalize[..., Chain] | None = None
        self._process = os.getpid()
        if directory is not None:
            try:
                self._open(directory)
            except BaseException as problem:
                self.close()  # now, and not when the last traceback that shows this chain is gone
                if isinstance(problem, OSError):
                    raise IsoformError(f"{directory} cannot be an adapter's folder: {problem.strerror}") from None
                raise

    def _open(self, directory: Path) -> None:
        if directory.exists() and not directory.is_dir():
            raise UsageError(f"{directory} is a file, but a folder was expected; choose another name")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        origin = directory / f"start{SUFFIX}"
        self._check_ours(directory, origin)
        busy = UsageError(
            f"{directory} is in use by another adapter, in this process or another one; close that one, or choose another folder"
        )
        release = files.hold(directory / LOCK, busy=busy)
        self._release = weakref.finalize(self, release)
        if self._check_ours(directory, origin):
            self._read(directory, origin)
        else:
            self.start.save(origin)

    def _check_ours(self, directory: Path, origin: Path) -> bool:
        """Whether the folder holds a chain; ``UsageError`` if it holds something else."""
        if origin.exists():
            return True
        if any(path.name != LOCK and not files.is_left_over(path) for path in directory.iterdir()):
            raise UsageError(f"{directory} holds other files, but an empty folder or an adapter's own was expected")
        return False

    def _read(self, directory: Path, origin: Path) -> None:
        found = Signature.load(origin)
        if found.digest != self.start.digest:
            raise UsageError(
                f"{directory} holds what began from signature {found.digest[:8]}, but {self.start.digest[:8]} was given; choose another folder"
            )
        names = [path for path in directory.glob(f"*{SUFFIX}") if path != origin]
        for path in sorted(names, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            self._kept[path.name.removesuffix(SUFFIX)] = None
        if (head := self._head(directory)) is not None:
            self.newest = self.find(head)

    def _head(self, directory: Path) -> str | None:
        """The digest that ``head`` names; None before the first update."""
        head = directory / HEAD
        if not head.exists():
            return None
        return files.read_bytes(head, limit=1024, error=SignatureError, what="head").decode("ascii", "replace").strip()

    def close(self) -> None:
        """Give the folder back; nothing can be added then. Dropping the chain, and the end of the process, do so as well."""
        if self._release is not None:
            self._release()

    def add(self, signature: Signature) -> None:
        """Take a signature into use; it is on the disk when this returns, if there is a folder.

        Raises:
            IsoformError: If it cannot be written; then everything is as it was.
            UsageError: If the chain is closed, or the process was forked from the one that opened it.
        """
        if self._directory is not None:
            self._write(self._directory, signature)
        if signature.digest != self.start.digest:
            self._kept.pop(signature.digest, None)
            self._kept[signature.digest] = signature if self._directory is None else None
        self.newest = signature
        while len(self._kept) > self._keep:
            digest = next(iter(self._kept))
            if self._directory is not None:
                try:
                    (self._directory / f"{digest}{SUFFIX}").unlink(missing_ok=True)
                except OSError:  # it stays there, and can be gone back to
                    break
            del self._kept[digest]

    def _write(self, directory: Path, signature: Signature) -> None:
        if self._release is None or not self._release.alive:
            raise UsageError(f"the adapter of {directory} is closed; open another one")
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
            if new and self._head(directory) != signature.digest:  # what never was in use is nothing to go back to
                file.unlink(missing_ok=True)
            raise

    def find(self, digest: str) -> Signature:
        """A signature of the chain; ``SignatureError`` if it is not there, or no longer."""
        if digest == self.start.digest:
            return self.start
        if digest not in self._kept:
            raise SignatureError(
                f"there is no signature {digest[:12]!r} here; the last {len(self._kept)} and the start {self.start.digest[:8]} are kept"
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
        """What ``find`` finds, oldest first, the start first of all."""
        return (self.start.digest, *self._kept)
