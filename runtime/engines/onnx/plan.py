"""The device plan: the network's graph, optimised for this device, with a signature's weights as inputs.

A convolution whose weight is an input cannot use ONNX Runtime's blocked layouts and runs 1.4 to 2.9 times slower; a session per user
can, but takes tens of milliseconds to create. A plan has the advantages of both:

    1. optimise the graph once with constant weights: ONNX Runtime reorders them into its own layouts
    2. turn every weight of the *optimised* graph that depends on the signature into an input (``lift.py``), keep the others as
       constants, and load that graph with optimisation disabled
    3. learn the layouts: optimise with weights whose values are their own indices; each optimised tensor then *is* the map
       from folded weights to layout
    4. self-test: random weights must give the same output through the plan as they give as constants; one row of the output is
       stored with the plan, and checked again whenever the plan is read

Indices are the last whole numbers below 2²⁴, up to which float32 is exact, so that no constant of the graph, such as 0.5 or 3, looks
like one; 0 is padding. An optimised tensor without indices is a constant and stays one. A tensor with other values besides, or an
index that is missing, shows that the optimiser computed with a weight (as when it fuses a convolution with BN). Then there is
no plan (``EngineError``), as when the self-test fails.

The weights of one signature are one vector, every tensor aligned to 64 bytes, in the order of ``Graph.weights``: first what differs
between signatures of a group, last what they share (``isoform.runtime.kind``).

A plan is valid for one graph with its templates, one version of ONNX Runtime and one type of processor: on a processor with a
different layout it would give wrong results without an error.
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
"""float32 represents every whole number up to this one exactly."""
TOLERANCE = 1e-5
"""Largest difference of logits in the self-test, relative to the largest logit."""
TRIAL_CLASSES = 3
"""Classes of the self-test's random network."""
TRIAL_NUMBERS = 65_521  # prime, so that no two layers get the same numbers
"""Length of the sequence of random numbers that is repeated to fill the self-test's weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph whose weights are external initializers, with what is needed to build a plan for it."""

    graph: bytes
    """ONNX file; its external data at the location ``weights`` are the values of ``weights``, concatenated."""
    weights: Mapping[str, tuple[int, ...]]
    """Name → shape of every external initializer, in that order; float32."""
    constants: Mapping[str, Array]
    """Values of those that are the same for every signature."""
    feeds: Callable[[np.random.Generator, int], dict[str, Array]]
    """Makes random values of all inputs of the graph for a number of samples."""
    output: str = "logits"
    """The output that is compared; its first axis has a row per sample."""

    @property
    def changing(self) -> dict[str, tuple[int, ...]]:
        """The ``weights`` that depend on the signature, in order."""
        return {name: shape for name, shape in self.weights.items() if name not in self.constants}

    def in_order(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return values of all weights in the order of ``weights``."""
        return {name: values[name] for name in self.weights}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A lifted graph, and the layout of its weights."""

    graph: bytes
    """ONNX file; its inputs are the network's input, ``HEAD``, and every weight that depends on the signature, in ONNX Runtime's layout."""
    layout: Layout
    """Every lifted weight, in ONNX Runtime's layout. The names are short, because each binding stores them."""
    expected: Array = dataclasses.field(default_factory=lambda: np.zeros(TRIAL_CLASSES, dtype=np.float32))
    """Output for the self-test's first sample, shape (TRIAL_CLASSES,) for a bundle's, float32: the reference of ``check_plan``."""
    over_session: float = 1.0
    """Run time of one sample here, divided by that of a session with the same weights as constants (``choice.py``)."""


def subject_of(file: bytes, graph: Graph) -> Subject:
    """Return the subject for the plan of a compiled graph.

    Args:
        file: The ONNX file without weights.
        graph: The same graph; its ``constants`` become constants of the plan.
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
        EngineError: If the optimiser did more than reorder weights, or the plan fails the self-test.
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
    """Make the plan of a graph that was optimised with indices as weights."""
    # Tensor names in the optimised graph differ from run to run, so graph and map must come from the same optimisation.
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
    # by largest index: the order of Graph.weights
    for _, name, shape, places in sorted(placed, key=lambda entry: entry[:2]):
        inputs[name] = f"w{len(weights)}"
        weights.append((inputs[name], shape, start))
        pieces += [places, np.zeros(-len(places) % ALIGNMENT, dtype=np.intp)]
        start += len(places) + len(pieces[-1])
    return Plan(graph=lift_weights(optimised, inputs, {}), layout=Layout(tuple(weights), np.concatenate(pieces)))


def lifted_session(graph: bytes, *, threads: int) -> ort.InferenceSession:
    """Create a session of a lifted graph.

    Raises:
        EngineError: If ONNX Runtime rejects it.
    """
    options = session_options(threads)
    # the graph is optimised already, and its operators in ONNX Runtime's layouts must stay as they are
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(graph, options, what="the lifted graph")


def bind(binding: ort.IOBinding, weights: Iterable[Weight], laid_out: Array) -> None:
    """Bind a signature's weights, all but ``HEAD``. The vector must outlive the binding's last run.

    Args:
        binding: An IOBinding of a ``lifted_session``.
        weights: The plan's weights.
        laid_out: The vector that holds them.
    """
    address = laid_out.ctypes.data
    for name, shape, start in weights:
        binding.bind_input(name, "cpu", 0, np.float32, shape, address + 4 * start)


def _places(name: str, value: Array, total: int) -> Array | None:
    """Read an optimised tensor as indices into [0, changing weights …], shape (size,), intp; None if it holds no index."""
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
        plan: A plan read from a file.
        subject: The subject that it should belong to.

    Raises:
        EngineError: If the plan does not reproduce its stored output, or ONNX Runtime rejects it.
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
    """Make random values of the changing weights, and inputs for one sample and for three."""
    rng, start, weights = np.random.default_rng(0), 0, dict[str, Array]()
    total = sum(math.prod(shape) for shape in subject.changing.values())
    # drawn once and repeated: a large network has millions of weights
    numbers = np.resize(rng.uniform(-1.7, 1.7, TRIAL_NUMBERS).astype(np.float32), total)
    for name, shape in subject.changing.items():
        size = math.prod(shape)
        # 1 / √fan-in keeps the scale of activations from layer to layer
        scale = np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
        weights[name] = numbers[start : start + size].reshape(shape) / scale
        start += size
    # one and several: ONNX Runtime multiplies a single sample in another order
    return weights, (subject.feeds(rng, 1), subject.feeds(rng, 3))


class _Lifted:
    """A plan with weights bound, as a function from inputs to output."""

    def __init__(self, plan: Plan, weights: Mapping[str, Array], output: str) -> None:
        self._session, self._vector, self._output = (
            lifted_session(plan.graph, threads=1),
            plan.layout.lay_out(weights),
            output,
        )
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


def _tested(plan: Plan, subject: Subject) -> Plan:
    """Test the plan against the graph with constants, for random weights and batches of 1 and 3; return it with the results filled in."""
    weights, trials = _trial(subject)
    constant = portable_session(subject.graph, subject.in_order({**subject.constants, **weights}), threads=1)
    lifted, rows = _Lifted(plan, weights, subject.output), []
    for feeds in trials:
        rows.append(constant.run([subject.output], dict(feeds))[0])
        _compare(lifted(feeds), rows[-1], "the portable graph's")
    taken = over(lifted.bound(trials[0]), functools.partial(constant.run, [subject.output], dict(trials[0])))
    return dataclasses.replace(plan, expected=rows[0][0], over_session=taken)
