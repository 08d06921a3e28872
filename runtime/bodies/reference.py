"""Run a body by the onnx package's own evaluator, which is plain numpy: the definition that engines are tested against."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.extras import needs

__all__ = ["evaluate"]


def evaluate(graph: bytes, feeds: Mapping[str, Array]) -> Array:
    """Run a graph.

    Args:
        graph: A body's ONNX file.
        feeds: Values of all its inputs.

    Returns:
        Its output, float32.

    Raises:
        MissingExtraError: If onnx is not installed.
    """
    (found,) = _evaluator(graph).run(None, dict(feeds))
    return np.asarray(found, dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _evaluator(graph: bytes) -> Any:
    # by name, because devices have no onnx and must not look for it before somebody asks for this engine
    with needs("the engine reference, for a network of your own,", extra="train"):
        onnx, reference = importlib.import_module("onnx"), importlib.import_module("onnx.reference")
    return reference.ReferenceEvaluator(onnx.load_from_string(graph))
