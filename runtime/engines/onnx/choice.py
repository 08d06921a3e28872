"""Whether a plan pays: how long a run takes over the plan, over that of a session with the same weights as constants.

ONNX Runtime packs constant matrices of products when it makes a session, which no graph shows and no plan has. So networks of large
matrix products run faster with constants: a product of 1024 × 1024 takes 1.3 times as long over a plan, and at 16 samples 1.8 times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["PAYS", "over"]

PAYS = 1.15
"""A plan that takes more than so many times as long is not chosen by itself."""
ROUNDS, RUNS = 4, 7
CALL_SECONDS = 10e-6
SECONDS = 0.3
"""Rounds end after so long, but for the first one."""


def over(plan: Callable[[], object], session: Callable[[], object]) -> float:
    """Time of a run of the plan over one of the session: medians of runs in turn, each as its engine runs it, the least of several rounds.

    A machine that is busy makes single rounds look slow, hardly ever fast, so the least of them is nearest to the truth. A difference of
    a few microseconds is that of calling one or the other, and none of the network's: it counts as 1.
    """
    best, until = float("inf"), time.perf_counter() + SECONDS
    for way in (plan, session, plan, session):
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
