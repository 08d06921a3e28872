"""ONNX Runtime and its sessions: the one module that imports it and makes them.

What holds for every session is decided here:

    version     1.27 or newer. Older ones can answer with another user's network on Arm processors with SME: their convolution
                keeps packed weights under the first 16 numbers, without the bias.
    KleidiAI    off on Arm: the kernels that did that, until they were measured again.
    telemetry   off (``isoform.runtime`` sets ``ORT_DISABLE_TELEMETRY`` before this import), unless the user has set it.
    provider    the CPU, by name, unless another is asked for; then it is checked that it is the one that runs.
    format      ONNX files only, never ONNX Runtime's own format, whose external data nobody checks (``external.py``).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

import onnxruntime as ort

from isoform.runtime.errors import EngineError

__all__ = ["CPU", "OLDEST", "first_line", "open_session", "ort", "require_version", "session_options"]

CPU = "CPUExecutionProvider"
OLDEST = (1, 27)
"""The oldest ONNX Runtime that is used; ``pyproject.toml`` says the same."""


def require_version() -> None:
    """Refuse an ONNX Runtime older than ``OLDEST`` with an ``EngineError``, whatever pip was told."""
    found = re.match(r"(\d+)\.(\d+)", ort.__version__)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EngineError(
            f"ONNX Runtime {ort.__version__} is installed, but {oldest} or newer was expected, because older ones can answer with "
            f"another user's network on Arm processors; run pip install 'onnxruntime>={oldest}'"
        )


def session_options(threads: int) -> ort.SessionOptions:
    """Options for a deterministic CPU session with ``threads`` threads per run; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: If ONNX Runtime is too old.
    """
    require_version()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if platform.machine().lower() in ("arm64", "aarch64"):
        options.add_session_config_entry("mlas.disable_kleidiai", "1")
    return options


def open_session(
    graph: bytes, options: ort.SessionOptions, *, what: str, providers: Sequence[str] | None = None
) -> ort.InferenceSession:
    """A session.

    Args:
        graph: An ONNX file.
        options: Of ``session_options``.
        what: What to call the graph in messages.
        providers: Execution providers, the preferred one first; None for the CPU. ONNX Runtime leaves out one that it cannot start and
            says so in a warning alone, so it is checked that the first one is the one that runs.

    Raises:
        EngineError: If ONNX Runtime does not take the graph, or runs it on another provider.
    """
    wanted = [CPU] if providers is None else [*providers]
    missing = [name for name in wanted if name not in ort.get_available_providers()]
    if missing or not wanted:
        here = ", ".join(ort.get_available_providers())
        raise EngineError(
            f"ONNX Runtime {ort.__version__} has no provider {missing[0] if missing else 'at all'}, but {here}; install the build that has it"
        )
    try:
        session = ort.InferenceSession(graph, options, providers=wanted)
    except Exception as problem:  # ONNX Runtime's exceptions have no common base but this one
        raise EngineError(f"ONNX Runtime {ort.__version__} refused {what}: {first_line(problem)}") from problem
    if session.get_providers()[0] != wanted[0]:
        raise EngineError(
            f"{wanted[0]} was asked for, but ONNX Runtime runs {what} on {session.get_providers()[0]}: it could not start that one"
        )
    return session


def first_line(problem: BaseException) -> str:
    """What ONNX Runtime says first of a problem; the kind of problem if it says nothing."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
