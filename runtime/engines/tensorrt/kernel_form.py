"""A kind's own kernel in the place of a TensorRT engine: implements ``runner.Form`` for batches of any mix of users."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoform.runtime.engines.tensorrt.cuda import Device, Function
from isoform.runtime.engines.tensorrt.form import TABLE, USER
from isoform.runtime.engines.tensorrt.nvrtc import compile_kernel, nvrtc_version
from isoform.runtime.engines.user_cache import cache_directory, read_digested, store_digested
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.kind import Kernel

__all__ = ["KernelForm"]

log = logging.getLogger("isoform.runtime")
KEPT = 64
"""Maximum number of compiled kernels in the user's cache."""
SIZE_LIMIT = 64 << 20


class KernelForm:
    """A compiled kernel, with its constants on the device.

    Args:
        device: The device; its context is current.
        kernel: The kernel.
        samples: Name of the input of samples.
        cubin: The kernel, compiled for this GPU; None to compile it here.

    Raises:
        EngineError: If a multiprocessor has too little shared memory for a sample, or the kernel cannot be compiled or loaded.
        MissingExtraError: If NVRTC is not installed.
    """

    def __init__(self, device: Device, kernel: Kernel, samples: str, *, cubin: bytes | None = None) -> None:
        if kernel.shared_bytes > device.shared_limit:
            raise EngineError(
                f"a sample's activations take {kernel.shared_bytes:,} bytes, but a multiprocessor has {device.shared_limit:,}"
            )
        self._device, self._kernel, self._samples = device, kernel, samples
        self._function: Function = device.function(
            _compiled(kernel, device.architecture) if cubin is None else cubin, "network", kernel.shared_bytes
        )
        host, staged = device.pinned(kernel.constants.shape, np.float32)
        host[:] = kernel.constants
        self._constants = device.memory(host.nbytes)
        device.copy_in(self._constants.address, staged.address, host.nbytes)
        device.synchronize()
        staged.close()

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """As ``Form.dtype_of``."""
        return np.dtype(np.int32 if name == USER else np.float32)

    def prepared(self, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> PreparedKernel:
        """As ``Form.prepared``."""
        given = (
            addresses[self._samples],
            addresses[TABLE],
            addresses[USER],
            self._constants.address,
            addresses["logits"],
        )
        count, kernel = shapes[self._samples][0], self._kernel
        return PreparedKernel(lambda: self._function.launch(count, kernel.threads, kernel.shared_bytes, given))

    def close(self) -> None:
        """As ``Form.close``."""
        self._constants.close()
        self._function.close()


class PreparedKernel:
    """Launches of one batch size: implements ``runner.Prepared``.

    Args:
        launch: Launches it.
    """

    capturable = True

    def __init__(self, launch: Callable[[], None]) -> None:
        self.enqueue = launch

    def close(self) -> None:
        """Do nothing: it has nothing of its own."""


def _compiled(kernel: Kernel, architecture: str) -> bytes:
    """Return the cubin of the user's cache; compile and store it if there is none."""
    digest = hashlib.sha256("\0".join([kernel.source, architecture, nvrtc_version()]).encode()).hexdigest()
    try:
        path = cache_directory() / f"cubin-{digest[:32]}.bin"
        if (stored := read_digested(path, limit=SIZE_LIMIT, what="kernel")) is not None:
            return stored
    except EngineError as problem:
        log.warning("the stored kernel is not used: %s; it is compiled again", problem)
        return compile_kernel(kernel.source, architecture)
    cubin = compile_kernel(kernel.source, architecture)
    try:
        store_digested(path, cubin, pattern="cubin-*", kept=KEPT)
    except (IsoformError, OSError) as problem:
        log.debug("the kernel is not stored: %s", problem)
    return cubin
