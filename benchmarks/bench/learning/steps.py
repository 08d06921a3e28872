"""Time of a step of fitting a signature, ours and torch's, and the memory of a process that takes some."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.harness import Figures, in_turn
from bench.learning.torch_rival import signature_step
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.learn.fits.fit import Fit
from isoform.runtime.learn.learner import BATCH, Point

__all__ = ["child", "step_times"]


def step_times(bundle: Bundle, *, seconds: float) -> Figures:
    """Milliseconds of a step, ours and torch's, and of ours in its parts."""
    rng, base = np.random.default_rng(0), bundle.base("base")
    x = rng.uniform(0, 1, (BATCH, *bundle.spec.input_shape)).astype(np.float32)
    labels = rng.integers(0, 10, BATCH)
    learner, point = (
        MixtureLearner(bundle, bundle.require_compiled().training(), threads=1),
        Point(bundle.resolve(base).parts),
    )
    moving = tuple(name for part in bundle.kind.full_moves for name in bundle.kind.moves[part])
    fit = Fit(learner, point, x, labels, moving=moving, seed=0)
    runs = {
        "step": fit.step, "torch_eager": signature_step(bundle, base, x, labels), "forward": lambda: learner.logits(point, x),
    }  # fmt: skip
    found = in_turn(runs, seconds=seconds, burst=6)
    return {
        **{f"{name}_ms": 1e3 * value for name, value in found.items()},
        "step_over_torch_eager": found["step"] / found["torch_eager"], "step_over_forward": found["step"] / found["forward"],
    }  # fmt: skip


def child(what: str, bundle: Bundle, steps: int) -> dict[str, float]:
    """A process of its own."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("learning_child.py")),
        what,
        str(bundle.path),
        str(steps),
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found
