"""Plans on the disk, so that a runtime starts without building one.

    8 bytes "ISOPLAN2", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON {key, weights, graph},
    the graph (``graph`` bytes), then ``gather`` as little-endian int32

A file is named after what the plan depends on: the portable graph (which names its templates), ONNX Runtime's version, the
processor's kind and features, and this module's format, which must change when layouts do. A file that is damaged, malformed or
of another key is built anew; a directory that cannot be written to is done without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isoform.runtime import files
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.fold import folded_shapes
from isoform.runtime.plan import ALIGNMENT, Plan, build_plan, row_size
from isoform.runtime.sessions import ort
from isoform.runtime.spec import Array, NetworkSpec

__all__ = ["cache_directory", "cached_plan"]

log = logging.getLogger("isoform.runtime")
MAGIC = b"ISOPLAN2"
SIZE_LIMIT = 1 << 30
KEPT = 32
"""How many plans stay in the directory, the newest."""


def cache_directory() -> Path:
    """``$ISOFORM_CACHE``, or ``isoform`` in the user's cache directory (``$XDG_CACHE_HOME``, ``~/.cache``); ``EngineError`` if there is none."""
    if chosen := os.environ.get("ISOFORM_CACHE"):
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:
        raise EngineError("there is no home directory; say where plans are kept with ISOFORM_CACHE") from None
    return home / "isoform"


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
    try:
        path = cache_directory() / f"plan-{key[:32]}.bin"
    except EngineError as problem:
        log.debug("the plan is not stored: %s", problem)
        return build_plan(portable, spec, tensors)
    try:
        return _decoded(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="plan"), key, spec)
    except EngineError as problem:
        log.debug("no plan from the disk: %s", problem)
    plan = build_plan(portable, spec, tensors)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, _encoded(plan, key))
        for old in sorted(path.parent.glob("plan-*.bin"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
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
    header = json.dumps({"key": key, "weights": plan.weights, "graph": len(plan.graph)}).encode()
    rest = len(header).to_bytes(4, "little") + header + plan.graph + plan.gather.astype("<i4").tobytes()
    return MAGIC + hashlib.sha256(rest).digest() + rest


def _decoded(data: bytes, key: str, spec: NetworkSpec) -> Plan:
    """A stored plan; every place in it is checked, because ONNX Runtime will be given bare addresses."""
    rest = data[40:]
    if data[:8] != MAGIC or data[8:40] != hashlib.sha256(rest).digest():
        raise EngineError("the stored plan is damaged")
    try:
        length = int.from_bytes(rest[:4], "little")
        header = json.loads(rest[4 : 4 + length])
        if header["key"] != key:
            raise EngineError("the stored plan is of another graph, ONNX Runtime or processor")
        start = 4 + length + operator.index(header["graph"])
        graph, gather = rest[4 + length : start], np.frombuffer(rest[start:], dtype="<i4").astype(np.intp)
        weights = tuple(
            (str(name), tuple(map(operator.index, shape)), place) for name, shape, place in header["weights"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EngineError(f"the stored plan is malformed: {problem}") from None
    place, total = 0, sum(math.prod(shape) for shape in folded_shapes(spec).values())
    for _, shape, first in weights:
        if first != place or min(shape, default=1) < 1:
            raise EngineError("the stored plan's weights do not lie one after the other")
        place += math.prod(shape) + -math.prod(shape) % ALIGNMENT
    if place != len(gather) or not place or gather.min() < 0 or gather.max() > total:
        raise EngineError("the stored plan's map does not fit its weights")
    return Plan(graph=graph, weights=weights, gather=gather, row_size=row_size(gather, weights, spec))
