"""Re-estimation of BN statistics from a user's samples: a forward pass in training mode, in which each layer sees the new statistics.

    m = (1 - α) m_given + α mean(u),    v = (1 - α) v_given + α var(u)

u is a convolution's output over all samples and pixels; the variance is biased. α = 1 replaces the given statistics, 0 keeps them.
Source: Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift adaptation", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoform.runtime.arrays import Array
from isoform.runtime.kinds.mixture.learn.blocks import Blocks
from isoform.runtime.kinds.mixture.learn.normalised import normalised_pass
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import Moments, Pass

__all__ = ["estimate_statistics"]


def estimate_statistics(
    spec: NetworkSpec, tensors: Mapping[str, Array], parts: Mapping[str, Array], x: Array, *, run_on: Blocks, alpha: float = 1.0
) -> Pass:  # fmt: skip
    """Compute BN statistics of samples, blended with those of a signature, and the logits of that pass.

    Args:
        spec: The network's sizes.
        tensors: The arrays of ``templates.safetensors``.
        parts: All parts of a signature, as ``Bundle.resolve`` returns them.
        x: Samples, shape (n, channels, height, width), float32, not normalised. n times pixels should be at least some hundreds.
        run_on: The result of ``open_blocks``.
        alpha: α, 0 to 1.
    """
    variance = parts["bn.statistics"][1]

    def blended(place: slice, found: Moments) -> tuple[Array, Array]:
        mean = found.mean
        # the mean is relative to the given one, so (1 - α) m_given drops out
        return alpha * mean, (1 - alpha) * variance[place] + alpha * (found.square - mean * mean)

    return normalised_pass(spec, tensors, parts, x, run_on=run_on, choose=blended)
