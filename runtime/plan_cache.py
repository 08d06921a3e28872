"""Plans on the disk, so that a runtime starts without building one.

    8 bytes "ISOPLAN2", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON {key, weights, row_size, graph},
    the graph (``graph`` bytes), then ``gather`` as little-endian int32

A file is named after everything that the plan depends on: the portable graph (which names its templates), ONNX Runtime's version, the processor's kind and
features, and this module's format. A file that is damaged, or of another key, is built anew; a directory that cannot be written
to is done without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from isoform.runtime import files
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.plan import Plan, build_plan
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["cache_directory", "cached_plan"]

log = logging.getLogger("isoform.runtime")
MAGIC = b"ISOPLAN2"
SIZE_LIMIT = 1 << 30


def cache_directory() -> Path:
    """``$ISOFORM_CACHE``, or ``isoform`` in the user's cache directory (``$XDG_CACHE_HOME``, ``~/.cache``)."""
    if chosen := os.environ.get("ISOFORM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "isoform"


def cached_plan(portable: bytes, spec: NetworkSpec, tensors: Mapping[str, Array]) -> Plan:
    """The plan for this device: from the disk if it is there, else built, tested and stored.

    Args:
        portable: ``compiled/portable.onnx``.
        spec: The network's sizes.
        tensors: ``templates.safetensors``' arrays.

    Raises:
        EngineError: If there is no plan for this graph on this device.
    """
    key = _key(portable)
    path = cache_directory() / f"plan-{key[:32]}.bin"
    try:
        return _decoded(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="plan"), key)
    except EngineError as problem:
        log.debug("no plan from the disk: %s", problem)
    plan = build_plan(portable, spec, tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, _encoded(plan, key))
    except (IsoformError, OSError) as problem:
        log.debug("the plan is not stored: %s", problem)
    return plan


def _key(portable: bytes) -> str:
    """sha256 over everything that a plan depends on."""
    parts = [
        MAGIC,
        ort.__version__.encode(),
        platform.machine().encode(),
        _processor(),
        hashlib.sha256(portable).digest(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _processor() -> bytes:
    """The processor's features where the system tells them, else its name."""
    try:
        for line in Path("/proc/cpuinfo").read_bytes().splitlines():
            if line.startswith((b"flags", b"Features")):
                return b" ".join(sorted(line.split()))
    except OSError:
        pass
    return platform.processor().encode()


def _encoded(plan: Plan, key: str) -> bytes:
    header = json.dumps(
        {"key": key, "weights": plan.weights, "row_size": plan.row_size, "graph": len(plan.graph)}
    ).encode()
    rest = len(header).to_bytes(4, "little") + header + plan.graph + plan.gather.astype("<i4").tobytes()
    return MAGIC + hashlib.sha256(rest).digest() + rest


def _decoded(data: bytes, key: str) -> Plan:
    rest = data[40:]
    if data[:8] != MAGIC or data[8:40] != hashlib.sha256(rest).digest():
        raise EngineError("the stored plan is damaged")
    length = int.from_bytes(rest[:4], "little")
    header = json.loads(rest[4 : 4 + length])
    if header["key"] != key:
        raise EngineError("the stored plan is of another graph, ONNX Runtime or processor")
    start = 4 + length + header["graph"]
    weights = tuple((name, tuple(shape), place) for name, shape, place in header["weights"])
    return Plan(
        graph=rest[4 + length : start], weights=weights, row_size=header["row_size"],
        gather=np.frombuffer(rest[start:], dtype="<i4").astype(np.intp),
    )  # fmt: skip
