"""Which form of the training graphs this machine runs: the blocked layout's if ONNX Runtime has one here, else the plain one.

In the blocked layout B channels of a pixel lie together; B is the processor's affair (``compile/depthwise.py`` says what for).
A graph of one operator shows it: of 64 channels with two pixels each, number 1, the first channel's second pixel, comes back in
place B. What the blocked graphs compute is checked against the plain ones on random numbers before they are trusted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from isoform.runtime.engine import first_line, open_session, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.spec import Array

__all__ = ["BATCH", "LANES", "Blocks", "open_blocks", "probed_lanes", "run"]

log = logging.getLogger("isoform.runtime")

BATCH = 16
"""Samples per run of the product: ONNX wants some sizes of the blocked one fixed. Fewer are filled up with zeros."""
LANES = (8, 16)
"""Blocked layouts that training graphs are written for: AVX2's and AVX-512's."""
TOLERANCE = 1e-4
"""Largest difference of blocked to plain, over the largest number."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sessions of one block."""

    forward: ort.InferenceSession
    vjp: ort.InferenceSession
    statistics: ort.InferenceSession


def open_blocks(graphs: Mapping[str, bytes], *, threads: int) -> Blocks:
    """Sessions of a block, the fastest form that is right here.

    Args:
        graphs: ``compiled/training/``'s files: name → content.
        threads: Threads per run, 0 to let ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime refuses the plain graphs.
    """
    plain = _sessions(graphs, "", threads)
    lanes = probed_lanes(graphs["probe.onnx"])
    if lanes is None:
        return plain
    try:
        blocked = _sessions(graphs, f"_{lanes}", threads)
        if _agree(plain, blocked):
            return blocked
        problem = "they compute something else than the plain ones"
    except EngineError as error:
        problem = str(error)
    log.warning("the fast training graphs do not run here (%s); the plain ones do, at about half the speed", problem)
    return plain


def probed_lanes(probe: bytes) -> int | None:
    """How many channels lie together in ONNX Runtime's blocked layout on this machine.

    Args:
        probe: ``training/probe.onnx``.

    Returns:
        One of ``LANES``, or None if there is no such layout here, or another.
    """
    numbers = np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2)
    try:
        order = run(open_session(probe, session_options(1), what="the layout's probe"), {"x": numbers})[0].ravel()
    except EngineError:
        return None
    for count in LANES:
        if np.array_equal(order, numbers.reshape(64 // count, count, 2).transpose(0, 2, 1).ravel()):
            return count
    return None


def run(session: ort.InferenceSession, feed: Mapping[str, Array], names: list[str] | None = None) -> list[Array]:
    """Run a training graph, for some outputs or all; ``EngineError`` if ONNX Runtime cannot."""
    try:
        found: list[Array] = session.run(names, feed)
    except Exception as problem:
        raise EngineError(f"ONNX Runtime could not run a training graph: {first_line(problem)}") from problem
    return found


def _sessions(graphs: Mapping[str, bytes], suffix: str, threads: int) -> Blocks:
    names = [f"block_{field.name}{suffix}.onnx" for field in dataclasses.fields(Blocks)]
    return Blocks(*(open_session(graphs[name], session_options(threads), what="a training graph") for name in names))


def _agree(plain: Blocks, blocked: Blocks) -> bool:
    rng = np.random.default_rng(0)
    for field in dataclasses.fields(Blocks):
        expected, found = getattr(plain, field.name), getattr(blocked, field.name)
        feed = {}
        for entry in expected.get_inputs():
            shape = [BATCH if isinstance(size, str) else size for size in entry.shape]
            low = 0.0 if entry.name in ("statistics", "alpha") else -0.7  # a variance is not negative
            feed[entry.name] = rng.uniform(low, 0.7, shape).astype(np.float32)
        for a, b in zip(run(expected, feed), run(found, feed), strict=True):
            if a.shape != b.shape or not np.abs(a - b).max() <= TOLERANCE * np.abs(a).max():
                return False
    return True
