"""``Runtime``: open a bundle, pick a signature, predict."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from isoform.runtime.arrays import Array
from isoform.runtime.engines.engine import AUTO, REFERENCE, check_engine, open_engine
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import Input
from isoform.runtime.predictor import Predictor
from isoform.runtime.samples.names import as_known, normal

if TYPE_CHECKING:  # imported on first use, so that a process that only predicts starts faster
    from isoform.runtime.adapt.adapter import Adapter
    from isoform.runtime.learn.learner import Learner
    from isoform.runtime.learn.outcome import Outcome, Report
    from isoform.runtime.learn.source import Source

__all__ = ["Runtime"]

log = logging.getLogger("isoform.runtime")

CACHE_BYTES = 256 << 20
"""Default limit for the cache of folded weights, in bytes."""


class Runtime:
    """A bundle opened for prediction with any signature made for it. Thread-safe.

    Create one with ``Runtime.open``. As a context manager it releases its cache on exit.

    Example:
        >>> rt = Runtime.open("bundle")                    # doctest: +SKIP
        >>> logits = rt.predict(x, rt.signature("plain"))  # doctest: +SKIP
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 1, cache_bytes: int = CACHE_BYTES, engine: str = AUTO, providers: Sequence[str] | None = None
    ) -> None:  # fmt: skip
        if not isinstance(threads, int) or not 0 <= threads <= 1024:
            raise UsageError(
                f"threads is {threads!r}, but a whole number from 0 (let ONNX Runtime choose) to 1024 was expected"
            )
        if not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise UsageError(f"cache_bytes is {cache_bytes!r}, but a whole number of bytes from 0 was expected")
        self.bundle, self._threads = bundle, threads
        self._lock = threading.Lock()
        self._learner: Learner | None = None
        self._sources: dict[str, Source] = {}
        self._engine = open_engine(engine, bundle, threads=threads, cache_bytes=cache_bytes, providers=providers)
        self._predictor = Predictor(bundle, self._engine, threads=threads)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int = 1,
        cache_bytes: int = CACHE_BYTES,
        engine: str = AUTO,
        providers: Sequence[str] | None = None,
    ) -> Self:
        """Open a bundle directory.

        Args:
            path: A bundle written by ``isoform train`` and compiled by ``isoform compile``.
            threads: Threads per prediction; 0 lets ONNX Runtime choose.
            cache_bytes: Size of the cache of folded weights, in bytes; ``stats`` reports what signatures of one base share besides.
            engine: ``onnx``: ONNX Runtime over a device plan. ``sessions``: one ONNX Runtime session per signature. ``tensorrt``: a GPU.
                ``reference``: numpy, slow, needs no compiled bundle. ``auto``: the fastest of the others that works on this machine.
            providers: ONNX Runtime execution providers in order of preference, such as ``CUDAExecutionProvider``; None for the CPU.
                On any other provider each signature has its own session.

        Raises:
            BundleError: If the bundle is missing, damaged or not compiled.
            SignatureError: If one of its base signatures is damaged.
            UsageError: If an argument is out of range.
            EngineError: If the engine cannot run the bundle here, or a provider is not available.
        """
        bundle = Bundle.load(path, with_compiled=check_engine(engine) != REFERENCE)
        return cls(bundle, threads=threads, cache_bytes=cache_bytes, engine=engine, providers=providers)

    @property
    def engine(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    @property
    def mixes(self) -> bool:
        """Whether ``predict`` runs a batch of several users in about the time of one of a single user."""
        return self._predictor.mixes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Clear the cache. The runtime stays usable; later predictions fold weights again."""
        self._engine.clear()

    def forget(self, signature: Signature) -> None:
        """Remove one signature from the cache. The next prediction with it is a cache miss."""
        self._engine.forget(signature)

    def stats(self) -> dict[str, float]:
        """Return cache statistics.

        Returns:
            Current values: ``entries`` (cached signatures), their ``bytes``, ``limit_bytes``, and ``shared_bytes`` (approximate size
            of what signatures of the same base share). Counters since the runtime was opened: ``hits``, ``misses``, ``evictions``,
            ``miss_seconds`` (total time spent on misses) and ``longest_miss_seconds``. Engine ``onnx`` adds ``plan_over_session``:
            the run time of a plan divided by that of a session with constant weights, measured on this machine.
            Empty for the reference engine, which has no cache.
        """
        return self._engine.stats()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the bundle's tasks; each has a base signature."""
        return tuple(self.bundle.signatures)

    def signature(self, task: str) -> Signature:
        """Return the base signature of a task. Raises ``BundleError`` if there is no such task."""
        return self.bundle.base(task)

    def labels(self, signature: Signature) -> tuple[str, ...]:
        """Return the class names of ``predict``'s columns, in order. Raises ``SignatureError`` if the signature does not fit."""
        return self.bundle.labels(signature)

    def predict(self, x: Array, signature: Signature | Sequence[Signature]) -> Array:
        """Predict a batch.

        Args:
            x: Samples, shape (n, …) as given by ``input_of``: images (n, channels, height, width), windows (n, channels, steps) or
                vectors (n, features), float32, in the unit of the training data (images: 0 to 1), not normalised; other numeric
                dtypes are converted. Or integer token ids (n, tokens). n may be 0. Large batches run in slices (``batches.py``),
                so that activation memory does not grow with n.
            signature: A signature made for this bundle. Or one signature per sample: samples with the same signature run as one
                batch, and rows are returned in the order given; all signatures must have the same number of classes.

        Returns:
            Logits, shape (n, classes), float32. A fresh array.

        Raises:
            InputError: If the samples have the wrong shape, are not numeric, are not finite, or make the logits overflow.
            SignatureError: If a signature was made for different templates, or inherits from a base that the bundle does not have.
            UsageError: If ``signature`` has the wrong type, the number of signatures is not n, or their numbers of classes differ.
            EngineError: If ONNX Runtime fails.
        """
        return self._predictor.predict(x, signature)

    @property
    def learner(self) -> Learner:
        """The runner of the bundle's training graphs (forward and backward pass); created on first use.

        Raises:
            UsageError: If the runtime was opened with the reference engine, which cannot learn.
            EngineError: If ONNX Runtime refuses a graph.
        """
        if self.engine == REFERENCE:
            raise UsageError("the reference engine cannot learn; open the runtime with engine='onnx'")
        with self._lock:
            if self._learner is None:
                from isoform.runtime.learn.head import HeadLearner

                made = self.bundle.kind.learner(self.bundle, threads=self._threads)
                self._learner = HeadLearner(self._predictor) if made is None else made
            return self._learner

    def personalize(
        self,
        x: Array,
        labels: Array | Sequence[str] | Sequence[int],
        start: Signature | None = None,
        *,
        parts: Sequence[str] | None = None,
        statistics: bool | None = None,
        classes: Sequence[str] | None = None,
        groups: Array | Sequence[str] | Sequence[int] | None = None,
        seed: int = 0,
        steps: int = 300,
        seconds: float | None = None,
        progress: Callable[[Report], None] | None = None,
    ) -> Signature:
        """Fit a signature to a few labelled samples. Templates never change; samples are not stored.

        Args:
            x: Samples as for ``predict``.
            labels: One per sample: a class name (str), or a class index (int). Indices are refused if a class is named by a different
                whole number.
            start: Signature to start from; None for the base signature with the lowest loss on the samples.
            parts: What to train, from ``bundle.kind.moves``; a mixture bundle has ``mixture``, ``delta`` (coefficients added to the
                layers' weights), ``coefficients`` (of BN's statistics), ``bn`` (BN's affine map) and ``head`` (the logits layer). None for
                ``delta`` and ``coefficients``, a file of less than 1 KiB; with ``classes`` for ``bundle.kind.full_moves``. Parts that are
                not trained are inherited, not stored.
            statistics: Whether BN statistics may be re-estimated from the samples, where that lowers the loss; None: if ``bn`` or
                ``coefficients`` are trained.
            classes: Class names for a new logits layer; ``labels`` are then names out of them or indices into them.
            groups: One per sample, all strings or all integers: samples of one recording, day or person are one group. Groups are held
                out whole, so that the fit is judged by its gain for others. Of a class that is in one group only, random samples are
                held out; ``Outcome.classes_in_one_group`` counts such classes. None: random samples of every class.
            seed: Seed of batches and folds; the same seed and samples give the same signature.
            steps: Maximum number of steps of 16 samples per fit; most fits stop earlier.
            seconds: Time limit; the best result so far is returned. Ctrl-C does the same.
            progress: Called after every step.

        Returns:
            The signature with the lowest loss on held-out samples. If none improves on the start, the start itself, with a warning in
            the log ``isoform.runtime``. A base signature is then returned complete; ``inheritance.reduced`` makes a file of
            less than 1 KiB of it, as the command does.

        Raises:
            InputError: If samples are invalid, as for ``predict``; labels are out of range, not one per sample, or whole
                numbers that could be names as well as indices; all samples are of one class; or groups are not one string or integer
                per sample.
            SignatureError: If the start was made for different templates.
            UsageError: If an argument is invalid, or labels are indices and the bases have different classes.
            BundleError: If the bundle is not compiled.
        """
        outcome = self.fit(
            x, labels, start, parts=parts, statistics=statistics, classes=classes, groups=groups, seed=seed, steps=steps,
            seconds=seconds, progress=progress,
        )  # fmt: skip
        log.log(logging.INFO if outcome.improved else logging.WARNING, "personalize: %s", outcome.sentence())
        return outcome.signature

    def fit(
        self,
        x: Array,
        labels: Array | Sequence[str] | Sequence[int],
        start: Signature | None = None,
        *,
        classes: Sequence[str] | None = None,
        groups: Array | Sequence[str] | Sequence[int] | None = None,
        **options: Any,
    ) -> Outcome:
        """Fit as ``personalize`` does, and report scores before and after, steps, and what stopped the fit."""
        from isoform.runtime.learn.labels import group_indices, label_indices, label_names, new_classes
        from isoform.runtime.learn.personalize import personalize

        classes = None if classes is None else new_classes(classes)
        starts = [start] if start is not None else self._starts(label_names(labels), classes)
        x = self.checked(x, starts[0].task)
        # tasks of one bundle may have different inputs: a base that cannot read these samples is no candidate
        starts = [start for start in starts if self.input_of(start.task) == self.input_of(starts[0].task)]
        names = classes if classes is not None else self.labels(starts[0])
        indices = label_indices(labels, names, samples=len(x))
        numbers = None if groups is None else group_indices(groups, samples=len(x))
        return personalize(self.learner, x, indices, starts=starts, classes=classes, groups=numbers, **options)

    def adapter(
        self,
        start: Signature,
        *,
        method: str = "auto",
        seed: int = 0,
        keep: int = 256,
        directory: str | Path | None = None,
        **options: Any,
    ) -> Adapter:
        """Create an adapter for a stream of unlabelled samples: ``adapter(x)`` predicts and updates the signature.

        Args:
            start: Signature to start from. Of one with coefficients of BN statistics, the statistics themselves are the start.
            method: ``auto``, or another name in ``isoform.runtime.adapt.registry``.
            seed: Seed of the method's random numbers.
            keep: Maximum number of updates kept for rollback.
            directory: A folder that persists the updates: a later adapter with the same start and folder resumes there.
                None to keep them in memory. If the adapter cannot be made, nothing new is left on the disk.
            **options: Options of the method.

        Returns:
            The adapter: call it with samples; it has ``signature``, ``history``, ``digests``, ``reset()`` and ``rollback(digest)``.

        Raises:
            SignatureError: If the start was made for different templates, or the folder's contents are damaged.
            UsageError: If an argument is invalid, or the folder belongs to a different start or purpose.
            BundleError: If the bundle is not compiled.
            IsoformError: If the folder cannot be written to.
        """
        from isoform.runtime.adapt.adapter import Adapter
        from isoform.runtime.adapt.history import Chain
        from isoform.runtime.adapt.registry import method_named
        from isoform.runtime.learn.learner import normalising

        if not isinstance(keep, int) or keep < 1:
            raise UsageError(f"keep is {keep!r}, but a whole number from 1 was expected")
        made = method_named(method, options)
        self.bundle.resolve(start)  # a start that does not fit must not leave a folder behind
        source = self._source(start.task)
        if source is not None:
            # the start may have a logits layer for other classes than its base
            source = source.with_labels(self.labels(self.signature(start.task)), self.labels(start))
        learner = self.learner
        if learner.normalises(start.task):  # methods replace statistics, and with them what their coefficients did
            start = normalising(learner, start.task).settled(start)
        chain = Chain(start, keep=keep, directory=None if directory is None else Path(directory))
        try:
            return Adapter(self._predictor, chain, made, learner=learner, source=source, seed=seed)
        except BaseException:  # Ctrl-C too: the chain holds a lock on its folder
            chain.discard()
            raise

    def adapt(
        self,
        x: Array,
        start: Signature,
        *,
        method: str = "auto",
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Signature:
        """Fit a signature to unlabelled samples. Templates never change; samples are not stored.

        Args:
            x: Samples as for ``predict``. Their order is irrelevant: they are shuffled and run in batches of 128.
            start: Signature to start from.
            method: As for ``adapter``.
            seed: Seed of the order and of the method's random numbers.
            progress: Called after every batch with the number of samples done and the total.
            **options: Options of the method.

        Returns:
            The adapted signature; the start itself if no update was made. Also the start, with a warning in the log
            ``isoform.runtime``, if most samples carry no content, or if the samples show that the result is worse than the start.

        Raises:
            InputError: If samples are invalid, as for ``predict``, or there are none.
            SignatureError: If the start was made for different templates.
            UsageError: If an argument is invalid.
            BundleError: If the bundle is not compiled.
        """
        from isoform.runtime.adapt.stream import adapt_batches

        x = self.checked(x, start.task)
        if len(x) == 0:
            raise InputError("there are no samples, but at least one was expected")
        # keep=1: nobody can ask this adapter for a rollback
        adapter = self.adapter(start, method=method, seed=seed, keep=1, **options)
        begun = adapter.signature
        for step in adapt_batches(adapter, x, batch=128, seed=seed):
            if progress is not None:
                progress(step.record.samples, len(x))
        if (reason := adapter.refusal(x)) is not None:
            log.warning("adapt by %s: %s; the start is returned", method, reason)
            return start
        return start if adapter.signature is begun else adapter.signature

    def _source(self, task: str) -> Source | None:
        """Return statistics of a task's training samples; None for networks without BN statistics."""
        from isoform.runtime.learn.learner import STATISTICS
        from isoform.runtime.learn.source import Source

        if STATISTICS not in self.bundle.spec.part_shapes or not self.learner.normalises(task):
            return None
        with self._lock:
            if task not in self._sources:
                name = f"source/{task}.safetensors"
                data = self.bundle.require_compiled().read(name)
                self._sources[task] = Source.decode(
                    data, parts=self.bundle.resolve(self.signature(task)).parts, name=name
                )
            return self._sources[task]

    def _starts(self, named: list[str] | None, classes: Sequence[str] | None) -> list[Signature]:
        """Return the base signatures whose classes match the labels: names, or None for indices."""
        bases = [self.signature(task) for task in self.tasks]
        if classes is not None:
            return bases
        spelt = {base: self.labels(base) for base in bases}
        alike = {base: tuple(map(normal, labels)) for base, labels in spelt.items()}
        if named is not None:
            # without a match keep all bases: the label check that follows names the unknown label
            fitting = [base for base in bases if set(as_known(named, spelt[base])) <= set(spelt[base])] or bases
            bases = [base for base in fitting if alike[base] == alike[fitting[0]]]
        elif len(set(alike.values())) > 1:
            raise UsageError(
                f"labels are indices, but the bases of {', '.join(self.tasks)} have different classes; give a start, or labels by name"
            )
        return bases

    def input_of(self, task: str | None = None) -> Input:
        """Return a task's input: name, dtype, shape. None for the bundle's first task; in most bundles all tasks have the same input."""
        return self._predictor.input_of(task)

    def checked(self, x: Array, task: str | None = None) -> Array:
        """Check and convert samples for a task, by default the first: a front's features, if there is one. Raises as ``Input.checked``."""
        return self._predictor.checked(x, task)
