"""An engine of TensorRT, loaded: implements ``runner.Form``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoform.runtime.engines.tensorrt.cuda import Device, Replay
from isoform.runtime.engines.tensorrt.products import Messages, Product
from isoform.runtime.errors import EngineError

__all__ = ["Context"]

log = logging.getLogger("isoform.runtime")


class Context:
    """An execution context.

    Args:
        product: The product that built the engine.
        device: The device; its context is current.
        engine: The engine's bytes.
        weights: The form's ONNX file, to take the shared weights from; None if the engine has them.

    Raises:
        EngineError: If the product cannot load it, as on another architecture or with another version, or put the weights in.
    """

    def __init__(self, product: Product, device: Device, engine: bytes, *, weights: bytes | None = None) -> None:
        self._device, self._messages = device, Messages(product)
        self._trt = product.module
        # the engine must not outlive the runtime, nor the context the engine: kept together, and dropped in this order in ``close``
        self._runtime: Any = self._trt.Runtime(self._messages.logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EngineError(f"{product.title} cannot load the engine: {self._messages.text()}")
        self._title = product.title
        if weights is not None:
            self.refit(weights)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{product.title} cannot run the engine: {self._messages.text()}")

    def refit(self, weights: bytes) -> None:
        """Replace the shared weights by those of a form's ONNX file. Raises ``EngineError`` if the engine was not built for that."""
        trt = self._trt
        if not hasattr(trt, "OnnxParserRefitter"):
            raise EngineError(f"{self._title} cannot take weights from a graph; version 10 or newer was expected")
        refitter = trt.Refitter(self._engine, self._messages.logger)
        parser = trt.OnnxParserRefitter(refitter, self._messages.logger)
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

    def enqueue(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """As ``Form.enqueue``. Raises ``EngineError`` if TensorRT refuses."""
        context = self._context
        done = all(context.set_input_shape(name, shape) for name, shape in shapes.items())
        done = done and all(context.set_tensor_address(name, address) for name, address in addresses.items())
        if not done or not context.execute_async_v3(self._device.stream):
            raise EngineError(f"TensorRT cannot run a batch: {self._messages.text()}")

    def captured(self, work: Callable[[], None]) -> Replay | None:
        """As ``Form.captured``."""
        try:
            return self._device.captured(work)
        except EngineError as problem:
            log.info("runs of this engine are not captured as a CUDA graph: %s", problem)
            return None

    def close(self) -> None:
        """As ``Form.close``."""
        self._context = None
        self._engine = None
        self._runtime = None
