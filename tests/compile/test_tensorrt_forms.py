"""Graphs in the forms for TensorRT: what they compute, user by user, and that a build of TensorRT-RTX takes them, without a GPU."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from aligned import aligned, datasets
from modular import NORMED, random_bundle, random_mask
from modular import samples as modular_samples
from onnx import TensorProto, helper, numpy_helper
from strangers import stranger
from support import isoform

from isoform.compile.build import compile_bundle
from isoform.compile.export.half import halved
from isoform.compile.nodes import make_model
from isoform.compile.tensorrt.forms import forms_of
from isoform.compile.tensorrt.target import Target
from isoform.compile.tensorrt.tasks import task_form
from isoform.runtime.engines.tensorrt.builder import BuildOptions, _profile, architectures_of, build_engine
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TABLE, TASK, USER, UserVector
from isoform.runtime.engines.tensorrt.products import Messages, find_product
from isoform.runtime.engines.tensorrt.stored import KERNEL_PRODUCT, decode_engine, read_engine
from isoform.runtime.errors import BundleError, CompileError, EngineError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import Input
from isoform.train.data.samples import Dataset, Split
from isoform.train.kinds.alignment.bundling import bundle_from_networks
from isoform.train.modules.wrapped import wrap

BOTH = ("sm89", "sm120")


def wrapped_bundle(name, folder, *, target=None, **options):
    """A bundle of a stranger's module, compiled; returns it and the report."""
    module, samples, classes = stranger(name)
    wrap(module, samples(3), classes=classes, **options).bundle().write(folder)
    x = samples(24)
    split = Split(images=x.numpy(), labels=np.arange(24) % len(classes))
    dataset = Dataset(train=split, test=split, classes=tuple(classes))
    report = compile_bundle(folder, datasets={"base": dataset}, target=target)
    return Bundle.load(folder), report


