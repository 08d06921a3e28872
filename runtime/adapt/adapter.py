"""Adaptation to one user's stream of unlabelled samples: predict, update the signature, and guard against getting worse.

Every update is a new signature that names its parent's digest, and every prediction is made with one of these signatures, so that
predictions can be reproduced and updates rolled back. Templates never change. Samples are not stored, except by the method ``rotta``.

Safeguards for every method, with the event that each records:

    no content      samples without content (``learn/content.py``) are predicted, but not passed to the method                 ``hold``
    not finite      an update with a non-finite number is rejected; one whose logits overflow is rolled back, and the samples
                    are predicted with the last good signature                                                        ``rejected``
    collapse        every ``CHECK`` batches the learned parts are compared with the start's, with the same statistics: if they find
                    less than ``COLLAPSED`` of the classes, the signature returns to the last good one                     ``reset``
    drift           a batch of another domain starts a new stream (``shrinkage.py``)                              ``new domain``
    step size       each value of BN's affine map and of the logits layer stays within ``REACH`` of the start
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
from isoform.runtime.learn.learner import AFFINE, COEFFICIENTS, STATISTICS, Learner, Point, normalising
from isoform.runtime.learn.samples import spaced
from isoform.runtime.learn.source import Source
from isoform.runtime.predictor import Predictor

__all__ = ["Adapter"]

CHECK = 8  # a check costs two predictions of CHECK_ROWS samples
"""Number of batches between checks for collapse."""
CHECK_ROWS = 32
"""Maximum number of a batch's samples used for the check."""
COMPARED, LEAST_COMPARED = 32.0, 16.0
"""Number of recent samples in the check's running mean, and the minimum for a verdict."""
COMPARED_ROWS = 1024
"""Maximum number of samples, evenly spaced, for the final comparison with the start."""
REACH = 1.0
"""Maximum distance of a learned value from the start's."""
STEADY = 8.0  # every signature costs a file and a cache miss
"""A new signature is made once the samples since the last one exceed 1/``STEADY`` of the samples the current statistics represent."""


