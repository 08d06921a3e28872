"""Discrete layers: which mixtures count as exactly one template."""

import numpy as np
import pytest

from isoform.runtime.kinds.mixture.discrete import DISCRETE_GAP, discrete_sequence, sequence_of, xi_of
from isoform.runtime.kinds.mixture.kind import KIND


@pytest.mark.parametrize(("gap", "discrete"), [(9.0, False), (40.0, False), (700.0, False), (DISCRETE_GAP, True)])
def test_a_layer_is_discrete_if_no_other_template_has_a_weight(gap, discrete) -> None:
    """All answers agree, also where the largest weight is 1 in float64 and the others are not 0."""
    parts = {"mixture": np.array([[0.0, -DISCRETE_GAP], [-gap, 0.0]])}
    xi = xi_of(parts)
    assert (xi[1].max() == 1) == (gap >= 40)
    assert sequence_of(xi) == (0, 1 if discrete else None)
    assert discrete_sequence(xi) == ([0, 1] if discrete else None)
    assert KIND.describe(parts)["sequence"] == [0, 1 if discrete else None]
