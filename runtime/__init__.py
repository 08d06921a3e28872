"""The runtime: everything that ships to a device. Requires numpy, onnxruntime, safetensors and pillow; never torch.

    from isoform.runtime import Runtime

    rt = Runtime.open("bundle")
    logits = rt.predict(x, rt.signature("plain"))

Names are imported on first use, so that importing the package costs nothing. Start reading at ``runtime.py``, then ``kinds/mixture/fold.py``.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoform.runtime.arithmetic import average, distance, interpolate, nearest
    from isoform.runtime.errors import (
        BundleError,
        EngineError,
        InputError,
        IsoformError,
        MissingExtraError,
        SignatureError,
        SpecError,
        UsageError,
    )
    from isoform.runtime.formats.bundle import Bundle
    from isoform.runtime.formats.signature import Signature
    from isoform.runtime.kinds.mixture.spec import NetworkSpec
    from isoform.runtime.runtime import Runtime

# On import, ONNX Runtime 1.31 would write a device id and an event queue into the user's cache and look up a telemetry host. This package
# is imported before any module that imports ONNX Runtime. A value that the user has set is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Bundle",
    "BundleError",
    "EngineError",
    "InputError",
    "IsoformError",
    "MissingExtraError",
    "NetworkSpec",
    "Runtime",
    "Signature",
    "SignatureError",
    "SpecError",
    "UsageError",
    "average",
    "distance",
    "interpolate",
    "nearest",
]

_HOMES = {
    "Bundle": "formats.bundle", "NetworkSpec": "kinds.mixture.spec", "Runtime": "runtime", "Signature": "formats.signature",
    **dict.fromkeys(("average", "distance", "interpolate", "nearest"), "arithmetic"),
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'isoform.runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"isoform.runtime.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
