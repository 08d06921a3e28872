"""ONNX Runtime's blocked layout on this machine, and running training graphs.

In the blocked layout B channels of a pixel are stored together; B depends on the processor (its use: ``compile/kinds/mixture/depthwise.py``).
``probe.py`` detects it, here with the probe graph that a bundle contains.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.probe import lanes_of, layout_of
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import EngineError, first_line

__all__ = ["LANES", "probed_lanes", "run"]

LANES = (8, 16)
"""Blocked layouts for which bundles have training graphs: those of AVX2 and AVX-512."""


def probed_lanes(probe: bytes) -> int | None:
    """Return the number of channels in a group of ONNX Runtime's blocked layout on this machine.

    Args:
        probe: The file ``training/probe.onnx``.

    Returns:
        One of ``LANES``, or None if this machine has no blocked layout, or another one.
    """
    return lanes_of(layout_of(probe), LANES)


def run(session: ort.InferenceSession, feed: Mapping[str, Array], names: list[str] | None = None) -> list[Array]:
    """Run a training graph, for some outputs or all. Raises ``EngineError`` if ONNX Runtime fails."""
    try:
        found: list[Array] = session.run(names, feed)
    except Exception as problem:
        raise EngineError(f"ONNX Runtime could not run a training graph: {first_line(problem)}") from problem
    return found
