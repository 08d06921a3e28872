"""A frozen front before a personal body: the same for everybody, complete in the bundle, computed once per sample."""

import io
import json
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support import isoform
from torch import nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime
from isoform.runtime.engines.onnx.features import Features
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.errors import BundleError, CompileError, InputError, SpecError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.module.spec import ModuleSpec
from isoform.server.app import create_app
from isoform.server.service.settings import Settings
from isoform.server.store.store import Store
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules import wrap

CLASSES = ("a", "b", "c")


def backbone() -> nn.Module:
    """Pictures of 12×12 pixels → 8 × 3 × 3 features."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4))
    with torch.no_grad():
        made(2 * torch.rand(32, 3, 12, 12))
    return made.eval()


def body() -> nn.Module:
    """Features → logits."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(8, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()


def exported(module=None, names=("pixels", "out")) -> bytes:
    """The backbone with a classifier behind it, as somebody's ONNX file."""
    whole = nn.Sequential(backbone(), nn.Flatten(), nn.Linear(72, 5)).eval() if module is None else module
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole, (torch.rand(2, 3, 12, 12),), file, input_names=names[:1], output_names=names[1:], dynamo=False,
            dynamic_axes={names[0]: {0: "b"}, names[1]: {0: "b"}},
        )  # fmt: skip
    return file.getvalue()


def pooled(file: bytes) -> str:
    """Name of the tensor after the pool."""
    return next(node.output[0] for node in onnx.load_from_string(file).graph.node if node.op_type == "AveragePool")


