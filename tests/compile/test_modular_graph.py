"""Modular networks: torch, the numpy twin, the graphs of single masks and that of any mask compute the same, in every engine."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
from modular import ALL, NORMED, PLAIN, random_bundle, random_mask, samples

from isoform.compile.build import compile_bundle
from isoform.compile.kinds.allocation.exporter import EXPORTER
from isoform.compile.kinds.allocation.graph import weightless_graph
from isoform.runtime import Runtime
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.kind import HEAD
from isoform.runtime.kinds.allocation.masks import ANY, name_of
from isoform.runtime.kinds.allocation.spec import LayerSizes
from isoform.train.data.samples import Dataset, Split


def logits(bundle, graph, task, x):
    """Logits by a graph whose weights are folded for a task."""
    parts = bundle.resolve(bundle.base(task)).parts
    made = bundle.network.graph(graph)
    file = weightless_graph(bundle.spec, mask=made.mask, template=bundle.digest)
    weights = made.fold(parts)
    assert [*weights] == [*made.weights, *HEAD]
    session = portable_session(file, weights, threads=1)
    return session.run(None, {"image": x, **{name: weights[name] for name in HEAD}})[0]


@pytest.mark.parametrize("name", ALL)
def test_all_compute_the_same(name) -> None:
    """Random masks, one of them with all components and one with one of each layer: four implementations within 1e-5."""
    spec, rng = ALL[name], np.random.default_rng(0)
    one = np.zeros_like(np.array(spec.exists))
    one[:, -2 if spec is PLAIN else 0] = True
    masks = [np.array(spec.exists), one & np.array(spec.exists), *(random_mask(spec, rng) for _ in range(4))]
    bundle, x = random_bundle(spec, masks), samples(spec, 5)
    for number, mask in enumerate(masks):
        task = f"task{number}"
        parts = bundle.resolve(bundle.base(task)).parts
        expected = EXPORTER.trained(bundle, bundle.base(task))(x)
        assert np.abs(expected).max() > 0.1
        for found in (
            bundle.network.reference(task, parts, x),
            logits(bundle, name_of(mask), task, x),
            logits(bundle, ANY, task, x),
        ):
            assert np.abs(found - expected).max() < 1e-5


def test_a_layer_without_components() -> None:
    """Its output is zero, in the graph for any mask as in torch; no graph is made for such a mask alone."""
    mask = np.array(NORMED.exists)
    mask[1] = False
    bundle, x = random_bundle(NORMED, [mask]), samples(NORMED, 4)
    parts = bundle.resolve(bundle.base("task0")).parts
    assert bundle.network.graphs("task0", parts) == (ANY,)
    expected = EXPORTER.trained(bundle, bundle.base("task0"))(x)
    assert np.abs(logits(bundle, ANY, "task0", x) - expected).max() < 1e-5
    assert np.abs(bundle.network.reference("task0", parts, x) - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).max() < 1e-6


def test_pruned_graphs_hold_what_is_used() -> None:
    """A graph of one mask has its components alone; equal convolutions of a layer are one node, whose output is split."""
    mask = np.array([[1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]], dtype=bool)
    pruned = onnx.load_from_string(weightless_graph(NORMED, mask=mask, template="0" * 64))
    names = [tensor.name for tensor in pruned.graph.initializer]
    assert [name for name in names if name.startswith("layer00")] == [
        "layer00.components00.weight", "layer00.components00.bias", "layer00.components00.gamma", "layer00.components00.beta",
        "layer00.component04.gate", "layer00.gamma", "layer00.beta",
    ]  # fmt: skip
    shapes = {tensor.name: tuple(tensor.dims) for tensor in pruned.graph.initializer}
    assert shapes["layer00.components00.weight"] == (16, 8, 3, 3)
    operators = [node.op_type for node in pruned.graph.node]
    assert operators.count("Conv") == 2  # the stem, and both convolutions
    assert operators.count("Split") == 1
    assert "MaxPool" not in operators
    whole = onnx.load_from_string(weightless_graph(NORMED, mask=None, template="0" * 64))
    assert len(whole.graph.node) > 2 * len(pruned.graph.node)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compiled bundle of four tasks, two of which have the same mask, one all components, and one an empty layer."""
    rng = np.random.default_rng(1)
    first, empty = random_mask(NORMED, rng), np.array(NORMED.exists)
    empty[0] = False
    bundle = random_bundle(NORMED, [first, first, np.array(NORMED.exists), empty])
    path = tmp_path_factory.mktemp("modular") / "bundle"
    bundle.write(path)
    halves = [Split(images=samples(NORMED, 40, seed), labels=np.arange(40) % 3) for seed in (1, 2)]
    datasets = {
        task: Dataset(train=halves[0], test=halves[1], classes=("c0", "c1", "c2")) for task in bundle.signatures
    }
    return path, compile_bundle(path, datasets=datasets)


