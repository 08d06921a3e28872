"""Building a device plan.

    1. optimise the graph once with constant weights: ONNX Runtime reorders them into its own layouts
    2. turn every weight of the *optimised* graph that depends on the signature into an input (``lift.py``), keep the others as
       constants, and load that graph with optimisation disabled
    3. learn the layouts: optimise with weights whose values are their own indices; each optimised tensor then *is* the map
       from folded weights to layout
    4. self-test (``trial.py``)

Indices are the last whole numbers below 2²⁴, up to which float32 is exact, so that no constant of the graph, such as 0.5 or 3, looks
like one; 0 is padding. An optimised tensor without indices is a constant and stays one. A tensor with other values besides, or an
index that is missing, shows that the optimiser computed with a weight (as when it fuses a convolution with BN). Then there is
no plan (``EngineError``), as when the self-test fails.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.plans.lift import lift_weights, read_weights
from isoform.runtime.engines.onnx.plans.plan import Plan, Subject
from isoform.runtime.engines.onnx.plans.trial import self_tested
from isoform.runtime.errors import EngineError
from isoform.runtime.layout import ALIGNMENT, Layout, Weight

__all__ = ["build_plan"]

EXACT = 1 << 24
"""float32 represents every whole number up to this one exactly."""


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
    return self_tested(_learned(optimised, subject, total), subject)


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
    pieces, inputs, start = [np.empty(0, dtype=np.intp)], {}, 0  # a graph may have constants only
    # by largest index: the order of Graph.weights
    for _, name, shape, places in sorted(placed, key=lambda entry: entry[:2]):
        inputs[name] = f"w{len(weights)}"
        weights.append((inputs[name], shape, start))
        pieces += [places, np.zeros(-len(places) % ALIGNMENT, dtype=np.intp)]
        start += len(places) + len(pieces[-1])
    return Plan(graph=lift_weights(optimised, inputs, {}), layout=Layout(tuple(weights), np.concatenate(pieces)))


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
