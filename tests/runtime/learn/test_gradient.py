"""Gradients on the device, against torch autograd and against finite differences."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.block import block_forward_graph, file_of
from isoform.compile.kinds.mixture.block_vjp import BlockProduct, block_vjp_graph
from isoform.compile.kinds.mixture.training import probe_graph, training_graphs
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import EngineError
from isoform.runtime.kinds.mixture.fold import fold, row_shapes
from isoform.runtime.kinds.mixture.learn import blocks
from isoform.runtime.kinds.mixture.learn.arrange import forward_feeds, named_gradients, vjp_feeds
from isoform.runtime.kinds.mixture.learn.blocks import open_blocks
from isoform.runtime.kinds.mixture.learn.chain import signature_gradient
from isoform.runtime.kinds.mixture.learn.lanes import LANES, probed_lanes, run
from isoform.runtime.kinds.mixture.learn.network import FoldedNetwork
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.learn.learner import BATCH
from isoform.runtime.learn.loss import cross_entropy
from isoform.train.kinds.mixture.bundling import network_from_bundle

SPECS = {
    "small": SMALL,
    "quickstart": dataclasses.replace(
        SMALL, input_shape=(1, 32, 32), adapter_kernel=(4, 4), channels=24, head_channels=72, layers=8, templates=4
    ),
    "large": dataclasses.replace(
        SMALL, input_shape=(3, 64, 64), adapter_kernel=(16, 16), channels=40, expansion=6, head_channels=240, layers=4,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
    ),
    "sensor": dataclasses.replace(
        SMALL, input_shape=(6, 1, 64), adapter_kernel=(1, 8), kernel=5, mean=(0.1,) * 6, std=(2.0,) * 6
    ),
}  # fmt: skip


def relative(found, expected) -> float:
    """Largest difference over the largest expected number."""
    expected = np.asarray(expected, dtype=np.float64)
    return float(np.abs(np.asarray(found, dtype=np.float64) - expected).max() / np.abs(expected).max())


def device_gradient(bundle, signature, x, labels) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and gradients of the mean cross entropy, without torch."""
    spec, parts = bundle.spec, bundle.resolve(signature).parts
    network = FoldedNetwork(spec, open_blocks(spec, training_graphs(spec), threads=1))
    weights = fold(spec, bundle.tensors, parts)
    logits, kept = network.forward(weights, x)
    gradients = network.backward(weights, kept, cross_entropy(logits, labels)[1])
    own = "bn.affine" in signature.parts
    return logits, signature_gradient(spec, bundle.tensors, parts, gradients, own_affine=own)