@pytest.fixture(scope="module")
def rtx():
    """TensorRT-RTX, which builds without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return find_product("tensorrt-rtx")


FORMS = Target(product="tensorrt-rtx", engines=False)


@pytest.mark.parametrize(
    ("name", "options"),
    [("residual", {"private": ("norm", "bias")}), ("residual", {"private": ("*",)}), ("residual", {"kind": "mixture"}), ("features", {"private": ("*",)}),
     ("features", {"delta": ("*weight*",), "rank": 2}), ("gated", {"private": ("norm",)}), ("summed", {"private": ("norm", "bias")})],
)  # fmt: skip
def test_every_sample_may_have_another_user(name, options, tmp_path) -> None:
    """Both forms give the answers of the graph, user by user: compiling checks it on users whose every weight differs."""
    bundle, report = wrapped_bundle(name, tmp_path / "b", target=FORMS, **options)
    told = report["tensorrt"]["graphs"]["portable"]
    assert told["one"]["gap"] < 1e-5
    assert told["many"]["gap"] < 1e-5
    model = onnx.load_from_string(bundle.require_compiled().read("tensorrt/portable.many.fp32.onnx"))
    assert [value.name for value in model.graph.input] == [bundle.network.input.name, TABLE, USER]


@pytest.mark.parametrize(("name", "why"), [("recurrent", "Slice"), ("attention", "Gemm")])
def test_what_has_no_form_for_many_users_says_so(name, why, tmp_path) -> None:
    """One line that names the node and the operator; the form for one user is there.

    Attention ends in a softmax here, and its users have fewer classes than the form: those they lack must not take part.
    """
    more = dataclasses.replace(FORMS, classes=7)
    _, report = wrapped_bundle(name, tmp_path / "b", target=more, private=("bias",))
    told = report["tensorrt"]["graphs"]["portable"]
    assert told["one"]["gap"] < 1e-5
    assert f"({why}) has no form in which every sample has another user" in told["many"]["reason"]
    assert "\n" not in told["many"]["reason"]


def test_open_lengths_are_refused(tmp_path) -> None:
    """An engine has one size."""
    module, samples, classes = stranger("recurrent")
    wrap(module, samples(3), classes=classes, private=("bias",), lengths=(20, 21)).bundle().write(tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    with pytest.raises(CompileError, match="samples of one size, but this network takes any length"):
        forms_of(b"", bundle.network, classes=3)


def test_gathered_tables_and_slopes() -> None:
    """Private tables of tokens, products with matrices, slopes of PReLU: rules that the networks here do not meet."""
    from isoform.compile.tensorrt.forms import _many
    from isoform.runtime.engines.onnx.session import open_session, session_options

    vector = UserVector(
        classes=3, shapes={"table": (11, 4), "slope": (4,), "matrix": (4, 5), "logits.weight": (3, 5), "logits.bias": (3,)}, padded={}
    )  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"], name="rows", axis=0),
        helper.make_node("PRelu", ["rows", "slope"], ["bent"], name="bent"),
        helper.make_node("MatMul", ["bent", "matrix"], ["turned"], name="turned"),
        helper.make_node("ReduceMean", ["turned"], ["embedding"], name="embedding", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["embedding", "logits.weight", "logits.bias"], ["logits"], name="logits", transB=1),
    ]
    many = open_session(
        _many(nodes, vector, {}, Input(what="tokens", shape=(6,), name="tokens", vocabulary=11)),
        session_options(1),
        what="many",
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in vector.shapes.items()]
    inputs.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", 6]))
    plain = helper.make_graph(nodes, "one", inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)])
    one = open_session(make_model(plain).SerializeToString(), session_options(1), what="one")
    rng = np.random.default_rng(0)
    users = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in vector.shapes.items()} for _ in "abc"]
    rows = np.stack(
        [
            vector.vector_of({k: v for k, v in user.items() if "logits" not in k}, {k: v for k, v in user.items() if "logits" in k})
            for user in users
        ]
    )  # fmt: skip
    tokens, turn = rng.integers(0, 11, size=(7, 6)), np.array([2, 0, 1, 1, 0, 2, 2], dtype=np.int32)
    found = many.run(None, {"tokens": tokens, TABLE: rows, USER: turn})[0]
    for row, user in enumerate(turn):
        expected = one.run(None, {"tokens": tokens[row : row + 1], **users[user]})[0]
        assert np.abs(found[row] - expected).max() < 1e-5


def test_tensorrt_rtx_builds_what_the_quickstart_compiles(compiled, rtx, tmp_path) -> None:
    """For two architectures, by the command: inputs, profiles and layers are those of the network; engines lie in the bundle."""
    shutil.copytree(compiled, tmp_path / "bundle")
    said = isoform(
        "compile", tmp_path / "bundle", "--max-drop", "100", "--target", "tensorrt-rtx", "--architectures", ",".join(BOTH),
        "--batch", "8,64", "--classes", "12",
    )  # fmt: skip
    assert "one user per run, or many" in said.stderr
    bundle = Bundle.load(tmp_path / "bundle")
    listed = bundle.require_compiled()
    vector = UserVector.decode(listed.read("tensorrt/portable.json"), name="x")
    assert vector.classes == 12
    changing = len([name for name in bundle.network.weights if name not in bundle.network.constants])
    found, kernels = {}, set()
    for path in (tmp_path / "bundle" / "compiled" / "engines").iterdir():
        key, engine = read_engine(path)
        if key.form == "kernel":
            kernels |= {*key.devices}
            continue
        assert (key.devices, key.precision, key.largest_batch, key.version) == (BOTH, "fp32", 64, rtx.version)
        assert len(engine) > 100_000
        found[key.form] = key
    assert {*found} == {ONE, MANY}
    assert kernels == {*BOTH}
    for form, inputs in ((ONE, changing + 3), (MANY, 3)):
        file = listed.read(f"tensorrt/portable.{form}.fp32.onnx")
        built = build_engine(
            rtx, file, form=form, vector=vector, takes=bundle.network.input, architectures=BOTH[:1], options=BuildOptions(usual=4, largest=8)
        )  # fmt: skip
        assert len(built.inputs) == inputs
        assert built.inputs[bundle.network.input.name] == (-1, *bundle.network.input.shape)
        # every operator of the graph is a layer, and nothing was lost
        operators = sum(node.op_type != "Constant" for node in onnx.load_from_string(file).graph.node)
        assert built.layers >= operators


def test_profiles_have_every_dynamic_size(rtx) -> None:
    """Smallest, usual and largest: of samples, and in the form for many users of the table and its row numbers."""
    shapes = {"w": (4, 3), "logits.weight": (3, 5), "logits.bias": (3,)}
    vector, takes = UserVector(classes=3, shapes=shapes, padded={}), Input(what="image", shape=(3, 4, 5))
    builder = rtx.module.Builder(Messages(rtx).logger)
    found = _profile(builder, MANY, vector, takes, BuildOptions(usual=8, largest=64))

    def sizes(name):
        return [tuple(shape) for shape in found.get_shape(name)]

    assert sizes("image") == [(1, 3, 4, 5), (8, 3, 4, 5), (64, 3, 4, 5)]
    assert sizes(USER) == [(1,), (8,), (64,)]
    assert sizes(TABLE) == [(1, vector.size), (1024, vector.size), (vector.most_users, vector.size)]
    for form in (ONE, TASK):
        found = _profile(builder, form, vector, takes, BuildOptions(usual=8, largest=64))
        assert sizes("image") == [(1, 3, 4, 5), (8, 3, 4, 5), (64, 3, 4, 5)]


def test_tensorrt_rtx_builds_an_allocation(rtx, tmp_path) -> None:
    """Every graph of a bundle: one for each mask, and that of any mask, whose mask is an input."""
    every = np.array(NORMED.exists)
    masks = [every, random_mask(NORMED, np.random.default_rng(9))]
    bundle = random_bundle(NORMED, masks)
    bundle.write(tmp_path / "b")
    half = Split(images=modular_samples(NORMED, 9), labels=np.arange(9) % 3)
    data = {task: Dataset(train=half, test=half, classes=("c0", "c1", "c2")) for task in bundle.signatures}
    report = compile_bundle(
        tmp_path / "b", datasets=data, target=Target(product="tensorrt-rtx", architectures=BOTH)
    )["tensorrt"]  # fmt: skip
    graphs = Bundle.load(tmp_path / "b").require_compiled().graphs
    assert {*report["graphs"]} == {*graphs}
    assert len(graphs) == 3
    for told in report["graphs"].values():
        assert max(told[form]["gap"] for form in (ONE, MANY)) < 1e-5
        assert min(told[form]["engine_bytes"] for form in (ONE, MANY)) > 10_000


def test_tensorrt_rtx_builds_an_alignment(rtx, tmp_path) -> None:
    """A graph per task: a residual network in both forms; a recurrent one and attention in that for one user."""
    networks, samples, _ = aligned()
    bundle_from_networks(networks, training={}).write(tmp_path / "b")
    report = compile_bundle(
        tmp_path / "b", datasets=datasets(networks, samples), target=Target(product="tensorrt-rtx", architectures=BOTH)
    )["tensorrt"]["graphs"]  # fmt: skip
    assert {*report} == {"network.residual", "network.recurrent", "network.attention"}
    for told in report.values():
        assert told[ONE]["gap"] < 1e-5
        assert told[ONE]["engine_bytes"] > 10_000
    assert report["network.residual"][MANY]["engine_bytes"] > 10_000
    assert {"reason" in report[f"network.{task}"][MANY] for task in ("recurrent", "attention")} == {True}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_other_kinds(precision, rtx, tmp_path) -> None:
    """A module of a stranger's, in both precisions."""
    target = Target(product="tensorrt-rtx", precision=precision, architectures=BOTH)
    _, report = wrapped_bundle("residual", tmp_path / "b", target=target, private=("norm", "bias"))
    told = report["tensorrt"]["graphs"]["portable"]
    assert {told[form]["engine_bytes"] > 10_000 for form in (ONE, MANY)} == {True}
    assert len([*(tmp_path / "b" / "compiled" / "engines").iterdir()]) == 2


