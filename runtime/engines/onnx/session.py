"""ONNX Runtime and its sessions: the only module that imports onnxruntime and creates sessions.

Settings of every session:

    version     1.27 or newer. On Arm processors with SME, older versions can return another user's results: their convolution
                caches packed weights under the first 16 values, without the bias.
    KleidiAI    off on Arm: the kernels with that bug, until they have been tested again.
    telemetry   off (``isoform.runtime`` sets ``ORT_DISABLE_TELEMETRY`` before this import), unless the user has set it.
    provider    the CPU, by name, unless another one is requested; then its use is verified.
    format      ONNX files only, never ONNX Runtime's own format, whose external data is not checked (``external.py``).
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from isoform.runtime.errors import EngineError, first_line
from isoform.runtime.extras import needs

__all__ = ["CPU", "OLDEST", "open_session", "ort", "require_version", "runtime_tool", "session_options"]

CPU = "CPUExecutionProvider"
OLDEST = (1, 27)
"""The oldest supported version of ONNX Runtime; ``pyproject.toml`` requires the same."""


def require_version() -> None:
    """Raise ``EngineError`` for an ONNX Runtime older than ``OLDEST``, which pip may have been told to install."""
    found = re.match(r"(\d+)\.(\d+)", ort.__version__)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EngineError(
            f"ONNX Runtime {ort.__version__} is installed, but {oldest} or newer was expected, because older versions can return "
            f"another user's results on Arm processors; run pip install 'onnxruntime>={oldest}'"
        )


def session_options(threads: int) -> ort.SessionOptions:
    """Return options for a deterministic CPU session with ``threads`` threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime is too old.
    """
    require_version()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: a warning would repeat for every user's session
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if platform.machine().lower() in ("arm64", "aarch64"):  # "arm64" on macOS and Windows, "aarch64" on Linux
        options.add_session_config_entry("mlas.disable_kleidiai", "1")
    return options


def runtime_tool(name: str) -> Any:
    """Return one of ONNX Runtime's modules for changing graphs, such as ``quantization``.

    It needs the onnx package. Sessions that it makes are its own: give it ``CPU`` as provider.
    """
    with needs(f"ONNX Runtime's {name}", extra="export"):
        return importlib.import_module(f"onnxruntime.{name}")


def open_session(
    graph: bytes, options: ort.SessionOptions, *, what: str, providers: Sequence[str] | None = None
) -> ort.InferenceSession:
    """Create a session.

    Args:
        graph: An ONNX file.
        options: The result of ``session_options``.
        what: Name of the graph in messages.
        providers: Execution providers in order of preference; None for the CPU. The first one must be the one that runs.

    Raises:
        EngineError: If ONNX Runtime rejects the graph, or runs it on another provider.
    """
    wanted = [CPU] if providers is None else [*providers]
    missing = [name for name in wanted if name not in ort.get_available_providers()]
    if missing or not wanted:
        here = ", ".join(ort.get_available_providers())
        raise EngineError(
            f"ONNX Runtime {ort.__version__} has no provider {missing[0] if missing else 'at all'}, but {here}; install a build that has it"
        )
    try:
        session = ort.InferenceSession(graph, options, providers=wanted)
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"ONNX Runtime {ort.__version__} refused {what}: {first_line(problem)}") from problem
    if session.get_providers()[0] != wanted[0]:  # a provider that fails to load is skipped with only a warning
        raise EngineError(
            f"{wanted[0]} was requested, but ONNX Runtime could not load it and runs {what} on {session.get_providers()[0]}"
        )
    return session
