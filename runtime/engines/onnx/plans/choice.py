"""Benchmark of a plan: its run time divided by that of a session with the same weights as constants.

When it creates a session, ONNX Runtime prepacks constant matrices for its matrix products. That is invisible in the optimised graph,
and a plan does not have it. So networks with large matrix products run faster with constants: a product of 1024 × 1024 takes
1.3 times as long over a plan, and 1.8 times with 16 samples.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["PAYS", "over"]

PAYS = 1.15
"""Ratio above which ``auto`` does not choose a plan."""
ROUNDS, RUNS = 4, 7
# the overhead of a call differs by a few microseconds between IOBinding and run, whatever the network
CALL_SECONDS = 10e-6
SECONDS = 0.3
"""Time limit after which no further round starts; the first round always runs."""


def over(plan: Callable[[], object], session: Callable[[], object]) -> float:
    """Return the run time of ``plan`` divided by that of ``session``: the minimum over rounds of the ratio of medians of alternating runs.

    A difference of a few microseconds is call overhead, not the network's, and counts as 1.
    """
    # Other load makes a round look slow, hardly ever fast, so the minimum is closest to the truth.
    best, until = float("inf"), time.perf_counter() + SECONDS
    for way in (plan, session, plan, session):  # warm up: the first runs allocate memory
        way()
    for number in range(ROUNDS):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS):
            for way, taken in zip((plan, session), times, strict=True):
                began = time.perf_counter()
                way()
                taken.append(time.perf_counter() - began)
        mine, theirs = map(statistics.median, times)
        best = min(best, 1.0 if 0 < mine - theirs < CALL_SECONDS else mine / max(theirs, 1e-9))
        if number and (best <= 1 or time.perf_counter() > until):
            break
    return best
