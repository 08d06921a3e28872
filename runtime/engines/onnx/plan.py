"""The device plan: the network's graph, optimised for this device, with what a signature changes lifted to inputs.

A convolution whose weight is an input loses ONNX Runtime's blocked layouts and runs 1.4 to 2.9 times slower; a session per user
keeps them and takes tens of milliseconds to build. A plan has both:

    1. optimise the portable graph with constant weights, once: ONNX Runtime reorders them into layouts of its own
    2. turn every weight of the *optimised* graph that a signature can change into an input (``lift.py``), write the others
       in, and load that graph with optimisation disabled
    3. learn the layouts instead of knowing them: optimise with weights that hold their own index numbers; each optimised
       tensor then *is* the map from folded weights to layout (index 0: padding, the value 0)
    4. test: random weights through the plan must give what they give as constants; one row of that is kept with the plan, and
       checked again wherever the plan is read

If a value is not an index, or the test fails, the optimiser did something else, and there is no plan (``EngineError``). Names in the
optimised graph differ from run to run, so the graph and the map must come from one optimisation. float32 holds whole numbers exactly
below 2²⁴; a network of more weights has no plan.

The weights of one signature are one vector, every tensor aligned to 64 bytes, in the order of ``Network.weights``: first what differs
between signatures that have a group in common, last what they share (``isoform.runtime.kind``).

A plan is valid for one portable graph with its templates, one ONNX Runtime and one kind of processor: on another one, whose layout
differs, it would answer wrongly without an error.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.lift import lift_weights, read_weights
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import first_line, open_session, ort, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.kind import Network
from isoform.runtime.layout import ALIGNMENT, Layout, Weight

__all__ = ["TRIAL_CLASSES", "Plan", "bind", "build_plan", "check_plan", "lifted_session"]

WEIGHT_LIMIT = 1 << 24
"""float32 holds every whole number below this one."""
TOLERANCE = 1e-5
"""Largest difference of logits in the self-test, over the largest logit."""
TRIAL_CLASSES = 3
"""Classes of the self-test's random network."""
TRIAL_NUMBERS = 65_521
"""Random numbers that its weights are made of, over and over; a prime, so that no two layers get the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A lifted graph, and where its weights come from."""

    graph: bytes
    """ONNX file: inputs ``image``, ``HEAD``, and every weight that a signature changes, in ONNX Runtime's layout."""
    layout: Layout
    """Every lifted weight, in ONNX Runtime's layout. The names are short: each binding holds them."""
    expected: Array = dataclasses.field(default_factory=lambda: np.zeros(TRIAL_CLASSES, dtype=np.float32))
    """Logits of the self-test's first sample, shape (TRIAL_CLASSES,), float32: what ``check_plan`` compares with."""


