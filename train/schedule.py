"""Learning rates as functions of the step, so that a checkpoint stores no schedule.

    warm(s) = min(1, (s + 1) / W)                                linear warm-up over W steps
    held    = η · warm(s)                                        for mixture logits: the choice of templates settles late
    falling = η · warm(s) · ½ (1 + cos(π s / S))                 for weights: a half cosine to 0 over the S steps

Source: Loshchilov and Hutter, SGDR, for the cosine; the warm-up is common practice.
"""

from __future__ import annotations

import math

__all__ = ["falling", "held"]


def held(rate: float, step: int, *, warmup: int) -> float:
    """Compute the learning rate at a step, from 0: warm-up to ``rate`` within ``warmup`` steps, then ``rate``."""
    # step + 1, so that the first step is not lost to a rate of 0.
    return rate * min(1.0, (step + 1) / warmup)


def falling(rate: float, step: int, steps: int, *, warmup: int) -> float:
    """Compute the learning rate at step ``step`` of ``steps``: warm-up to ``rate`` within ``warmup`` steps, times a half cosine to 0."""
    return held(rate, step, warmup=warmup) * (0.5 * (1 + math.cos(math.pi * step / steps)))
