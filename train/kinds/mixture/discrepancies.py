"""How far the features of a target domain are from those of source domains: losses for unsupervised domain adaptation.

Features are pooled over the grid and standardised by mean and deviation of the sources' (``standardised``), so that no loss depends on their
scale. f_s are those of a source, f_t those of the target; p¹ and p² what two logits layers answer.

    adversarial   D: CE(D(f_s), 0) + CE(D(f_t), 1);  target: CE(D(f_t), 0)                               (ADDA)
    moments       mean over sources and k = 1, 2 of |E f_sᵏ - E f_tᵏ|;  and the discrepancy E |p¹ - p²|,
                  which the logits layers maximise on the target while the target minimises it           (M3SDA)
    information   E H(p) - H(E p) of the target's answers: each sure, all classes in use                 (SHOT)

Sources: Compositional Models, section 4.4 and Appendix E, after Tzeng et al. 2017 and Peng et al. 2019; the released code of the latter centres each
batch before it compares means, counts one pair of sources twice and trains each logits layer on a single source, which this does not.
Liang et al. 2020 for the last one, which needs no sample of a source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["disagreement", "discriminator", "information", "moment_distance", "pooled", "standardised"]

MOMENTS = (1, 2)


def discriminator(features: int, *, hidden: int, generator: torch.Generator) -> nn.Sequential:
    """Make a multi-layer perceptron that tells the target's features from the sources'; two hidden layers, as ADDA's.

    Args:
        features: Number of features.
        hidden: Width of both hidden layers.
        generator: Random generator of the initial weights.

    Returns:
        A network that maps features, shape (n, features), to logits that they are the target's, shape (n, 1).
    """
    made = nn.Sequential(
        nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
    )  # fmt: skip
    for name, parameter in made.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, a=0.2, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return made


def pooled(features: Tensor) -> Tensor:
    """Average feature maps over the grid: (n, C, h, w) → (n, C)."""
    return features.mean((2, 3))


def standardised(sources: Sequence[Tensor], target: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return features with mean 0 and deviation 1 over all samples of the sources; sources without a gradient.

    Args:
        sources: (n, C) of each source.
        target: (n, C).
    """
    plain = [source.detach() for source in sources]
    deviation, mean = torch.std_mean(torch.cat(plain), 0)
    return [(source - mean) / (deviation + 1e-5) for source in plain], (target - mean) / (deviation + 1e-5)


def moment_distance(sources: Sequence[Tensor], target: Tensor) -> Tensor:
    """Compute the mean distance between the target's and the sources' first and second moments, shape (); arguments of ``standardised``'s result."""
    found = [
        ((source**power).mean(0) - (target**power).mean(0)).norm() / target.shape[1] ** 0.5
        for source in sources
        for power in MOMENTS
    ]
    return torch.stack(found).mean()


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean difference of two logits layers' probabilities, shape (); logits, (n, classes)."""
    return (first.softmax(1) - second.softmax(1)).abs().mean()


def information(logits: Tensor) -> Tensor:
    """Compute the mean entropy of answers less the entropy of the mean answer, shape (); logits, (n, classes)."""
    each, whole = logits.log_softmax(1), logits.softmax(1).mean(0)
    return (-(each.exp() * each).sum(1)).mean() + (whole * (whole + 1e-12).log()).sum()
