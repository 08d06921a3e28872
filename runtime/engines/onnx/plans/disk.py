"""Disk cache of plans, so that a runtime starts without building them.

    8 bytes "ISOPLAN5", 32 bytes sha256 of the rest, u32 little-endian n, n bytes of JSON {key, weights, graph, expected, over,
    batches}, the graph (``graph`` bytes), then ``gather`` as little-endian int32

The file name is a hash of what the plan depends on: the portable graph (which names its templates), which of its weights are constants,
ONNX Runtime's version, the processor's type and features, the layout that ONNX Runtime uses here (``probe.py``), and this module's
format, which must change when layouts do. A plan that is read must pass one row of its self-test. A file that is damaged, malformed, has another key, or gives
different results here is rebuilt; without a writable directory, plans are not stored.

A stored plan is executed, so only directories and files owned by this user are read or written (``user_cache.py``), and no graph with
external data is loaded (``external.py``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import platform
from pathlib import Path

import numpy as np

from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.plan import Plan, Subject
from isoform.runtime.engines.onnx.plans.probe import probed_layout
from isoform.runtime.engines.onnx.plans.sized import BATCHES
from isoform.runtime.engines.onnx.plans.trial import check_plan
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.engines.user_cache import cache_directory, mark_used, require_own, store
from isoform.runtime.errors import EngineError, IsoformError
from isoform.runtime.formats import files
from isoform.runtime.formats.external import refuse_external_data
from isoform.runtime.layout import ALIGNMENT, Layout

__all__ = ["cached_plan"]

log = logging.getLogger("isoform.runtime")
MAGIC = b"ISOPLAN5"
SIZE_LIMIT = 1 << 30
KEPT = 128
"""Maximum number of plans in the directory; the least recently used are removed."""


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
        require_own(path)
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
        store(path, _encoded(plan, key), pattern="plan-*", kept=KEPT)
    except (IsoformError, OSError) as problem:
        log.debug("the plan is not stored: %s", problem)
    return plan


def _read(path: Path, key: str, subject: Subject) -> Plan:
    """Read a stored plan, run one row of its self-test, and mark it as used now. Raises ``EngineError`` if it is unusable."""
    plan = _decoded(files.read_bytes(path, limit=SIZE_LIMIT, error=EngineError, what="plan"), key, subject)
    check_plan(plan, subject)
    mark_used(path)
    return plan


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
