"""What pruning is worth: the latency of a task's graph over that of the same network with all components, those unused by gates of 0."""

from __future__ import annotations

import statistics
import time

import numpy as np

from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.inputs import Input

__all__ = ["pruned_over_full"]

ROUNDS, RUNS = 5, 40
WARM_UP = 20


def pruned_over_full(pruned: bytes, full: bytes, takes: Input) -> float:
    """Measure the ratio of the median latencies of one sample, on one thread, of two complete graphs that are run in turn.

    Returns:
        The median over rounds, so that other work on the machine counts little.
    """
    x = {takes.name: takes.random(np.random.default_rng(0), 1)}
    sessions = [open_session(graph, session_options(1), what="a graph to time") for graph in (pruned, full)]
    ratios = []
    for session in sessions * WARM_UP:
        session.run(None, x)
    for _ in range(ROUNDS):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS):
            for session, taken in zip(sessions, times, strict=True):
                began = time.perf_counter()
                session.run(None, x)
                taken.append(time.perf_counter() - began)
        mine, whole = map(statistics.median, times)
        ratios.append(mine / whole)
    return round(statistics.median(ratios), 4)
