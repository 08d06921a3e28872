"""Model metadata of a task: names, datatypes and shapes of its inputs and outputs; and the name that no task can have."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from isoform.runtime.errors import BundleError
from isoform.runtime.inputs import Input, Reading

__all__ = ["LABEL", "OUTPUTS", "PLATFORM", "VERSION", "check_tasks", "datatype_of", "metadata"]

LABEL = "label"
"""Name of the input with labels, for personalization."""
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "BYTES"}
"""Outputs of every task: name → datatype."""
# In the protocol's form <project>_<format>, like onnx_onnxv1.
PLATFORM = "isoform_onnxv1"
VERSION = "1"
"""The only version of every task: a bundle is not versioned, and signatures have revisions instead."""

RESERVED = "stats"
"""``/v2/models/stats`` is the statistics of all tasks (Triton's extension of the protocol), so it cannot be the metadata of one."""


def check_tasks(tasks: Collection[str]) -> None:
    """Raise ``BundleError`` if one of a bundle's tasks has the name that the protocol reserves."""
    if RESERVED in tasks:
        raise BundleError(
            f"the bundle has a task named {RESERVED!r}, but a server's /v2/models/{RESERVED} is the statistics of all tasks; "
            "train the bundle with another name for the task"
        )


def datatype_of(takes: Input) -> str:
    """The protocol's datatype of an input: ``INT64`` for tokens, else ``FP32``."""
    return "INT64" if takes.what == "tokens" else "FP32"


def metadata(task: str, takes: Input, labels: tuple[str, ...], digest: str, reading: Reading) -> dict[str, Any]:
    """A task's model metadata.

    Args:
        task: Name of the task.
        takes: Input of its networks.
        labels: Names of its classes.
        digest: Digest of its base signature.
        reading: How its samples were read from files.
    """
    classes = len(labels)
    return {
        "name": task, "versions": [VERSION], "platform": PLATFORM,
        "inputs": [
            # -1 is the protocol's mark of a dimension of any length.
            {"name": takes.name, "datatype": datatype_of(takes), "shape": [-1, *(-1 if size is None else size for size in takes.shape)]}
        ],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1] if name == LABEL else [-1, classes]} for name, kind in OUTPUTS.items()
        ],
        # The protocol's parameters are scalars, so the labels and the reading are JSON in a text.
        "parameters": {
            "digest": digest, "what": takes.what, "labels": json.dumps(list(labels), ensure_ascii=False),
            "reading": json.dumps(reading.to_json(), ensure_ascii=False),
        },
    }  # fmt: skip
