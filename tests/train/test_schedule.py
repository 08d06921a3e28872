"""Learning rates over a run."""

import pytest

from isoform.train.schedule import falling, held


def test_learning_rates() -> None:
    """Both warm up linearly; one falls to nothing by the last step, the other stays."""
    assert [falling(0.01, step, 100, warmup=10) for step in (0, 50)] == pytest.approx([0.001, 0.005])
    assert falling(0.01, 99, 100, warmup=10) < 1e-5
    assert [held(0.2, step, warmup=10) for step in (0, 4, 9, 99)] == pytest.approx([0.02, 0.1, 0.2, 0.2])