def torch_gradient(bundle, signature, x, labels) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same with torch autograd, in float64."""
    network = network_from_bundle(bundle, {"task": signature}).double()
    logits = network(torch.from_numpy(x).double(), 0)
    F.cross_entropy(logits, torch.from_numpy(labels)).backward()
    found = {
        "mixture": network.mixture.grad[0], "bn.affine": network.bn_affine.grad[0],
        "logits.weight": network.heads[0].grad, "logits.bias": network.heads[1].grad,
    }  # fmt: skip
    return logits.detach().numpy(), {name: gradient.numpy() for name, gradient in found.items()}


def check(bundle, signature, x, labels) -> None:
    """Every part's gradient is torch's, to 1e-4 of its largest number."""
    logits, found = device_gradient(bundle, signature, x, labels)
    expected_logits, expected = torch_gradient(bundle, signature, x, labels)
    assert relative(logits, expected_logits) <= 1e-5
    if bundle.spec.affine == "mixed":  # torch's parameter holds only the adapters' there
        c, h = bundle.spec.channels, bundle.spec.head_channels
        found["bn.affine"], expected["bn.affine"] = (
            np.concatenate([value["bn.affine"][:, :c], value["bn.affine"][:, -h:]], axis=1)
            for value in (found, expected)
        )
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0
        assert relative(found[name], gradient) <= 1e-4, name


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
@pytest.mark.parametrize("name", SPECS)
def test_gradient_of_every_part_is_autograds(name, affine) -> None:
    """Mixture, BN affine and logits layer, for four sizes of network, wherever γ and β live."""
    bundle = make_bundle(dataclasses.replace(SPECS[name], affine=affine), seed=1)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (7, *bundle.spec.input_shape)).astype(np.float32)
    check(bundle, bundle.signatures["a"], x, rng.integers(0, 3, 7))


def test_gradient_on_real_samples(runtime, samples) -> None:
    """Trained templates, real digits: the same, for every domain, from soft signatures and from discrete ones."""
    x, labels = np.array(samples[0][:32]), samples[1][:32].astype(np.int64)
    for task in runtime.tasks:
        base = runtime.bundle.signatures[task]
        mixture = base.parts["mixture"] / 4  # far from one-hot, where the softmax has a slope
        check(runtime.bundle, base.replace(parts={**base.parts, "mixture": mixture}), x, labels)


def test_gradient_is_the_slope_of_the_loss() -> None:
    """A step along the gradient changes the loss by what the gradient says."""
    bundle = make_bundle(SMALL)
    base, rng = bundle.signatures["a"], np.random.default_rng(1)
    x, labels = rng.uniform(0, 1, (6, *SMALL.input_shape)).astype(np.float32), rng.integers(0, 3, 6)
    _, gradient = device_gradient(bundle, base, x, labels)

    def loss(signature) -> float:
        logits = torch_gradient(bundle, signature, x, labels)[0]
        return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))

    for name in ("mixture", "logits.weight", "logits.bias"):
        step = 1e-3 / np.linalg.norm(gradient[name])
        sides = [
            loss(
                base.replace(
                    parts={**base.parts, name: base.parts[name].astype(np.float64) + sign * step * gradient[name]}
                )
            )
            for sign in (1, -1)
        ]
        assert sides[0] - sides[1] == pytest.approx(2 * step * (gradient[name] ** 2).sum(), rel=2e-2)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_block_graphs_are_torchs_block(name, blocked) -> None:
    """One block alone, in both forms: its output, and every gradient of its product."""
    spec = SPECS[name]
    lanes = probed_lanes(probe_graph()) if blocked else None
    if blocked and lanes is None:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    spec, rng = dataclasses.replace(spec, layers=1), np.random.default_rng(0)
    forward, vjp = (
        open_session(graph, session_options(1), what="a block")
        for graph in (block_forward_graph(spec, lanes=lanes), block_vjp_graph(spec, lanes=lanes))
    )
    weights = {
        f"layer00.{key}": rng.normal(0, 0.4, shape).astype(np.float32) for key, shape in row_shapes(spec).items()
    }
    for part in ("expand", "depthwise", "project"):
        channels = len(weights[f"layer00.{part}.weight"])
        weights[f"layer00.{part}.bias"] = rng.normal(0, 0.4, channels).astype(np.float32)
    x, g = (rng.normal(0, 0.4, (BATCH, spec.channels, *spec.grid)).astype(np.float32) for _ in range(2))
    w = {key.removeprefix("layer00."): torch.from_numpy(v).double().requires_grad_() for key, v in weights.items()}
    w["x"] = torch.from_numpy(x).double().requires_grad_()
    h = F.hardswish(F.conv2d(w["x"], w["expand.weight"], w["expand.bias"]))
    y = F.conv2d(h, w["depthwise.weight"], w["depthwise.bias"], padding=spec.kernel // 2, groups=spec.expanded)
    y = F.hardswish(y)
    r = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), w["squeeze.weight"], w["squeeze.bias"]))
    q = F.hardsigmoid(F.conv2d(r, w["excite.weight"], w["excite.bias"]))
    output = w["x"] + F.conv2d(y * q, w["project.weight"], w["project.bias"])
    output.backward(torch.from_numpy(g).double())
    names = [entry.name for entry in forward.get_outputs()]
    kept = dict(zip(names, run(forward, {"x": x, **forward_feeds(spec, weights, lanes)[0]}), strict=True))
    assert relative(kept.pop("output"), output.detach()) <= 1e-5
    names = [entry.name for entry in vjp.get_outputs()]
    feed = {"x": x, "g": g, **kept, **vjp_feeds(spec, weights, lanes)[0]}
    found = dict(zip(names, run(vjp, feed), strict=True))
    gradients = {"x": found["x.gradient"], **named_gradients(spec, found, lanes)}
    assert set(gradients) == set(w)
    for key, gradient in gradients.items():
        assert relative(gradient, w[key].grad) <= 1e-4, key


def test_a_training_graph_that_is_none_is_refused() -> None:
    """ONNX Runtime's refusal becomes one line of ours."""
    with pytest.raises(EngineError, match="refused a training graph"):
        open_blocks(SMALL, dict.fromkeys(training_graphs(SMALL), b"no"), threads=1)


def test_the_slope_at_its_corners() -> None:
    """At ±3, and one float to either side, the hard swish's slope is exact: no float lies on the steep sigmoid's slope."""
    u = np.array([[-3, 3]], dtype=np.float32)
    u = np.concatenate([np.nextafter(u, -9), u, np.nextafter(u, 9), [[-1e30, 1e30]]]).astype(np.float32)
    nodes = BlockProduct(SMALL, None)
    nodes.hard_swish("u", "h")
    nodes.times_slope("g", "u", "slope")
    graph = file_of(nodes, {"u": list(u.shape), "g": list(u.shape)}, {"slope": list(u.shape)})
    (found,) = open_session(graph, session_options(1), what="the slope").run(None, {"u": u, "g": np.ones_like(u)})
    expected = np.where(np.abs(u) < 3, u / 3 + np.float32(0.5), u > 0)
    assert np.abs(found - expected).max() <= 3e-7


