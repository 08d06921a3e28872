"""What an adapter has done, and every signature that it can go back to: in memory, or in a folder that outlives the process.

In a folder every signature is a file of its own, named after its digest; it names its parent, so the chain can be audited. ``head``
holds the digest of the one that is in use; it is replaced after the signature has reached the disk, so that a process that dies at
any moment leaves the last update or the one before it. At most ``keep`` signatures stay, besides the start.
"""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Literal

from isoform.runtime import files
from isoform.runtime.errors import SignatureError, UsageError
from isoform.runtime.signature import Signature

__all__ = ["Chain", "Event", "Record"]

Event = Literal["update", "hold", "new domain", "reset", "rejected", "rollback"]
HEAD = "head"
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
        UsageError: If the folder holds another chain.
        SignatureError: If its signature is damaged.
    """

    def __init__(self, start: Signature, *, keep: int, directory: Path | None) -> None:
        self.start, self._keep, self._directory = start, keep, directory
        self._kept: collections.OrderedDict[str, Signature | None] = collections.OrderedDict()
        self.records: collections.deque[Record] = collections.deque(maxlen=RECORDS)
        self.newest = start
        if directory is not None:
            self._open(directory)

    def _open(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        origin = directory / f"start{SUFFIX}"
        if not origin.exists():
            if any(not files.is_left_over(path) for path in directory.iterdir()):
                raise UsageError(f"{directory} holds other files, but an empty folder or an adapter's own was expected")
            self.start.save(origin)
            return
        found = Signature.load(origin)
        if found.digest != self.start.digest:
            raise UsageError(
                f"{directory} holds what began from signature {found.digest[:8]}, but {self.start.digest[:8]} was given; choose another folder"
            )
        names = [path for path in directory.glob(f"*{SUFFIX}") if path != origin]
        for path in sorted(names, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            self._kept[path.name.removesuffix(SUFFIX)] = None
        head = directory / HEAD
        if head.exists():
            text = files.read_bytes(head, limit=1024, error=SignatureError, what="head").decode("ascii", "replace")
            self.newest = self.find(text.strip())

    def add(self, signature: Signature) -> None:
        """Take a signature into use; it is on the disk when this returns, if there is a folder."""
        if signature.digest != self.start.digest:
            self._kept.pop(signature.digest, None)
            self._kept[signature.digest] = signature if self._directory is None else None
            if self._directory is not None:
                signature.save(self._directory / f"{signature.digest}{SUFFIX}")
        self.newest = signature
        if self._directory is not None:
            files.write_bytes(self._directory / HEAD, f"{signature.digest}\n".encode())
        while len(self._kept) > self._keep:
            digest, _ = self._kept.popitem(last=False)
            if self._directory is not None:
                (self._directory / f"{digest}{SUFFIX}").unlink(missing_ok=True)

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
