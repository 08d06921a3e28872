"""What we call of TensorRT is there, in the bindings of both products from 8.5 to 11 (``tests/helpers/tensorrt_api.py`` read them)."""

import json

import pytest
from tensorrt_api import RECORD, called

GUARDED = {
    "node_name", "node_operator", "ComputeCapability", "num_compute_capabilities", "set_compute_capability", "INCLUDE_REFIT",
}  # fmt: skip
"""Asked for with ``hasattr``, or used where architectures are named, which TensorRT-RTX alone knows."""
REFITS = {
    "STRIP_PLAN", "OnnxParserRefitter", "refit_from_bytes", "EXCLUDE_WEIGHTS", "SerializationFlag", "create_serialization_config",
    "serialize_with_config",
}  # fmt: skip
"""Used if there are ``STRIP_PLAN`` and ``OnnxParserRefitter``: since 10."""
VERSIONS = json.loads(RECORD.read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_bindings_have_what_we_call(version) -> None:
    """Of every version that was read."""
    old = version.split()[1].startswith("8.")
    assert called() - {*VERSIONS[version]} <= GUARDED | (REFITS if old else set())


def test_the_record_is_of_what_we_call() -> None:
    """Both products, and versions 8.5, 10 and 11; run the helper again when something else is called."""
    assert {name for names in VERSIONS.values() for name in names} == called()
    numbers = {version.split()[1].rpartition(".")[0] for version in VERSIONS}
    assert {"8.5.3", "8.6", "10.0", "10.9.0", "11.4.0", "1.7.1"} <= numbers


def test_the_installed_product_has_them() -> None:
    """As attributes, and not only as texts in its file."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    classes = (
        trt, trt.Builder, trt.BuilderFlag, trt.INetworkDefinition, trt.IBuilderConfig, trt.OnnxParser, trt.ParserError, trt.ITensor, trt.Runtime,
        trt.ICudaEngine, trt.IExecutionContext, trt.IOptimizationProfile, trt.IHostMemory, trt.ITimingCache, trt.ILogger, trt.ILogger.Severity,
        trt.Refitter, trt.OnnxParserRefitter, trt.SerializationFlag, trt.ISerializationConfig,
    )  # fmt: skip
    missing = {name for name in called() if not any(hasattr(some, name) for some in classes)}
    assert missing == {"FP16", "INT8"}  # its networks are strongly typed
