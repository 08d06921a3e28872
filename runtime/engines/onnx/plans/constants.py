"""Weights that are constants of several plans, in memory once.

Graphs of one bundle may hold the same weights, such as those of masks that share components. In its own session each would have a copy.
So large constants of convolutions are turned into inputs, as a signature's weights are (``lift.py``), and all bindings get the same
value, found by its content. In ONNX Runtime's blocked layouts a convolution runs as fast with either; a matrix product does not
(``choice.py``), so its weights stay constants.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

from isoform.runtime.engines.onnx.plans.lift import convolution_weights, lift_weights
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.layout import aligned

__all__ = ["Constants"]

LEAST = 4096  # a binding takes as long for a small one, and nothing is gained
"""Size in bytes from which on a constant is shared."""


class Constants:
    """The shared constants of a bundle's plans. Thread-safe."""

    def __init__(self) -> None:
        self._values: dict[bytes, ort.OrtValue] = {}
        self._lock = threading.Lock()
        self.size_bytes = 0
        """Size of all shared constants, in bytes."""

    def taken_out(self, graph: bytes) -> tuple[bytes, Mapping[str, ort.OrtValue]]:
        """Return a graph without its large constants, and these by the names of the inputs that replace them.

        Args:
            graph: An ONNX file in ONNX Runtime's layouts, to be run without further optimisation.
        """
        found: dict[str, ort.OrtValue] = {}
        inputs: dict[str, str] = {}
        for name, array in convolution_weights(graph).items():
            if array.nbytes < LEAST:
                continue
            inputs[name] = f"c{len(inputs)}"
            key = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
            with self._lock:
                if key not in self._values:
                    copy = aligned(array.size).reshape(array.shape)
                    copy[:] = array
                    self._values[key] = ort.OrtValue.ortvalue_from_numpy(copy)
                    self.size_bytes += array.nbytes
                found[inputs[name]] = self._values[key]
        return (lift_weights(graph, inputs, {}) if inputs else graph), found
