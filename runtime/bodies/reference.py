"""Check a body that came in a bundle, and run it by the onnx package's own evaluator, which is plain numpy: the definition that engines are tested against."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import BundleError, EngineError
from isoform.runtime.extras import needs
from isoform.runtime.formats.external import refuse_external_data

__all__ = ["checked_body", "evaluate"]


def checked_body(file: bytes) -> bytes:
    """Return a bundle's body as it is. Raises ``BundleError`` if it would make a reader open other files."""
    try:
        refuse_external_data(file)
    except EngineError as problem:
        raise BundleError(
            f"the bundle's body was not written by isoform: {problem}; take bundles from people you trust"
        ) from None
    return file


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
