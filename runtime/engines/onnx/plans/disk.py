"""Disk cache of plans, so that a runtime starts without building them.

    8 bytes "ISOPLAN5", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON {key, weights, graph, expected, over,
    batches}, the graph (``graph`` bytes), then ``gather`` as little-endian int32

The file name is a hash of what the plan depends on: the portable graph (which names its templates), which of its weights are constants,
ONNX Runtime's version, the processor's type and features, the layout that ONNX Runtime uses here (``probe.py``), and this module's
format, which must change when layouts do. A plan that is read must pass one row of its self-test. A file that is damaged, malformed, has another key, or gives
different results here is rebuilt; without a writable directory, plans are not stored.

A stored plan is executed, so only directories and files owned by this user are read or written (``ownership.py``), and no graph with
external data is loaded (``external.py``).
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

from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.plan import Plan, Subject
from isoform.runtime.engines.onnx.plans.probe import probed_layout
from isoform.runtime.engines.onnx.plans.sized import BATCHES
from isoform.runtime.engines.onnx.plans.trial import check_plan
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.formats import files
from isoform.runtime.formats.external import refuse_external_data
from isoform.runtime.formats.ownership import require_own_file, require_own_folder
from isoform.runtime.layout import ALIGNMENT, Layout

__all__ = ["cache_directory", "cached_plan"]

log = logging.getLogger("isoform.runtime")
MAGIC = b"ISOPLAN5"
SIZE_LIMIT = 1 << 30
LEFT_OVER_S = 3600.0
"""Age in seconds after which a temporary file is assumed to be from a writer that was killed."""
KEPT = 128
"""Maximum number of plans in the directory; the least recently used are removed."""


def cache_directory() -> Path:
    """Return ``$ISOFORM_CACHE``, or ``isoform`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Raises ``EngineError`` without a home directory."""
    if chosen := os.environ.get("ISOFORM_CACHE"):
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:
        raise EngineError("there is no home directory; set ISOFORM_CACHE to a directory for plans") from None
    return home / "isoform"


def cached_plan(subject: Subject) -> Plan:
    """Return the plan for this device: read it from the disk if it is stored, else build, test and store it.

    Args:
        subject: A graph and its weights.

    Raises:
        EngineError: If there is no plan for this graph on this device.
    """
    key = _key(subject)
    try:
        path = cache_directory() / f"plan-{key[:32]}.bin"
    except EngineError as problem:
        log.debug("the plan is not stored: %s", problem)
        return build_plan(subject)
    try:
        require_own_folder(path.parent)
        require_own_file(path)
    except EngineError as problem:
        log.warning("the stored plans in %s are not used: %s; the plan is rebuilt at every start", path.parent, problem)
        return build_plan(subject)
    if path.exists():
        try:
            return _read(path, key, subject)
        except EngineError as problem:
            log.warning("the stored plan %s is not used: %s; it is rebuilt", path, problem)
    plan = build_plan(subject)
    try:
        _write(path, _encoded(plan, key))
    except (IsoformError, OSError) as problem:
        log.debug("the plan is not stored: %s", problem)
    return plan


def _read(path: Path, key: str, subject: Subject) -> Plan:
    """Read a stored plan, run one row of its self-test, and mark it as used now. Raises ``EngineError`` if it is unusable."""
    plan = _decoded(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="plan"), key, subject)
    check_plan(plan, subject)
    # the time of modification is the time of last use, for eviction; access times are often disabled
    with contextlib.suppress(OSError):
        os.utime(path)
    return plan


def _write(path: Path, data: bytes) -> None:
    """Store a plan, readable by this user only; remove the least recently used plans and temporary files of killed writers."""
    folder = path.parent
    for missing in reversed([step for step in (folder, *folder.parents) if not step.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    require_own_folder(folder)  # again: another user may have created it between the first check and mkdir
    files.write_bytes(path, data, mode=0o600)
    for old in sorted(folder.glob("plan-*"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    # of any plan: write_bytes removes only those of its own target
    for left in filter(files.is_left_over, folder.glob(".plan-*")):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_OVER_S:
                left.unlink()


def _key(subject: Subject) -> str:
    """Return sha256 over everything that a plan depends on."""
    parts = [
        MAGIC,
        ort.__version__.encode(),
        platform.machine().encode(),
        _processor(),
        probed_layout(),
        hashlib.sha256(subject.graph).digest(),
        # two graphs of a kind may be the same file, with other weights as constants
        json.dumps([*subject.changing]).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _processor() -> bytes:
    """Return the processor's features where the system lists them, else its name."""
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
        "batches": plan.batches,
    }
    header = json.dumps(fields).encode()
    rest = len(header).to_bytes(4, "little") + header + plan.graph + plan.layout.gather.astype("<i4").tobytes()
    return MAGIC + hashlib.sha256(rest).digest() + rest


def _decoded(data: bytes, key: str, subject: Subject) -> Plan:
    """Decode a stored plan. Every offset in it is checked, because ONNX Runtime will be given raw addresses."""
    rest = data[40:]
    if data[:8] != MAGIC or data[8:40] != hashlib.sha256(rest).digest():
        raise EngineError("the stored plan is damaged")
    try:
        length = int.from_bytes(rest[:4], "little")
        header = json.loads(rest[4 : 4 + length])
        if header["key"] != key:
            raise EngineError("the stored plan belongs to another graph, ONNX Runtime version or processor")
        start = 4 + length + operator.index(header["graph"])
        expected, taken = np.array(header["expected"], dtype=np.float32), float(header["over"])
        batches = tuple(map(operator.index, header["batches"]))
        graph, gather = rest[4 + length : start], np.frombuffer(rest[start:], dtype="<i4").astype(np.intp)
        weights = tuple(
            (str(name), tuple(map(operator.index, shape)), place) for name, shape, place in header["weights"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EngineError(f"the stored plan is malformed: {problem}") from None
    if batches not in ((), BATCHES):
        raise EngineError("the stored plan has graphs for other batch sizes")
    if not expected.size:
        raise EngineError("the stored plan's self-test is malformed")
    refuse_external_data(graph)
    place, total = 0, sum(math.prod(shape) for shape in subject.changing.values())
    for _, shape, first in weights:
        if first != place or min(shape, default=1) < 1:
            raise EngineError("the stored plan's weights are not contiguous")
        place += math.prod(shape) + -math.prod(shape) % ALIGNMENT
    # initial: a graph may have constants only, and no map
    if place != len(gather) or bool(place) != bool(total) or gather.min(initial=0) < 0 or gather.max(initial=0) > total:
        raise EngineError("the stored plan's map does not fit its weights")
    return Plan(graph=graph, layout=Layout(weights, gather), expected=expected, over_session=taken, batches=batches)
