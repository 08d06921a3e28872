"""``Runtime``: open a bundle, pick a signature, predict."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.engine import AUTO, REFERENCE, check_engine, open_engine
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.inputs import Input
from isoform.runtime.predictor import Predictor
from isoform.runtime.samples.names import as_known, normal

if TYPE_CHECKING:  # learning is imported when it is used: predictions start without it
    from isoform.runtime.adapt.adapter import Adapter
    from isoform.runtime.learn.learner import Learner
    from isoform.runtime.learn.outcome import Outcome, Report
    from isoform.runtime.learn.source import Source

__all__ = ["Runtime"]

log = logging.getLogger("isoform.runtime")

CACHE_BYTES = 256 << 20
"""Of signatures' weights that stay in memory, by default."""


class Runtime:
    """A bundle, ready to predict with any signature made for it. Safe to use from several threads.

    Made by ``Runtime.open``; a context manager that lets go of what it holds at the end.

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
        self.bundle = bundle
        self._threads = threads
        self._lock = threading.Lock()
        self._learner: Learner | None = None
        self._sources: dict[str, Source] = {}
        self._engine = open_engine(engine, bundle, threads=threads, cache_bytes=cache_bytes, providers=providers)
        self._predictor = Predictor(bundle, self._engine)

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
            path: The bundle that ``isoform train`` wrote and ``isoform compile`` completed.
            threads: Threads that one prediction may use, 0 to let ONNX Runtime choose.
            cache_bytes: How many bytes of signatures' folded weights may stay in memory; what signatures of one base share comes
                on top, see ``stats``.
            engine: What runs it: ``onnx`` ONNX Runtime over a device plan, ``sessions`` ONNX Runtime with a session per signature,
                ``reference`` numpy, slow, without a compiled bundle; ``auto`` the fastest that can be opened here.
            providers: ONNX Runtime's execution providers, such as ``CUDAExecutionProvider``, the preferred one first; None for the CPU.
                On others than the CPU every signature has a session.

        Raises:
            BundleError: If the bundle is missing, damaged or not compiled.
            SignatureError: If one of its base signatures is damaged.
            UsageError: If an argument is out of range.
            EngineError: If the engine cannot run the bundle on this machine, or a provider is not there.
        """
        bundle = Bundle.load(path, with_compiled=check_engine(engine) != REFERENCE)
        return cls(bundle, threads=threads, cache_bytes=cache_bytes, engine=engine, providers=providers)

    @property
    def engine(self) -> str:
        """Name of the engine that runs."""
        return self._engine.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything that was built for signatures. Predicting afterwards builds it anew."""
        self._engine.clear()

    def forget(self, signature: Signature) -> None:
        """Let go of what was built for one signature. Predicting with it afterwards builds it anew."""
        self._engine.forget(signature)

    def stats(self) -> dict[str, float]:
        """What the runtime holds, and what swapping users took.

        Returns:
            Now: ``entries`` (signatures whose weights are ready to run), their ``bytes`` and ``limit_bytes``, and
            ``shared_bytes``, about what signatures of the same base share. Since it was opened: ``hits``, ``misses``, ``evictions``,
            ``miss_seconds`` (what swapping in those signatures took together) and ``longest_miss_seconds``. Of the engine ``onnx``
            also ``plan_over_session``: how long a run takes over that of a session with constant weights, measured on this machine.
            Empty for the reference engine, which holds nothing.
        """
        return self._engine.stats()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The bundle's tasks, each with a base signature."""
        return tuple(self.bundle.signatures)

    def signature(self, task: str) -> Signature:
        """The base signature of a task. Raises ``BundleError`` if there is no such task."""
        return self.bundle.base(task)

    def labels(self, signature: Signature) -> tuple[str, ...]:
        """Names of the classes that ``predict``'s columns stand for. Raises ``SignatureError`` if it is not of this bundle."""
        return self.bundle.labels(signature)

    def predict(self, x: Array, signature: Signature | Sequence[Signature]) -> Array:
        """Logits of a batch.

        Args:
            x: Samples, shape (n, …) as ``input_of`` says: images (n, channels, height, width), windows (n, channels, steps), vectors
                (n, features), in the unit of the training data (images: 0 to 1), not normalised, float32, other numbers are
                converted; or whole numbers of tokens (n, tokens). n may be 0; large batches run in slices (``batches.py``), so that
                memory for activations does not grow with n.
            signature: Whose network to run; must be made for this bundle. Or one signature per sample: samples of the same
                signature run together, and come back in the order given; all must have as many classes.

        Returns:
            Shape (n, classes), float32. A fresh array.

        Raises:
            InputError: If the samples have another shape, are no numbers, hold one that is not finite, or overflow.
            SignatureError: If a signature was made for other templates, or inherits from a base that is not here.
            UsageError: If the signature is something else, or there are not as many as samples, or their classes differ.
            EngineError: If ONNX Runtime fails.
        """
        return self._predictor.predict(x, signature)

    @property
    def learner(self) -> Learner:
        """What runs the bundle's training graphs; made once, when it is first needed.

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
        seed: int = 0,
        steps: int = 300,
        seconds: float | None = None,
        progress: Callable[[Report], None] | None = None,
    ) -> Signature:
        """Fit a signature to a few labelled samples. Templates never change; samples are not kept.

        Args:
            x: Samples as for ``predict``.
            labels: One per sample: the name of a class, a text; or its index, where no class is named by another whole number.
            start: Signature to begin from; None to take the base signature that does best on the samples.
            parts: What may move, of ``bundle.kind.moves``: of a mixture bundle the ``mixture``, BN's affine map (``bn``), the logits
                layer (``head``). None for all of it. What does not move is not in the result, which inherits it: a mixture alone is a
                file of less than 1 KiB.
            statistics: Whether BN's statistics may be taken anew from the samples, where that does better; None: if ``bn`` may move.
            classes: Names for a logits layer of your own labels, which then are names out of them, or indices into them.
            seed: Of batches and folds; the same seed and samples give the same signature.
            steps: At most so many steps of 16 samples per fit; most end sooner.
            seconds: Stop after so long with the best so far. Ctrl-C does the same.
            progress: Called after every step.

        Returns:
            The signature that does best on samples that were held back from it. The start itself, with a warning in the log of
            ``isoform.runtime``, if none does better than it; a base is then returned whole, and ``inheritance.reduced`` makes a file of
            less than 1 KiB of it, as the command does.

        Raises:
            InputError: If samples are malformed, as ``predict`` says; labels are out of range, not one per sample, or whole
                numbers that may be names as well as indices; or all samples are of one class.
            SignatureError: If the start was made for other templates.
            UsageError: If an argument makes no sense, or labels are indices and bases with different classes could be meant.
            BundleError: If the bundle is not compiled.
        """
        outcome = self.fit(
            x, labels, start, parts=parts, statistics=statistics, classes=classes, seed=seed, steps=steps, seconds=seconds,
            progress=progress,
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
        **options: Any,
    ) -> Outcome:
        """As ``personalize``, with an account of what happened: scores before and after, steps, what ended it."""
        from isoform.runtime.learn.labels import label_indices, label_names, new_classes
        from isoform.runtime.learn.personalize import personalize

        classes = None if classes is None else new_classes(classes)
        starts = [start] if start is not None else self._starts(label_names(labels), classes)
        x = self.checked(x, starts[0].task)
        starts = [start for start in starts if self.input_of(start.task) == self.input_of(starts[0].task)]
        names = classes if classes is not None else self.labels(starts[0])
        indices = label_indices(labels, names, samples=len(x))
        return personalize(self.learner, x, indices, starts=starts, classes=classes, **options)

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
        """Adapt to a stream of unlabelled samples: ``adapter(x)`` predicts, and moves the signature.

        Args:
            start: Signature to begin from.
            method: ``auto``, or another of ``isoform.runtime.adapt.registry``.
            seed: Of whatever the method draws.
            keep: How many updates can be gone back to.
            directory: A folder for the updates, so that they outlive the process: a later adapter with the same start and folder goes
                on where this one was. None to keep them in memory.
            **options: The method's own.

        Returns:
            The adapter: call it with samples; it has ``signature``, ``history``, ``digests``, ``reset()`` and ``rollback(digest)``.

        Raises:
            SignatureError: If the start was made for other templates, or what the folder holds is damaged.
            UsageError: If an argument makes no sense, or the folder holds something else.
            BundleError: If the bundle is not compiled.
        """
        from isoform.runtime.adapt.adapter import Adapter
        from isoform.runtime.adapt.history import Chain
        from isoform.runtime.adapt.registry import method_named

        if not isinstance(keep, int) or keep < 1:
            raise UsageError(f"keep is {keep!r}, but a whole number from 1 was expected")
        made = method_named(method, options)
        self.bundle.resolve(start)
        source = self._source(start.task)
        if source is not None:
            source = source.with_labels(self.labels(self.signature(start.task)), self.labels(start))
        learner = self.learner
        chain = Chain(start, keep=keep, directory=None if directory is None else Path(directory))
        try:
            return Adapter(self._predictor, chain, made, learner=learner, source=source, seed=seed)
        except BaseException:
            chain.close()
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
        """Fit a signature to unlabelled samples. Templates never change; samples are not kept.

        Args:
            x: Samples as for ``predict``. Their order does not count: they are taken in batches of 128 in a random one.
            start: Signature to begin from.
            method: As for ``adapter``.
            seed: Of the order, and of whatever the method draws.
            progress: Called after every batch with samples so far and in all.
            **options: The method's own.

        Returns:
            The signature that the samples end with; the start itself if nothing was to be done. Also the start, with a warning in
            the log of ``isoform.runtime``, if most samples carry no content, or if the samples say that the result is worse than it.

        Raises:
            InputError: If samples are malformed, as ``predict`` says, or there are none.
            SignatureError: If the start was made for other templates.
            UsageError: If an argument makes no sense.
            BundleError: If the bundle is not compiled.
        """
        x = self.checked(x, start.task)
        if len(x) == 0:
            raise InputError("there are no samples, but one at least was expected")
        adapter = self.adapter(start, method=method, seed=seed, keep=1, **options)
        x = x[np.random.default_rng(seed).permutation(len(x))]
        for first in range(0, len(x), 128):
            adapter(x[first : first + 128])
            if progress is not None:
                progress(min(first + 128, len(x)), len(x))
        if (reason := adapter.refusal(x)) is not None:
            log.warning("adapt by %s: %s; the start is returned", method, reason)
            return start
        return adapter.signature

    def _source(self, task: str) -> Source | None:
        """Facts about a task's training samples; None for kinds of which none are measured."""
        from isoform.runtime.learn.learner import STATISTICS
        from isoform.runtime.learn.source import Source

        if STATISTICS not in self.bundle.spec.part_shapes:
            return None
        with self._lock:
            if task not in self._sources:
                name = f"source/{task}.safetensors"
                data = self.bundle.require_compiled().read(name)
                self._sources[task] = Source.decode(data, spec=self.bundle.spec, name=name)
            return self._sources[task]

    def _starts(self, named: list[str] | None, classes: Sequence[str] | None) -> list[Signature]:
        """The base signatures that labels, by name or None for indices, can be meant for."""
        bases = [self.signature(task) for task in self.tasks]
        if classes is not None:
            return bases
        spelt = {base: self.labels(base) for base in bases}
        alike = {base: tuple(map(normal, labels)) for base, labels in spelt.items()}
        if named is not None:
            fitting = [base for base in bases if set(as_known(named, spelt[base])) <= set(spelt[base])] or bases
            bases = [base for base in fitting if alike[base] == alike[fitting[0]]]
        elif len(set(alike.values())) > 1:
            raise UsageError(
                f"labels are indices, but the bases of {', '.join(self.tasks)} have different classes; give a start, or labels by name"
            )
        return bases

    def input_of(self, task: str | None = None) -> Input:
        """What the networks of a task take: name, type, shape. None for the bundle's first task; of most bundles all take the same."""
        return self._predictor.input_of(task)

    def checked(self, x: Array, task: str | None = None) -> Array:
        """Samples as ``predict`` needs them, of a task or the first one: as ``Input.checked``; ``InputError`` as described there."""
        return self._predictor.checked(x, task)
