"""A graph in float16, by ONNX Runtime's own converter: weights and activations; samples and logits stay float32.

TensorRT 10 and newer take the types of the graph as they are, so precision is chosen here and not when an engine is built.
"""

from __future__ import annotations

import warnings

import onnx

from isoform.runtime.engines.onnx.session import runtime_tool

__all__ = ["halved"]


def halved(file: bytes, *, samples: str) -> bytes:
    """Return a graph whose weights and activations are float16; numbers that are too large for it are cut off.

    Args:
        file: The graph in float32.
        samples: Name of the input of samples, which stays as it is, as ``logits`` do. Other inputs of float32 become float16.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each number that is cut off
        model = runtime_tool("transformers.float16").convert_float_to_float16(
            onnx.load_from_string(file), keep_io_types=[samples, "logits"]
        )
    runtime_tool("transformers.onnx_model").OnnxModel(
        model
    ).topological_sort()  # casts of inputs come last, and the checker wants them first
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
