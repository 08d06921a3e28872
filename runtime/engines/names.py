"""Names of the engines, for flags and errors. Imports nothing, so that ``--help`` is quick."""

__all__ = ["AUTO", "BY_ITSELF", "ENGINES", "REFERENCE"]

AUTO, REFERENCE = "auto", "reference"
ENGINES = {
    "onnx": "isoform.runtime.engines.onnx.plan_engine",
    "sessions": "isoform.runtime.engines.onnx.per_signature",
    "tensorrt": "isoform.runtime.engines.tensorrt.engine",
    "reference": "isoform.runtime.engines.reference",
}
"""Name → module with ``open_engine(bundle, *, threads, cache_bytes, providers)``, imported on first use."""
BY_ITSELF = ("onnx", "sessions")
"""Engines that ``auto`` tries, in this order."""
