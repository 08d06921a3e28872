"""An engine of TensorRT, loaded: implements ``runner.Form``.

A captured graph goes on using the state of the execution context that it was captured from, so every batch size has a context of its own
(https://github.com/NVIDIA/TensorRT/issues/3798). They share the memory for activations: one runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoform.runtime.engines.tensorrt.cuda import Device
from isoform.runtime.engines.tensorrt.products import Messages, Product
from isoform.runtime.errors import EngineError

__all__ = ["Context"]


class Context:
    """A loaded engine.

    Args:
        product: The product that built the engine.
        device: The device; its context is current.
        engine: The engine's bytes.
        weights: The form's ONNX file, to take the shared weights from; None if the engine has them.

    Raises:
        EngineError: If the product cannot load it, as on another architecture or with another version, or put the weights in.
    """

    def __init__(self, product: Product, device: Device, engine: bytes, *, weights: bytes | None = None) -> None:
        self._device, self._messages, self._title = device, Messages(product), product.title
        self._trt = product.module
        # the engine must not outlive the runtime, nor a context the engine: kept together, and dropped in this order in ``close``
        self._runtime: Any = self._made("load an engine", self._trt.Runtime, self._messages.logger)
        self._engine: Any = self._made("load the engine", self._runtime.deserialize_cuda_engine, engine)
        if weights is not None:
            self.refit(weights)
        newer = hasattr(self._engine, "device_memory_size_v2")
        size = self._engine.device_memory_size_v2 if newer else self._engine.device_memory_size
        self._scratch_size = max(1, int(size))
        self._scratch = device.memory(self._scratch_size)

    def _made(self, what: str, factory: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a factory makes. Raises ``EngineError`` if it makes nothing, which pybind11 may report as a ``TypeError``."""
        try:
            made = factory(*arguments)
        except TypeError:
            made = None
        if made is None:
            raise EngineError(f"{self._title} cannot {what}: {self._messages.text()}")
        return made

    def refit(self, weights: bytes) -> None:
        """Replace the shared weights by those of a form's ONNX file. Raises ``EngineError`` if the engine was not built for that."""
        trt = self._trt
        if not hasattr(trt, "OnnxParserRefitter"):
            raise EngineError(f"{self._title} cannot take weights from a graph; version 10 or newer was expected")
        if not self._engine.refittable:
            raise EngineError("the engine was not built for its weights to be replaced")
        refitter = self._made("refit the engine", trt.Refitter, self._engine, self._messages.logger)
        parser = self._made("refit the engine", trt.OnnxParserRefitter, refitter, self._messages.logger)
        if not parser.refit_from_bytes(weights) or not refitter.refit_cuda_engine():
            raise EngineError(f"{self._title} cannot put weights into the engine: {self._messages.text()}")

    def encode(self) -> bytes:
        """Return the engine as it is now, after a refit, with all weights in it. Raises ``EngineError`` if it cannot be stored."""
        config = self._engine.create_serialization_config()
        flags = self._trt.SerializationFlag
        config.clear_flag(flags.EXCLUDE_WEIGHTS)
        if hasattr(flags, "INCLUDE_REFIT"):  # without it, a newer version's engine could be refitted once
            config.set_flag(flags.INCLUDE_REFIT)
        data = self._engine.serialize_with_config(config)
        if data is None:
            raise EngineError(f"the engine cannot be stored: {self._messages.text()}")
        return bytes(data)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """As ``Form.dtype_of``."""
        found: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return found

    def prepared(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Prepared:
        """As ``Form.prepared``. Raises ``EngineError`` if TensorRT refuses."""
        context = self._context()
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch.address, self._scratch_size)
        else:
            context.device_memory = self._scratch.address
        done = all(context.set_input_shape(name, shape) for name, shape in shapes.items())
        if not (done and all(context.set_tensor_address(name, address) for name, address in addresses.items())):
            raise EngineError(f"{self._title} cannot run a batch: {self._messages.text()}")
        return Prepared(context, self._device, lambda: f"{self._title} cannot run a batch: {self._messages.text()}")

    def _context(self) -> Any:
        """Make an execution context without memory of its own."""
        trt = self._trt
        if hasattr(self._engine, "create_execution_context_without_device_memory"):  # before 11
            return self._made("run the engine", self._engine.create_execution_context_without_device_memory)
        if hasattr(
            trt, "DynamicShapesKernelSpecializationStrategy"
        ):  # TensorRT-RTX compiles kernels when shapes are known
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            # at once: a graph would keep the kernels that stand in until those for the shape are compiled
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            return self._made("run the engine", self._engine.create_execution_context, config)
        return self._made(
            "run the engine", self._engine.create_execution_context, trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )

    def close(self) -> None:
        """As ``Form.close``."""
        self._engine = None
        self._runtime = None
        self._scratch.close()


class Prepared:
    """An execution context for one batch size.

    Args:
        context: The context, with shapes and addresses.
        device: The device.
        problem: Says what is wrong if a run is refused.
    """

    def __init__(self, context: Any, device: Device, problem: Callable[[], str]) -> None:
        self._context, self._device, self._problem = context, device, problem

    @property
    def capturable(self) -> bool:
        """As ``runner.Prepared.capturable``."""
        context = self._context
        return not hasattr(context, "is_stream_capturable") or bool(context.is_stream_capturable(self._device.stream))

    def enqueue(self) -> None:
        """As ``runner.Prepared.enqueue``. Raises ``EngineError`` if TensorRT refuses."""
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineError(self._problem())

    def close(self) -> None:
        """As ``runner.Prepared.close``."""
        self._context = None
