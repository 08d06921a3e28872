"""Sessions of one block, in the fastest form that is right on this machine.

What the blocked graphs compute is checked against the plain ones on random numbers before they are trusted: they are written for
a layout that ONNX Runtime documents nowhere.
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
"""Largest difference of blocked to plain, over the largest number."""
GRAPHS = ("forward", "vjp", "depthwise")
"""Those that have a blocked form."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sessions of one block's graphs."""

    forward: ort.InferenceSession
    vjp: ort.InferenceSession
    depthwise: ort.InferenceSession
    expand: ort.InferenceSession
    project: ort.InferenceSession
    lanes: int | None
    """Channels of the blocked layout; None for the plain graphs."""


def open_blocks(spec: NetworkSpec, graphs: Mapping[str, bytes], *, threads: int) -> Blocks:
    """Open a block's graphs.

    Args:
        spec: The network's sizes.
        graphs: ``compiled/training/``'s files: name → content.
        threads: Threads per run, 0 to let ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime refuses the plain graphs.
    """
    plain = _opened(graphs, None, threads)
    lanes = probed_lanes(graphs["probe.onnx"])
    if lanes is None:
        return plain
    try:
        blocked = _opened(graphs, lanes, threads)
        expected, found = (_results(spec, blocks) for blocks in (plain, blocked))
        if all(_equal(expected[name], found[name]) for name in expected):
            return blocked
        problem = "they compute something else than the plain ones"
    except (EngineError, ValueError) as error:  # a wrong layout may give outputs of sizes that do not fit
        problem = str(error)
    log.warning("the fast training graphs do not run here (%s); the plain ones do, at about half the speed", problem)
    return plain


def _opened(graphs: Mapping[str, bytes], lanes: int | None, threads: int) -> Blocks:
    names = [f"block_{name}.onnx" if lanes is None else f"block_{name}_{lanes}.onnx" for name in GRAPHS]
    names += ["block_expand.onnx", "block_project.onnx"]
    forward, vjp, depthwise, expand, project = (
        open_session(graphs[name], session_options(threads), what="a training graph") for name in names
    )
    return Blocks(forward, vjp, depthwise, expand, project, lanes)


def _results(spec: NetworkSpec, blocks: Blocks) -> dict[str, Array]:
    """Everything that a block's graphs compute from random numbers."""
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
    feed = {"x": x, "g": g, **kept, **vjp_feeds(spec, weights, blocks.lanes)[0]}
    outputs = [entry.name for entry in blocks.vjp.get_outputs()]
    gradients = dict(zip(outputs, run(blocks.vjp, feed), strict=True))
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
