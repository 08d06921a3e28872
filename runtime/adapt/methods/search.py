"""Gradient-free optimisation of the kind's smallest part: needs predictions only, so it works without a backward graph.

Both methods minimise the information loss of a batch (``losses.py``), with fixed BN statistics:

    spsa     ∇̂ = (L(w + cδ) - L(w)) / (cδ),   δ of ±1;      w ← w - Adam(∇̂)                       two predictions more per batch
    cma-es   λ = 4 + 3 ln(numbers) candidates w + σ √C z;  the better half, weighted, moves w, σ and the diagonal of C

Sources: Spall 1992; Deng et al. 2025, "ZOA" (one-sided SPSA at test time); Ros and Hansen 2008, "sep-CMA-ES"; Niu et al. 2024, "FOA",
section 3.2 (CMA-ES at test time, one generation per batch).
"""

from __future__ import annotations

import math

import numpy as np

from isoform.runtime.adapt.losses import information_loss
from isoform.runtime.adapt.method import Context, Method
from isoform.runtime.arrays import Array
from isoform.runtime.errors import UsageError
from isoform.runtime.learn.fits.adam import Adam
from isoform.runtime.learn.learner import Point
from isoform.runtime.learn.samples import spaced

__all__ = ["CmaEs", "Spsa"]


ROWS = 64
"""Maximum number of a batch's samples used to evaluate a candidate."""


class _Search(Method):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._part = context.learner.bundle.kind.smallest
        self.moves = (self._part,)
        self.reset(context.start)

    def reset(self, point: Point) -> None:
        """Set the point, and forget the stream."""
        self.point = self.context.learner.softened(point, self.moves)
        self._rng = np.random.default_rng(self.context.seed)
        self.begin()

    def begin(self) -> None:
        """Reset the optimiser's state."""

    def loss(self, numbers: Array, x: Array) -> float:
        """Return the loss of a batch with other values of the searched part, in nats; infinite if it is not finite."""
        logits = self.context.score(self.point.with_parts({self._part: numbers}), spaced(x, ROWS))
        value = information_loss(logits)[0]
        return value if math.isfinite(value) else math.inf


class Spsa(_Search):
    """A search without gradients, two predictions more per batch.

    One-sided simultaneous perturbation; ``c`` is its size, ``lr`` Adam's learning rate.
    """

    def __init__(self, context: Context, c: float = 0.05, lr: float = 0.01) -> None:
        for name, value in (("c", c), ("lr", lr)):
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value!r}, but a finite number above 0 was expected")
        self._c, self._lr = c, lr
        super().__init__(context)

    def begin(self) -> None:
        """Reset the optimiser's state."""
        self._adam = Adam({self._part: self._lr})

    def learn(self, x: Array, logits: Array) -> None:
        """Estimate the gradient once, and take one step."""
        here = self.point.parts[self._part]
        away = self._rng.choice([-1.0, 1.0], here.shape)
        # L(w) comes from the output logits: one prediction less
        slope = (self.loss(here + self._c * away, x) - information_loss(spaced(logits, ROWS))[0]) / self._c
        if math.isfinite(slope):
            # 1/δ = δ, because δ is ±1
            moved = self._adam.step({self._part: here}, {self._part: slope * away})
            self.point = self.point.with_parts(moved)


class CmaEs(_Search):
    """A search without gradients, one generation per batch.

    Separable CMA-ES; ``sigma`` is the initial step size.
    """

    def __init__(self, context: Context, sigma: float = 0.1) -> None:
        if not 0 < sigma < math.inf:
            raise UsageError(f"sigma is {sigma!r}, but a finite number above 0 was expected")
        self._first = sigma
        super().__init__(context)

    def begin(self) -> None:
        """Reset the optimiser's state."""
        n = self.point.parts[self._part].size
        self._sigma, self._scale = self._first, np.ones(n)
        self._path, self._step_path = np.zeros(n), np.zeros(n)
        self._population = 4 + int(3 * math.log(n))
        weights = math.log(self._population / 2 + 0.5) - np.log(np.arange(1, self._population // 2 + 1))
        self._weights = weights / weights.sum()
        self._generation = 0

    def learn(self, x: Array, logits: Array) -> None:
        """Run one generation."""
        here = self.point.parts[self._part]
        n, mu = here.size, 1 / float((self._weights**2).sum())
        z = self._rng.standard_normal((self._population, n))
        steps = z * np.sqrt(self._scale)
        losses = [self.loss(here + self._sigma * step.reshape(here.shape), x) for step in steps]
        order = np.argsort(losses, kind="stable")[: len(self._weights)]
        if not math.isfinite(losses[order[-1]]):  # one of the selected candidates overflowed
            return
        self._generation += 1
        step, noise = self._weights @ steps[order], self._weights @ z[order]
        self.point = self.point.with_parts({self._part: here + self._sigma * step.reshape(here.shape)})
        # names in Ros and Hansen: along = c_σ, damping = d_σ, turn = c_c, one = c_1, many = c_μ, steady = h_σ
        along = (mu + 2) / (n + mu + 5)
        self._step_path = (1 - along) * self._step_path + math.sqrt(along * (2 - along) * mu) * noise
        length, expected = float(np.linalg.norm(self._step_path)), math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + along
        self._sigma *= math.exp(min(1.0, along / damping * (length / expected - 1)))
        steady = length / math.sqrt(1 - (1 - along) ** (2 * self._generation)) < (1.4 + 2 / (n + 1)) * expected
        turn = (4 + mu / n) / (n + 4 + 2 * mu / n)
        self._path = (1 - turn) * self._path + steady * math.sqrt(turn * (2 - turn) * mu) * step
        one = (n + 2) / 3 * 2 / ((n + 1.3) ** 2 + mu)
        many = min(1 - one, (n + 2) / 3 * 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        rank = self._weights @ steps[order] ** 2
        self._scale = (1 - one - many) * self._scale + one * self._path**2 + many * rank
