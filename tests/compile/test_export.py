"""``isoform export``: files give the runtime's answers in plain ONNX Runtime, cost what they say, and need no torch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from modular import NORMED, random_bundle, random_mask
from modular import samples as modular_samples
from strangers import stranger
from support import isoform, isoform_here

from isoform.compile.build import compile_bundle
from isoform.compile.export import int8
from isoform.runtime import Runtime
from isoform.runtime.engines.onnx.session import ort
from isoform.runtime.formats.bundle import Bundle
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules.wrapped import wrap


def run(path, x):
    """What plain ONNX Runtime says."""
    session = ort.InferenceSession(path)
    (taken,) = session.get_inputs()
    return session.run(["logits"], {taken.name: x})[0]


def close(found, expected, limit=1e-5) -> bool:
    """Whether logits are equal to ``limit`` of the largest."""
    return found.shape == expected.shape and np.abs(found - expected).max() <= limit * max(1, np.abs(expected).max())


@pytest.fixture
def labelled(samples, tmp_path):
    """Digits with their labels, in a file."""
    np.savez(tmp_path / "digits.npz", x=samples[0], labels=np.array([str(label) for label in samples[1]]))
    return tmp_path / "digits.npz"


@pytest.mark.parametrize("layout", ["fast", "small"])
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 0.02), ("int8", 0.3)])
def test_a_file_gives_the_runtimes_answers(layout, precision, limit, compiled, samples, labelled, tmp_path) -> None:
    """In every layout and precision, of a user whose signature is a file; what is printed is so."""
    with Runtime.open(compiled) as runtime:
        base = runtime.signature("blurred")
        user = base.replace(parts={**base.parts, "logits.bias": base.parts["logits.bias"] + 1}, parent=base.digest)
        expected = runtime.predict(samples[0], user)
    user.save(tmp_path / "me.safetensors")
    out = tmp_path / "me.onnx"
    told = isoform(
        "export", compiled, "--signature", tmp_path / "me.safetensors", "-o", out, "--layout", layout, "--precision", precision,
        "--data", labelled, "--max-drop", "10",
    )  # fmt: skip
    said = json.loads(told.stdout)
    found = run(out, samples[0])
    assert close(found, expected, limit)
    rows = slice(1, None, 2) if precision == "int8" else slice(None)
    right = found[rows].argmax(1) == samples[1][rows]
    assert said["top1_after"] == pytest.approx(right.mean())
    assert said["agreement"] == pytest.approx((found[rows].argmax(1) == expected[rows].argmax(1)).mean())
    assert said["gap"] == pytest.approx(
        np.abs(found[rows] - expected[rows]).max() / max(1, np.abs(expected[rows]).max()), rel=1e-3
    )
    assert (said["samples"], said["size_bytes"]) == (len(right), out.stat().st_size)
    model = onnx.load(out)
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (about["signature"], about["precision"]) == (user.digest, precision)
    assert json.loads(about["labels"]) == [*map(str, range(10))]
    assert json.loads(about["input"])["shape"] == [1, 32, 32]


@pytest.mark.parametrize("layout", ["fast", "small"])
def test_what_a_signature_inherits_is_in_the_file(layout, compiled, samples, tmp_path) -> None:
    """A file of a kilobyte has a delta, here of one layer, and nothing else; that layer is no template any more."""
    with Runtime.open(compiled) as runtime:
        base = runtime.signature("plain")
        delta = np.zeros_like(runtime.bundle.resolve(base).parts["delta"])
        delta[1] = np.random.default_rng(0).normal(scale=3.0, size=delta.shape[1])
        user = base.replace(parts={"delta": delta}, base=base.digest, labels=None)
        expected = runtime.predict(samples[0], user)
        assert not close(expected, runtime.predict(samples[0], base), 1e-3)
    user.save(tmp_path / "me.safetensors")
    isoform_here(
        "export", compiled, "--signature", tmp_path / "me.safetensors", "-o", tmp_path / "a.onnx", "--layout", layout
    )
    assert close(run(tmp_path / "a.onnx", samples[0]), expected)


def test_smaller_files_are_smaller(compiled, labelled, tmp_path) -> None:
    """Half a file in float16; int8 less than that."""
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        words = ("--task", "plain", "--precision", precision, "--data", labelled, "--max-drop", "20")
        told = isoform_here("export", compiled, "-o", tmp_path / "a.onnx", *words)
        sizes[precision] = json.loads(told.stdout)["size_bytes"]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_int8_is_stored_without_what_says_nothing(compiled, samples, labelled, tmp_path, monkeypatch) -> None:
    """The file gives the answers of ONNX Runtime's own quantisation to the last bit, without its zeros and long names."""
    small = int8.smaller
    monkeypatch.setattr(int8, "smaller", lambda file: file)
    flags = ("--task", "plain", "--precision", "int8", "--data", labelled, "--max-drop", "20")
    assert isoform_here("export", compiled, "-o", tmp_path / "own.onnx", *flags).returncode == 0
    file = (tmp_path / "own.onnx").read_bytes()
    (tmp_path / "small.onnx").write_bytes(small(file))
    assert len(small(file)) < 0.8 * len(file)
    np.testing.assert_array_equal(run(tmp_path / "own.onnx", samples[0]), run(tmp_path / "small.onnx", samples[0]))
    graph = onnx.load(tmp_path / "small.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    assert weights
    assert [len(node.input) for node in weights] == [2] * len(weights)
    assert len({(tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in graph.initializer}) == len(
        constants
    )


def test_a_graph_with_branches_stays_as_it_is() -> None:
    """The branches use names of the graph around them. A constant that is an output is kept."""
    scalar = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    constant = onnx.numpy_helper.from_array(np.ones(1, np.float32), "c")
    branch = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["c"], ["y"])], "branch", [], [scalar])
    node = onnx.helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BOOL, [])
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("z", "c")]
    options = {"opset_imports": [onnx.helper.make_opsetid("", 17)], "ir_version": 8}
    file = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [given], outputs, [constant]), **options
    ).SerializeToString()
    assert int8.smaller(file) == file
    plain = onnx.helper.make_node("Identity", ["c"], ["z"])
    small = int8.smaller(
        onnx.helper.make_model(
            onnx.helper.make_graph([plain], "g", [], outputs, [constant]), **options
        ).SerializeToString()
    )
    assert ort.InferenceSession(small).run(["z", "c"], {}) == [1, 1]


