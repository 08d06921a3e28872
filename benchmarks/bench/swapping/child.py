"""Measurements that need a process of their own: ``python child.py WHAT BUNDLE ARGUMENTS``, which prints JSON.

resident KIND COUNT      megabytes added by so many cold users, kept as ``bytes`` or ``signatures``
hot KIND COUNT SECONDS   megabytes added by so many users of a kind (``mixture``, ``discrete``) in a cache that holds them; then
                         seconds per prediction for one of them again and again, for random ones, and for users who are all cold
start                    milliseconds to open the bundle with ONNX Runtime imported, and to the first prediction
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from isoform.runtime.engines.onnx import session  # noqa: F401 - imports ONNX Runtime before the clock starts

MARKS = (1, 100, 1000)


def resident_bytes() -> int:
    """Resident memory of this process; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident(path: str, kind: str, count: int) -> dict[str, float]:
    """Megabytes by number of users."""
    from bench.people import users
    from isoform.runtime import Signature
    from isoform.runtime.formats.bundle import Bundle

    files = users(Bundle.load(path), count, "mixture")
    Signature.decode(files[0])
    kept: list[object] = []
    gc.collect()
    start, result = resident_bytes(), {}
    for number, file in enumerate(files, start=1):
        kept.append(bytes(bytearray(file)) if kind == "bytes" else Signature.decode(file))  # a copy, or an object
        if number in (*MARKS, count):
            result[str(number)] = (resident_bytes() - start) / 1e6
    return result


def hot(path: str, kind: str, count: int, seconds: float) -> dict[str, float]:
    """Megabytes by number of users, and seconds per prediction."""
    from bench.harness import in_turn
    from bench.people import users
    from isoform.runtime import Runtime, Signature
    from isoform.runtime.kinds.mixture.discrete import discrete_logits

    hot, cold = Runtime.open(path, cache_bytes=1 << 40), Runtime.open(path, cache_bytes=0)
    spec, base = hot.bundle.spec, hot.bundle.base("base")
    x = np.random.default_rng(0).uniform(0, 1, (1, *spec.input_shape)).astype(np.float32)
    for template in range(spec.templates):  # what is there once, whoever the user is
        mixture = discrete_logits([template] * spec.layers, spec.templates)
        hot.predict(x, base.replace(parts={"mixture": mixture}, base=base.digest, labels=None))
    files = users(hot.bundle, count, kind)
    signatures = [Signature.decode(file) for file in files]
    gc.collect()
    start, result = resident_bytes(), {}
    for number, signature in enumerate(signatures, start=1):
        with hot._engine.bound(signature):  # as a prediction does, but for the run
            pass
        if number in (*MARKS, count):
            result[str(number)] = (resident_bytes() - start) / 1e6
    order = itertools.cycle(np.random.default_rng(1).permutation(count).tolist())
    runs = {
        "single": lambda: hot.predict(x, signatures[0]),
        "random": lambda: hot.predict(x, signatures[next(order)]),
        "cold": lambda: cold.predict(x, Signature.decode(files[next(order)])),
    }
    misses = hot.stats()["misses"]
    times = in_turn(runs, seconds=seconds, burst=50)
    if hot.stats()["misses"] != misses or cold.stats()["hits"]:
        raise RuntimeError("the hot users were not hot, or the cold ones not cold")
    return {**result, **times}


def start(path: str) -> dict[str, float]:
    """Milliseconds."""
    started = time.perf_counter()
    from isoform.runtime import Runtime

    imported = time.perf_counter()
    runtime = Runtime.open(path)
    opened = time.perf_counter()
    runtime.predict(np.zeros((1, *runtime.bundle.spec.input_shape), dtype=np.float32), runtime.signature("base"))
    done = time.perf_counter()
    return {
        "import_ms": 1e3 * (imported - started), "open_ms": 1e3 * (opened - imported), "predict_ms": 1e3 * (done - opened),
        "start_ms": 1e3 * (done - started),
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    what, bundle, *arguments = sys.argv[1:]
    if what == "start":
        figures = start(bundle)
    elif what == "resident":
        figures = resident(bundle, arguments[0], int(arguments[1]))
    else:
        figures = hot(bundle, arguments[0], int(arguments[1]), float(arguments[2]))
    print(json.dumps(figures), flush=True)
    os._exit(0)  # freeing gigabytes one by one would take as long as measuring