def pictures(count=12, seed=3):
    """Random pictures."""
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["module", "file"])
def path(request, tmp_path, monkeypatch):
    """A compiled bundle whose front is a module, or a part of somebody's file."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    if request.param == "module":
        wrapped = wrap(body(), pictures(3), classes=CLASSES, tasks=["ada", "bob"], front=backbone())
    else:
        (tmp_path / "theirs.onnx").write_bytes(exported())
        wrapped = wrap(
            body(), pictures(3), classes=CLASSES, tasks=["ada", "bob"], front=tmp_path / "theirs.onnx", front_output=pooled(exported())
        )  # fmt: skip
    with torch.no_grad():
        wrapped.affine[1] += 0.5
    wrapped.bundle().write(tmp_path / "bundle")
    split = Split(images=pictures(24).numpy(), labels=np.arange(24) % 3)
    datasets = dict.fromkeys(("ada", "bob"), Dataset(train=split, test=split, classes=CLASSES))
    compile_bundle(tmp_path / "bundle", datasets=datasets)
    return tmp_path / "bundle"


@pytest.fixture
def counted(monkeypatch):
    """Numbers of samples that fronts ran on."""
    found, real = [], Features.__init__

    def noting(self, front, *, threads) -> None:
        real(self, front, threads=threads)
        session = self._session

        class Noting:
            def run(self, names, feeds):
                found.append(len(next(iter(feeds.values()))))
                return session.run(names, feeds)

        self._session = Noting()

    monkeypatch.setattr(Features, "__init__", noting)
    return found


def test_an_exported_file_takes_samples(path, tmp_path) -> None:
    """The front is in it, whoever made it; in int8 the personal part alone is rounded."""
    x = pictures(7, 5).numpy()
    np.savez(tmp_path / "x.npz", x=pictures(40, 6).numpy())
    for words, limit in (((), 1e-5), (("--precision", "int8", "--data", tmp_path / "x.npz", "--max-drop", "50"), 0.2)):
        isoform("export", path, "--task", "bob", "-o", tmp_path / "bob.onnx", *words)
        session = ort.InferenceSession(tmp_path / "bob.onnx")
        (taken,) = session.get_inputs()
        with Runtime.open(path) as runtime:
            expected = runtime.predict(x, runtime.signature("bob"))
        found = session.run(["logits"], {taken.name: x})[0]
        assert np.abs(found - expected).max() <= limit * max(1, np.abs(expected).max())
    told = isoform(
        "export", path, "--task", "bob", "-o", tmp_path / "b.onnx_adapter", "--graph", tmp_path / "g.onnx", check=False
    )
    assert "adapters are for graphs that take samples, but this network has a front" in told.stderr


@pytest.mark.parametrize("engine", ["onnx", "sessions", "reference"])
def test_answers_are_those_of_both_networks(path, engine) -> None:
    """Of samples, and of their features, which anybody may compute once and keep."""
    x, module = pictures(7, 5), body()
    with torch.no_grad():
        features = backbone()(x)
        expected = {"ada": module(features).numpy()}
        module[1].bias += 0.5
        module[1].weight += 0.5
        expected["bob"] = module(features).numpy()
    with Runtime.open(path, engine=engine) as runtime:
        assert str(runtime.input_of("ada")) == "(n, 3, 12, 12)"
        found = runtime.checked(x.numpy(), "ada")
        assert np.abs(found - features.numpy()).max() < 1e-5
        for task in ("ada", "bob", "ada"):
            for given in (x.numpy(), found):
                assert np.abs(runtime.predict(given, runtime.signature(task)) - expected[task]).max() < 1e-4
        assert runtime.predict(x.numpy()[:0], runtime.signature("ada")).shape == (0, 3)


def test_once_per_sample(path, counted) -> None:
    """Whatever the number of users, of steps of learning, or of batches that are adapted to."""
    x, labels = pictures(30, 6).numpy(), np.arange(30) % 3
    with Runtime.open(path) as runtime:
        users = [runtime.signature(task) for task in ("ada", "bob") * 15]
        runtime.predict(x, users)
        assert counted == [30]
        features = runtime.checked(x, "ada")
        counted.clear()
        for user in users:
            runtime.predict(features, user)
        assert counted == []
        outcome = runtime.fit(x, labels, start=users[0], steps=20)
        assert counted == [30]
        assert outcome.held_back > 0
        runtime.adapt(x, users[0])
        assert sum(counted) == 60


def test_they_are_served(path, tmp_path) -> None:
    """Clients send samples, and see what a front takes."""
    with Runtime.open(path) as runtime, Store(tmp_path / "s.db") as store:
        client = create_app(runtime, store=store, settings=Settings()).test_client()
        told = client.get("/v2/models/bob").json["inputs"][0]
        assert told["shape"] == [-1, 3, 12, 12]
        x = pictures(3, 8).numpy()
        tensor = {"name": told["name"], "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        answer = client.post("/v2/models/bob/infer", json={"inputs": [tensor]}).json
        found = np.array(next(entry["data"] for entry in answer["outputs"] if entry["name"] == "logits")).reshape(3, 3)
        assert np.abs(found - runtime.predict(x, runtime.signature("bob"))).max() < 1e-5
        label = {"name": "label", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]}
        job = client.post(
            "/v1/models/bob/signatures/ann/personalize", json={"inputs": [tensor, label]}, headers={"Prefer": "wait=60"}
        ).json  # fmt: skip
        assert job["state"] == "done", job


def test_samples_that_are_none(path) -> None:
    """Shapes of neither, and numbers so large that the features are not finite."""
    with Runtime.open(path) as runtime:
        signature = runtime.signature("ada")
        with pytest.raises(InputError, match=r"\(n, 3, 12, 12\)"):
            runtime.predict(np.zeros((2, 3, 11, 12), dtype=np.float32), signature)
        x = pictures(2).numpy()
        x[1] = 3e38
        with pytest.raises(InputError, match="sample 1 holds numbers so large that its features"):
            runtime.predict(x, signature)
        with pytest.raises(InputError):
            runtime.predict(3, signature)


def file_of(*nodes, inputs=("x",), weights=()) -> bytes:
    """An ONNX file that ends in y."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 12, 12]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], list(weights),
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def outside() -> bytes:
    """A file whose weight is in another one."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return file_of(helper.make_node("Mul", ["x", "w"], ["y"]), weights=[tensor])


def controlled() -> bytes:
    """A file with two ways."""
    ways = [
        helper.make_graph(
            [helper.make_node(op, ["x"], [f"{op}y"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}y", TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Sigmoid")
    ]
    truth = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    return file_of(helper.make_node("If", ["c"], ["y"], then_branch=ways[0], else_branch=ways[1]), weights=[truth])


@pytest.mark.parametrize(
    ("front", "output", "error", "message"),
    [
        (lambda: b"nothing", None, SpecError, "no valid ONNX file"),
        (lambda: "/nowhere/front.onnx", None, SpecError, "front.onnx cannot be read: No such file"),
        (exported, "nothing", SpecError, "has no tensor 'nothing'; it ends in out"),
        (lambda: file_of(helper.make_node("Add", ["x", "z"], ["y"]), inputs=("x", "z")), None, SpecError, "takes x, z, but one input"),
        (outside, None, SpecError, "save its weights in the file"),
        (lambda: file_of(helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])),
         None, CompileError, "differ by .* with the other samples in a batch"),
        (lambda: file_of(helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)), None, CompileError, "of shape \\(3,\\)"),
        (controlled, None, CompileError, "the front has control flow in its graph .If"),
        (lambda: file_of(helper.make_node("Relu", ["x"], ["y"])), None, SpecError, "the shape of its samples"),
        (lambda: backbone(), "x", UsageError, "front_output names a tensor of an ONNX file"),
        (lambda: backbone().train(), None, SpecError, "training mode"),
    ],
)  # fmt: skip
def test_what_is_no_front(front, output, error, message) -> None:
    """One line, with what was expected."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).eval() if "shape of its samples" in message else body()
    with pytest.raises(error, match=message):
        wrap(module, pictures(3), classes=CLASSES, front=front(), front_output=output)
    with pytest.raises(UsageError, match="lengths leaves the length of samples open"):
        wrap(module, pictures(3), classes=CLASSES, front=backbone(), lengths=(1, 4))


def test_a_front_that_somebody_changed(path) -> None:
    """A front is a part of the templates, whose digest covers it; one that would read other files is refused before it is run."""
    bundle = Bundle.load(path, with_compiled=False)
    assert ModuleSpec.from_json(json.loads(json.dumps(bundle.spec.to_json()))) == bundle.spec
    content = bundle.spec.to_json()
    for change, message in (
        ({"front_size": 0}, "front_size is 0"),
        ({"samples": None}, "0 without a front"),
        ({"samples": 3}, "object with name, what and shape|an input"),
        ({"front_size": 1 << 40}, "bytes were expected"),
        ({"samples": content["body"]["input"]}, "the shape of its samples"),
    ):
        with pytest.raises(SpecError, match=message):
            ModuleSpec.from_json({**content, **change})
    file = outside()
    spec = ModuleSpec.from_json({**content, "front_size": len(file)})
    network = bundle.kind.network(spec, {**bundle.tensors, "front": np.frombuffer(file, dtype=np.int8)})
    with pytest.raises(BundleError, match="not written by isoform"):
        network.front("ada")
