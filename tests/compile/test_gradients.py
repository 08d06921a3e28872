"""The rules of differentiation: every operator's gradient is that of torch."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isoform.compile.gradients.backward import RULES, backward_graph
from isoform.compile.gradients.reverse import Unsupported
from isoform.runtime.engines.onnx.session import open_session, session_options

torch.manual_seed(0)
SHIFT = torch.linspace(-0.9, 1.1, 6)


class Doing(nn.Module):
    """A function as a module, with a weight before it, so that its input has a gradient too."""

    def __init__(self, function, shape, layer=None) -> None:
        super().__init__()
        self.scale, self.function, self.layer = nn.Parameter(1 + 0.5 * torch.rand(shape)), function, layer

    def forward(self, x):  # noqa: D102
        x = x * self.scale
        return self.function(x) if self.layer is None else self.function(self.layer(x))


def same(x):
    """Return x."""
    return x


MAPS, ROWS = (2, 6, 9, 8), (3, 6)
CASES = {
    "relu": (F.relu, ROWS), "sigmoid": (torch.sigmoid, ROWS), "tanh": (torch.tanh, ROWS), "exp": (torch.exp, ROWS),
    "log": (lambda x: torch.log(x * x + 1), ROWS), "sqrt": (lambda x: torch.sqrt(x * x + 1), ROWS), "negative": (lambda x: -x, ROWS),
    "absolute": (torch.abs, ROWS), "reciprocal": (lambda x: torch.reciprocal(x * x + 1), ROWS), "softplus": (F.softplus, ROWS),
    "sine": (torch.sin, ROWS), "cosine": (torch.cos, ROWS), "gelu": (F.gelu, ROWS), "clip": (lambda x: x.clamp(-0.5, 0.7), ROWS),
    "relu6": (lambda x: F.relu6(4 * x), ROWS), "hard sigmoid": (lambda x: F.hardsigmoid(3 * x), ROWS), "silu": (F.silu, ROWS),
    "hard swish": (lambda x: F.hardswish(3 * x), ROWS), "leaky": (F.leaky_relu, ROWS), "elu": (F.elu, ROWS), "power": (lambda x: x**3, ROWS),
    "square": (lambda x: x**2, ROWS), "where": (lambda x: torch.where(x > 0.2, x, 2 * x * x), ROWS),
    "sum and difference": (lambda x: (x + SHIFT) - (SHIFT - x) * 2, ROWS), "quotient": (lambda x: x / (1 + x * x) + SHIFT / (2 + x * x), ROWS),
    "broadcast": (lambda x: x[:, :1] * x + x.mean(0, keepdim=True), ROWS), "softmax": (lambda x: F.softmax(x, 1) ** 2, ROWS),
    "log softmax": (lambda x: F.log_softmax(x, 1) ** 2, ROWS), "layer norm": (lambda x: F.layer_norm(x, (6,)) ** 2, ROWS),
    "largest": (lambda x: x.amax((2, 3)) ** 2, MAPS), "smallest": (lambda x: x.amin(1, keepdim=True) * x, MAPS),
    "mean": (lambda x: x.mean((2, 3)) ** 2, MAPS), "sum": (lambda x: x.sum(1) ** 2, MAPS), "sum of all": (lambda x: x.sum((1, 2, 3), keepdim=True) * x, MAPS),
    "flatten": (lambda x: x.flatten(1) ** 2, MAPS), "reshape": (lambda x: x.reshape(-1, 3, 9, 16) ** 2, MAPS),
    "transpose": (lambda x: x.transpose(1, 3) * x.permute(0, 3, 2, 1), MAPS), "concat": (lambda x: torch.cat([x, x * x, 2 * x], 1) ** 2, MAPS),
    "split": (lambda x: x.split(2, 1)[0] * x.split(2, 1)[2], MAPS), "slice": (lambda x: x[:, 1:5, :-2] ** 2, MAPS),
    "steps": (lambda x: x[:, ::2, 1::3] ** 2, MAPS), "one of an axis": (lambda x: x[:, -1] * x[:, 2], MAPS),
    "some of an axis": (lambda x: x[:, [4, 0, 4]] ** 2, MAPS), "squeeze": (lambda x: x[:, :1].squeeze(1) * x.unsqueeze(2)[:, 1, 0], MAPS),
    "expand": (lambda x: x[:, :1].expand(-1, 6, -1, -1) * x, MAPS), "pad": (lambda x: F.pad(x, (1, 2, 0, 3)) ** 2, MAPS),
    "global average": (lambda x: F.adaptive_avg_pool2d(x, 1) ** 2, MAPS), "average": (lambda x: F.avg_pool2d(x, 3, 2, 1) ** 2, MAPS),
    "average without padding": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) ** 2, MAPS),
    "average with a rest": (lambda x: F.avg_pool2d(x, 2) ** 2, MAPS), "maximum": (lambda x: F.max_pool2d(x, 3, 2, 1) ** 2, MAPS),
    "maximum with a rest": (lambda x: F.max_pool2d(x, 2) ** 2, MAPS), "matrices": (lambda x: x @ x.transpose(2, 3) @ torch.ones(9, 3), MAPS),
    "maximum of steps": (lambda x: F.max_pool1d(x, 3) ** 2, (2, 6, 11)),
}  # fmt: skip
LAYERS = {
    "linear": (nn.Linear(6, 4), ROWS), "linear of many": (nn.Linear(8, 4), MAPS), "linear without bias": (nn.Linear(6, 4, bias=False), ROWS),
    "conv": (nn.Conv2d(6, 5, 3, padding=1), MAPS), "conv with stride": (nn.Conv2d(6, 5, 3, stride=2), MAPS),
    "conv with stride and padding": (nn.Conv2d(6, 5, 5, stride=3, padding=2), MAPS), "dilated": (nn.Conv2d(6, 5, 3, dilation=2, padding=1), MAPS),
    "dilated with stride": (nn.Conv2d(6, 5, 2, dilation=3, stride=2), MAPS), "1×1": (nn.Conv2d(6, 5, 1), MAPS),
    "1×1 with stride": (nn.Conv2d(6, 5, 1, stride=2), MAPS),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), MAPS), "depthwise with stride": (nn.Conv2d(6, 6, 3, stride=2, groups=6, dilation=2), MAPS),
    "groups": (nn.Conv2d(6, 8, 3, groups=2), MAPS), "of steps": (nn.Conv1d(6, 5, 4, stride=2), (2, 6, 11)), "of volumes": (nn.Conv3d(2, 3, 2), (2, 2, 4, 5, 3)),
    "layer norm with weights": (nn.LayerNorm(8), MAPS), "group norm": (nn.GroupNorm(3, 6), MAPS), "instance norm": (nn.InstanceNorm2d(6, affine=True), MAPS),
    "prelu": (nn.Sequential(nn.Flatten(), nn.Linear(432, 4)), MAPS),
}  # fmt: skip


def checked(module: nn.Module, shape) -> set[str]:
    """Compare all gradients with torch's; return the operators on the way."""
    x, file = torch.randn(shape), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            module, (x,), file, input_names=["x"], output_names=["y"], opset_version=17, dynamo=False, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    graph = onnx.load_from_string(file.getvalue()).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = {"x": shape, **{name: value.shape for name, value in weights.items()}}
    wanted = {name: f"d {name}" for name in weights}
    made = backward_graph(graph.node, inputs, "y", wanted, given="dy")
    y = module(x)
    dy = torch.randn(y.shape)
    y.backward(dy)
    session = open_session(made, session_options(1), what="the gradient")
    found = session.run([*wanted.values()], {"x": x.numpy(), **weights, "dy": dy.numpy()})
    for (name, parameter), value in zip(
        ((name, dict(module.named_parameters())[name]) for name in weights), found, strict=True
    ):
        expected = parameter.grad.numpy()
        assert np.abs(value - expected).max() <= 2e-5 * max(1, np.abs(expected).max()), name
    return {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", CASES)
def test_functions(name) -> None:
    """Of a function of x, whose values are on both sides of its kinks."""
    function, shape = CASES[name]
    checked(Doing(function, shape[1:]), shape)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name) -> None:
    """Of a layer's weights and its input."""
    layer, shape = LAYERS[name]
    checked(Doing(same, shape[1:], layer), shape)


