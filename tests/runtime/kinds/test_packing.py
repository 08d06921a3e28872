"""Cutting weights into blocks and putting them together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoform.runtime.kinds.alignment.packing import Cut


def plainly(cut: Cut, blocks: np.ndarray) -> np.ndarray:
    """The definition, number by number."""
    rows, columns, places = cut.grid
    out, into, *_ = cut.shape
    weight = np.full((out, into, places), np.nan)
    for number in range(cut.count):
        i, j, k = np.unravel_index(number, (rows, columns, places))
        for a in range(cut.m):
            for b in range(cut.n):
                if i * cut.n + b < out and j * cut.m + a < into:
                    weight[i * cut.n + b, j * cut.m + a, k] = blocks[number, a, b]
    return weight.reshape(cut.shape)


@given(
    out=st.integers(1, 9), into=st.integers(1, 9), kernel=st.lists(st.integers(1, 3), max_size=2),
    m=st.integers(1, 5), n=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_weights_are_put_together_as_defined(out, into, kernel, m, n) -> None:
    """Any shape and any block, edges that hang over included; numpy and torch alike."""
    cut = Cut((out, into, *kernel), m, n)
    blocks = np.random.default_rng(0).normal(size=(cut.count, m, n))
    expected = plainly(cut, blocks)
    assert not np.isnan(expected).any()
    assert np.array_equal(cut.weight(blocks), expected)
    assert np.array_equal(cut.weight(torch.from_numpy(blocks).flatten(1)).numpy(), expected)


@pytest.mark.parametrize(
    ("shape", "count"), [((16, 16, 5, 5), 25), ((128, 576), 288), ((96, 128), 48), ((1024, 256), 1024)]
)
def test_counts_of_the_paper(shape, count) -> None:
    """The layers of LeNet, and a matrix of an LSTM with 256 states."""
    assert Cut(shape, 16, 16).count == count
