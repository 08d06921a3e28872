"""Personalize: fit a signature to a few labelled samples. Templates never change, and the result is never worse than its start.

1. Choose the start: the base signature with the lowest loss on the samples, with its own BN statistics or re-estimated ones.
   (The papers find that the start matters most: Compositional Models, section 4.3.)
2. Fit from it as long as held-out samples improve (``fits/trial.py``): with the base's BN statistics, and also with re-estimated ones if
   these have a lower loss without any fit. Of each fit's way, go only as far as they ask for.
   If parts have no gradient, such as which components a network uses, search for them too, and fit the rest from there
   (``fits/search.py``).
3. Return the fit with the lowest loss on the held-out samples; the start itself, unchanged, if none improves on it.

Samples of one group (a recording, a day, a person) are held out together, if groups are given and a class is in two or more of them.

If most classes have a single sample, no samples can be held out. Then only mixture and logits layer are trained, just until they fit
the samples.

The same samples and seed give the same signature on the same machine and ONNX Runtime.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import InputError, UsageError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD
from isoform.runtime.learn.fits.starts import TRIES, Starts
from isoform.runtime.learn.fits.trial import Trial, held_back
from isoform.runtime.learn.head import HeadLearner
from isoform.runtime.learn.learner import AFFINE, COEFFICIENTS, Learner, Point, normalising
from isoform.runtime.learn.outcome import Outcome, Report, held_out_groups
from isoform.runtime.learn.remembered import RememberingLearner

__all__ = ["personalize"]

STEPS = 300  # held-out samples stop most fits sooner; samples rotated against the training data take 200
"""Default maximum number of steps per fit."""


# a fit that diverges is rejected by its score; numpy's warnings add nothing
@np.errstate(over="ignore", invalid="ignore")
def personalize(
    learner: Learner, x: Array, labels: Array, *, starts: Sequence[Signature], parts: Sequence[str] | None = None,
    statistics: bool | None = None, classes: tuple[str, ...] | None = None, groups: Array | None = None, seed: int = 0,
    steps: int = STEPS, seconds: float | None = None, progress: Callable[[Report], None] | None = None,
) -> Outcome:  # fmt: skip
    """Fit a signature.

    Args:
        learner: Runs the network.
        x: Checked samples, shape (n, channels, height, width), float32.
        labels: Class indices, shape (n,), as ``labels.label_indices`` returns them.
        starts: Candidate signatures to start from; the best is chosen. All have the classes that the labels refer to.
        parts: What to train, from ``Kind.moves``; None for ``Kind.default_moves``, or ``Kind.full_moves`` if classes are new. Those that
            the bundle does not have are left out; at least one must remain.
        statistics: Whether BN statistics may be re-estimated from the samples; None: if ``parts`` includes BN's affine map, or their
            coefficients, which then stand for them.
        classes: Class names of a new logits layer, as ``labels.new_classes`` returns them; None to keep the start's.
        groups: Group of each sample, as ``labels.group_indices`` returns them; whole groups are held out (``trial.held_back``).
        seed: Seed of batches, shifts and folds.
        steps: Maximum number of steps per fit.
        seconds: Time limit; the best result so far is returned.
        progress: Called after every step.

    Raises:
        UsageError: If an argument is invalid.
        InputError: If a class has no sample for a new logits layer, or the loss of every start is not finite.
    """
    kind = learner.bundle.kind
    known = kind.moves
    if parts is None:
        parts = kind.default_moves if classes is None else kind.full_moves
        if isinstance(learner, HeadLearner):  # nothing else has a gradient
            parts = tuple(part for part in parts if {*known[part]} <= {*HEAD, *kind.searched}) or ("head",)
    if not parts or not set(parts) <= set(known) or len(set(parts)) < len(parts):
        raise UsageError(f"parts are {tuple(parts)!r}, but one or more of {', '.join(known)} were expected")
    names = tuple(name for part in parts for name in known[part] if name in learner.bundle.spec.part_shapes)
    if not names:
        raise UsageError(
            f"parts are {tuple(parts)!r}, but this bundle has no such parts; train it again, or choose others of {', '.join(known)}"
        )
    if statistics and not any(learner.normalises(start.task) for start in starts):
        normalising(learner, starts[0].task)  # says why
    if not isinstance(steps, int) or not 1 <= steps <= 100_000:
        raise UsageError(f"steps is {steps!r}, but a whole number from 1 to 100000 was expected")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds is {seconds!r}, but more than 0 was expected")
    if classes is not None:
        if "head" not in parts:
            raise UsageError("classes are given for a new logits layer, but parts has no 'head' to learn it")
        missing = np.setdiff1d(np.arange(len(classes)), labels)
        if missing.size:
            raise InputError(
                f"class {classes[missing[0]]!r} has no sample, but a new logits layer needs one of each class"
            )
    started = time.monotonic()
    if isinstance(learner, HeadLearner):
        learner = RememberingLearner(learner.predictor)
    back = held_back(labels, seed=seed, groups=groups)
    # With one sample per class BN is not trained: doing so gained 2.1 points instead of 2.6 on people not seen in training.
    moving = names if back else tuple(name for name in names if name != AFFINE) or names
    search = Starts(learner, x, labels, classes, moving, seed, back=bool(back))
    deadline = np.inf if seconds is None else started + seconds
    anew = not {AFFINE, COEFFICIENTS}.isdisjoint(names) if statistics is None else statistics
    start, given, points = search.choose(starts, statistics=anew)
    # networks of other tasks may have other parts
    moving = search.settle(name for name in moving if name in given.parts)
    learned = tuple(name for name in moving if name not in kind.searched)
    hunts = len(back) + 1 if back and learned != moving else 0
    total = (len(points) + bool(hunts)) * steps + hunts * TRIES
    trials: list[tuple[Trial, Point]] = []
    stopped: Literal["", "time", "ctrl-c"] = ""

    def tell(step: int) -> None:
        if progress and trials:
            best = min(trial.best.score.loss for trial, _ in trials)
            progress(Report(step=step, steps=total, loss=trials[-1][0].loss, best=best))

    # the last way is that of a search, which takes longest: what was found before is kept if it is stopped
    try:
        for number, point in enumerate([*points, *([given] if hunts else [])]):
            hunting = number == len(points)
            begin, done = search.start(point, soft=True), number * steps
            if hunting:
                hunted = search.hunted(given, back, deadline=deadline, tell=tell, done=done)
                done += hunts * TRIES
                if hunted is None:  # no change was better: the fit would be that from the start
                    break
                begin = hunted
            if time.monotonic() >= deadline and trials:
                stopped = "time"
                break
            trial = Trial(
                learner, begin, search.start(given, soft=False), x, labels, moving=learned, back=back, seed=seed,
            )  # fmt: skip
            trials.append((trial, point))
            # re-estimated statistics, or a mask that was searched for, may already be the best result without a fit
            if hunting or point is not given:
                trial.consider(begin if hunting else search.start(point, soft=False))
            for step in trial.run(steps=steps, deadline=deadline) if learned else ():
                tell(done + step)
            if time.monotonic() >= deadline:
                stopped = "time"
                break
    except KeyboardInterrupt:
        if not trials:  # there is no result yet
            raise
        stopped = "ctrl-c"
    trial, point = min(trials, key=lambda entry: entry[0].best.score.loss)
    best, base = trial.best, search.base(start)
    whole, alone = held_out_groups(labels, groups, back)
    anew = best.point is not None and point is not given
    return Outcome(
        signature=base if best.point is None else search.signature(start, best.point, statistics=anew), start=base,
        improved=best.point is not None, before=trial.before, after=best.score, held_back=sum(map(len, back)),
        parts=tuple(part for part in parts if not {*known[part]}.isdisjoint(moving)),
        held_back_groups=whole, classes_in_one_group=alone, steps=best.steps, interpolation=best.interpolation,
        estimated=not learner.backpropagates(start.task) and not {*learned} <= {*HEAD},
        statistics=anew, stopped=stopped, seconds=time.monotonic() - started,
    )  # fmt: skip