@pytest.mark.parametrize("name", ["residual", "recurrent", "attention"])
def test_other_kinds(name, tmp_path) -> None:
    """A stranger's module, wrapped."""
    module, given, classes = stranger(name)
    wrap(module, given(3), classes=classes, private=("norm", "bias")).bundle().write(tmp_path / "b")
    x = given(24).numpy()
    split = Split(images=x, labels=np.arange(24) % len(classes))
    compile_bundle(tmp_path / "b", datasets={"base": Dataset(train=split, test=split, classes=tuple(classes))})
    isoform_here("export", tmp_path / "b", "-o", tmp_path / "a.onnx")
    with Runtime.open(tmp_path / "b") as runtime:
        assert close(run(tmp_path / "a.onnx", x), runtime.predict(x, runtime.signature("base")))


def test_an_allocation_has_the_components_that_it_uses(tmp_path) -> None:
    """And no others."""
    masks = [np.array(NORMED.exists), random_mask(NORMED, np.random.default_rng(9))]
    random_bundle(NORMED, masks).write(tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    half = Split(images=modular_samples(NORMED, 9), labels=np.arange(9) % 3)
    compile_bundle(tmp_path / "b", datasets={task: Dataset(train=half, test=half, classes=("c0", "c1", "c2")) for task in bundle.signatures})  # fmt: skip
    sizes = []
    with Runtime.open(tmp_path / "b") as runtime:
        for task in runtime.tasks:
            isoform_here("export", tmp_path / "b", "--task", task, "-o", tmp_path / "a.onnx")
            assert close(run(tmp_path / "a.onnx", half.images), runtime.predict(half.images, runtime.signature(task)))
            sizes.append((tmp_path / "a.onnx").stat().st_size)
    assert sizes[1] < sizes[0]


def test_an_adapter_and_its_graph(compiled, samples, tmp_path) -> None:
    """ONNX Runtime's adapters give a user's answers on the graph, with fewer classes too; without one it is the base's."""
    with Runtime.open(compiled) as runtime:
        base = runtime.signature("plain")
        parts = {
            **base.parts,
            "logits.weight": base.parts["logits.weight"][:3],
            "logits.bias": base.parts["logits.bias"][:3] + 1,
        }
        user = base.replace(parts=parts, labels=("a", "b", "c"))
        expected = {
            who: runtime.predict(samples[0][:5], signature) for who, signature in (("base", base), ("user", user))
        }
    user.save(tmp_path / "me.safetensors")
    said = json.loads(
        isoform("export", compiled, "--signature", tmp_path / "me.safetensors", "-o", tmp_path / "me.onnx_adapter", "--graph", tmp_path / "graph.onnx").stdout
    )  # fmt: skip
    assert said["gap"] < 1e-5
    session = ort.InferenceSession(tmp_path / "graph.onnx")
    assert close(session.run(["logits"], {"image": samples[0][:5]})[0], expected["base"])
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(str(tmp_path / "me.onnx_adapter"))
    options.add_active_adapter(adapter)
    assert close(session.run(["logits"], {"image": samples[0][:5]}, options)[0], expected["user"])
    del options


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_needs_no_torch(precision, compiled, labelled, tmp_path) -> None:
    """A device with onnx can export."""
    words = ["export", str(compiled), "--task", "plain", "-o", str(tmp_path / "a.onnx"), "--layout", "small"]
    words += ["--precision", precision, "--data", str(labelled), "--max-drop", "20"]
    block = "import sys\nfor name in ('torch', 'sklearn', 'scipy'): sys.modules[name] = None\n"
    code = f"{block}from isoform.runtime.cli import main\nraise SystemExit(main({words!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.onnx").stat().st_size > 10_000