def test_blocked_graphs_that_compute_something_else_are_not_used(caplog) -> None:
    """Another processor's blocked graphs, or damaged ones, are noticed; the plain ones run, and that is said."""
    spec = SPECS["quickstart"]
    graphs = training_graphs(spec)
    lanes = probed_lanes(graphs["probe.onnx"])
    if lanes is None:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    assert open_blocks(spec, graphs, threads=1).lanes == lanes
    assert not caplog.messages
    (other,) = set(LANES) - {lanes}
    for name in ("block_forward", "block_depthwise", "block_vjp"):
        for replacement in (graphs[f"{name}_{other}.onnx"], b"no"):
            changed = {**graphs, f"{name}_{lanes}.onnx": replacement}
            assert open_blocks(spec, changed, threads=1).lanes is None
            assert "the fast training graphs cannot be used" in caplog.messages[-1]
    assert probed_lanes(b"no") is None
    assert probed_lanes(graphs["block_forward.onnx"]) is None


def scaled(graph: bytes, output: str, factor: float) -> bytes:
    """A graph in which one output is multiplied by a factor."""
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{output} unscaled" if name == output else name for name in names]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", [f"{output} unscaled", "factor"], [output]))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def wide() -> tuple[NetworkSpec, dict[str, bytes], int]:
    """A network with so many activations that some are close to a kink; its training graphs, and this machine's lanes."""
    spec = dataclasses.replace(SPECS["large"], adapter_kernel=(4, 4), expansion=8)
    graphs = training_graphs(spec)
    lanes = probed_lanes(graphs["probe.onnx"])
    if lanes is None:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    return spec, graphs, lanes


def test_rounding_at_a_kink_does_not_refuse_the_blocked_graphs(wide, caplog) -> None:
    """Activations that rounding moves across ±3, where the slope jumps, change single gradients, which is no fault."""
    spec, graphs, lanes = wide
    name = f"block_forward_{lanes}.onnx"
    # rounding on a larger scale, so that it happens with these random numbers: the gradients of its own forward pass differ
    graphs = {**graphs, name: scaled(graphs[name], "d", 1 + 5e-5)}
    assert open_blocks(spec, graphs, threads=1).lanes == lanes
    assert not caplog.messages
    own = [blocks._results(spec, blocks._opened(graphs, kind, 1))["x.gradient"] for kind in (None, lanes)]
    assert not blocks._equal(*own)


@pytest.mark.parametrize(
    ("graph", "output"),
    [
        ("forward", "output"), ("forward", "a"), ("forward", "d"), ("forward", "z"), ("forward", "r"), ("forward", "q0"),
        ("vjp", "x.gradient"), ("vjp", "expand"), ("vjp", "depthwise"), ("vjp", "depthwise.bias"), ("vjp", "squeeze"),
        ("vjp", "squeeze.bias"), ("vjp", "excite"), ("vjp", "excite.bias"), ("vjp", "project"), ("vjp", "project.bias"),
        ("depthwise", "output"), ("depthwise", "sample mean"), ("depthwise", "sample squares"),
    ],
)  # fmt: skip
def test_any_output_of_the_blocked_graphs_that_is_wrong_refuses_them(graph, output, wide, caplog) -> None:
    """A fault of 1 in 1,000 in a single output of a single graph is noticed."""
    spec, graphs, lanes = wide
    name = f"block_{graph}_{lanes}.onnx"
    wrong = scaled(graphs[name], output, 1.001)
    assert open_blocks(spec, {**graphs, name: wrong}, threads=1).lanes is None
    assert "their results differ" in caplog.messages[-1]


def test_batches_of_any_size_have_the_same_gradient() -> None:
    """More samples than fit one run, and fewer: the mean of each sample's own gradient."""
    bundle = make_bundle(SPECS["quickstart"], seed=1)
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 1, (BATCH + 3, *bundle.spec.input_shape)).astype(np.float32)
    labels = rng.integers(0, 3, len(x))
    together = device_gradient(bundle, bundle.signatures["a"], x, labels)[1]
    each = [device_gradient(bundle, bundle.signatures["a"], x[i : i + 1], labels[i : i + 1])[1] for i in range(len(x))]
    for name, gradient in together.items():
        assert relative(np.mean([one[name] for one in each], axis=0), gradient) <= 1e-5
