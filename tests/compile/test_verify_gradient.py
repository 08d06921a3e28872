"""The gate before training graphs are written."""

import numpy as np
import onnx
import pytest
from figures import passing

from isoform.compile.kinds.mixture import verify_gradient
from isoform.compile.kinds.mixture.training import training_graphs
from isoform.compile.kinds.mixture.verify_gradient import gradient_gap
from isoform.compile.verify import GRADIENT_LIMIT, check
from isoform.runtime.errors import CompileError
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.train.data.samples import Split


def test_a_wrong_graph_is_noticed(runtime, samples) -> None:
    """The exported product agrees with torch on real samples; one with another slope in it does not."""
    bundle = runtime.bundle
    test = Split(images=np.array(samples[0]), labels=samples[1].astype(np.int64))
    graphs = training_graphs(bundle.network.spec)
    gap = gradient_gap(bundle, "plain", test, open_blocks(bundle.network.spec, graphs, threads=1))
    assert gap <= GRADIENT_LIMIT
    check({"plain": passing(gradient=gap)}, max_drop_points=0.5)
    for name in graphs:
        if name.startswith("block_vjp"):
            model = onnx.load_from_string(graphs[name])
            (half,) = (entry for entry in model.graph.initializer if entry.name == "float32 0.5")
            half.raw_data = np.float32(0.51).tobytes()
            graphs[name] = model.SerializeToString()
    gap = gradient_gap(bundle, "plain", test, open_blocks(bundle.network.spec, graphs, threads=1))
    with pytest.raises(CompileError, match="task 'plain': gradients differ by .*; nothing was written"):
        check({"plain": passing(gradient=gap)}, max_drop_points=0.5)


def test_the_gate_refuses_what_is_no_number() -> None:
    """NaN is no agreement, of gradients or of logits; a kind without graphs for learning has no gradient to agree."""
    check({"a": passing(gradient=None)}, max_drop_points=0.5)
    with pytest.raises(CompileError, match="gradients differ by nan"):
        check({"a": passing(gradient=float("nan"))}, max_drop_points=0.5)


@pytest.mark.trust
def test_logits_that_are_not_finite_verify_nothing() -> None:
    """Infinite logits would allow an infinite difference."""
    check({"a": passing()}, max_drop_points=0.5)
    for gap in (np.inf, np.nan, 1.0):
        with pytest.raises(CompileError, match="logits differ by"):
            check({"a": passing(gaps={"torch_fast": gap}, largest_logit=np.inf)}, max_drop_points=0.5)


def test_a_sample_on_a_kink_does_not_count(runtime, samples, monkeypatch) -> None:
    """One sample of 32 whose gradient is wrong by a hundredth, as float32 finds it on the kink of an activation, is no wrong graph."""
    bundle, real, calls = runtime.bundle, verify_gradient.cross_entropy, iter(range(1000))

    def kinked(logits, labels):
        loss, slope = real(logits, labels)
        if next(calls) == 3:
            slope[0] *= 1.05
        return loss, slope

    monkeypatch.setattr(verify_gradient, "cross_entropy", kinked)
    test = Split(images=np.array(samples[0]), labels=samples[1].astype(np.int64))
    blocks = open_blocks(bundle.network.spec, training_graphs(bundle.network.spec), threads=1)
    assert gradient_gap(bundle, "plain", test, blocks) <= GRADIENT_LIMIT
    assert next(calls) > 4
