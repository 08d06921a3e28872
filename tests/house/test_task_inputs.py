"""Tasks that take different things, in graphs of their own: texts of any length and vectors, through every engine, learning and HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor

import fake_texts
import numpy as np
import onnx
import pytest

from isoform.compile import kind as compile_kind
from isoform.compile.build import compile_bundle
from isoform.runtime import kind as runtime_kind
from isoform.runtime.cli import main
from isoform.runtime.errors import BundleError, InputError, SignatureError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.inputs import Input
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.service.settings import Settings
from isoform.server.store.store import Store
from isoform.train.data.samples import Dataset, Split

INPUTS = {
    "notes": Input(what="tokens", name="tokens", shape=(None,), longest=20, vocabulary=30),
    "meter": Input(what="vector", name="x", shape=(6,)),
}
CLASSES = ("low", "high")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The two lines that make the kind known."""
    monkeypatch.setitem(runtime_kind.KINDS, "texts", "fake_texts")
    monkeypatch.setitem(compile_kind.EXPORTERS, "texts", "fake_texts")


def data(task: str, count: int, seed: int, length: int = 7):
    """Samples of two classes: tokens below or above 15, numbers below or above 0."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    if task == "notes":
        return rng.integers(0, 15, (count, length)) + 15 * labels[:, None], labels
    return (rng.uniform(0, 1, (count, 6)) - 1 + labels[:, None]).astype(np.float32), labels


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A compiled bundle of random templates, two tasks and four graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runtime_kind.KINDS, "texts", "fake_texts")
        patch.setitem(compile_kind.EXPORTERS, "texts", "fake_texts")
        spec, rng = fake_texts.Sizes(INPUTS), np.random.default_rng(0)
        templates = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.template_shapes.items()}
        bases, datasets = {}, {}
        for task in INPUTS:
            parts = {
                "scale": np.ones(16),
                "keep": np.ones(16, dtype=bool),
                "logits.weight": rng.normal(size=(2, 16)),
                "logits.bias": np.zeros(2),
            }
            bases[task] = Signature(
                parts=parts, template=template_digest(spec, templates), task=task, labels=CLASSES, kind="texts"
            )
            halves = [Split(images=x, labels=y) for x, y in (data(task, 20, 1), data(task, 30, 2))]
            datasets[task] = Dataset(train=halves[0], test=halves[1], classes=CLASSES)
        folder = tmp_path_factory.mktemp("texts") / "bundle"
        Bundle.create(spec=spec, tensors=templates, signatures=bases, training={}).write(folder)
        compile_bundle(folder, datasets=datasets)
        return folder


def users(runtime: Runtime, task: str) -> list[Signature]:
    """The base, one with another scale, and one that keeps half."""
    base = runtime.signature(task)
    scaled = base.keep("keep").replace(parts={"scale": np.linspace(0.5, 2, 16)})
    return [base, scaled, base.keep("keep").replace(parts={"keep": np.arange(16) % 2 == 0})]


@pytest.mark.parametrize("engine", ["onnx", "sessions", "reference"])
def test_texts_and_vectors(path, engine) -> None:
    """Every user of every task as numpy says, texts of any length; each signature runs in the graph that is for it."""
    with Runtime.open(path, engine=engine) as runtime:
        bundle = runtime.bundle
        assert sorted(Bundle.load(path).compiled.graphs) == ["meter", "meter-whole", "notes", "notes-whole"]
        for task, length in (("notes", 7), ("meter", 0), ("notes", 1), ("notes", 20)):
            x, _ = data(task, 5, 3, length)
            for signature, graph in zip(users(runtime, task), (f"{task}-whole", f"{task}-whole", task), strict=True):
                resolved = bundle.resolve(signature)
                assert engine == "reference" or bundle.graph(resolved)[0] == graph
                expected = bundle.network.reference(task, resolved.parts, x)
                assert np.abs(runtime.predict(x, signature) - expected).max() <= 1e-4
        assert runtime.predict(np.zeros((0, 3), dtype=np.int64), runtime.signature("notes")).shape == (0, 2)
        mixed = [users(runtime, "notes")[row % 3] for row in range(6)]
        x, _ = data("notes", 6, 4)
        each = [runtime.predict(x[row : row + 1], signature) for row, signature in enumerate(mixed)]
        assert np.abs(runtime.predict(x, mixed) - np.concatenate(each)).max() <= 1e-4


def test_samples_that_are_something_else(path) -> None:
    """Too long, no token, a number instead of one, another task's, tasks that take different things at once: one line each."""
    with Runtime.open(path) as runtime:
        notes, meter = runtime.signature("notes"), runtime.signature("meter")
        for x, message in (
            (np.zeros((2, 21), dtype=int), r"\(n, 1…20\) was expected: n samples of tokens"),
            (np.zeros((2, 0), dtype=int), "1…20"),
            (np.full((2, 4), 30), "sample 0 holds a token outside 0 to 29"),
            (np.array([[0], [-1]]), "sample 1 holds a token"),
            (np.zeros((2, 4)), r"float64, but whole numbers \(token ids\) were expected"),
            ([[1], [1, 2]], "ragged"),
        ):
            with pytest.raises(InputError, match=message):
                runtime.predict(x, notes)
        with pytest.raises(InputError, match=r"\(n, 6\) was expected: n samples of features"):
            runtime.predict(np.zeros((1, 5)), meter)
        nobody = Signature(
            parts=dict(notes.parts), template=notes.template, task="nobody", labels=CLASSES, kind="texts"
        )
        for signature in (nobody, [nobody, nobody]):
            with pytest.raises(SignatureError, match="no task 'nobody', but notes, meter"):
                runtime.predict(np.zeros((2, 4), dtype=int), signature)
        with pytest.raises(UsageError, match="'notes' and 'meter' have different inputs"):
            runtime.predict(np.zeros((2, 6)), [notes, meter])


