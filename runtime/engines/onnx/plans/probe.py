"""Probe of ONNX Runtime's blocked (NCHWc) layout on this machine, which a plan's layout depends on.

In the blocked layout the channels of a pixel are stored in groups of 8, 16 or another number, which ONNX Runtime chooses by the
processor. A processor's name and flags do not determine it, so a graph with one operator is run: 64 channels of two pixels hold
their own indices, and are returned in the layout's order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from isoform.runtime.engines.onnx.plans.lift import value_info
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.formats.protobuf import encoded, message

__all__ = ["lanes_of", "layout_of", "probed_layout"]

_SHAPE = (1, 64, 1, 2)
_BLOCKED = b"com.microsoft.nchwc"


@functools.cache
def probed_layout() -> bytes:
    """Return the order of channels and pixels on this machine, one byte each; empty if ONNX Runtime has no blocked layout here."""
    return layout_of(_graph())


def layout_of(graph: bytes) -> bytes:
    """Return that order as given by an ONNX file with the one operator; empty if it does not run here."""
    numbers = np.arange(128, dtype=np.float32).reshape(_SHAPE)
    try:
        session = open_session(graph, session_options(1), what="the layout's probe")
        order = session.run(None, {"x": numbers})[0]
    except Exception:  # ONNX Runtime's errors have no common class
        return b""
    return bytes(order.ravel().astype(np.uint8))


def lanes_of(layout: bytes, candidates: Sequence[int]) -> int | None:
    """Return which of the candidate numbers of channels a layout groups; None if it is none of them."""
    numbers = np.arange(128, dtype=np.uint8)
    for count in candidates:
        if layout == numbers.reshape(64 // count, count, 2).transpose(0, 2, 1).tobytes():
            return count
    return None


def _graph() -> bytes:
    """Encode an ONNX file: ``ReorderInput`` from x to y."""
    node = message([(1, 2, b"x"), (2, 2, b"y"), (4, 2, b"ReorderInput"), (7, 2, _BLOCKED)])
    ends = [(11, 2, value_info("x", _SHAPE)), (12, 2, value_info("y", _SHAPE))]
    graph = message([(1, 2, node), (2, 2, b"probe"), *ends])
    opsets = [message([(1, 2, domain), (2, 0, encoded(version))]) for domain, version in ((b"", 17), (_BLOCKED, 1))]
    return message([(1, 0, encoded(8)), (7, 2, graph), *((8, 2, opset) for opset in opsets)])
