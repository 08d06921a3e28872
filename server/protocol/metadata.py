"""What a task takes and gives: names, datatypes and shapes, as every other part of the protocol expects them."""

from __future__ import annotations

import json
from typing import Any

from isoform.runtime.spec import NetworkSpec

__all__ = ["INPUT", "LABEL", "OUTPUTS", "PLATFORM", "VERSION", "metadata"]

INPUT = "image"
LABEL = "label"
"""What samples to learn from have beside it."""
OUTPUTS = ("logits", "probabilities", "label")
PLATFORM = "isoform_onnxv1"
VERSION = "1"
"""Of every task: templates are not versioned here, and signatures have revisions."""


def metadata(task: str, spec: NetworkSpec, labels: tuple[str, ...], digest: str) -> dict[str, Any]:
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
            {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": {"digest": digest, "labels": json.dumps(list(labels), ensure_ascii=False)},
    }  # fmt: skip
