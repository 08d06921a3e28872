"""Images that stay on disk: decoded when they are asked for, so that memory does not grow with their number.

An index behaves as it does for an array of shape (n, channels, height, width): a slice, or an array of rows. Nothing is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError
from isoform.runtime.learn.samples import spaced, spaced_rows
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.pictures.images import load_image
from isoform.runtime.samples.reading import Found

__all__ = ["CHUNK_BYTES", "Images", "Pictures", "chunks", "few", "processors", "sums_of"]

CHUNK_BYTES = 32 << 20
"""Bytes of samples that a pass over a data set has in memory at once."""
Progress = Callable[[int, int], None]
"""Called with the number of images that were read, and that of all."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What one pass over all images finds."""

    digest: bytes
    """sha256 of all samples, one after the other."""
    mean: Array
    """Mean of every channel, shape (channels,), float64."""
    square: Array
    """Mean of the squares of every channel, shape (channels,), float64."""


class Pictures:
    """Images of a data set, in order.

    Args:
        found: The files.
        shape: Channels, height, width to which every image is converted.
        domain: A transform of ``isoform.train.data.domains``.
    """

    dtype, ndim = np.dtype(np.float32), 4

    def __init__(self, found: Sequence[Found], shape: tuple[int, int, int], *, domain: str = "plain") -> None:
        self._found, self._domain = tuple(found), domain
        self.shape = (len(self._found), *shape)
        self._summary: Summary | None = None

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, rows: slice | Array) -> Array:
        """Decode some images, shape (rows, channels, height, width), float32. Raises ``InputError`` if a file cannot be read any more."""
        found = self._chosen(rows)
        with _threads() as threads:
            return self._decoded([*threads.map(self._loaded, found)])

    def one_by_one(self, rows: Array) -> Array:
        """As an index, without threads: for processes of which there is one per processor."""
        return self._decoded([self._loaded(found) for found in self._chosen(rows)])

    def of(self, rows: slice | Array) -> Pictures:
        """Return some of the images, undecoded; ``rows`` is a slice, indices, or a mask of all."""
        return Pictures(self._chosen(rows), self.shape[1:], domain=self._domain)

    def seen_in(self, domain: str) -> Pictures:
        """Return the images in a domain."""
        return Pictures(self._found, self.shape[1:], domain=domain)

    def read(self, *, account: Account, progress: Progress | None = None) -> Array:
        """Decode all images, by as many threads as there are processors; arguments and errors as for ``summarise``."""
        whole = np.empty(self.shape, dtype=np.float32)
        for rows, x in self._pass(account, progress):
            whole[rows] = x
        return whole

    def summarise(self, *, account: Account, progress: Progress | None = None) -> None:
        """Decode all images once, so that ``summary`` is known, and every file is one that can be read.

        Args:
            account: Counts the images, and notes what was ignored in them.
            progress: Told of the progress.

        Raises:
            InputError: If a file is not an image.
        """
        digest, sums = hashlib.sha256(), np.zeros((2, self.shape[1]))
        for _, x in self._pass(account, progress):
            digest.update(x.tobytes())
            sums += sums_of(x)
        mean, square = sums / max(1, len(self) * self.shape[2] * self.shape[3])
        self._summary = Summary(digest.digest(), mean, square)

    @property
    def summary(self) -> Summary:
        """The result of ``summarise``, which is called if it was not yet."""
        if self._summary is None:
            self.summarise(account=Account())
        assert self._summary is not None
        return self._summary

    def _pass(self, account: Account, progress: Progress | None) -> Iterator[tuple[slice, Array]]:
        with _threads() as threads:
            for rows in chunks(self):
                accounts = [Account() for _ in self._found[rows]]
                yield rows, self._decoded([*threads.map(self._loaded, self._found[rows], accounts)])
                for one in accounts:
                    account.add(one)
                if progress:
                    progress(min(rows.stop, len(self)), len(self))

    def _chosen(self, rows: slice | Array) -> Sequence[Found]:
        if isinstance(rows, slice):
            return self._found[rows]
        return [self._found[row] for row in (np.flatnonzero(rows) if rows.dtype == bool else rows)]

    def _loaded(self, found: Found, account: Account | None = None) -> Array:
        try:
            return load_image(found.path, shape=self.shape[1:], account=account)
        except InputError as problem:
            raise InputError(f"{found.at}{problem}") from None

    def _decoded(self, images: list[Array]) -> Array:
        if not images:
            return np.empty((0, *self.shape[1:]), dtype=np.float32)
        # here, because the export of a network knows data sets, but needs no scipy
        from isoform.train.data.domains import transform

        return transform(np.stack(images), domain=self._domain)


def processors() -> int:
    """Return the number of processors that this process may use; containers have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as processors: Pillow decodes and resizes without holding the interpreter's lock."""
    # reading an image silences warnings for its time, which of several threads the last one would not undo
    with warnings.catch_warnings(), ThreadPoolExecutor(processors()) as threads:
        yield threads


Images = Array | Pictures
"""Samples in memory, shape (n, …), or on disk."""


def chunks(images: Images, *, most: int = 1 << 20) -> Iterator[slice]:
    """Cut a data set into slices of at most ``most`` samples and ``CHUNK_BYTES``, but at least one sample."""
    rows = max(1, min(most, CHUNK_BYTES // max(1, 4 * int(np.prod(images.shape[1:])))))
    return (slice(start, start + rows) for start in range(0, len(images), rows))


def few(images: Images, count: int) -> Array:
    """Return at most ``count`` samples, evenly spaced over all, in memory."""
    if isinstance(images, Pictures):
        return images[spaced_rows(len(images), count)]
    return spaced(images, count)


def sums_of(x: Array) -> Array:
    """Return sums of x and x² over samples and pixels, shape (2, channels), float64."""
    wide = x.astype(np.float64)
    return np.stack([wide.sum(axis=(0, 2, 3)), np.square(wide).sum(axis=(0, 2, 3))])
