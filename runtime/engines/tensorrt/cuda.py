"""CUDA's driver API: memory, copies, streams and graphs of one GPU, freed in the order in which they must be.

By NVIDIA's own bindings (``cuda-bindings``): they are kept with every driver, have wheels for x86-64 and Arm, know the types of every
call, and need no CUDA toolkit; a table of ``ctypes`` would be ours to keep. Every failed call is an ``EngineError`` that names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.errors import EngineError, MissingExtraError
from isoform.runtime.extras import needs

__all__ = ["Device", "Function", "Memory", "Replay", "architecture_or_none", "gpu_or_none"]


def _driver() -> Any:
    with needs("TensorRT", extra="tensorrt"):
        from cuda.bindings import driver
    return driver


def gpu_or_none() -> str | None:
    """Return the first GPU's name and the driver's version; None if there is no GPU, driver, or binding."""
    try:
        with Device() as device:
            return device.title
    except (EngineError, MissingExtraError):
        return None


def architecture_or_none() -> str | None:
    """Return the first GPU's architecture, such as sm90; None as ``gpu_or_none``."""
    try:
        with Device() as device:
            return device.architecture
    except (EngineError, MissingExtraError):
        return None


class _Owned:
    """Something of the driver's that is given back once.

    Args:
        free: Gives it back.
    """

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free

    def close(self) -> None:
        """Free it. It must not be used any more."""
        free, self._free = self._free, lambda: None
        free()


class Memory(_Owned):
    """Memory of a device, or of the host that the device copies from and to.

    Args:
        address: Its address.
        free: As for ``_Owned``.
    """

    def __init__(self, address: int, free: Callable[[], None]) -> None:
        super().__init__(free)
        self.address = address


class Replay(_Owned):
    """Work that was captured once on a stream, and is launched as a whole.

    Args:
        launch: Launches it on the device's stream.
        free: As for ``_Owned``.
    """

    def __init__(self, launch: Callable[[], None], free: Callable[[], None]) -> None:
        super().__init__(free)
        self.launch = launch


class Function(_Owned):
    """A kernel that is loaded.

    Args:
        launch: Launches it: blocks, threads of a block, bytes of shared memory, and its arguments, which are addresses.
        free: As for ``_Owned``.
    """

    def __init__(self, launch: Callable[[int, int, int, Sequence[int]], None], free: Callable[[], None]) -> None:
        super().__init__(free)
        self.launch = launch


