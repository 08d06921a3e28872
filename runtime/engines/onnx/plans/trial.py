"""The self-test of a device plan: random weights must give the same output through the plan as they give as constants.

One row of the output is stored with the plan, and checked again whenever the plan is read from the disk. The graphs for a batch size
(``gates.py``) must equal the plan's own graph to the last bit; if they do not, or do not run here, the plan is used without them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.plans.choice import over
from isoform.runtime.engines.onnx.plans.gates import for_batch
from isoform.runtime.engines.onnx.plans.plan import Plan, Subject, bind
from isoform.runtime.engines.onnx.plans.sized import ANY, BATCHES, Sessions
from isoform.runtime.errors import EngineError, first_line

__all__ = ["check_plan", "self_tested"]

log = logging.getLogger("isoform.runtime")
TOLERANCE = 1e-5
"""Largest difference of logits in the self-test, relative to the largest logit."""
NUMBERS = 65_521  # prime, so that no two layers get the same numbers
"""Length of the sequence of random numbers that is repeated to fill the self-test's weights."""


def self_tested(plan: Plan, subject: Subject) -> Plan:
    """Test a plan against the graph with constants, for random weights and batches of 1 and 3.

    Args:
        plan: A plan whose graph and layout are filled in.
        subject: What it was built from.

    Returns:
        The plan with all results filled in.

    Raises:
        EngineError: If the plan's output differs by more than ``TOLERANCE``, or ONNX Runtime rejects its graph.
    """
    weights = _weights(subject)
    constant = portable_session(subject.graph, subject.in_order({**subject.constants, **weights}), threads=1)
    lifted, rows = _Lifted(plan, weights, subject.output), []
    # one and several: ONNX Runtime multiplies a single sample in another order
    for samples in (1, 3):
        feeds = _feeds(subject, samples)
        rows.append(constant.run([subject.output], dict(feeds))[0])
        _compare(lifted(feeds), rows[-1], "the portable graph's")
    if for_batch(plan.graph, 1) is not None:
        plan = dataclasses.replace(plan, batches=_batches(plan, weights, subject, lifted))
    single = _feeds(subject, 1)
    fastest = _Lifted(plan, weights, subject.output, size=1 if 1 in plan.batches else ANY)
    taken = over(fastest.bound(single), functools.partial(constant.run, [subject.output], dict(single)))
    return dataclasses.replace(plan, expected=rows[0][0], over_session=taken)


def check_plan(plan: Plan, subject: Subject) -> None:
    """Run one sample of the self-test again.

    Args:
        plan: A plan read from a file.
        subject: The subject that it should belong to.

    Raises:
        EngineError: If the plan does not reproduce its stored output, or ONNX Runtime rejects it.
    """
    try:
        lifted = _Lifted(plan, _weights(subject), subject.output, size=1 if 1 in plan.batches else ANY)
        found = lifted(_feeds(subject, 1))
    except EngineError:
        raise
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"the plan does not run here: {first_line(problem)}") from problem
    _compare(found[:1], plan.expected[None], "those where it was built")


def _batches(plan: Plan, weights: Mapping[str, Array], subject: Subject, lifted: _Lifted) -> tuple[int, ...]:
    """Return ``BATCHES`` if the graphs for those sizes run here and equal the plan's own; else none."""
    try:
        for size in BATCHES:
            feeds = _feeds(subject, size)
            if not np.array_equal(_Lifted(plan, weights, subject.output, size=size)(feeds), lifted(feeds)):
                log.debug("graphs for a batch size are not used: %d samples gave other logits", size)
                return ()
    except Exception as problem:  # as above; another network's gates may have shapes that only running tells
        log.debug("graphs for a batch size are not used: %s", first_line(problem))
        return ()
    return BATCHES


def _feeds(subject: Subject, samples: int) -> dict[str, Array]:
    """Make the same random inputs for every call with a number of samples."""
    return subject.feeds(np.random.default_rng(samples), samples)


def _weights(subject: Subject) -> dict[str, Array]:
    """Make the same random values of the changing weights for every call."""
    rng, start, weights = np.random.default_rng(0), 0, dict[str, Array]()
    total = sum(math.prod(shape) for shape in subject.changing.values())
    # drawn once and repeated: a large network has millions of weights
    numbers = np.resize(rng.uniform(-1.7, 1.7, NUMBERS).astype(np.float32), total)
    for name, shape in subject.changing.items():
        size = math.prod(shape)
        # 1 / √fan-in keeps the scale of activations from layer to layer
        scale = np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
        weights[name] = numbers[start : start + size].reshape(shape) / scale
        start += size
    return weights


class _Lifted:
    """A plan with weights bound, as a function from inputs to output; ``size`` as in ``Sessions.of``."""

    def __init__(self, plan: Plan, weights: Mapping[str, Array], output: str, *, size: int = ANY) -> None:
        self._session = Sessions(plan.graph, plan.batches, threads=1).of(size)
        self._vector, self._output = plan.layout.lay_out(weights), output
        self._binding = self._session.io_binding()
        bind(self._binding, plan.layout.weights, self._vector)

    def bound(self, feeds: Mapping[str, Array]) -> Callable[[], Array]:
        """Bind these inputs once, as engines do for all inputs but the samples; return a function that runs."""
        for name, value in feeds.items():
            self._binding.bind_cpu_input(name, value)
        self._binding.bind_output(self._output, "cpu")

        def run() -> Array:
            self._session.run_with_iobinding(self._binding)
            result: Array = self._binding.copy_outputs_to_cpu()[0]
            return result

        return run

    def __call__(self, feeds: Mapping[str, Array]) -> Array:
        return self.bound(feeds)()


def _compare(found: Array, expected: Array, whose: str) -> None:
    with np.errstate(all="ignore"):  # a damaged file may hold any numbers; NaN fails the comparison below
        gap = np.abs(found - expected).max() / np.abs(expected).max() if found.shape == expected.shape else math.inf
    if not gap <= TOLERANCE:
        raise EngineError(f"the lifted graph's logits differ by {gap:.0e} from {whose}, so the plan is not used")
