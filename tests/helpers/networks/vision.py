"""torchvision's networks, where torchvision is installed."""

import contextlib
import importlib

import pytest
import torch


def models():
    """Return ``torchvision.models``; skip the test where it is not installed."""
    # A wheel for GPUs beside torch's build for processors cannot load its operators, but says on import what they return; no network here
    # uses them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    models.library = library  # what is defined lives as long as this object
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as problem:
        pytest.skip(f"torchvision cannot be imported: {problem}")
