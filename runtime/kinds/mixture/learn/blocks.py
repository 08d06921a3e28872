"""Sessions of one block's training graphs, in the fastest variant that is correct on this machine.

The variants for blocked layouts are compared with the plain graphs on random numbers before they are used, because
ONNX Runtime's blocked layout is undocumented. Both backward passes read the intermediate results of the plain forward pass: from its
own, each could take another slope for an activation within rounding of a kink, such as ±3 of the hard swish. With two million
activations that moved gradients by up to 1 % for one seed in 70. Forward passes have no such jumps, and are compared as they are.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.kinds.mixture.fold import row_shapes
from isoform.runtime.kinds.mixture.learn.arrange import (
    filled_up,
    forward_feeds,
    named_gradients,
    unfolded_feeds,
    vjp_feeds,
)
from isoform.runtime.kinds.mixture.learn.lanes import probed_lanes, run
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import BATCH

__all__ = ["Blocks", "open_blocks"]

log = logging.getLogger("isoform.runtime")

TOLERANCE = 1e-4
"""Largest difference between blocked and plain results, relative to the largest value."""
GRAPHS = ("forward", "vjp", "depthwise")
"""Graphs with a variant for blocked layouts."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sessions of one block's graphs."""

    forward: ort.InferenceSession
    vjp: ort.InferenceSession
    depthwise: ort.InferenceSession
    expand: ort.InferenceSession
    project: ort.InferenceSession
    lanes: int | None
    """Group size of the blocked layout; None for the plain graphs."""


def open_blocks(spec: NetworkSpec, graphs: Mapping[str, bytes], *, threads: int) -> Blocks:
    """Open a block's graphs.

    Args:
        spec: The network's sizes.
        graphs: The files of ``compiled/training/``: name → content.
        threads: Threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime rejects the plain graphs.
    """
    plain = _opened(graphs, None, threads)
    lanes = probed_lanes(graphs["probe.onnx"])
    if lanes is None:
        return plain
    try:
        blocked = _opened(graphs, lanes, threads)
        expected = _results(spec, plain)
        found = _results(spec, blocked, backward_from=expected)
        if all(_equal(expected[name], found[name]) for name in expected):
            return blocked
        problem = "their results differ from those of the plain ones"
    except (EngineError, ValueError) as error:
        # ValueError: with a wrong layout, outputs may have sizes that cannot be reshaped
        problem = str(error)
    log.warning(
        "the fast training graphs cannot be used (%s); falling back to the plain ones, about half as fast", problem
    )
    return plain


def _opened(graphs: Mapping[str, bytes], lanes: int | None, threads: int) -> Blocks:
    names = [f"block_{name}.onnx" if lanes is None else f"block_{name}_{lanes}.onnx" for name in GRAPHS]
    names += ["block_expand.onnx", "block_project.onnx"]
    forward, vjp, depthwise, expand, project = (
        open_session(graphs[name], session_options(threads), what="a training graph") for name in names
    )
    return Blocks(forward, vjp, depthwise, expand, project, lanes)


def _results(
    spec: NetworkSpec, blocks: Blocks, *, backward_from: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Compute all outputs of a block's graphs for random numbers; the backward pass uses its own forward pass's results, or those given."""
    # one layer: all layers run the same graphs
    spec, rng = dataclasses.replace(spec, layers=1), np.random.default_rng(0)

    def random(*shape: int) -> Array:
        return rng.uniform(-0.7, 0.7, shape).astype(np.float32)

    mixed = {name: random(1, *shape) for name, shape in row_shapes(spec).items()}
    weights = {f"layer00.{name}": array[0] for name, array in mixed.items()}
    for part in ("expand", "depthwise", "project"):
        weights[f"layer00.{part}.bias"] = random(len(weights[f"layer00.{part}.weight"]))
    x, g = (random(BATCH, spec.channels, *spec.grid) for _ in range(2))
    names = [entry.name for entry in blocks.forward.get_outputs()]
    kept = dict(zip(names, run(blocks.forward, {"x": x, **forward_feeds(spec, weights, blocks.lanes)[0]}), strict=True))
    output = kept.pop("output")
    read = kept if backward_from is None else {name: backward_from[name] for name in kept}
    feed = {"x": x, "g": g, **read, **vjp_feeds(spec, weights, blocks.lanes)[0]}
    outputs = [entry.name for entry in blocks.vjp.get_outputs()]
    gradients = dict(zip(outputs, run(blocks.vjp, feed), strict=True))
    # abs: a negative variance would make everything NaN
    bn = {name: np.abs(random(spec.expanded)) for name in ("gamma", "beta", "mean", "variance")}
    unfolded = unfolded_feeds(spec, mixed, blocks.lanes)[0]
    feed = {"u": random(BATCH, spec.expanded, *spec.grid), "depthwise.weight": unfolded["depthwise.weight"], **bn}
    found = run(blocks.depthwise, {**feed, "centre": filled_up(spec, random(spec.expanded), blocks.lanes)})
    return {
        "output": output, **kept, "x.gradient": gradients["x.gradient"], **named_gradients(spec, gradients, blocks.lanes),
        **dict(zip(("normalised", "mean", "squares"), found, strict=True)),
    }  # fmt: skip


def _equal(expected: Array, found: Array) -> bool:
    return expected.shape == found.shape and bool(np.abs(expected - found).max() <= TOLERANCE * np.abs(expected).max())
