"""Predictions without a server, in a process of their own: ``python in_process.py BUNDLE``.

Told ``{"seconds", "user": whether a user's signature is to run, "batch"}`` by a line of JSON, it answers ``{"p50_us"}``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Obey line by line."""
    from bench.people import users
    from bench.processes import obey
    from isoform.runtime import Runtime, Signature

    with Runtime.open(sys.argv[1]) as runtime:
        user = Signature.decode(users(runtime.bundle, 1, "mixture")[0])

        def time_calls(told: dict[str, Any]) -> dict[str, float]:
            x = np.random.default_rng(0).uniform(0, 1, (told["batch"], *runtime.bundle.spec.input_shape))
            x, signature = x.astype(np.float32), user if told["user"] else runtime.signature("base")
            end, times = time.perf_counter() + told["seconds"], []
            while time.perf_counter() < end or len(times) < 5:
                start = time.perf_counter()
                runtime.predict(x, signature)
                times.append(time.perf_counter() - start)
            return {"p50_us": 1e6 * float(np.median(times[1:]))}

        obey(time_calls)


if __name__ == "__main__":
    main()