def build_plan(portable: bytes, network: Network) -> Plan:
    """Build and test the plan for this device.

    Args:
        portable: ``compiled/portable.onnx``.
        network: The bundle's; what no signature changes becomes constants of the plan.

    Raises:
        EngineError: If the optimiser did more than choose layouts, or the plan computes something else.
    """
    shapes = network.weights
    total = sum(math.prod(shape) for shape in shapes.values())
    if total >= WEIGHT_LIMIT:
        raise EngineError(f"the network has {total:,} weights, but layouts are learned for fewer than {WEIGHT_LIMIT:,}")
    numbered, start = {}, 1
    for name, shape in shapes.items():
        size = math.prod(shape)
        numbered[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    try:
        with tempfile.TemporaryDirectory(prefix="isoform-plan-") as folder:
            path = Path(folder) / "optimised.onnx"
            portable_session(portable, numbered, threads=1, save_to=path)
            optimised = path.read_bytes()
    except OSError as problem:
        raise EngineError(f"the optimised graph cannot be written to a temporary directory: {problem}") from problem
    plan = _learned(optimised, network)
    return dataclasses.replace(plan, expected=_test(plan, portable, network))


def _learned(optimised: bytes, network: Network) -> Plan:
    """The plan of a graph that was optimised with numbered weights."""
    shapes = network.weights
    starts = np.cumsum([1, *(math.prod(shape) for shape in shapes.values())])
    first_constant = starts[len(shapes) - len(network.constants)]
    fixed = np.concatenate([np.zeros(0), *(value.ravel() for value in network.constants.values())]).astype(np.float32)
    placed, constants = [], {}
    for name, value in read_weights(optimised).items():
        places = _places(name, value, starts)
        if places.max() < first_constant:
            placed.append((int(places.max()), name, value.shape, places))
        else:
            constants[name] = np.where(places > 0, fixed[np.maximum(places - first_constant, 0)], 0).reshape(
                value.shape
            )
    weights: list[Weight] = []
    pieces, inputs, start = [], {}, 0
    for _, name, shape, places in sorted(placed, key=lambda entry: entry[:2]):
        inputs[name] = f"w{len(weights)}"
        weights.append((inputs[name], shape, start))
        pieces += [places, np.zeros(-len(places) % ALIGNMENT, dtype=np.intp)]
        start += len(places) + len(pieces[-1])
    return Plan(graph=lift_weights(optimised, inputs, constants), layout=Layout(tuple(weights), np.concatenate(pieces)))


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


def _places(name: str, value: Array, starts: Array) -> Array:
    """Places in 0 followed by the folded weights, shape (size,), intp, of an optimised weight made from one folded one."""
    with np.errstate(invalid="ignore"):
        places = value.ravel().astype(np.intp)
    owners = np.searchsorted(starts, places[places > 0], side="right")
    known = (places == value.ravel()).all() and places.min() >= 0 and places.max() < starts[-1]
    if not known or not len(owners) or owners.min() != owners.max():
        raise EngineError(
            f"ONNX Runtime computed with weight {name!r} instead of moving it, so its layout cannot be learned"
        )
    return places


def check_plan(plan: Plan, network: Network) -> None:
    """Run one sample of the self-test again.

    Args:
        plan: A plan from elsewhere.
        network: The bundle's.

    Raises:
        EngineError: If the plan does not give here what it gave where it was built, or ONNX Runtime refuses it.
    """
    folded, head, x = _trial(network)
    try:
        found = _Lifted(plan, folded, head)(x[:1])
    except EngineError:
        raise
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"the plan does not run here: {first_line(problem)}") from problem
    _compare(found, plan.expected[None], "those where it was built")


def _trial(network: Network) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """A network of random weights but with these templates' constants, its logits layer, and four samples."""
    spec, rng, shapes, start = network.spec, np.random.default_rng(0), network.weights, 0
    folded: dict[str, Array] = {}
    total = sum(math.prod(shape) for shape in shapes.values())
    numbers = np.resize(rng.uniform(-1.7, 1.7, TRIAL_NUMBERS).astype(np.float32), total)
    for name, shape in shapes.items():
        size = math.prod(shape)
        folded[name] = numbers[start : start + size].reshape(shape) / np.float32(
            math.sqrt(max(1, math.prod(shape[1:])))
        )
        start += size
    folded.update(network.constants)
    weight = rng.normal(size=(TRIAL_CLASSES, spec.embedding)) / math.sqrt(spec.embedding)
    head = {"logits.weight": weight.astype(np.float32), "logits.bias": np.zeros(TRIAL_CLASSES, dtype=np.float32)}
    return folded, head, rng.uniform(-1, 1, (4, *spec.input_shape)).astype(np.float32)


class _Lifted:
    """A plan with weights bound: samples → logits."""

    def __init__(self, plan: Plan, folded: Mapping[str, Array], head: Mapping[str, Array]) -> None:
        self._session, self._vector = lifted_session(plan.graph, threads=1), plan.layout.lay_out(folded)
        self._binding = self._session.io_binding()
        bind(self._binding, plan.layout.weights, self._vector)
        for name, value in head.items():
            self._binding.bind_cpu_input(name, value)

    def __call__(self, x: Array) -> Array:
        self._binding.bind_cpu_input("image", x)
        self._binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(self._binding)
        result: Array = self._binding.get_outputs()[0].numpy()
        return result


def _compare(found: Array, expected: Array, whose: str) -> None:
    with np.errstate(all="ignore"):  # numbers of a damaged file: whatever comes of them is not within the tolerance
        gap = np.abs(found - expected).max() / np.abs(expected).max() if found.shape == expected.shape else math.inf
    if not gap <= TOLERANCE:
        raise EngineError(f"the lifted graph's logits differ by {gap:.0e} from {whose}, so the plan is not used")


def _test(plan: Plan, portable: bytes, network: Network) -> Array:
    """Random weights, batches of 1 and 3: the plan and the portable graph with constants must agree. The first row of logits."""
    folded, head, x = _trial(network)
    constant, lifted, rows = portable_session(portable, folded, threads=1), _Lifted(plan, folded, head), []
    for samples in (x[:1], x[1:]):
        rows.append(constant.run(None, {"image": samples, **head})[0])
        _compare(lifted(samples), rows[-1], "the portable graph's")
    result: Array = rows[0][0]
    return result
