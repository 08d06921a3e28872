"""ONNX Runtime's blocked layout on this machine, and how training graphs are run.

In the blocked layout B channels of a pixel lie together; B is the processor's affair (``compile/kinds/mixture/depthwise.py`` says what for).
``probe.py`` finds it out, here by the graph of one operator that a bundle brings.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.probe import lanes_of, layout_of
from isoform.runtime.engines.onnx.session import first_line, ort
from isoform.runtime.errors import EngineError

__all__ = ["LANES", "probed_lanes", "run"]

LANES = (8, 16)
"""Blocked layouts that training graphs are written for: AVX2's and AVX-512's."""


def probed_lanes(probe: bytes) -> int | None:
    """How many channels lie together in ONNX Runtime's blocked layout on this machine.

    Args:
        probe: ``training/probe.onnx``.

    Returns:
        One of ``LANES``, or None if there is no such layout here, or another.
    """
    return lanes_of(layout_of(probe), LANES)


def run(session: ort.InferenceSession, feed: Mapping[str, Array], names: list[str] | None = None) -> list[Array]:
    """Run a training graph, for some outputs or all; ``EngineError`` if ONNX Runtime cannot."""
    try:
        found: list[Array] = session.run(names, feed)
    except Exception as problem:
        raise EngineError(f"ONNX Runtime could not run a training graph: {first_line(problem)}") from problem
    return found
