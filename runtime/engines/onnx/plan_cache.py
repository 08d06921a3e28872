"""Plans on the disk, so that a runtime starts without building one.

    8 bytes "ISOPLAN4", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON {key, weights, graph, expected, over},
    the graph (``graph`` bytes), then ``gather`` as little-endian int32

A file is named after what the plan depends on: the portable graph (which names its templates), ONNX Runtime's version, the
processor's kind and features, the layout that ONNX Runtime shows here (``probe.py``), and this module's format, which must change
when layouts do. One that is read must pass a row of its self-test. A file that is damaged, malformed, of another key, or answers
differently here is built anew; a directory that cannot be written to is done without.

A stored plan is run, so only a directory and files of this user's own are read or written (``ownership.py``), and no graph that takes
data from other files (``external.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import operator
import os
import platform
import time
from pathlib import Path

import numpy as np

from isoform.runtime.engines.onnx.plan import Plan, Subject, build_plan, check_plan
from isoform.runtime.engines.onnx.probe import probed_layout
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.formats import files
from isoform.runtime.formats.external import refuse_external_data
from isoform.runtime.formats.ownership import require_own_file, require_own_folder
from isoform.runtime.layout import ALIGNMENT, Layout

__all__ = ["cache_directory", "cached_plan"]

log = logging.getLogger("isoform.runtime")
MAGIC = b"ISOPLAN4"
SIZE_LIMIT = 1 << 30
LEFT_OVER_S = 3600.0
"""Age from which a temporary file is taken for one of a writer that was killed."""
KEPT = 128
"""How many plans stay in the directory: those used last."""


def cache_directory() -> Path:
    """``$ISOFORM_CACHE``, or ``isoform`` in the user's cache directory (``$XDG_CACHE_HOME``, ``~/.cache``); ``EngineError`` if there is none."""
    if chosen := os.environ.get("ISOFORM_CACHE"):
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:
        raise EngineError("there is no home directory; say where plans are kept with ISOFORM_CACHE") from None
    return home / "isoform"


def cached_plan(subject: Subject) -> Plan:
    """The plan for this device: from the disk if it is there, else built, tested and stored.

    Args:
        subject: A graph and its weights.

    Raises:
        EngineError: If there is no plan for this graph on this device.
    """
    key = _key(subject.graph)
    try:
        path = cache_directory() / f"plan-{key[:32]}.bin"
    except EngineError as problem:
        log.debug("the plan is not stored: %s", problem)
        return build_plan(subject)
    try:
        require_own_folder(path.parent)
        require_own_file(path)
    except EngineError as problem:
        log.warning(
            "the stored plans in %s are not used: %s; the plan is built anew at every start", path.parent, problem
        )
        return build_plan(subject)
    if path.exists():
        try:
            return _read(path, key, subject)
        except EngineError as problem:
            log.warning("the stored plan %s is not used: %s; it is built anew", path, problem)
    plan = build_plan(subject)
    try:
        _write(path, _encoded(plan, key))
    except (IsoformError, OSError) as problem:
        log.debug("the plan is not stored: %s", problem)
    return plan


def _read(path: Path, key: str, subject: Subject) -> Plan:
    """A stored plan that has passed a row of its self-test, marked as used now; ``EngineError`` if there is none."""
    plan = _decoded(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="plan"), key, subject)
    check_plan(plan, subject)
    with contextlib.suppress(OSError):
        os.utime(path)
    return plan


def _write(path: Path, data: bytes) -> None:
    """Store a plan, from its first byte for this user alone; remove the plans unused for longest, and what killed writers left."""
    folder = path.parent
    for missing in reversed([step for step in (folder, *folder.parents) if not step.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    require_own_folder(folder)  # again: somebody may have been quicker to make it
    files.write_bytes(path, data, mode=0o600)
    for old in sorted(folder.glob("plan-*"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    for left in filter(
        files.is_left_over, folder.glob(".plan-*")
    ):  # of any plan, as ours was written under its own name
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_OVER_S:
                left.unlink()


def _key(portable: bytes) -> str:
    """sha256 over everything that a plan depends on."""
    parts = [
        MAGIC,
        ort.__version__.encode(),
        platform.machine().encode(),
        _processor(),
        probed_layout(),
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
    fields = {
        "key": key,
        "weights": plan.layout.weights,
        "graph": len(plan.graph),
        "expected": plan.expected.tolist(),
        "over": plan.over_session,
    }
    header = json.dumps(fields).encode()
    rest = len(header).to_bytes(4, "little") + header + plan.graph + plan.layout.gather.astype("<i4").tobytes()
    return MAGIC + hashlib.sha256(rest).digest() + rest


def _decoded(data: bytes, key: str, subject: Subject) -> Plan:
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
        expected, taken = np.array(header["expected"], dtype=np.float32), float(header["over"])
        graph, gather = rest[4 + length : start], np.frombuffer(rest[start:], dtype="<i4").astype(np.intp)
        weights = tuple(
            (str(name), tuple(map(operator.index, shape)), place) for name, shape, place in header["weights"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EngineError(f"the stored plan is malformed: {problem}") from None
    if not expected.size:
        raise EngineError("the stored plan's self-test is malformed")
    refuse_external_data(graph)
    place, total = 0, sum(math.prod(shape) for shape in subject.changing.values())
    for _, shape, first in weights:
        if first != place or min(shape, default=1) < 1:
            raise EngineError("the stored plan's weights do not lie one after the other")
        place += math.prod(shape) + -math.prod(shape) % ALIGNMENT
    if place != len(gather) or not place or gather.min() < 0 or gather.max() > total:
        raise EngineError("the stored plan's map does not fit its weights")
    return Plan(graph=graph, layout=Layout(weights, gather), expected=expected, over_session=taken)
