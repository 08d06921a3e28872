"""The isometric network as one CUDA kernel (``network.cu``): sizes as macros, and what it needs of the device."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.kind import HEAD, Kernel
from isoform.runtime.kinds.mixture.fold import CONSTANTS
from isoform.runtime.kinds.mixture.spec import NetworkSpec

__all__ = ["kernel_of", "macros"]

PARTS = tuple(
    f"{name}.{kind}" for name in ("expand", "depthwise", "squeeze", "excite", "project") for kind in ("weight", "bias")
)
"""Weights of a layer, in the order of ``enum Place``."""
THREADS = 256
"""Threads of a block."""
TILE_E, TILE_C = 12, 6
"""Largest number of rows that a thread computes at a time, for one position: sums that it keeps in registers."""


def kernel_of(
    spec: NetworkSpec, places: Mapping[str, tuple[tuple[int, ...], int]], constants: Mapping[str, Array], *, row: int, half: bool
) -> Kernel:  # fmt: skip
    """Return the kernel; arguments as for ``Graph.kernel``, with the network's sizes and constants."""
    sizes = macros(spec, places, row=row, half=half)
    text = importlib.resources.files(__package__).joinpath("network.cu").read_text(encoding="utf-8")
    source = "".join(f"#define {name} {value}\n" for name, value in sizes.items()) + text
    activations = (spec.channels + 2 * spec.expanded) * math.prod(spec.grid) + 2 * spec.expanded + spec.squeezed
    # the embedding and its input take the place of the activations
    floats = spec.channels * math.prod(spec.grid) + 2 * max(
        spec.expanded * math.prod(spec.grid), spec.head_channels, spec.embedding
    )
    # transposed: threads that are neighbours read numbers that are
    weight, bias = (constants[name] for name in CONSTANTS)
    return Kernel(
        source=source, threads=THREADS, shared_bytes=4 * max(activations, floats),
        constants=np.concatenate([weight.T.ravel(), bias]).astype(np.float32),
    )  # fmt: skip


def macros(
    spec: NetworkSpec, places: Mapping[str, tuple[tuple[int, ...], int]], *, row: int, half: bool
) -> dict[str, int | str]:
    """Return the macros of ``network.cu``."""

    def at(name: str) -> int:
        return places[name][1]

    channels, height, width = spec.input_shape
    rows = ["{" + ",".join(str(at(f"layer{layer:02d}.{part}")) for part in PARTS) + "}" for layer in range(spec.layers)]
    return {
        "CIN": channels, "HEIGHT": height, "WIDTH": width, "STEP_Y": spec.adapter_kernel[0], "STEP_X": spec.adapter_kernel[1],
        "ROWS": spec.grid[0], "COLUMNS": spec.grid[1], "C": spec.channels, "E": spec.expanded, "K": spec.kernel, "S": spec.squeezed,
        "L": spec.layers, "O": spec.head_channels, "M": spec.embedding, "CLASSES": places[HEAD[1]][0][0],
        "THREADS": THREADS, "LANES": 32 if math.prod(spec.grid) <= 32 else 64,
        "TILE_E": _divisor(spec.expanded, TILE_E), "TILE_C": _divisor(spec.channels, TILE_C),
        "ROW": row, "HALF": int(half), "EXCITE_COLUMNS": places["layer00.excite.weight"][0][1], "OFFSETS": "{" + ",".join(rows) + "}",
        "ADAPTER_W": at("input_adapter.weight"), "ADAPTER_B": at("input_adapter.bias"),
        "OUTPUT_W": at("output_adapter.weight"), "OUTPUT_B": at("output_adapter.bias"), "LOGITS_W": at(HEAD[0]), "LOGITS_B": at(HEAD[1]),
    }  # fmt: skip


def _divisor(number: int, limit: int) -> int:
    """Return the largest divisor up to a limit: tiles then need no test for their last row."""
    return max(some for some in range(1, limit + 1) if number % some == 0)