def test_compiling(compiled) -> None:
    """One graph per mask and one for any, the report says what is in use and what that is worth, and parity is checked."""
    path, report = compiled
    graphs = sorted(file.name for file in (path / "compiled").glob("*.onnx"))
    assert len(graphs) == 3
    assert graphs[0] == "any-mask.onnx"
    for entry in report["tasks"].values():
        assert 0 < entry["pruned_over_full_latency"] < 3
        assert entry["verified"]["torch_fast"] < 1e-5
        assert entry["size_bytes"]["fast"] <= entry["full_bytes"]
    assert report["tasks"]["task2"]["active_share"] == 1
    assert report["tasks"]["task0"]["allocation"] == report["tasks"]["task1"]["allocation"]


@pytest.mark.parametrize("engine", ["onnx", "sessions", "reference"])
def test_engines(compiled, engine, tmp_path, monkeypatch) -> None:
    """Every engine gives the reference's logits for tasks in turn, and for a mask that no graph was compiled for."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    x = samples(NORMED, 3)
    with Runtime.open(compiled[0], engine=engine) as runtime:
        mask = random_mask(NORMED, np.random.default_rng(9))
        base = runtime.signature("task0")
        other = base.replace(parts={"allocation": mask}, base=base.digest, labels=None)
        for signature in [*(runtime.signature(task) for task in runtime.tasks), other] * 2:
            resolved = runtime.bundle.resolve(signature)
            expected = runtime.bundle.network.reference(resolved.task, resolved.parts, x)
            assert np.abs(runtime.predict(x, signature) - expected).max() < 1e-5
    with Runtime.open(compiled[0], engine=engine) as runtime:  # with the stored plans
        found = runtime.predict(x, other)
        assert np.abs(found - expected).max() < 1e-5


def test_the_same_file_of_two_graphs(compiled, tmp_path, monkeypatch, caplog) -> None:
    """A mask of all components has the file of any mask, with other constants: their stored plans must not be mixed up."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with Runtime.open(compiled[0], engine="onnx") as runtime:
            graphs = runtime.bundle.require_compiled().graphs
            whole = name_of(np.array(NORMED.exists))
            assert graphs[whole] == graphs[ANY]
            runtime.predict(samples(NORMED, 1), runtime.signature("task2"))
            runtime.predict(samples(NORMED, 1), runtime.signature("task3"))
    assert caplog.text == ""
    assert len([*(tmp_path / "cache").iterdir()]) == 3


def test_tasks_of_one_mask_share_a_session(compiled) -> None:
    """Nothing but the logits layer differs between them, so their entries in the cache are no larger than that."""
    with Runtime.open(compiled[0], engine="onnx") as runtime:
        before = runtime.stats()["shared_bytes"]
        for task in ("task0", "task1"):
            runtime.predict(samples(NORMED, 1), runtime.signature(task))
        stats = runtime.stats()
        head = sum(copy.copy(runtime.signature("task0").parts[name]).nbytes for name in HEAD)
        assert stats["bytes"] == 2 * head
        assert stats["shared_bytes"] == before


def test_masks_share_their_weights(tmp_path, monkeypatch) -> None:
    """Two masks that differ in one component hold every large weight once, and give the logits of engines that do not share."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    components = ("conv3x3-conv3x3", "conv5x5-conv5x5", "avgpool3x3")
    spec = dataclasses.replace(NORMED, channels=32, layers=(LayerSizes(components=components),) * 2)
    masks = [np.ones((2, 3), dtype=bool), np.array([[1, 1, 1], [1, 0, 1]], dtype=bool)]
    bundle = random_bundle(spec, masks)
    bundle.write(tmp_path / "bundle")
    halves = [Split(images=samples(spec, 9, seed), labels=np.arange(9) % 3) for seed in (1, 2)]
    data = {task: Dataset(train=halves[0], test=halves[1], classes=("c0", "c1", "c2")) for task in bundle.signatures}
    compile_bundle(tmp_path / "bundle", datasets=data)
    large = {name: array.nbytes for name, array in bundle.tensors.items() if array.nbytes >= 4096}
    assert len(large) == 8
    with Runtime.open(tmp_path / "bundle", engine="onnx") as runtime:
        for task in [*runtime.tasks] * 2:
            for count in (1, 5):
                x, signature = samples(spec, count), runtime.signature(task)
                parts = bundle.resolve(signature).parts
                expected = bundle.network.reference(task, parts, x)
                assert np.abs(runtime.predict(x, signature) - expected).max() < 1e-5
        assert runtime.stats()["shared_bytes"] == sum(large.values())
