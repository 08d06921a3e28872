"""Memory of a process that meets 20 batches of 128: ``python adapt_child.py WHAT BUNDLE TASK``, which prints JSON.

WHAT is ``none``, ``auto``, or ``torch tent``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Run, print."""
    what, path, task = sys.argv[1:]
    from isoform.runtime import Runtime

    with Runtime.open(path) as runtime:
        base = runtime.signature(task)
        x = np.random.default_rng(0).uniform(-1, 1, (128, *runtime.bundle.spec.input_shape)).astype(np.float32)
        x = np.cumsum(np.cumsum(x, axis=2), axis=3) / 8  # smooth: noise would teach nothing
        if what == "torch tent":
            from bench.adapting.tent_rival import TorchTent

            run = TorchTent(runtime.bundle, task)
        elif what == "auto":
            run = runtime.adapter(base)
        else:
            run = lambda x: runtime.predict(x, base)  # noqa: E731
        for _ in range(20):
            run(x)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_rss_mb": int(peak.split()[1]) * 1024 / 1e6}))


if __name__ == "__main__":
    main()
