"""What a base saw of its training samples: measured, written by ``isoform compile``, read back, refused when damaged."""

import dataclasses

import numpy as np
import pytest

from isoform.compile.kinds.mixture.training import training_graphs
from isoform.runtime import BundleError
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.measure import measure_source
from isoform.runtime.kinds.mixture.reference import reference_logits
from isoform.runtime.learn.source import Source


@pytest.fixture
def source(runtime) -> Source:
    """The facts of task plain."""
    name = "source/plain.safetensors"
    data = runtime.bundle.require_compiled().read(name)
    return Source.decode(data, parts=runtime.bundle.resolve(runtime.signature("plain")).parts, name=name)


def test_what_it_says(source, runtime) -> None:
    """Channels differ between samples; classes differ around zero; F is a square."""
    n = runtime.bundle.spec.bn_channels
    assert source.spread.shape == (2, n)
    assert source.classes.shape == (10, 2, n)
    assert np.abs(source.classes.mean(axis=0)).max() < 0.01
    assert source.fisher["mixture"].min() >= 0
    assert source.fisher["bn.affine"].max() > 0
    within = (source.classes**2).mean(axis=0) / source.spread.astype(np.float64) ** 2
    assert 0 < np.median(within) < 1  # classes are a part of how samples differ


def test_measured_by_hand(runtime, samples) -> None:
    """The first BN's spread and class means are those of the stem's convolution, in the base's units."""
    x, labels = np.array(samples[0][:60]), samples[1][:60]
    bundle, base = runtime.bundle, runtime.signature("plain")
    spec, parts = bundle.spec, bundle.resolve(base).parts
    blocks = open_blocks(spec, training_graphs(spec), threads=1)
    found = measure_source(spec, bundle.tensors, parts, x, labels, classes=10, run_on=blocks)
    kh, kw = spec.adapter_kernel
    cut = (x - spec.mean[0]) / spec.std[0]
    cut = cut.reshape(60, spec.grid[0], kh, spec.grid[1], kw).transpose(0, 1, 3, 2, 4).reshape(60, -1, kh * kw)
    u = cut @ bundle.tensors["input_adapter.weight"].reshape(spec.channels, -1).T
    mean, variance = parts["bn.statistics"][:, : spec.channels]
    rows = np.stack([(u - mean).mean(axis=1) / np.sqrt(variance), ((u - mean) ** 2).mean(axis=1) / variance])
    assert found.spread[:, : spec.channels] == pytest.approx(rows.std(axis=1), rel=1e-3)
    classes = np.stack([rows[:, labels == label].mean(axis=1) for label in range(10)])
    classes -= classes.mean(axis=0)
    assert found.classes[:, :, : spec.channels] == pytest.approx(classes, rel=1e-2, abs=1e-3)
    assert reference_logits(spec, bundle.tensors, parts, x).shape == (60, 10)


def test_round_trip(source, runtime) -> None:
    """Written and read, it says the same; classes to float16."""
    parts = runtime.bundle.resolve(runtime.signature("plain")).parts
    again = Source.decode(source.encode(), parts=parts, name="x")
    assert np.array_equal(again.spread, source.spread)
    assert np.array_equal(again.classes, source.classes)
    assert again.encode() == source.encode()


def test_a_damaged_one_is_refused(source, runtime) -> None:
    """Cut short, of another network, not finite, or with a spread of nothing: said in one line, with the remedy."""
    parts = runtime.bundle.resolve(runtime.signature("plain")).parts
    with pytest.raises(BundleError, match="valid tensor file|cut short"):
        Source.decode(source.encode()[:-1], parts=parts, name="x")
    with pytest.raises(BundleError, match="does not fit the network; run 'isoform compile' again"):
        Source.decode(source.encode(), parts={**parts, "bn.affine": parts["bn.affine"][:, 1:]}, name="x")
    for bad in (np.nan, 0.0):
        spread = source.spread.copy()
        spread[0, 0] = bad
        with pytest.raises(BundleError, match="not finite or out of range"):
            Source.decode(dataclasses.replace(source, spread=spread).encode(), parts=parts, name="x")
