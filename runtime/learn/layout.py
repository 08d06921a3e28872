"""ONNX Runtime's blocked layout on this machine, and how training graphs are run.

In the blocked layout B channels of a pixel lie together; B is the processor's affair (``compile/depthwise.py`` says what for).
A graph of one operator shows it: of 64 channels with two pixels each, number 1, the first channel's second pixel, comes back in
place B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isoform.runtime.errors import EngineError
from isoform.runtime.sessions import first_line, open_session, ort, session_options
from isoform.runtime.spec import Array

__all__ = ["BATCH", "LANES", "probed_lanes", "run"]

BATCH = 16
"""Samples per run of the product: some of its sizes are fixed. Fewer are filled up with zeros."""
LANES = (8, 16)
"""Blocked layouts that training graphs are written for: AVX2's and AVX-512's."""


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
