"""The device plan: the network's graph, optimised for this device, with its weights lifted to inputs.

A convolution whose weight is an input loses ONNX Runtime's blocked layouts and runs 1.4 to 2.9 times slower; a session per user
keeps them and takes tens of milliseconds to build. A plan has both:

    1. optimise the portable graph with constant weights, once: ONNX Runtime reorders them into layouts of its own
    2. turn every weight of the *optimised* graph into an input (``lift.py``), and load that graph with optimisation disabled
    3. learn the layouts instead of knowing them: optimise with weights that hold their own index numbers; each optimised
       tensor then *is* the map from folded weights to layout (index 0: padding, the value 0)
    4. test: random weights through the plan must give what they give as constants

If a value is not an index, or the test fails, the optimiser did something else, and there is no plan (``EngineError``).
Names in the optimised graph differ from run to run, so the graph and the map must come from one optimisation. float32 holds
whole numbers exactly below 2²⁴; a network of more weights has no plan.
A plan is valid for one graph, one ONNX Runtime and one kind of processor.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from isoform.runtime.engine import first_line, portable_session, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.fold import folded_shapes
from isoform.runtime.lift import lift_weights
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["Plan", "aligned", "bind", "build_plan", "lifted_session"]

WEIGHT_LIMIT = 1 << 24
"""float32 holds every whole number below this one."""
ALIGNMENT = 16
"""Every weight starts at a multiple of so many floats: 64 bytes, a cache line and the widest vector."""
TOLERANCE = 1e-5
"""Largest difference of logits in the self-test, over the largest logit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A lifted graph, and where its weights come from."""

    graph: bytes
    """ONNX file: inputs ``image``, ``logits.weight``, ``logits.bias``, and every weight in ONNX Runtime's layout."""
    weights: tuple[tuple[str, tuple[int, ...], int], ...]
    """Name, shape, and first place in the laid-out vector, of every lifted weight."""
    gather: Array
    """Shape (M,), intp: for every place of the laid-out vector, its place in 0 followed by the folded weights."""

    def lay_out(self, folded: Mapping[str, Array]) -> Array:
        """The laid-out vector of folded weights.

        Args:
            folded: What ``fold`` returned.

        Returns:
            Shape (M,), float32, aligned to 64 bytes. A fresh array.
        """
        names = (name for name in folded if not name.startswith("logits."))
        flat = np.concatenate([np.zeros(1, dtype=np.float32), *(folded[name].ravel() for name in names)])
        result = aligned(len(self.gather))
        np.take(flat, self.gather, out=result, mode="clip")
        return result


def aligned(size: int) -> Array:
    """An uninitialised float32 vector that starts at a multiple of 64 bytes."""
    room = np.empty(size + ALIGNMENT, dtype=np.float32)
    start = -(room.ctypes.data // 4) % ALIGNMENT
    result: Array = room[start : start + size]
    return result


def build_plan(portable: bytes, spec: NetworkSpec) -> Plan:
    """Build and test the plan for this device.

    Args:
        portable: ``compiled/portable.onnx``.
        spec: The network's sizes.

    Raises:
        EngineError: If the optimiser did more than choose layouts, or the plan computes something else.
    """
    shapes = folded_shapes(spec)
    total = sum(math.prod(shape) for shape in shapes.values())
    if total >= WEIGHT_LIMIT:
        raise EngineError(f"the network has {total:,} weights, but layouts are learned for fewer than {WEIGHT_LIMIT:,}")
    numbered, start = {}, 1
    for name, shape in shapes.items():
        size = math.prod(shape)
        numbered[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    with tempfile.TemporaryDirectory(prefix="isoform-plan-") as folder:
        path = Path(folder) / "optimised.onnx"
        portable_session(portable, spec, numbered, threads=1, save_to=path)
        graph, learned = lift_weights(path.read_bytes())
    weights, pieces, start = [], [], 0
    for name, value in learned.items():
        index = _index(name, value, total)
        weights.append((name, value.shape, start))
        pieces += [index, np.zeros(-len(index) % ALIGNMENT, dtype=np.intp)]
        start += len(index) + (-len(index) % ALIGNMENT)
    plan = Plan(graph=graph, weights=tuple(weights), gather=np.concatenate(pieces))
    _test(plan, portable, spec)
    return plan


def lifted_session(plan: Plan, *, threads: int) -> ort.InferenceSession:
    """A session over the lifted graph, which is optimised already.

    Raises:
        EngineError: If ONNX Runtime refuses it.
    """
    options = session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(plan.graph, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(
            f"ONNX Runtime {ort.__version__} refused the lifted graph: {first_line(problem)}"
        ) from problem


def bind(binding: ort.IOBinding, plan: Plan, laid_out: Array, head: Mapping[str, Array]) -> None:
    """Bind a signature's weights; the arrays must outlive the binding's last run.

    Args:
        binding: An IOBinding of a ``lifted_session``.
        plan: The plan.
        laid_out: ``Plan.lay_out``'s vector.
        head: ``logits.weight`` and ``logits.bias``, float32, C-contiguous.
    """
    address = laid_out.ctypes.data
    for name, shape, start in plan.weights:
        binding.bind_input(name, "cpu", 0, np.float32, shape, address + 4 * start)
    for name, array in head.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def _index(name: str, value: Array, total: int) -> Array:
    """Places in the folded vector, shape (size,), intp."""
    if not (value == np.floor(value)).all() or value.min() < 0 or value.max() > total:
        raise EngineError(
            f"ONNX Runtime computed with weight {name!r} instead of moving it, so its layout cannot be learned"
        )
    return value.ravel().astype(np.intp)


def _test(plan: Plan, portable: bytes, spec: NetworkSpec) -> None:
    """Random weights, batches of 1 and 3: the plan and the portable graph with constants must agree."""
    rng = np.random.default_rng(0)
    shapes = folded_shapes(spec)
    folded = {
        name: (rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(np.float32)
        for name, shape in shapes.items()
    }
    weight = rng.normal(size=(3, spec.embedding)) / math.sqrt(spec.embedding)
    head = {"logits.weight": weight.astype(np.float32), "logits.bias": np.zeros(3, dtype=np.float32)}
    constant, lifted = portable_session(portable, spec, folded, threads=1), lifted_session(plan, threads=1)
    vector, binding = plan.lay_out(folded), lifted.io_binding()
    bind(binding, plan, vector, head)
    for batch in (1, 3):
        x = rng.uniform(-1, 1, (batch, *spec.input_shape)).astype(np.float32)
        expected = constant.run(None, {"image": x, **head})[0]
        binding.bind_cpu_input("image", x)
        binding.bind_output("logits", "cpu")
        lifted.run_with_iobinding(binding)
        found = binding.get_outputs()[0].numpy()
        gap = np.abs(found - expected).max() / np.abs(expected).max()
        if not gap <= TOLERANCE:
            raise EngineError(
                f"the lifted graph's logits differ by {gap:.0e} from the portable graph's, so the plan is not used"
            )
