"""``wrap``: somebody's own module, as it is, as a bundle; and what is refused."""

import numpy as np
import onnx
import pytest
import torch
from strangers import STRANGERS, stranger
from torch import nn

from isoform.compile.build import compile_bundle
from isoform.compile.nodes import OPSET as COMPILED
from isoform.runtime import Runtime
from isoform.runtime.errors import BundleError, CompileError, InputError, SpecError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.module.network import ModuleNetwork
from isoform.runtime.kinds.module.spec import ModuleSpec
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules.export import OPSET
from isoform.train.modules.wrapped import wrap

EVERY = pytest.mark.parametrize("name", STRANGERS)


@EVERY
@pytest.mark.parametrize(
    ("kind", "private", "delta"),
    [
        ("module", (), ()),
        ("module", ("norm", "bias"), ()),
        ("mixture", ("norm",), ()),
        ("module", ("norm",), ("*weight*",)),
    ],
)
def test_nothing_changes(name, kind, private, delta) -> None:
    """Wrapped, and exported, a module computes what it computed, bit for bit in torch."""
    module, samples, classes = stranger(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    wrapped = wrap(
        module, samples(3), classes=classes, tasks=["a", "b"], kind=kind, private=private, delta=delta, rank=2
    )
    x = samples(7, 5)
    with torch.no_grad():
        for task in ("a", "b", None):
            assert torch.equal(wrapped(x, task), module(x))
    assert wrapped.gap < 1e-5
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@EVERY
@pytest.mark.parametrize(
    "options",
    [{"kind": "mixture", "private": ("norm", "bias")}, {"delta": ("*weight*",), "rank": 2}],
    ids=["mixture", "delta"],
)
def test_a_bundle_of_two_users(name, options, tmp_path, monkeypatch) -> None:
    """Two users are trained for a few steps; every engine answers for each as torch does, one after the other."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    module, samples, classes = stranger(name)
    wrapped = wrap(module, samples(3), classes=classes, tasks=["ada", "bob"], **options)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-2)
    wrapped.train()
    for step in range(3):
        for row, task in enumerate(("ada", "bob")):
            optimizer.zero_grad()
            labels = torch.full((16,), (row + step) % len(classes))
            nn.functional.cross_entropy(wrapped(samples(16, step), task), labels).backward()
            optimizer.step()
    wrapped.eval()
    path, x = tmp_path / "bundle", samples(9, 7)
    wrapped.bundle().write(path)
    split = Split(images=x.numpy(), labels=np.arange(9) % len(classes))
    dataset = Dataset(train=split, test=split, classes=tuple(classes))
    report = compile_bundle(path, datasets={"ada": dataset, "bob": dataset})
    assert report["tasks"]["ada"]["verified"]["numpy_portable"] < 1e-4
    for engine in ("onnx", "sessions", "reference"):
        with Runtime.open(path, engine=engine) as runtime, torch.no_grad():
            answers = {}
            for task in ("ada", "bob", "ada"):
                expected = wrapped(x, task).numpy()
                answers[task] = runtime.predict(x.numpy(), runtime.signature(task))
                assert np.abs(answers[task] - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
            assert np.abs(answers["ada"] - answers["bob"]).max() > 1e-3


def test_lengths_may_stay_open(tmp_path) -> None:
    """Windows of other lengths than the example's; torch's exporter keeps the length of attention, which is said."""
    module, samples, classes = stranger("recurrent")
    wrap(module, samples(3), classes=classes, lengths=(2, 40)).bundle().write(tmp_path)
    with Runtime.open(tmp_path, engine="reference") as runtime:
        for length in (2, 11, 40):
            x = runtime.bundle.spec.input_of("base").random(np.random.default_rng(0), 2, length=length)
            with torch.no_grad():
                expected = module(torch.from_numpy(x)).numpy()
            assert np.abs(runtime.predict(x, runtime.signature("base")) - expected).max() < 1e-5
        with pytest.raises(InputError, match="shape"):
            runtime.predict(x[..., :1], runtime.signature("base"))
    module, samples, classes = stranger("attention")
    with pytest.raises(CompileError, match=r"cannot run 3 samples of shape \(17,\).*pad all samples to one length"):
        wrap(module, samples(3), classes=classes, lengths=(2, 40))


def test_what_is_whose() -> None:
    """Words and patterns choose what is a user's own; the rest of the parameters are shared."""
    module, samples, classes = stranger("residual")
    wrapped = wrap(module, samples(3), classes=classes, kind="mixture", private=("norm", "conv4.*"))
    spec = wrapped.spec
    assert spec.private == ("conv4.weight",)
    assert spec.groups == ()  # conv1 and conv3 have other inputs, conv2 is depthwise
    assert "unused.weight" not in spec.body.weights
    assert [norm.name for norm in spec.body.norms] == ["bn1", "bn2", "bn3"]
    assert {*spec.shared} == {"conv1.weight", "conv2.weight", "conv2.bias", "conv3.weight"}
    own, shared = ({id(parameter) for parameter in wrapped.own_parameters(shared=which)} for which in (False, True))
    assert not own & shared
    assert own | shared == {id(parameter) for parameter in wrapped.parameters() if parameter.numel()}
    both = wrap(module, samples(3), classes=classes, kind="mixture")
    assert both.spec.groups == (("conv3.weight", "conv4.weight"),)
    assert both.spec.part_shapes["mixture"] == (4,)
    with pytest.raises(SpecError, match="private names 'layer9.\\*', but no parameter"):
        wrap(module, samples(3), classes=classes, private=("layer9.*",))


def test_bn_learns_each_users_statistics() -> None:
    """In training mode BN's running statistics of one task move, and nobody else's."""
    module, samples, classes = stranger("residual")
    wrapped = wrap(module, samples(3), classes=classes, tasks=["a", "b"]).train()
    before = wrapped.statistics.clone()
    wrapped(5 * samples(16), "b")
    assert torch.equal(wrapped.statistics[0], before[0])
    assert not torch.equal(wrapped.statistics[1], before[1])
    module.train()
    module(5 * samples(16))
    own = torch.cat([module.bn1.running_var, module.bn2.running_var, module.bn3.running_var])
    assert torch.allclose(wrapped.statistics[1, 1], own)


class Odd(nn.Module):
    """A module with one odd thing in it."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.first, self.fc = what, nn.Linear(4, 6), nn.Linear(6, 2)
        self.second = nn.Linear(6, 6)
        if what == "views":
            self.second.weight = nn.Parameter(self.first.weight.data.expand(6, 4)[:, :4])
        if what == "statistics":
            self.bn = nn.BatchNorm1d(6, track_running_stats=False)
        self.inverse = Inverse()

    def forward(self, x):  # noqa: D102
        x = self.first(x)
        if self.what == "condition" and x.sum() > 0:
            x = -x
        if self.what == "operator":
            x = self.inverse(x)
        if self.what == "random":
            x = x + torch.rand_like(x)
        if self.what == "statistics":
            x = self.bn(x)
        x = self.fc(torch.relu(x))
        return x if self.what != "no head" else torch.relu(x)


class Inverse(nn.Module):
    """A layer with an operator that ONNX does not have."""

    def forward(self, x):  # noqa: D102
        return torch.linalg.eigvals(x[:, :, None] * x[:, None]).real


@pytest.mark.parametrize(
    ("what", "change", "error", "message"),
    [
        ("", lambda m: m.train(), SpecError, r"layer 'Odd' is in training mode; call module.eval\(\)"),
        ("", lambda m: m.second.train(), SpecError, "layer 'second' is in training mode"),
        ("", lambda m: m.half(), SpecError, r"first.weight is float16, but float32 was expected; call module.float\(\)"),
        ("", lambda m: m.second.to("meta"), SpecError, r"second.weight is on meta, .* call module.cpu\(\)"),
        ("", lambda m: m.fc.bias.data.fill_(float("nan")), SpecError, "fc.bias holds a number that is not finite"),
        ("views", None, SpecError, "second.weight and first.weight are views of the same memory"),
        ("condition", None, CompileError, r"depends on the values of its samples \(test_wrap.py, line \d+\).*torch.where"),
        ("operator", None, CompileError, r"cannot export layer 'inverse' \(Inverse\).*replace that layer"),
        ("random", None, CompileError, "the exported graph differs from the module"),
        ("statistics", None, SpecError, "BN 'bn' keeps no statistics.*track_running_stats=True"),
        ("no head", None, CompileError, "ends in Relu .*, but a linear layer was expected"),
    ],
)  # fmt: skip
def test_what_is_refused(what, change, error, message) -> None:
    """One line that names the layer and the way out."""
    module = Odd(what).eval()
    if change:
        change(module)
    with pytest.raises(error, match=message) as caught:
        wrap(module, torch.randn(3, 4), classes=["a", "b"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (np.zeros((2, 4)), {}, "the example is a ndarray, but a tensor"),
        (torch.zeros(4), {}, r"the example is float32 of shape \(4,\)"),
        (torch.zeros(2, 4, dtype=torch.float64), {}, "the example is float64"),
        (torch.zeros(0, 4), {}, "the example has no samples"),
        (torch.zeros(2, 4, dtype=torch.int64), {}, "no nn.Embedding; pass vocabulary="),
    ],
)  # fmt: skip
def test_examples_that_describe_nothing(example, options, message) -> None:
    """What was expected, and what came."""
    with pytest.raises(InputError, match=message):
        wrap(Odd("").eval(), example, classes=["a", "b"], **options)


def test_low_rank_changes(tmp_path) -> None:
    """Of chosen weights: V is the directions that the weight reads most, U alone is a user's, and what cannot have one is named."""
    module, samples, classes = stranger("residual")
    wrapped = wrap(module, samples(2), classes=classes, private=(), delta=["conv3.weight", "conv4.*"], rank=3)
    assert wrapped.spec.deltas == ("conv3.weight", "conv4.weight")
    assert wrapped.spec.part_shapes["delta"] == (3 * 16,)
    down, weight = wrapped.downs[0].detach(), module.conv3.weight.detach().flatten(1)
    assert down @ down.T == pytest.approx(torch.eye(3), abs=1e-5)
    kept = (weight @ down.T).square().sum()
    assert kept == pytest.approx(torch.linalg.svdvals(weight)[:3].square().sum(), rel=1e-4)
    assert {id(parameter) for parameter in wrapped.own_parameters()} >= {id(wrapped.delta)}
    assert not {id(parameter) for parameter in wrapped.own_parameters()} & {*map(id, wrapped.downs)}
    bundle = wrapped.bundle()
    user = bundle.base("base").keep("delta")
    assert len(user.encode()) < 1024
    assert ModuleSpec.from_json(bundle.spec.to_json()) == bundle.spec
    for options, message in (
        ({"delta": ["bn1.weight"]}, "delta names 'bn1.weight', but no weight of two axes"),
        ({"delta": ["conv3.weight"], "rank": 0}, "rank is 0 for 1 changed weights"),
        ({"delta": ["conv3.weight"], "rank": 9}, "rank is 9, but 'conv3.weight' is a matrix of 8×72"),
        (
            {"delta": ["conv3.weight"], "private": ["conv3.weight"]},
            "'conv3.weight' has a low-rank change, but that must be a shared weight",
        ),
        ({"delta": ["conv3.weight"], "kind": "mixture"}, "must be a shared weight"),
    ):
        with pytest.raises(SpecError, match=message):
            wrap(module, samples(2), classes=classes, **options)


def test_names() -> None:
    """As many classes as logits, different tasks, and only those."""
    module = Odd("").eval()
    with pytest.raises(SpecError, match="classes has 1 names, but the module has 2 logits"):
        wrap(module, torch.randn(3, 4), classes=["a"])
    with pytest.raises(UsageError, match="one or more different names"):
        wrap(module, torch.randn(3, 4), classes=["a", "b"], tasks=["t", "t"])
    with pytest.raises(UsageError, match="there is no task 'you'"):
        wrap(module, torch.randn(3, 4), classes=["a", "b"])(torch.randn(1, 4), "you")


def test_a_bundle_that_somebody_changed(tmp_path) -> None:
    """A description that does not fit the graph or itself is refused before anything is computed."""
    module, samples, classes = stranger("features")
    bundle = wrap(module, samples(3), classes=classes, kind="mixture").bundle()
    spec = bundle.spec
    assert bundle.kind.read_spec(spec.to_json()) == spec
    body = spec.to_json()["body"]
    for change, message in (
        ({"private": ["fc9"]}, "'fc9'"),
        ({"groups": [["first.weight", "second.weight"]]}, "different shapes"),
        ({"groups": [["second.weight"], ["second.weight"]]}, "different weights"),
        ({"groups": [[]]}, "list of lists of names"),
        ({"private": "norm"}, "list of names"),
        ({"kind": "mixture"}, "'module' was expected"),
        ({"body": {**body, "embedding": 0}}, "embedding is 0"),
        ({"body": {**body, "size": 1 << 40}}, "bytes"),
        ({"body": {**body, "weights": [["a" * 300, [1]]]}}, "printable ASCII"),
        ({"body": {**body, "weights": [["a", [1 << 40]]]}}, "whole numbers"),
        ({"body": {**body, "weights": [["a", [1 << 20, 1 << 20]]]}}, "at most"),
        ({"body": {**body, "weights": 3}}, "lists of at most"),
        ({"body": {**body, "norms": [{"name": "n", "channels": 0, "axes": 0, "eps": 0.1, "apart": False}]}}, "channels"),
        ({"body": {**body, "norms": [{"name": "n", "channels": 1, "axes": 0, "eps": 2.0, "apart": False}]}}, "between 0 and 1"),
        ({"body": {**body, "norms": [{"name": "n", "channels": 1, "axes": 0, "eps": 0.1, "apart": True}]}}, "apart"),
        ({"body": {**body, "private_norms": 1}}, "true or false"),
        ({"body": {**body, "weights": [["bn.scale", [1]]]}}, "same name"),
        ({"body": 7}, "object"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=message):
            bundle.kind.read_spec({**spec.to_json(), **change})
    path = tmp_path / "bundle"
    tensors = {**bundle.tensors, "body": np.zeros(spec.body.size, dtype=np.int8)}
    damaged = Bundle(
        path=path, spec=spec, tensors=tensors, digest=bundle.digest, signatures=bundle.signatures, training={}
    )
    damaged.write(path)
    with pytest.raises(BundleError, match="different bundles"):
        Bundle.load(path)


def test_a_body_that_reads_other_files() -> None:
    """A graph in a bundle that names a file as the value of a constant is refused before anything opens it."""
    module, samples, classes = stranger("features")
    bundle = wrap(module, samples(3), classes=classes).bundle()
    model = onnx.load_from_string(bundle.tensors["body"].tobytes())
    tensor = onnx.TensorProto(name="secret", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    model.graph.node.add(op_type="Constant", output=["secret"]).attribute.add(
        name="value", type=onnx.AttributeProto.TENSOR
    ).t.CopyFrom(tensor)
    file = np.frombuffer(model.SerializeToString(), dtype=np.int8)
    network = ModuleNetwork(bundle.spec, {**bundle.tensors, "body": file})
    with pytest.raises(BundleError, match="was not written by isoform"):
        network.reference("base", bundle.resolve(bundle.signatures["base"]).parts, samples(1).numpy())


def test_operator_sets_agree() -> None:
    """Bodies are exported for the operator set that compiled graphs have."""
    assert OPSET == COMPILED
