"""Compile CUDA C on the user's machine, without a CUDA toolkit: NVIDIA's NVRTC, as a wheel. No GPU is needed to compile."""

from __future__ import annotations

from typing import Any

from isoform.runtime.errors import EngineError
from isoform.runtime.extras import needs

__all__ = ["compile_kernel", "nvrtc_version"]


def _nvrtc() -> Any:
    with needs("a CUDA kernel", extra="tensorrt"):
        from cuda.bindings import nvrtc
    return nvrtc


def _call(function: Any, *arguments: Any) -> Any:
    status, *results = function(*arguments)
    if int(status):
        raise EngineError(f"NVRTC's {function.__name__} failed: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


def nvrtc_version() -> str:
    """Return NVRTC's version. Raises ``EngineError`` if it cannot be loaded."""
    try:
        major, minor = _call(_nvrtc().nvrtcVersion)
    except RuntimeError as problem:  # cuda-bindings' own error for a missing library
        raise EngineError(f"NVRTC cannot be loaded: {' '.join(str(problem).split())[:160]}") from None
    return f"{major}.{minor}"


def compile_kernel(source: str, architecture: str) -> bytes:
    """Compile a kernel.

    Args:
        source: CUDA C.
        architecture: Such as sm90.

    Returns:
        A cubin.

    Raises:
        EngineError: If NVRTC cannot be loaded, or refuses the source; with its first complaint.
        MissingExtraError: If it is not installed.
    """
    nvrtc_version()
    nvrtc = _nvrtc()
    program = _call(nvrtc.nvrtcCreateProgram, source.encode(), b"network.cu", 0, [], [])
    try:
        options = [f"--gpu-architecture={architecture.replace('sm', 'sm_')}".encode(), b"--std=c++17"]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status):
            said = bytes(_call(nvrtc.nvrtcGetProgramLogSize, program))
            _call(nvrtc.nvrtcGetProgramLog, program, said)
            lines = [line for line in said.decode(errors="replace").splitlines() if "error" in line]
            raise EngineError(f"NVRTC refuses a kernel for {architecture}: {(lines or [status.name])[0][:300]}")
        cubin = bytes(_call(nvrtc.nvrtcGetCUBINSize, program))
        _call(nvrtc.nvrtcGetCUBIN, program, cubin)
        return cubin
    finally:
        _call(nvrtc.nvrtcDestroyProgram, program)
