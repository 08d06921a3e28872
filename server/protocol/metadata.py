"""What a task takes and gives: names, datatypes and shapes, as every other part of the protocol expects them."""

from __future__ import annotations

import json
from typing import Any

from isoform.runtime.inputs import Input

__all__ = ["LABEL", "OUTPUTS", "PLATFORM", "VERSION", "datatype_of", "metadata"]

LABEL = "label"
"""What samples to learn from have beside it."""
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "BYTES"}
"""Name → datatype."""
PLATFORM = "isoform_onnxv1"
VERSION = "1"
"""Of every task: templates are not versioned here, and signatures have revisions."""


def datatype_of(takes: Input) -> str:
    """What the protocol calls the type of an input's numbers."""
    return "INT64" if takes.what == "tokens" else "FP32"


def metadata(task: str, takes: Input, labels: tuple[str, ...], digest: str) -> dict[str, Any]:
    """A task's model metadata.

    Args:
        task: Its name.
        takes: What its networks take.
        labels: Names of its classes.
        digest: Of its base signature.
    """
    classes = len(labels)
    return {
        "name": task, "versions": [VERSION], "platform": PLATFORM,
        "inputs": [
            {"name": takes.name, "datatype": datatype_of(takes), "shape": [-1, *(-1 if size is None else size for size in takes.shape)]}
        ],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1] if name == LABEL else [-1, classes]} for name, kind in OUTPUTS.items()
        ],
        "parameters": {"digest": digest, "labels": json.dumps(list(labels), ensure_ascii=False)},
    }  # fmt: skip