def test_tasks_have_engines_of_their_own(compiled, rtx, tmp_path) -> None:
    """In int8, users' in float16: the report has what it costs; a loss above the limit is refused, and nothing is written."""
    shutil.copytree(compiled, tmp_path / "bundle")
    words = (
        "--target",
        "tensorrt-rtx",
        "--architectures",
        "sm89",
        "--tasks",
        "--precision",
        "int8",
        "--max-drop",
        "100",
    )
    said = isoform("compile", tmp_path / "bundle", *words)
    assert "engines of one task each, int8" in said.stderr
    listed = Bundle.load(tmp_path / "bundle").require_compiled()
    report = json.loads((listed.path / "report.json").read_text())["tensorrt"]["tasks"]
    for task, told in report.items():
        assert told["agreement"] > 0.8
        assert told["engine_bytes"] > 10_000
        model = onnx.load_from_string(listed.read(f"tensorrt/{task}.task.int8.onnx"))
        products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        made = {name: node for node in model.graph.node for name in node.output}
        # every product reads samples and weights that were rounded, and a bias that was not
        assert all(made[name].op_type == "DequantizeLinear" for node in products for name in node.input[:2])
        assert not any(name in made for node in products for name in node.input[2:])
        zeros = [numpy_helper.to_array(some) for some in model.graph.initializer if some.name.endswith("zero_point")]
        assert len(zeros) > 10
        assert not any(zero.any() for zero in zeros)
    keys = [read_engine(path)[0] for path in (listed.path / "engines").iterdir()]
    assert {(key.graph, key.form, key.precision) for key in keys} == {
        ("portable", ONE, "fp16"), ("portable", MANY, "fp16"), ("portable", "kernel", "fp16"), *((task, TASK, "int8") for task in report),
    }  # fmt: skip
    kernel = next(key for key in keys if key.form == "kernel")
    assert (kernel.product, kernel.devices) == (KERNEL_PRODUCT, ("sm89",))
    before = (listed.path / "manifest.json").read_bytes()
    said = isoform("compile", tmp_path / "bundle", *words[:-1], "-1", check=False)
    assert said.returncode != 0
    assert (listed.path / "manifest.json").read_bytes() == before
    said = isoform("compile", tmp_path / "bundle", "--target", "tensorrt-rtx", "--precision", "int8", check=False)
    assert "int8 is for the tasks' own engines; add --tasks" in said.stderr


