"""The device plan: the network's graph, optimised for this device, with what a signature changes lifted to inputs.

A convolution whose weight is an input loses ONNX Runtime's blocked layouts and runs 1.4 to 2.9 times slower; a session per user
keeps them and takes tens of milliseconds to build. A plan has both:

    1. optimise the graph with constant weights, once: ONNX Runtime reorders them into layouts of its own
    2. turn every weight of the *optimised* graph that a signature can change into an input (``lift.py``), write the others
       in, and load that graph with optimisation disabled
    3. learn the layouts instead of knowing them: optimise with weights that hold their own index numbers; each optimised
       tensor then *is* the map from folded weights to layout
    4. test: random weights through the plan must give what they give as constants; one row of that is kept with the plan, and
       checked again wherever the plan is read

Index numbers are the last whole numbers below 2²⁴, up to which float32 is exact, so that no constant of the graph, a 0.5 or a 3, looks
like one; 0 is padding. An optimised tensor without index numbers is a constant and stays. One that mixes, or an index number that is
nowhere to be found, says that the optimiser computed with a weight (as it does where it fuses a convolution with BN), and then there is
no plan (``EngineError``), nor where the test fails. Names in the optimised graph differ from run to run, so the graph and the map must
come from one optimisation.

The weights of one signature are one vector, every tensor aligned to 64 bytes, in the order of ``Graph.weights``: first what differs
between signatures that have a group in common, last what they share (``isoform.runtime.kind``).

A plan is valid for one graph with its templates, one ONNX Runtime and one kind of processor: on another one, whose layout
differs, it would answer wrongly without an error.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.choice import over
from isoform.runtime.engines.onnx.lift import lift_weights, read_weights
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import first_line, open_session, ort, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.kind import Graph
from isoform.runtime.layout import ALIGNMENT, Layout, Weight

__all__ = ["TRIAL_CLASSES", "Plan", "Subject", "bind", "build_plan", "check_plan", "lifted_session", "subject_of"]

EXACT = 1 << 24
"""float32 holds every whole number up to this one."""
TOLERANCE = 1e-5
"""Largest difference of logits in the self-test, over the largest logit."""
TRIAL_CLASSES = 3
"""Classes of the self-test's random network."""
TRIAL_NUMBERS = 65_521
"""Random numbers that its weights are made of, over and over; a prime, so that no two layers get the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph whose weights are external initializers, and what has to be known to make a plan of it."""

    graph: bytes
    """ONNX file; its external data at the location ``weights`` are those of ``weights``, one after the other."""
    weights: Mapping[str, tuple[int, ...]]
    """Name → shape of every external initializer, in that order; float32."""
    constants: Mapping[str, Array]
    """Those of them that no signature changes → their values."""
    feeds: Callable[[np.random.Generator, int], dict[str, Array]]
    """Random inputs for so many samples: all inputs that the graph has."""
    output: str = "logits"
    """The output that is compared; its first axis has a row per sample."""

    @property
    def changing(self) -> dict[str, tuple[int, ...]]:
        """Those of ``weights`` that signatures change, in order."""
        return {name: shape for name, shape in self.weights.items() if name not in self.constants}

    def in_order(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Values of all weights in the order of ``weights``."""
        return {name: values[name] for name in self.weights}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A lifted graph, and where its weights come from."""

    graph: bytes
    """ONNX file: the network's input, ``HEAD``, and every weight that a signature changes, in ONNX Runtime's layout."""
    layout: Layout
    """Every lifted weight, in ONNX Runtime's layout. The names are short: each binding holds them."""
    expected: Array = dataclasses.field(default_factory=lambda: np.zeros(TRIAL_CLASSES, dtype=np.float32))
    """The output for the self-test's first sample, shape (TRIAL_CLASSES,) for a bundle's, float32: what ``check_plan`` compares with."""
    over_session: float = 1.0
    """How long a run of one sample takes here, over that of a session with the same weights as constants (``choice.py``)."""


def subject_of(file: bytes, graph: Graph) -> Subject:
    """What the plan of a compiled graph is made of.

    Args:
        file: The graph without weights.
        graph: The same; what no signature changes becomes constants of the plan.
    """

    def feeds(rng: np.random.Generator, samples: int) -> dict[str, Array]:
        weight = rng.normal(size=(TRIAL_CLASSES, graph.embedding)) / math.sqrt(graph.embedding)
        head = {"logits.weight": weight.astype(np.float32), "logits.bias": np.zeros(TRIAL_CLASSES, dtype=np.float32)}
        return {graph.input.name: graph.input.random(rng, samples), **head}

    return Subject(graph=file, weights=graph.weights, constants=graph.constants, feeds=feeds)


def build_plan(subject: Subject) -> Plan:
    """Build and test the plan for this device.

    Args:
        subject: A graph and its weights.

    Raises:
        EngineError: If the optimiser did more than choose layouts, or the plan computes something else.
    """
    total = sum(math.prod(shape) for shape in subject.changing.values())
    if total >= EXACT:
        raise EngineError(f"the network has {total:,} weights, but layouts are learned for fewer than {EXACT:,}")
    numbered, start = dict(subject.constants), EXACT - total
    for name, shape in subject.changing.items():
        size = math.prod(shape)
        numbered[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    try:
        with tempfile.TemporaryDirectory(prefix="isoform-plan-") as folder:
            path = Path(folder) / "optimised.onnx"
            portable_session(subject.graph, subject.in_order(numbered), threads=1, save_to=path)
            optimised = path.read_bytes()
    except OSError as problem:
        raise EngineError(f"the optimised graph cannot be written to a temporary directory: {problem}") from problem
    return _tested(_learned(optimised, subject, total), subject)


def _learned(optimised: bytes, subject: Subject, total: int) -> Plan:
    """The plan of a graph that was optimised with numbered weights."""
    placed = []
    for name, value in read_weights(optimised).items():
        places = _places(name, value, total)
        if places is not None:
            placed.append((int(places.max()), name, value.shape, places))
    found = np.zeros(total + 1, dtype=bool)
    for *_, places in placed:
        found[places] = True
    if not found[1:].all():
        lost, ends = int(np.argmin(found[1:])), np.cumsum([math.prod(shape) for shape in subject.changing.values()])
        name = [*subject.changing][int(np.searchsorted(ends, lost, side="right"))]
        raise EngineError(
            f"ONNX Runtime computed with weight {name!r} instead of moving it, so its layout cannot be learned"
        )
    weights: list[Weight] = []
    pieces, inputs, start = [], {}, 0
    for _, name, shape, places in sorted(placed, key=lambda entry: entry[:2]):
        inputs[name] = f"w{len(weights)}"
        weights.append((inputs[name], shape, start))
        pieces += [places, np.zeros(-len(places) % ALIGNMENT, dtype=np.intp)]
        start += len(places) + len(pieces[-1])
    return Plan(graph=lift_weights(optimised, inputs, {}), layout=Layout(tuple(weights), np.concatenate(pieces)))


def lifted_session(graph: bytes, *, threads: int) -> ort.InferenceSession:
    """A session over a lifted graph, which is optimised already.

    Raises:
        EngineError: If ONNX Runtime refuses it.
    """
    options = session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(graph, options, what="the lifted graph")


def bind(binding: ort.IOBinding, weights: Iterable[Weight], laid_out: Array) -> None:
    """Bind a signature's weights, all but ``HEAD``; the vector must outlive the binding's last run.

    Args:
        binding: An IOBinding of a ``lifted_session``.
        weights: Of the plan.
        laid_out: The vector that they lie in.
    """
    address = laid_out.ctypes.data
    for name, shape, start in weights:
        binding.bind_input(name, "cpu", 0, np.float32, shape, address + 4 * start)


def _places(name: str, value: Array, total: int) -> Array | None:
    """Places in 0 followed by the changing weights, shape (size,), intp, of an optimised tensor; None if it is made of none of them."""
    flat = value.ravel().astype(np.float64)
    numbers = flat - (EXACT - total) + 1
    inside = (numbers >= 1) & (numbers <= total)
    if not inside.any():
        return None
    if not ((flat == 0) | (inside & (numbers == np.floor(numbers)))).all():
        raise EngineError(
            f"ONNX Runtime computed with weight {name!r} instead of moving it, so its layout cannot be learned"
        )
    return np.where(inside, numbers, 0).astype(np.intp)


def check_plan(plan: Plan, subject: Subject) -> None:
    """Run one sample of the self-test again.

    Args:
        plan: A plan from elsewhere.
        subject: What it should be of.

    Raises:
        EngineError: If the plan does not give here what it gave where it was built, or ONNX Runtime refuses it.
    """
    weights, trials = _trial(subject)
    try:
        found = _Lifted(plan, weights, subject.output)(trials[0])
    except EngineError:
        raise
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"the plan does not run here: {first_line(problem)}") from problem
    _compare(found[:1], plan.expected[None], "those where it was built")


def _trial(subject: Subject) -> tuple[dict[str, Array], tuple[dict[str, Array], dict[str, Array]]]:
    """Random weights, of which only those that change count, and inputs for one sample and for three."""
    rng, start, weights = np.random.default_rng(0), 0, dict[str, Array]()
    total = sum(math.prod(shape) for shape in subject.changing.values())
    numbers = np.resize(rng.uniform(-1.7, 1.7, TRIAL_NUMBERS).astype(np.float32), total)
    for name, shape in subject.changing.items():
        size = math.prod(shape)
        scale = np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
        weights[name] = numbers[start : start + size].reshape(shape) / scale
        start += size
    return weights, (subject.feeds(rng, 1), subject.feeds(rng, 3))


class _Lifted:
    """A plan with weights bound: inputs → output."""

    def __init__(self, plan: Plan, weights: Mapping[str, Array], output: str) -> None:
        self._session, self._vector, self._output = (
            lifted_session(plan.graph, threads=1),
            plan.layout.lay_out(weights),
            output,
        )
        self._binding = self._session.io_binding()
        bind(self._binding, plan.layout.weights, self._vector)

    def bound(self, feeds: Mapping[str, Array]) -> Callable[[], Array]:
        """Runs with these inputs, which are bound once, as engines do with all but the samples."""
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
    with np.errstate(all="ignore"):  # numbers of a damaged file: whatever comes of them is not within the tolerance
        gap = np.abs(found - expected).max() / np.abs(expected).max() if found.shape == expected.shape else math.inf
    if not gap <= TOLERANCE:
        raise EngineError(f"the lifted graph's logits differ by {gap:.0e} from {whose}, so the plan is not used")


def _tested(plan: Plan, subject: Subject) -> Plan:
    """The plan, if it agrees with the graph with constants, for random weights and batches of 1 and 3; with what the test has shown."""
    weights, trials = _trial(subject)
    constant = portable_session(subject.graph, subject.in_order({**subject.constants, **weights}), threads=1)
    lifted, rows = _Lifted(plan, weights, subject.output), []
    for feeds in trials:
        rows.append(constant.run([subject.output], dict(feeds))[0])
        _compare(lifted(feeds), rows[-1], "the portable graph's")
    taken = over(lifted.bound(trials[0]), functools.partial(constant.run, [subject.output], dict(trials[0])))
    return dataclasses.replace(plan, expected=rows[0][0], over_session=taken)