def test_tables() -> None:
    """Of an embedding whose rows occur more than once."""
    table = nn.Embedding(7, 3)
    file, x = io.BytesIO(), torch.tensor([[1, 4, 1], [0, 1, 6]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(table, (x,), file, input_names=["x"], output_names=["y"], opset_version=17, dynamo=False)
    graph = onnx.load_from_string(file.getvalue()).graph
    name = graph.initializer[0].name
    made = backward_graph(graph.node, {"x": (2, 3), name: (7, 3)}, "y", {name: "d"}, given="dy", integers=["x"])
    dy = torch.randn(2, 3, 3)
    table(x).backward(dy)
    session = open_session(made, session_options(1), what="the gradient")
    (found,) = session.run(None, {"x": x.numpy(), name: table.weight.detach().numpy(), "dy": dy.numpy()})
    assert np.allclose(found, table.weight.grad.numpy(), atol=1e-6)


RECURRENT = {
    "lstm": lambda: nn.LSTM(6, 4, batch_first=True), "lstm both ways": lambda: nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True),
    "lstm without bias": lambda: nn.LSTM(6, 4, bias=False), "three lstms": lambda: nn.LSTM(6, 5, 3, batch_first=True),
    "gru": lambda: nn.GRU(6, 4, batch_first=True), "gru both ways": lambda: nn.GRU(6, 4, 2, bidirectional=True),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("steps", [1, 7])
def test_recurrent_layers(name, last, steps) -> None:
    """Of all weights and the input, whether all outputs are used, or the state after the last step."""
    checked(
        Doing(
            (lambda both: both[1][0] if "lstm" in name else both[1]) if last else (lambda both: both[0] ** 2),
            (steps, 6),
            RECURRENT[name](),
        ),
        (3, steps, 6),
    )


def test_operators_without_a_rule() -> None:
    """Are named, so that other ways of learning can be chosen; those whose gradient is 0 do not matter."""
    lstm = nn.LSTM(6, 4, batch_first=True)
    with pytest.raises(Unsupported, match="LSTM .* whose last cell is used"):
        checked(Doing(lambda both: both[1][1] + both[1][0], (5, 6), lstm), (2, 5, 6))
    assert "Einsum" not in RULES
    with pytest.raises(Unsupported, match="Einsum"):
        checked(Doing(lambda x: torch.einsum("ij,kj->ik", x, x), (6,)), ROWS)
    with pytest.raises(Unsupported, match="MatMul .* with a vector"):
        checked(Doing(lambda x: x @ torch.ones(6), (6,)), ROWS)
    checked(Doing(lambda x: x * torch.floor(3 * x), (6,)), ROWS)