class Adapter:
    """Adapts a signature to a stream; created by ``Runtime.adapter``. Thread-safe; calls are serialised.

    Args:
        predictor: Predicts with the signatures of a bundle. Replaced signatures are removed from its engine's cache.
        chain: The start, and storage of the signatures.
        method: Creates the method.
        learner: Runs the network.
        source: Statistics of the base's training samples; None if there are none.
        seed: Seed of the method's random numbers.
    """

    def __init__(
        self, predictor: Predictor, chain: Chain, method: Callable[[Context], Method], *, learner: Learner, source: Source | None,
        seed: int,
    ) -> None:  # fmt: skip
        self._predictor, self._bundle, self._chain = predictor, predictor.bundle, chain
        self._learner, self._lock = learner, threading.Lock()
        self._good = self._signature = chain.newest
        start = self._point(chain.start)
        # a weak reference: with a cycle, an adapter that is no longer used would keep its folder locked until the next garbage collection
        me = weakref.proxy(self)
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
            # resumed at the newest signature; REACH and the check for collapse still refer to the start
            self._method.reset(self._point(chain.newest))
        self._content = Content(
            None if source is None else source.structure,
            pixels=math.prod(predictor.taken_by(chain.start.task).largest[1:]),
        )
        self._samples = self._calls = 0
        self._since = 0.0
        self._compared = np.zeros((2, len(start.parts["logits.bias"]) + 1))
        self._compared_samples = 0.0

    @property
    def signature(self) -> Signature:
        """The current signature. Immutable; stays valid after further updates."""
        return self._signature

    @property
    def history(self) -> tuple[Record, ...]:
        """Records of the last 10,000 calls, oldest first."""
        return tuple(self._chain.records)

    @property
    def last(self) -> Record:
        """Record of the last call. Raises ``IndexError`` before the first."""
        return self._chain.records[-1]

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests available to ``rollback``, oldest first."""
        return self._chain.digests

    def __call__(self, x: Array) -> Array:
        """Predict and adapt.

        Args:
            x: Samples as for ``Runtime.predict``; n may be 0.

        Returns:
            Logits, shape (n, classes), float32.

        Raises:
            InputError: If the samples are invalid, as for ``Runtime.predict``; the signature does not change then.
            IsoformError: If the update cannot be written to the folder. ``signature`` is then the previous one, which
                ``Runtime.predict`` can use. The method keeps what it learned from these samples; the next call writes again.
        """
        x = self._predictor.checked(x, self._chain.start.task)
        if len(x) == 0:
            return self._predictor.predict(x, self._signature)
        with self._lock:
            try:
                return self._step(x)
            except BaseException:
                self._content.forget()  # when the caller retries, the samples must not count as a frozen image
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder's lock, so that another adapter can resume there; no effect without a folder."""
        with self._lock:
            self._chain.close()

    def reset(self) -> None:
        """Return to the start; predictions are then the same as before adaptation, bit for bit."""
        with self._lock:
            self._go_to(self._chain.start, "reset")

    def rollback(self, digest: str) -> Signature:
        """Return to an earlier signature.

        Args:
            digest: One of ``digests``.

        Returns:
            The signature.

        Raises:
            SignatureError: If the digest is unknown or no longer kept.
        """
        with self._lock:
            signature = self._chain.find(digest)
            self._go_to(signature, "rollback")
            return signature

    def refusal(self, x: Array) -> str | None:
        """Return why the signature should not be used, judged on the samples it was adapted to; None if it can be.

        The reason is a clause for a message: most samples have no content, or the signature fits them worse than its start
        (``evidence.py``).
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
        learner, end = self._learner, self._signature
        if learner.normalises(end.task):  # coefficients as the statistics that they stand for
            end = normalising(learner, end.task).settled(end)
        points = (self._point(self._chain.start), self._point(end))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a non-finite result counts as worse
            reason = worse(learner, *points, x)
        return None if reason is None else f"the signature is worse than its start: {reason}"

    def _step(self, x: Array) -> Array:
        method = self._method
        event: Event = "hold"
        telling = self._content(x)
        seen = x if telling.all() else x[telling]
        self._samples += len(x)
        self._calls += len(seen) > 0
        self._since += len(seen)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # non-finite updates are rejected below
            if len(seen):
                method.observe(seen)
                if method.moves and (self._since * STEADY >= method.mass or method.jumped):
                    event = self._take(new_domain=method.jumped)
                    self._since = 0.0
            try:
                logits = self._predictor.predict(x, self._signature)
                if len(seen):
                    logits[telling] = method.outputs(seen, logits[telling])
            except InputError:  # the samples were valid, so the logits are not finite
                if self._signature is self._chain.start:  # the samples themselves overflow, not an update
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
        """Make a signature of the method's current point; return the event."""
        start, method = self._bundle.resolve(self._chain.start).parts, self._method
        parts = {}
        for name in method.moves:
            array = method.point.parts[name]
            if array.dtype.kind == "f":  # whole numbers stay so
                array = array.astype(np.float64)
            # statistics are not limited: a new domain may lie anywhere
            if name in (AFFINE, *HEAD) and array.shape == start[name].shape:
                array = np.clip(array, start[name] - REACH, start[name] + REACH)
            parts[name] = array
        method.point = method.point.with_parts(parts)
        try:
            signature = self._made(parts)
        except SignatureError:  # a number is not finite
            method.reset(self._point(self._signature))
            return "rejected"
        # by values: the digests differ in any case, because they include the parent
        if signature.parts.keys() == self._signature.parts.keys() and all(
            np.array_equal(array, self._signature.parts[name]) for name, array in signature.parts.items()
        ):
            return "hold"
        self._replace(signature)
        return "new domain" if new_domain else "update"

    def _replace(self, signature: Signature) -> None:
        before = self._signature
        self._chain.add(signature)  # first: a signature that could not be written must not be in use
        self._signature = signature
        # the start is not this adapter's own: others may predict with it
        if before is not self._chain.start:
            self._predictor.forget(before)

    def _made(self, parts: dict[str, Array]) -> Signature:
        return derived(self._bundle, self._chain.start, parts, parent=self._signature.digest)

    def _collapsed(self, x: Array) -> bool:
        """Return whether the learned parts find fewer classes than the start's, with the same statistics; if not, mark the signature as good."""
        learned = [name for name in self._method.moves if name not in (STATISTICS, COEFFICIENTS)]
        if learned:
            start, rows = self._bundle.resolve(self._chain.start).parts, x[:CHECK_ROWS]
            moved = self._method.point
            plain = moved.with_parts({name: start[name] for name in learned})
            try:
                found = [softmax(self._score(point, rows)) for point in (moved, plain)]
            except (InputError, SignatureError):
                return True
            # p̄ of every class, and S as the last entry (``losses.py``)
            summed = np.stack([np.append(p.mean(axis=0), (p**2).sum(axis=1).mean()) for p in found])
            self._compared_samples = min(COMPARED, self._compared_samples + len(rows))
            self._compared += len(rows) / self._compared_samples * (summed - self._compared)
            if self._compared_samples < LEAST_COMPARED:  # too few for either verdict: not marked as good
                return False
            kappas = [concentration(row[:-1], float(row[-1]), self._compared_samples) for row in self._compared]
            # the effective number of classes: all of them at κ = 0, one at κ = 1
            classes = [1 / (kappa + (1 - kappa) / (summed.shape[1] - 1)) for kappa in kappas]
            if classes[0] < classes[1] * COLLAPSED:
                self._compared_samples = 0.0
                return True
        self._good = self._signature
        return False

    def _score(self, point: Point, x: Array) -> Array:
        """Return logits at another point than the current signature's."""
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