def test_what_costs_too_much_is_not_written(compiled, labelled, tmp_path) -> None:
    """And what was there stays."""
    (tmp_path / "a.onnx").write_bytes(b"before")
    for data in (labelled, tmp_path / "unlabelled.npz"):
        if data != labelled:
            np.savez(data, x=np.load(labelled)["x"])
        said = isoform_here(
            "export", compiled, "--task", "plain", "-o", tmp_path / "a.onnx", "--precision", "int8", "--data", data, "--max-drop", "-100"
        )  # fmt: skip
        assert said.returncode == 2
        assert "but at most -100 were allowed; nothing was written" in said.stderr
        assert ("points of accuracy" in said.stderr) == (data == labelled)
        assert (tmp_path / "a.onnx").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the bundle has 4 tasks; choose one with --task: plain"),
        (("--task", "nobody"), "there is no task 'nobody'"),
        (("--task", "plain", "--layout", "tiny"), "layout is 'tiny', but a network of kind mixture has fast, small"),
        (("--task", "plain", "--precision", "int8"), "int8 is calibrated on samples; give two or more with --data"),
        (("--task", "plain", "--graph", "g.onnx"), "--graph says where the graph of an adapter goes"),
        (("--task", "plain", "-o", "a.txt"), "ends in '.txt', but .onnx or .onnx_adapter was expected"),
        (("--task", "plain", "-o", "a.onnx_adapter"), "--graph says where the graph of an adapter goes"),
        (("--task", "plain", "-o", "a.onnx_adapter", "--graph", "g.onnx", "--precision", "fp16"), "an adapter is in fp32"),
        (("--task", "plain", "-o", "nowhere/a.onnx"), "nowhere is not a folder; create it first"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words, message, compiled, tmp_path) -> None:
    """With what to do."""
    said = isoform_here("export", compiled, *(() if "-o" in words else ("-o", "a.onnx")), *words, cwd=tmp_path)
    assert said.returncode == 2
    assert message in said.stderr
    assert said.stderr.count("\n") == 1
    assert not [*tmp_path.glob("*.onnx")]
