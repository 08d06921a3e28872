"""A network in int8: ONNX Runtime's static quantisation, stored small, or written as TensorRT wants it.

Weights have a scale per output channel and are symmetric around 0; activations have one scale per tensor. For TensorRT, activations are symmetric
too, weights stay float32 beside their scales, and biases are not rounded: it knows no other.
On processors that have AVX2 but no VNNI, sums of two products of 8 bits are cut at 16 bits. So weights have 7 bits, for a file that is right
everywhere (ONNX Runtime's documentation, "Quantize ONNX Models"); TensorRT's have 8.
The scales of activations are calibrated on samples, by the entropy of their histograms, which is TensorRT's own default. They
are constants of the graph, so it is its own calibration cache: who builds from it needs no samples.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.session import CPU, runtime_tool
from isoform.runtime.errors import CompileError

__all__ = ["quantised", "smaller"]

GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
OPERATORS = ("Conv", "Gemm", "MatMul")
"""Operators that run in int8: those whose products take the time."""


def quantised(file: bytes, *, samples: str, x: Array, tensorrt: bool = False) -> bytes:
    """Return a complete graph whose products run in int8.

    Args:
        file: The graph in float32, its weights in it.
        samples: Name of the input of samples.
        x: Samples to calibrate on, shape (n, …).
        tensorrt: Whether TensorRT is to build an engine of it.

    Raises:
        CompileError: If ONNX Runtime cannot quantise it.
    """
    found = runtime_tool("quantization")
    base: Any = found.CalibrationDataReader

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            # one by one: it stacks what it collects, which a last batch of another size would not let it
            self._left: Iterator[Array] = (x[place : place + 1] for place in range(len(x)))

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self._left, None)
            return None if sample is None else {samples: sample}

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        given.write_bytes(file)
        try:
            with contextlib.redirect_stdout(io.StringIO()), _quiet():  # it prints how it goes on
                found.quantize_static(
                    given, made, Reader(), quant_format=found.QuantFormat.QDQ, op_types_to_quantize=[*OPERATORS], per_channel=True,
                    reduce_range=not tensorrt,
                    activation_type=found.QuantType.QInt8, weight_type=found.QuantType.QInt8, calibrate_method=found.CalibrationMethod.Entropy,
                    calibration_providers=[CPU],
                    extra_options={
                        "ActivationSymmetric": tensorrt, "WeightSymmetric": True, "AddQDQPairToWeight": tensorrt, "QuantizeBias": not tensorrt,
                    },
                )  # fmt: skip
        except Exception as problem:  # it raises whatever it meets
            raise CompileError(
                f"ONNX Runtime cannot quantise the network: {' '.join(str(problem).split())[:300]}"
            ) from problem
        return made.read_bytes() if tensorrt else smaller(made.read_bytes())


def smaller(file: bytes) -> bytes:
    """Return the same quantised graph in a smaller file: a third of a small network's would be zeros and names.

    Zero points of weights and biases, which are all 0, are left out, as ONNX allows; equal constants are stored once, and names are short.
    A graph with branches or loops, whose own graphs use names of this one, stays as it is.
    """
    model = onnx.load_from_string(file)
    graph = model.graph
    if any(attribute.type in GRAPHS for node in graph.node for attribute in node.attribute):
        return file
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        zero = node.input[2] if node.op_type == "DequantizeLinear" and len(node.input) > 2 else ""
        # of activations they stay: they say the type, and are rarely 0
        if zero in constants and node.input[0] in constants and not constants[zero].any():
            del node.input[2:]
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    same = {name: first.setdefault((str(a.dtype), a.shape, a.tobytes()), name) for name, a in constants.items()}
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return name if name in kept else names.setdefault(same.get(name, name), f"{len(names):x}")

    outputs = [value.name for value in graph.output]
    used = {same.get(name, name) for node in graph.node for name in node.input} | {*outputs}
    for node in graph.node:
        node.ClearField("name")
        for fields in (node.input, node.output):
            fields[:] = [short(name) for name in fields]
    del graph.value_info[:]
    del graph.initializer[:]
    graph.initializer.extend(
        onnx.numpy_helper.from_array(constants[name], short(name)) for name in sorted(used & {*constants})
    )
    return bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice for its own users out of the log."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
