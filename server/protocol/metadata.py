"""What a task takes and gives: names, datatypes and shapes, as every other part of the protocol expects them."""

from __future__ import annotations

import json
from typing import Any

from isoform.runtime.kind import Spec

__all__ = ["INPUT", "LABEL", "OUTPUTS", "PLATFORM", "VERSION", "metadata"]

INPUT = "image"
LABEL = "label"
"""What samples to learn from have beside it."""
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "BYTES"}
"""Name → datatype."""
PLATFORM = "isoform_onnxv1"
VERSION = "1"
"""Of every task: templates are not versioned here, and signatures have revisions."""


def metadata(task: str, spec: Spec, labels: tuple[str, ...], digest: str) -> dict[str, Any]:
    """A task's model metadata.

    Args:
        task: Its name.
        spec: The network.
        labels: Names of its classes.
        digest: Of its base signature.
    """
    classes = len(labels)
    return {
        "name": task, "versions": [VERSION], "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *spec.input_shape]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1] if name == LABEL else [-1, classes]} for name, kind in OUTPUTS.items()
        ],
        "parameters": {"digest": digest, "labels": json.dumps(list(labels), ensure_ascii=False)},
    }  # fmt: skip
