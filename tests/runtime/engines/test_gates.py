"""Gates in the blocked layout: which are rewritten, that the answers are the same to the last bit, and when they are left alone."""

import dataclasses
import io

import numpy as np
import onnx
import pytest
import torch
from bench.swapping.any_graph import GRAPHS, Gated, exported, randomised, subject
from lifted import lifted_output
from onnx import TensorProto, helper, numpy_helper
from support import SMALL, make_bundle
from torch import nn

from isoform.compile.kinds.mixture.graph import portable_graph
from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.gates import for_batch
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.engines.onnx.plans.probe import lanes_of, probed_layout
from isoform.runtime.engines.onnx.plans.sized import ANY, BATCHES, Sessions
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import EngineError

LANES = lanes_of(probed_layout(), (4, 8, 16))
blocked = pytest.mark.skipif(LANES is None, reason="ONNX Runtime has no blocked layout on this processor")
SIZES = {
    "small": SMALL,
    "padded": dataclasses.replace(SMALL, channels=12, expansion=3),  # 36 channels, a multiple of neither 8 nor 16
    "sensor": dataclasses.replace(
        SMALL, input_shape=(6, 1, 64), adapter_kernel=(1, 8), kernel=5, mean=(0.0,) * 6, std=(1.0,) * 6
    ),
}


def is_the_same(made, plan, weights) -> None:
    """Every size gives what the graph of any size gives."""
    assert plan.batches == BATCHES
    for size in BATCHES:
        feeds = made.feeds(np.random.default_rng(size + 1), size)
        expected = lifted_output(plan, weights, feeds, made.output)
        assert np.ptp(expected) > 0
        assert np.array_equal(lifted_output(plan, weights, feeds, made.output, size=size), expected)


@blocked
@pytest.mark.parametrize("name", SIZES)
def test_our_networks_gates(name) -> None:
    """Every block's gate becomes a convolution, for one sample and for sixteen, and no logit changes by a bit."""
    bundle = make_bundle(SIZES[name])
    made = subject_of(portable_graph(bundle.spec, template=bundle.digest), bundle.network)
    plan = build_plan(made)
    nodes = [node.op_type for node in onnx.load_from_string(for_batch(plan.graph, 1)).graph.node]
    before = [node.op_type for node in onnx.load_from_string(plan.graph).graph.node]
    assert before.count("Mul") - nodes.count("Mul") == bundle.spec.layers
    assert nodes.count("Conv") - before.count("Conv") == bundle.spec.layers
    rng = np.random.default_rng(0)
    is_the_same(made, plan, {key: rng.normal(0, 0.4, shape).astype(np.float32) for key, shape in made.changing.items()})


@blocked
def test_gates_of_others() -> None:
    """Two MobileNetV3 blocks as torch writes them: both gates, one of 44 channels, and the same logits to the last bit."""
    made, values = subject("gated", exported("gated"))
    plan = build_plan(made)
    assert onnx.load_from_string(for_batch(plan.graph, 1)).graph.node != onnx.load_from_string(plan.graph).graph.node
    is_the_same(made, plan, randomised(values, 1))


class Other(Gated):
    """As Gated, with another product in the place of the second gate."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.blocks[1][6] = Product(kind)


class Product(nn.Module):
    """A product that is not one number per sample and channel."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one = kind, nn.Conv2d(44, 1, 1)

    def forward(self, y):
        """One number per pixel, per sample, per channel of all samples, or the gate of another network."""
        pooled = y.mean((2, 3), keepdim=True)
        if self.kind == "pixel":
            return y * torch.sigmoid(self.one(y))
        if self.kind == "sample":
            return y * torch.sigmoid(self.one(nn.functional.adaptive_avg_pool2d(y, 1)))
        if self.kind == "itself":
            return y * y
        return torch.relu(pooled) + y * torch.sigmoid(nn.functional.adaptive_avg_pool2d(y, 1))


@pytest.mark.parametrize("kind", ["pixel", "sample", "itself", "used twice"])
def test_what_is_no_gate_is_left_alone(kind, monkeypatch) -> None:
    """Other products stay as they are, or the plan does without: the answers are those of a session with constants, for every batch."""
    monkeypatch.setitem(GRAPHS, "other", dataclasses.replace(GRAPHS["gated"], make=lambda: Other(kind)))
    made, values = subject("other", exported("other"))
    plan, weights = build_plan(made), randomised(values, 1)
    for size in (1, 3, 16):
        feeds = made.feeds(np.random.default_rng(size), size)
        file = onnx.load_from_string(exported("other").SerializeToString())
        for tensor in file.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
        constant = open_session(file.SerializeToString(), session_options(1), what="torch's graph")
        expected = constant.run([made.output], feeds)[0]
        found = lifted_output(plan, weights, feeds, made.output, size=size if size in plan.batches else ANY)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("broken", [lambda graph, size: b"no graph", lambda graph, size: for_batch(graph, size + 1)])
def test_a_gate_that_does_not_run_is_left_out(broken, monkeypatch) -> None:
    """If a rewritten graph fails, or gives another number, the plan runs in its own graph."""
    made, _ = subject("gated", exported("gated"))
    monkeypatch.setattr(
        "isoform.runtime.engines.onnx.plans.sized._sized",
        lambda graph, size: graph if size == ANY else broken(graph, size),
    )
    assert build_plan(made).batches == ()


def test_slices() -> None:
    """Sixteen at a time, and what is left at once, but never a single one of many; without gates all at once."""
    cut = Sessions(b"", BATCHES, threads=1).slices
    assert [(size, part.stop - part.start) for size, part in cut(1)] == [(1, 1)]
    assert [(size, part.stop - part.start) for size, part in cut(15)] == [(ANY, 15)]
    assert [(size, part.stop - part.start) for size, part in cut(16)] == [(16, 16)]
    assert [(size, part.stop - part.start) for size, part in cut(33)] == [(16, 16), (ANY, 17)]
    assert [(size, part.stop - part.start) for size, part in cut(17)] == [(ANY, 17)]
    assert [(size, part.stop - part.start) for size, part in cut(35)] == [(16, 16), (16, 16), (ANY, 3)]
    assert [(size, part.stop - part.start) for size, part in cut(0)] == [(ANY, 0)]
    assert [*Sessions(b"", (), threads=1).slices(33)] == [(ANY, slice(0, 33))]


def test_bytes_that_are_no_graph_are_an_error() -> None:
    """A file that is cut short, or no protocol buffer, is one of ours; a graph without gates is None."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    file = io.BytesIO()
    onnx.save(helper.make_model(graph), file)
    assert for_batch(file.getvalue(), 1) is None
    with pytest.raises(EngineError):
        for_batch(file.getvalue()[:-3], 1)