def test_they_learn(path) -> None:
    """A logits layer from labelled texts and vectors, the base told by the task's input; a stream of vectors is adapted to."""
    with Runtime.open(path) as runtime:
        for task in INPUTS:
            x, labels = data(task, 300, 5)
            found = runtime.fit(x, labels, runtime.signature(task), classes=CLASSES).signature
            other, truth = data(task, 300, 6)
            assert (runtime.predict(other, found).argmax(axis=1) == truth).mean() > 0.8
            assert runtime.adapter(found, method="t3a")(other[:16]).shape == (16, 2)


def test_the_command_line(path, tmp_path, capsys) -> None:
    """Arrays are read for any input; images and tables for none that has no grid; what a task takes stands in bundle.json."""
    content = json.loads((path / "bundle.json").read_text())
    assert content["format"] == 2
    assert content["tasks"]["notes"]["input"] == {
        "name": "tokens", "what": "tokens", "shape": [None], "shortest": 1, "longest": 20, "vocabulary": 30
    }  # fmt: skip
    x, labels = data("notes", 40, 7)
    np.savez(tmp_path / "a.npz", x=x, labels=[CLASSES[label] for label in labels])
    words = [
        "personalize",
        str(path),
        "--task",
        "notes",
        "--parts",
        "head",
        "-o",
        str(tmp_path / "s.safetensors"),
        "--data",
    ]
    assert main([*words, str(tmp_path / "a.npz")]) == 0
    capsys.readouterr()
    (tmp_path / "a.csv").write_text("label,a\nlow,1\n")
    assert main([*words, str(tmp_path / "a.csv")]) == 2
    assert "tokens of shape (n, 1…20), which are read from .npz files" in capsys.readouterr().err
    assert main(["predict", str(path), "a.png", "--task", "notes"]) == 2
    assert (
        "a.png: the network's input is tokens of shape (n, 1…20), which are read from .npz files"
        in capsys.readouterr().err
    )
    for name in ("notes", "meter-whole"):
        assert main(["inspect", str(path / "compiled" / f"{name}.onnx"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["what"] == "graph without weights"


def test_files_name_their_input(path) -> None:
    """A task's complete network has its input by name, its type, and its open length as a name."""
    model = onnx.load(path / "compiled" / "fast" / "notes.onnx")
    tokens = model.graph.input[0]
    assert (tokens.name, tokens.type.tensor_type.elem_type) == ("tokens", onnx.TensorProto.INT64)
    assert [size.dim_param for size in tokens.type.tensor_type.shape.dim] == ["n", "tokens"]


def test_a_graph_that_was_not_compiled(path, tmp_path, monkeypatch) -> None:
    """A signature that runs in no graph of the bundle is refused with what to do; others go on."""
    monkeypatch.setattr(
        fake_texts.Network,
        "graphs",
        staticmethod(lambda task, parts: (f"{task}-whole",) if parts["keep"].all() else ("lost",)),
    )
    with Runtime.open(path) as runtime:
        x, (base, _, half) = data("notes", 2, 8)[0], users(runtime, "notes")
        assert runtime.predict(x, base).shape == (2, 2)
        with pytest.raises(
            BundleError,
            match="no graph for signature .*: lost was expected, but .* were compiled; run 'isoform compile",
        ):
            runtime.predict(x, half)


def test_what_a_bundle_says_and_what_its_network_takes(path, tmp_path) -> None:
    """They must agree: programs that know no kinds rely on bundle.json."""
    import shutil

    other = tmp_path / "bundle"
    shutil.copytree(path, other)
    content = json.loads((other / "bundle.json").read_text())
    for change, message in (
        ({"longest": 21}, "task 'notes' declares the input tokens"),
        ({"shape": 3}, "shape is 3, but a list"),
        ({"what": "smell"}, "'smell', but one of"),
        ({"more": 1}, "object with name, what and shape"),
    ):
        wrong = json.loads(json.dumps(content))
        wrong["tasks"]["notes"]["input"].update(change)
        (other / "bundle.json").write_text(json.dumps(wrong))
        with pytest.raises(BundleError, match=message):
            Bundle.load(other)


def test_they_are_served(path, tmp_path) -> None:
    """Metadata, JSON and binary, raw bytes, personalizing; requests of other lengths at once are no batch; errors name the path."""
    with Runtime.open(path) as runtime, Store(tmp_path / "s.db") as store:
        client = create_app(runtime, store=store, settings=Settings(batch_samples=8)).test_client()
        told = client.get("/v2/models/notes").json["inputs"]
        assert told == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]
        assert client.get("/v2/models/meter").json["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]

        def asked(task: str, x) -> dict:
            kind, name = ("INT64", "tokens") if task == "notes" else ("FP32", "x")
            return {"name": name, "datatype": kind, "shape": list(x.shape), "data": x.ravel().tolist()}

        def logits(answer) -> np.ndarray:
            assert answer.status_code == 200, answer.json
            return np.array(next(o["data"] for o in answer.json["outputs"] if o["name"] == "logits")).reshape(-1, 2)

        for task, length in (("notes", 3), ("notes", 5), ("meter", 0)):
            x, _ = data(task, 4, 9, length)
            expected = runtime.predict(x, runtime.signature(task))
            found = logits(client.post(f"/v2/models/{task}/infer", json={"inputs": [asked(task, x)]}))
            assert np.abs(found - expected).max() <= 1e-5
            raw = client.post(f"/v2/models/{task}/infer", data=x[:1].astype(x.dtype.newbyteorder("<")).tobytes(), headers={
                "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"})  # fmt: skip
            assert raw.status_code == 200
        lengths = [1 + row % 5 for row in range(20)]
        texts = [data("notes", 1, row, length)[0] for row, length in enumerate(lengths)]
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(
                lambda x: client.application.test_client().post(
                    "/v2/models/notes/infer", json={"inputs": [asked("notes", x)]}
                ),
                texts,
            )
            for x, answer in zip(texts, answers, strict=True):
                assert np.abs(logits(answer) - runtime.predict(x, runtime.signature("notes"))).max() <= 1e-5
        x, labels = data("notes", 40, 10)
        label = {"name": "label", "datatype": "BYTES", "shape": [40], "data": [CLASSES[entry] for entry in labels]}
        job = client.post(
            "/v1/models/notes/signatures/ann/personalize",
            json={"inputs": [asked("notes", x), label]},
            headers={"Prefer": "wait=60"},
        )
        assert job.json["state"] == "done", job.json
        for change, message in (
            ({"datatype": "FP32"}, "$.inputs[0].datatype: 'INT64' was expected"),
            ({"shape": [1, 21]}, "$.inputs[0].shape: [n, 1…20] was expected"),
            ({"shape": [1, 1], "data": [0.5]}, "$.inputs[0].data: whole numbers were expected"),
            ({"shape": [1, 1], "data": [30]}, "outside 0 to 29"),
            ({"shape": [1, 1], "data": [1 << 70]}, "too large for INT64"),
            ({"name": "x"}, "$.inputs[0].name: 'tokens' was expected"),
        ):
            answer = client.post(
                "/v2/models/notes/infer", json={"inputs": [{**asked("notes", data("notes", 1, 0)[0]), **change}]}
            )
            assert answer.status_code == 400
            assert message in answer.json["error"]
        schema = client.get("/openapi.json").json["components"]["schemas"]
        assert json.dumps(schema).count('"const": "tokens"') >= 1
        assert json.dumps(schema).count('"const": "INT64"') >= 1
