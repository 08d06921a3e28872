"""Measurements that need a process of their own: ``python child.py WHAT BUNDLE ARGUMENTS``, which prints JSON.

memory KIND COUNT  resident megabytes added by so many users, kept as ``bytes`` or ``signatures`` (cold), or hot in a cache
                   that holds them, as ``discrete`` or ``mixture``; at 1, 100, 1,000 and COUNT users
start              milliseconds to open the bundle with ONNX Runtime imported, and to the first prediction
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401 - imported before the clock starts


def resident_bytes() -> int:
    """Resident memory of this process; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def memory(path: str, kind: str, count: int) -> dict[str, float]:
    """Megabytes by number of users."""
    from bench.networks import users
    from isoform.runtime import Runtime, Signature

    runtime = Runtime.open(path, cache_bytes=1 << 40)
    x = np.zeros((1, *runtime.bundle.spec.input_shape), dtype=np.float32)
    hot = kind in ("discrete", "mixture")
    files = users(runtime.bundle, 32, kind if hot else "mixture", seed=1)
    for file in files:  # what is there once, whoever the user is
        runtime.predict(x, Signature.decode(file))
    if kind == "discrete":
        from isoform.runtime.mixture import discrete_logits

        spec, base = runtime.bundle.spec, runtime.bundle.base("base")
        for template in range(spec.templates):
            mixture = discrete_logits([template] * spec.layers, spec.templates)
            runtime.predict(x, base.replace(parts={"mixture": mixture}, base=base.digest, labels=None))
    files = users(runtime.bundle, count, kind if hot else "mixture")
    kept: list[object] = []
    gc.collect()
    start, result = resident_bytes(), {}
    for number, file in enumerate(files, start=1):
        if kind == "bytes":
            kept.append(bytes(bytearray(file)))  # a copy
        elif kind == "signatures":
            kept.append(Signature.decode(file))
        else:
            runtime.predict(x, Signature.decode(file))
        if number in (1, 100, 1000, count):
            result[str(number)] = (resident_bytes() - start) / 1e6
    return result


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
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    what, bundle, *arguments = sys.argv[1:]
    print(json.dumps(start(bundle) if what == "start" else memory(bundle, arguments[0], int(arguments[1]))))
