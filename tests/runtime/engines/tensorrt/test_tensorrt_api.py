"""What we call of TensorRT is there, in the bindings of both products from 8.5 to 11 (``tests/helpers/tensorrt_api.py`` read them)."""

import json

import pytest
from tensorrt_api import RECORD, called

GUARDED = {
    "node_name", "node_operator", "INCLUDE_REFIT", "device_memory_size_v2", "set_device_memory", "is_stream_capturable",
}  # fmt: skip
"""Asked for with ``hasattr``, with something else where they are missing."""
RTX = {
    "ComputeCapability", "num_compute_capabilities", "set_compute_capability", "REQUIRE_USER_ALLOCATION", "create_runtime_config", "EAGER",
    "DynamicShapesKernelSpecializationStrategy", "dynamic_shapes_kernel_specialization_strategy", "set_execution_context_allocation_strategy",
}  # fmt: skip
"""Of TensorRT-RTX alone: architectures that are named, and kernels that are compiled when shapes are known."""
SINCE_10 = {
    "STRIP_PLAN", "OnnxParserRefitter", "refit_from_bytes", "EXCLUDE_WEIGHTS", "SerializationFlag", "create_serialization_config",
    "serialize_with_config", "ExecutionContextAllocationStrategy", "USER_MANAGED",
}  # fmt: skip
"""Refits from a graph, and contexts without memory of their own where the next is gone."""
UNTIL_10 = {"create_execution_context_without_device_memory"}
VERSIONS = json.loads(RECORD.read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_bindings_have_what_we_call(version) -> None:
    """Of every version that was read."""
    name, number = version.split()
    rtx, major = "rtx" in name, int(number.split(".")[0])
    may_lack = (
        GUARDED
        | (set() if rtx else RTX)
        | (UNTIL_10 if rtx or major > 10 else set())
        | (set() if rtx or major > 8 else SINCE_10)
    )
    assert called() - {*VERSIONS[version]} <= may_lack


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
        trt.IRuntimeConfig, trt.ExecutionContextAllocationStrategy, trt.DynamicShapesKernelSpecializationStrategy,
    )  # fmt: skip
    missing = {name for name in called() if not any(hasattr(some, name) for some in classes)}
    # its networks are strongly typed
    assert missing == {"FP16", "INT8", "device_memory_size"} | UNTIL_10
