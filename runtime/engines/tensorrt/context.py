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

    Raises:
        EngineError: If the product cannot load it, as on another architecture or with another version.
    """

    def __init__(self, product: Product, device: Device, engine: bytes) -> None:
        self._device, self._messages = device, Messages(product)
        self._trt = product.module
        # the engine must not outlive the runtime, nor the context the engine: kept together, and dropped in this order in ``close``
        self._runtime: Any = self._trt.Runtime(self._messages.logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EngineError(f"{product.title} cannot load the engine: {self._messages.text()}")
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{product.title} cannot run the engine: {self._messages.text()}")

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