class Device:
    """One GPU with one stream. Use it as a context manager, from one thread at a time.

    Args:
        number: Which GPU.

    Raises:
        EngineError: If there is no driver or no such GPU.
        MissingExtraError: If ``cuda-bindings`` is not installed.
    """

    def __init__(self, number: int = 0) -> None:
        self._cu = cu = _driver()
        try:
            self._call(cu.cuInit, 0)
        except RuntimeError as problem:  # no libcuda.so.1: cuda-bindings' own error
            raise EngineError(f"there is no NVIDIA driver: {' '.join(str(problem).split())[:160]}") from None
        self._device = self._call(cu.cuDeviceGet, number)
        # the primary context is that of TensorRT and of everybody else in this process
        self._context = self._call(cu.cuDevicePrimaryCtxRetain, self._device)
        self._owned: list[Callable[[], None]] = [lambda: self._call(cu.cuDevicePrimaryCtxRelease, self._device)]
        with self.current():
            self._stream = self._call(cu.cuStreamCreate, int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._owned.append(lambda: self._call(cu.cuStreamDestroy, self._stream))

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call the driver; return what it gives besides its status. Raises ``EngineError`` that names the call."""
        status, *results = function(*arguments)
        if status != self._cu.CUresult.CUDA_SUCCESS:
            raise EngineError(f"CUDA's {function.__name__} failed: {status.name}")
        return results[0] if results else None

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the stream and the context. Memory must have been freed before."""
        owned, self._owned = self._owned, []
        if not owned:
            return
        with self.current():
            for free in owned[:0:-1]:
                free()
        owned[0]()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context that of this thread."""
        self._call(self._cu.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._cu.cuCtxPopCurrent)

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    @property
    def architecture(self) -> str:
        """The GPU's architecture, such as sm90."""
        attributes = self._cu.CUdevice_attribute
        major, minor = (
            self._call(self._cu.cuDeviceGetAttribute, getattr(attributes, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"), self._device)
            for part in ("MAJOR", "MINOR")
        )  # fmt: skip
        return f"sm{major}{minor}"

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that a block can have."""
        attribute = self._cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        return int(self._call(self._cu.cuDeviceGetAttribute, attribute, self._device))

    @property
    def title(self) -> str:
        """The GPU's name and the driver's version of CUDA, for keys and reports."""
        name = self._call(self._cu.cuDeviceGetName, 128, self._device)
        version = self._call(self._cu.cuDriverGetVersion)
        return f"{name.split(bytes(1))[0].decode()}, CUDA {version // 1000}.{version % 1000 // 10}"

    def memory(self, nbytes: int) -> Memory:
        """Allocate memory of the device. Raises ``EngineError`` if there is not enough."""
        with self.current():
            pointer = self._call(self._cu.cuMemAlloc, nbytes)

        def free() -> None:
            with self.current():
                self._call(self._cu.cuMemFree, pointer)

        return Memory(int(pointer), free)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Memory]:
        """Allocate host memory that the device copies from and to by itself; return it as an array, and what frees it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self.current():
            address = self._call(self._cu.cuMemAllocHost, size)

        def free() -> None:
            with self.current():
                self._call(self._cu.cuMemFreeHost, address)

        view = (ctypes.c_byte * size).from_address(int(address))
        return np.frombuffer(view, dtype=dtype).reshape(shape), Memory(int(address), free)

    def copy_in(self, address: int, source: int, nbytes: int) -> None:
        """Copy pinned host memory to the device, in the order of the stream."""
        self._call(self._cu.cuMemcpyHtoDAsync, address, source, nbytes, self._stream)

    def copy_out(self, target: int, address: int, nbytes: int) -> None:
        """Copy memory of the device to pinned host memory, in the order of the stream."""
        self._call(self._cu.cuMemcpyDtoHAsync, target, address, nbytes, self._stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy memory within the device, in the order of the stream."""
        self._call(self._cu.cuMemcpyDtoDAsync, target, source, nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait for everything on the stream."""
        self._call(self._cu.cuStreamSynchronize, self._stream)

    def function(self, cubin: bytes, name: str, shared_bytes: int) -> Function:
        """Load a kernel from a cubin, with leave for as much shared memory. Raises ``EngineError`` if it is of another architecture."""
        cu = self._cu
        with self.current():
            module = self._call(cu.cuModuleLoadData, cubin)
            function = self._call(cu.cuModuleGetFunction, module, name.encode())
            attribute = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call(cu.cuFuncSetAttribute, function, attribute, shared_bytes)

        def launch(blocks: int, threads: int, shared: int, addresses: Sequence[int]) -> None:
            given = (tuple(addresses), (ctypes.c_void_p,) * len(addresses))
            self._call(cu.cuLaunchKernel, function, blocks, 1, 1, threads, 1, 1, shared, self._stream, given, 0)

        def free() -> None:
            with self.current():
                self._call(cu.cuModuleUnload, module)

        return Function(launch, free)

    def captured(self, work: Callable[[], None]) -> Replay:
        """Record what a function puts on the stream, without running it. Raises ``EngineError`` if something in it cannot be captured."""
        cu = self._cu
        # this thread alone: other threads may go on to allocate memory meanwhile
        self._call(cu.cuStreamBeginCapture, self._stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # ended all the same: a stream that is being captured is of no use
            status, graph = cu.cuStreamEndCapture(self._stream)
            if status == cu.CUresult.CUDA_SUCCESS:
                cu.cuGraphDestroy(graph)
            raise
        graph = self._call(cu.cuStreamEndCapture, self._stream)
        try:
            executable = self._call(cu.cuGraphInstantiate, graph, 0)
        finally:
            self._call(cu.cuGraphDestroy, graph)

        def free() -> None:
            with self.current():
                self._call(cu.cuGraphExecDestroy, executable)

        return Replay(lambda: self._call(cu.cuGraphLaunch, executable, self._stream), free)
