"""Plans of graphs that nobody made for us: torch's exporter writes them, and every weight of them becomes an input."""

import dataclasses
import time

import numpy as np
import pytest
from bench.swapping.any_graph import GRAPHS, exported, randomised, subject
from lifted import lifted_output
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from isoform.runtime.engines import engine as engines
from isoform.runtime.engines.onnx import plan_engine
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.plans import builder as module
from isoform.runtime.engines.onnx.plans import disk
from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.choice import PAYS, over
from isoform.runtime.engines.onnx.plans.plan import Subject
from isoform.runtime.engines.onnx.plans.trial import check_plan
from isoform.runtime.errors import EngineError
from isoform.runtime.runtime import Runtime


def outputs(made: Subject, plan, weights, feeds):
    """What a session with constants gives, and what the plan gives."""
    constant = portable_session(made.graph, made.in_order({**made.constants, **weights}), threads=1).run(
        [made.output], feeds
    )[0]
    return constant, lifted_output(plan, {name: weights[name] for name in made.changing}, feeds, made.output)


@pytest.mark.parametrize("name", GRAPHS)
def test_any_graph_has_a_plan(name, tmp_path, monkeypatch) -> None:
    """LeNet, a residual block, a tied LSTM, DeepBind, a large product: other weights each time, batches of 1, 3 and 16, as constants give it."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path))
    made, values = subject(name, exported(name))
    plan = disk.cached_plan(made)
    again = disk.cached_plan(made)
    assert np.array_equal(again.layout.gather, plan.layout.gather)
    assert set(plan.layout.gather.tolist()) >= set(range(1, sum(array.size for array in values.values()) + 1))
    rng = np.random.default_rng(0)
    for seed, samples in enumerate((1, 3, 16)):
        expected, found = outputs(made, plan, randomised(values, seed), made.feeds(rng, samples))
        assert expected.shape[0] == samples
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_frozen_front_stays_constant(monkeypatch) -> None:
    """Weights that no signature changes are written in as they are, however many there are, wherever they stand; the others are inputs."""
    model = exported("lenet")
    made, values = subject("lenet", model, constants=lambda name: name.startswith(("0.", "7.")))
    monkeypatch.setattr(module, "EXACT", 1 << 14)  # the frozen ones alone are more
    assert sum(array.size for array in made.constants.values()) > 1 << 14
    plan = build_plan(made)
    changing = {name: array for name, array in values.items() if name in made.changing}
    assert len(plan.layout.weights) == len(changing) == 6
    expected, found = outputs(made, plan, randomised(changing, 1), made.feeds(np.random.default_rng(0), 2))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    with pytest.raises(EngineError, match="layouts are learned for fewer than"):
        build_plan(subject("lenet", model)[0])


def drawn(nodes, weights, constants=None) -> Subject:
    """A graph from x (n, 4) to y, with external weights and constants in the file."""
    model = helper.make_model(
        helper.make_graph(
            nodes, "drawn", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
            [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    start = 0
    for name, shape in weights.items():
        tensor = model.graph.initializer.add(
            name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
        )
        size = 4 * int(np.prod(shape))
        for key, value in (("location", "weights"), ("offset", start), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        start += size
    return Subject(
        graph=model.SerializeToString(), weights=weights, constants={}, output="y",
        feeds=lambda rng, samples: {"x": rng.normal(size=(samples, 4)).astype(np.float32)},
    )  # fmt: skip


def test_constants_are_no_weights() -> None:
    """A graph with 1, 2, 3 and 0.5 in it: whole numbers of the graph's own are not taken for weights."""
    nodes = [
        helper.make_node("Mul", ["x", "steps"], ["scaled"]), helper.make_node("MatMul", ["scaled", "w"], ["product"]),
        helper.make_node("Mul", ["product", "half"], ["y"]),
    ]  # fmt: skip
    made = drawn(nodes, {"w": (4, 3)}, {"steps": [1, 2, 3, 4], "half": [0.5]})
    plan = build_plan(made)
    assert len(plan.layout.weights) == 1
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    expected, found = outputs(made, plan, weights, made.feeds(np.random.default_rng(1), 5))
    assert np.allclose(found, expected, rtol=0, atol=1e-5)


def test_weights_that_are_computed_with_have_no_plan() -> None:
    """The optimiser adds two weights, doubles one, or fuses BN into a convolution: their index numbers are nowhere, and that is said."""
    added = [helper.make_node("Add", ["v", "w"], ["sum"]), helper.make_node("MatMul", ["x", "sum"], ["y"])]
    doubled = [helper.make_node("Mul", ["w", "two"], ["wide"]), helper.make_node("MatMul", ["x", "wide"], ["y"])]
    for made in (drawn(added, {"v": (4, 3), "w": (4, 3)}), drawn(doubled, {"w": (4, 3)}, {"two": [2]})):
        with pytest.raises(EngineError, match="computed with weight '[vw]' instead of moving it|differ by"):
            build_plan(made)
    GRAPHS["bn"] = dataclasses.replace(
        GRAPHS["lenet"],
        make=lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 26 * 26, 4)),
    )
    try:
        model = exported("bn")
        if any(node.op_type == "BatchNormalization" for node in model.graph.node):  # else the exporter has folded it
            with pytest.raises(EngineError, match="computed with weight"):
                build_plan(subject("bn", model)[0])
    finally:
        del GRAPHS["bn"]


def test_an_unused_weight_has_no_plan() -> None:
    """A weight that no node reads is dropped by ONNX Runtime, so nobody can say where it lies."""
    made = drawn([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": (4, 3), "idle": (2,)})
    with pytest.raises(EngineError, match="weight 'idle'"):
        build_plan(made)


def test_a_plan_of_another_graph_is_noticed(tmp_path) -> None:
    """The self-test's row of one graph is not another's."""
    one, other = (subject("deepbind", exported("deepbind", seed=seed))[0] for seed in (0, 0))
    plan = build_plan(one)
    check_plan(plan, other)
    with pytest.raises(EngineError, match="differ"):
        check_plan(dataclasses.replace(plan, expected=plan.expected + 1), one)


def test_how_much_longer() -> None:
    """The least of several rounds of medians, in turn."""
    assert 0.5 < over(lambda: time.sleep(1e-3), lambda: time.sleep(1e-3)) < 1.5
    assert over(lambda: time.sleep(4e-3), lambda: time.sleep(1e-3)) > 2
    assert over(lambda: time.sleep(1e-3), lambda: time.sleep(4e-3)) < 0.5


def test_a_slow_plan_is_not_chosen_by_itself(compiled, runtime, samples, monkeypatch, caplog) -> None:
    """Where the plan takes clearly longer than a session, ``auto`` takes sessions and says so once; ``onnx`` by name stays."""
    real = plan_engine.cached_plan
    assert runtime.engine == "onnx"
    assert 0 < runtime.stats()["plan_over_session"] <= PAYS
    monkeypatch.setattr(plan_engine, "cached_plan", lambda made: dataclasses.replace(real(made), over_session=1.4))
    x = samples[0][:2]
    with Runtime.open(compiled) as chosen, Runtime.open(compiled, engine="onnx") as named:
        assert (chosen.engine, named.engine) == ("sessions", "onnx")
        assert caplog.text.count("takes 1.40 times as long per run as a session; falling back to engine sessions") == 1
        for task in chosen.tasks:
            expected = runtime.predict(x, runtime.signature(task))
            for other in (chosen, named):
                assert np.abs(other.predict(x, other.signature(task)) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert engines.BY_ITSELF[0] == "onnx"
