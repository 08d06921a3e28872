"""Peak memory of a process that personalizes: ``python learning_child.py isoform|torch BUNDLE STEPS``, which prints JSON.

``isoform`` opens the bundle and fits as ``Runtime.personalize`` does; ``torch`` builds the same network from the same file and takes the
same number of steps. Both on 16 random samples, on one thread, and report what Linux saw as the peak of resident memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

BATCH = 16


def main() -> None:
    """Fit, and print ``peak_rss_mb`` and ``seconds`` of the steps alone."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    what, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = np.random.default_rng(0)
    if what == "isoform":
        from isoform.runtime import Runtime
        from isoform.runtime.learn.fits.fit import Fit
        from isoform.runtime.learn.learner import Point

        runtime = Runtime.open(path)
        bundle, base = runtime.bundle, runtime.signature("base")
        x, labels = samples(bundle.spec.input_shape, rng)
        moving = tuple(name for part in bundle.kind.full_moves for name in bundle.kind.moves[part])
        fit = Fit(runtime.learner, Point(bundle.resolve(base).parts), x, labels, moving=moving, seed=0)
        step = fit.step
    else:
        from bench.learning.torch_rival import signature_step
        from isoform.runtime.formats.bundle import Bundle

        bundle = Bundle.load(path)
        step = signature_step(bundle, bundle.base("base"), *samples(bundle.spec.input_shape, rng))
    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_rss_mb": int(peak.split()[1]) * 1024 / 1e6, "seconds": seconds}))


def samples(shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random samples, and a label for each."""
    return rng.uniform(0, 1, (BATCH, *shape)).astype(np.float32), rng.integers(0, 10, BATCH)


if __name__ == "__main__":
    main()