def test_a_loss_of_accuracy_is_refused() -> None:
    """Whichever precision it is of: one line with what it costs."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 6)).astype(np.float32)
    node = helper.make_node("MatMul", ["vector", "weight"], ["logits"], name="logits")
    inputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 6])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weight.T.copy(), "weight")])
    x = rng.normal(size=(40, 6)).astype(np.float32)
    split = Split(images=x, labels=(x @ weight.T).argmax(1))
    task = SimpleNamespace(name="t", train=dataclasses.replace(split, images=x * 1e-6), test=split)
    file, fits = make_model(graph).SerializeToString(), {"samples": "vector", "max_drop_points": 5}
    assert task_form(task, file, precision="fp16", **fits).answers.agreement > 0.9
    with pytest.raises(
        CompileError, match=r"task 't': int8 costs \d+\.\d\d points of accuracy, but at most 5 were allowed"
    ):
        task_form(task, file, precision="int8", **fits)  # calibrated on samples that are much smaller


def test_halves_keep_samples_and_logits(tmp_path) -> None:
    """Vectors and activations are float16, and answers are those of float32 to its precision."""
    from isoform.runtime.engines.onnx.session import open_session, session_options

    bundle, _ = wrapped_bundle("residual", tmp_path / "b", target=FORMS, private=("norm", "bias"))
    file = bundle.require_compiled().read("tensorrt/portable.many.fp32.onnx")
    half = halved(file, samples=bundle.network.input.name)
    whole, short = (open_session(data, session_options(1), what="form") for data in (file, half))
    assert {value.name: value.type for value in short.get_inputs()} == {
        bundle.network.input.name: "tensor(float)", TABLE: "tensor(float16)", USER: "tensor(int32)",
    }  # fmt: skip
    vector = UserVector.decode(bundle.require_compiled().read("tensorrt/portable.json"), name="x")
    rng = np.random.default_rng(0)
    x, rows = bundle.network.input.random(rng, 4), rng.normal(scale=0.2, size=(2, vector.size)).astype(np.float32)
    feeds = {bundle.network.input.name: x, USER: np.array([0, 1, 1, 0], dtype=np.int32)}
    expected = whole.run(None, {**feeds, TABLE: rows})[0]
    found = short.run(None, {**feeds, TABLE: rows.astype(np.float16)})[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.02 * max(1, np.abs(expected).max())


def test_an_operator_that_is_not_known_is_one_line(rtx) -> None:
    """It names the node and the operator."""
    node = helper.make_node("Unheard", ["x"], ["logits"], name="the node", domain="nobody")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    file = make_model(graph, domains=["nobody"]).SerializeToString()
    vector = UserVector(classes=3, shapes={"logits.weight": (3, 3), "logits.bias": (3,)}, padded={})
    with pytest.raises(EngineError, match=r"does not take node 'the node' \(Unheard\)") as caught:
        build_engine(rtx, file, form=ONE, vector=vector, takes=Input(what="vector", shape=(3,)), architectures=BOTH)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(rtx, tmp_path) -> None:
    """An architecture, a GPU, a product: one line each, with what there is."""
    vector = UserVector(classes=3, shapes={"logits.weight": (3, 3), "logits.bias": (3,)}, padded={})
    some = {"form": ONE, "vector": vector, "takes": None}
    with pytest.raises(UsageError, match=r"architecture is 'sm61', but of TensorRT-RTX .* one of sm75, .*sm89"):
        build_engine(rtx, b"", architectures=("sm61",), **some)
    assert {*BOTH} <= {*architectures_of(rtx)}
    for words, message in (
        (("--target", "onnx", "--architectures", "sm89"), "--architectures is for TensorRT's engines; add --target"),
        (("--tasks",), "--tasks is for TensorRT's engines; add --target"),
        (("--shared-weights", "refit"), "--shared-weights refit is for TensorRT's engines; add --target"),
        (("--precision", "fp16"), "--precision fp16 is for TensorRT's engines; add --target"),
        (("--target", "tensorrt-rtx", "--batch", "many"), "--batch is 'many', but two numbers"),
        (("--target", "tensorrt-rtx", "--batch", "8,4"), "batches are 8 and 4"),
    ):
        said = isoform("compile", tmp_path, *words, check=False)
        assert said.returncode != 0
        assert message in said.stderr
        assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"classes": 0, "weights": []}', b'{"classes": 3, "weights": [["logits.weight", [3, 3], [3, 3]]]}',
     b'{"classes": 3, "weights": [["a", [2], [1]], ["logits.weight", [3, 3], [3, 3]], ["logits.bias", [3], [3]]]}',
     b'{"classes": 3, "weights": [["a", [-2], [-2]], ["logits.weight", [3, 3], [3, 3]], ["logits.bias", [3], [3]]]}'],
)  # fmt: skip
def test_a_malformed_vector_is_refused(content) -> None:
    """Its numbers become addresses."""
    with pytest.raises(BundleError):
        UserVector.decode(content, name="x.json")


@pytest.mark.parametrize("harm", ["cut", "bit", "magic"])
def test_a_damaged_engine_is_refused(harm) -> None:
    """Engines are executed."""
    from isoform.runtime.engines.tensorrt.stored import EngineKey, encode_engine

    key = EngineKey(
        product="tensorrt", version="10.1", devices=("sm90",), graph="g", form=ONE, precision="fp32", digest="0", structure="", shared="in", largest_batch=8
    )  # fmt: skip
    data = encode_engine(key, b"engine")
    assert decode_engine(data, name="x") == (key, b"engine")
    harmed = {"cut": data[:-1], "bit": data[:-1] + b"f", "magic": b"X" + data[1:]}[harm]
    with pytest.raises(EngineError, match="x is damaged"):
        decode_engine(harmed, name="x")
