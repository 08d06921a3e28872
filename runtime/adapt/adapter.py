"""A stream of unlabelled samples, one user's: predict, move the signature, and never be worse for it.

Every update is a signature of its own, with its parent's digest, and every answer is what that signature gives: what was predicted
can be computed again, and undone. Templates never change. Samples are not kept, but by the method that says so (``rotta``).

What guards it, whatever the method:

    no content      a method never sees samples without content (``learn/content.py``); they are predicted, and move nothing   ``hold``
    not finite      an update with such a number is not taken; one whose logits overflow is taken back, and the samples are
                    predicted by the last good signature                                                              ``rejected``
    collapse        every ``CHECK`` batches the learned parts are compared with the start's, on the same statistics: if they find
                    fewer than ``COLLAPSED`` of the classes, all goes back to the last signature that did not           ``reset``
    drift           a batch of another domain begins a new stream (``shrinkage.py``)                              ``new domain``
    step size       BN's affine map and the logits layer stay within ``REACH`` of the start, number by number
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

from isoform.runtime.adapt.evidence import COLLAPSED, worse
from isoform.runtime.adapt.history import Chain, Event, Record
from isoform.runtime.adapt.losses import concentration, entropies
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.arrays import Array, softmax
from isoform.runtime.errors import InputError, SignatureError
from isoform.runtime.formats.inheritance import derived
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.content import Content
from isoform.runtime.learn.learner import AFFINE, STATISTICS, Learner, Point
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.source import Source
from isoform.runtime.predictor import Predictor

__all__ = ["Adapter"]

CHECK = 8
CHECK_ROWS = 32
COMPARED, LEAST_COMPARED = 32.0, 16.0
"""Samples that a comparison remembers, and needs."""
COMPARED_ROWS = 1024
"""Samples, evenly spaced, that a comparison with the start is made of."""
REACH = 1.0
STEADY = 8.0
"""The numbers are written down again when the samples since then are more than one ``STEADY``-th of those that they stand for."""


class Adapter:
    """Made by ``Runtime.adapter``. May be called from several threads; calls run one after the other.

    Args:
        predictor: Predicts with the signatures of a bundle; what an update leaves behind is forgotten there.
        chain: Where it begins, and what remembers its signatures.
        method: Makes the way to move.
        learner: Runs the network.
        source: What the base saw of its training samples; None if that is not known.
        seed: Of whatever the method draws.
    """

    def __init__(
        self, predictor: Predictor, chain: Chain, method: Callable[[Context], Method], *, learner: Learner, source: Source | None,
        seed: int,
    ) -> None:  # fmt: skip
        self._predictor, self._bundle, self._chain = predictor, predictor.bundle, chain
        self._learner, self._lock = learner, threading.Lock()
        self._good = self._signature = chain.newest
        start = self._point(chain.start)
        me = weakref.proxy(self)  # so that an adapter nobody has any more goes at once, and with it its folder's lock
        self._method = method(
            Context(
                learner=learner,
                source=source,
                start=start,
                classes=len(start.parts["logits.bias"]),
                seed=seed,
                predict=lambda x: me._predictor.predict(x, me._signature),
                score=lambda point, x: me._score(point, x),
            )
        )
        if chain.newest is not chain.start:
            self._method.reset(self._point(chain.newest))
        self._content = Content(
            None if source is None else source.structure,
            pixels=math.prod(predictor.input_of(chain.start.task).largest[1:]),
        )
        self._samples = self._calls = 0
        self._since = 0.0
        self._compared = np.zeros((2, len(start.parts["logits.bias"]) + 1))
        self._compared_samples = 0.0

    @property
    def signature(self) -> Signature:
        """The signature as it stands. Immutable; goes on being valid when the adapter moves on."""
        return self._signature

    @property
    def history(self) -> tuple[Record, ...]:
        """What happened, call by call, oldest first; the last 10,000."""
        return tuple(self._chain.records)

    @property
    def last(self) -> Record:
        """What the last call came to; ``IndexError`` before the first."""
        return self._chain.records[-1]

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests that ``rollback`` can go back to, oldest first."""
        return self._chain.digests

    def __call__(self, x: Array) -> Array:
        """Predict, and adapt.

        Args:
            x: Samples as for ``Runtime.predict``, 0 or more.

        Returns:
            Logits, shape (n, classes), float32.

        Raises:
            InputError: If the samples are malformed, as ``Runtime.predict`` says; nothing moves then.
            IsoformError: If the update cannot be written to its folder. The signature is then the one before it, with which
                ``Runtime.predict`` goes on. What the method saw of these samples stays in it; the next call writes again.
        """
        x = self._predictor.checked(x, self._chain.start.task)
        if len(x) == 0:
            return self._predictor.predict(x, self._signature)
        with self._lock:
            try:
                return self._step(x)
            except BaseException:
                self._content.forget()  # a sample that is sent again is no repeated frame
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give its folder back, so that another adapter may go on there. One without a folder has nothing to give back."""
        with self._lock:
            self._chain.close()

    def reset(self) -> None:
        """Back to the start: predictions are what they were before, bit for bit."""
        with self._lock:
            self._go_to(self._chain.start, "reset")

    def rollback(self, digest: str) -> Signature:
        """Back to an earlier signature.

        Args:
            digest: One of ``digests``.

        Returns:
            The signature.

        Raises:
            SignatureError: If it is not kept, or no longer.
        """
        with self._lock:
            signature = self._chain.find(digest)
            self._go_to(signature, "rollback")
            return signature

    def refusal(self, x: Array) -> str | None:
        """Say why the signature should not be used for the samples that it came of, by their own evidence: a clause, or None.

        Most of them carry no content, or it describes them worse than its start does (``evidence.py``).
        """
        x = self._predictor.checked(x, self._chain.start.task)
        content = self._content.structured(x)
        good = int(content.sum())
        if 2 * good < len(x):
            few, verb = f"only {good}" if good else "none", "carry" if good > 1 else "carries"
            return f"{few} of the {len(x)} samples {verb} content, which constant, smooth and purely noisy ones do not"
        if len(x) == 0 or self._signature is self._chain.start:
            return None
        x = x[spaced(np.flatnonzero(content), COMPARED_ROWS)]
        points = (self._point(self._chain.start), self._point(self._signature))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is worse
            reason = worse(self._method.context.learner, *points, x)
        return None if reason is None else f"the signature is worse than its start: {reason}"

    def _step(self, x: Array) -> Array:
        method = self._method
        event: Event = "hold"
        telling = self._content(x)
        seen = x if telling.all() else x[telling]
        self._samples += len(x)
        self._calls += len(seen) > 0
        self._since += len(seen)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is not taken, below
            if len(seen):
                method.observe(seen)
                if method.moves and (self._since * STEADY >= method.mass or method.jumped):
                    event = self._take(new_domain=method.jumped)
                    self._since = 0.0
            try:
                logits = self._predictor.predict(x, self._signature)
                if len(seen):
                    logits[telling] = method.outputs(seen, logits[telling])
            except InputError:
                if self._signature is self._chain.start:
                    raise
                event = "rejected"
                self._go_to(self._good, None)
                try:
                    logits = self._predictor.predict(x, self._signature)
                except InputError:
                    self._go_to(self._chain.start, None)
                    logits = self._predictor.predict(x, self._signature)
            else:
                if len(seen):
                    method.learn(seen, logits[telling])
        if len(seen) and self._calls % CHECK == 0 and self._collapsed(seen):
            event = "reset"
            self._go_to(self._good, None)
        self._record(event, softmax(logits), blank=len(x) - len(seen))
        return logits

    def _take(self, *, new_domain: bool) -> Event:
        """Make a signature of where the method stands."""
        start, method = self._bundle.resolve(self._chain.start).parts, self._method
        parts = {}
        for name in method.moves:
            array = np.asarray(method.point.parts[name], dtype=np.float64)
            if name in (AFFINE, *HEAD) and array.shape == start[name].shape:
                array = np.clip(array, start[name] - REACH, start[name] + REACH)
            parts[name] = array
        method.point = method.point.with_parts(parts)
        try:
            signature = self._made(parts)
        except SignatureError:
            method.reset(self._point(self._signature))
            return "rejected"
        if signature.parts.keys() == self._signature.parts.keys() and all(
            np.array_equal(array, self._signature.parts[name]) for name, array in signature.parts.items()
        ):
            return "hold"
        self._replace(signature)
        return "new domain" if new_domain else "update"

    def _replace(self, signature: Signature) -> None:
        before = self._signature
        self._chain.add(signature)  # first of all: what is not on the disk is not in use
        self._signature = signature
        if before is not self._chain.start:
            self._predictor.forget(before)

    def _made(self, parts: dict[str, Array]) -> Signature:
        return derived(self._bundle, self._chain.start, parts, parent=self._signature.digest)

    def _collapsed(self, x: Array) -> bool:
        """Whether what was learned finds fewer classes than the start does, with the same statistics; else this is a good signature."""
        learned = [name for name in self._method.moves if name != STATISTICS]
        if learned:
            start, rows = self._bundle.resolve(self._chain.start).parts, x[:CHECK_ROWS]
            moved = self._method.point
            plain = moved.with_parts({name: start[name] for name in learned})
            try:
                found = [softmax(self._score(point, rows)) for point in (moved, plain)]
            except (InputError, SignatureError):
                return True
            summed = np.stack([np.append(p.mean(axis=0), (p**2).sum(axis=1).mean()) for p in found])
            self._compared_samples = min(COMPARED, self._compared_samples + len(rows))
            self._compared += len(rows) / self._compared_samples * (summed - self._compared)
            if self._compared_samples < LEAST_COMPARED:
                return False
            kappas = [concentration(row[:-1], float(row[-1]), self._compared_samples) for row in self._compared]
            classes = [1 / (kappa + (1 - kappa) / (summed.shape[1] - 1)) for kappa in kappas]
            if classes[0] < classes[1] * COLLAPSED:
                self._compared_samples = 0.0
                return True
        self._good = self._signature
        return False

    def _score(self, point: Point, x: Array) -> Array:
        """Logits at another point than the signature's."""
        signature = self._made({name: point.parts[name] for name in self._method.moves})
        logits = self._predictor.predict(x, signature)
        if signature.digest != self._signature.digest:
            self._predictor.forget(signature)
        return logits

    def _go_to(self, signature: Signature, event: Event | None) -> None:
        self._replace(signature)
        self._method.reset(self._point(signature))
        self._content.forget()
        self._since = 0.0
        if event is not None:
            self._good = signature
            self._record(event, None)

    def _point(self, signature: Signature) -> Point:
        return self._learner.point(signature)

    def _record(self, event: Event, p: Array | None, *, blank: int = 0) -> None:
        shown = 0.0 if p is None else float(entropies(p).mean())
        kappa = 0.0 if p is None else concentration(p.mean(axis=0), float((p**2).sum(axis=1).mean()), len(p))
        self._chain.records.append(
            Record(
                samples=self._samples,
                event=event,
                digest=self._signature.digest,
                parent=self._signature.parent,
                entropy=shown,
                concentration=kappa,
                shift=self._method.shift,
                blank=blank,
            )
        )
