"""A kind and an engine that nobody planned for, added by their folder and one line: everything else takes them as they are."""

import json
import sys
import types

import fake_kind
import numpy as np
import pytest
import torch

from isoform.compile import kind as compile_kind
from isoform.compile.build import compile_bundle
from isoform.runtime import kind as runtime_kind
from isoform.runtime.arithmetic import average, distance
from isoform.runtime.cli import main
from isoform.runtime.engines import engine as engines
from isoform.runtime.errors import BundleError, CompileError, RecipeError, SignatureError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.inheritance import reduced
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.store.store import Store
from isoform.train import kind as train_kind
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset, Split
from isoform.train.loop import train
from isoform.train.recipe import Recipe, read_recipe

RECIPE = """
kind = "gains"
steps = 60
threads = 1
[data]
input_shape = [1, 8, 8]
shift = 0
[tasks.plain]
data = "digits"
[tasks.inverted]
data = "digits"
domain = "inverted"
"""
CLASSES = ("dark", "light", "striped")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The three lines that make the kind known."""
    monkeypatch.setitem(runtime_kind.KINDS, "gains", "fake_kind")
    monkeypatch.setitem(compile_kind.EXPORTERS, "gains", "fake_kind")
    monkeypatch.setitem(train_kind.TRAINERS, "gains", "fake_trainer")


def data(count: int, seed: int):
    """Small pictures of three classes, and their indices."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = rng.uniform(0, 0.3, (count, 1, 6, 6)).astype(np.float32)
    x[labels == 1] += 0.6
    x[labels == 2, :, ::2] += 0.6
    return x, labels


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A compiled bundle of the fake kind, of random templates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runtime_kind.KINDS, "gains", "fake_kind")
        patch.setitem(compile_kind.EXPORTERS, "gains", "fake_kind")
        spec, rng = fake_kind.Sizes(input_shape=(1, 6, 6), embedding=24), np.random.default_rng(0)
        templates = {"matrix": rng.normal(size=(24, 36)).astype(np.float32)}
        parts = {
            "gains": np.linspace(0.5, 1.5, 24), "logits.weight": rng.normal(size=(3, 24)) / 5, "logits.bias": np.zeros(3),
        }  # fmt: skip
        base = Signature(
            parts=parts, template=template_digest(spec, templates), task="stripes", labels=CLASSES, kind="gains"
        )
        folder = tmp_path_factory.mktemp("gains") / "bundle"
        Bundle.create(spec=spec, tensors=templates, signatures={"stripes": base}, training={}).write(folder)
        with pytest.raises(CompileError, match="does not say how it was trained"):
            compile_bundle(folder)
        (x, y), (test_x, test_y) = data(30, 1), data(30, 2)
        halves = Split(images=x, labels=y), Split(images=test_x, labels=test_y)
        report = compile_bundle(folder, datasets={"stripes": Dataset(train=halves[0], test=halves[1], classes=CLASSES)})
        assert report["tasks"]["stripes"]["verified"]["numpy_portable"] < 1e-4
        return folder


@pytest.mark.parametrize("engine", ["auto", "onnx", "sessions", "reference"])
def test_it_predicts(path, engine, monkeypatch, tmp_path) -> None:
    """By every engine as numpy does, for the base and for a user; a plan is stored, and read by the next one."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path))
    x, _ = data(7, 3)
    for _ in range(2):
        with Runtime.open(path, engine=engine) as runtime:
            base = runtime.signature("stripes")
            user = base.keep("gains").replace(parts={"gains": np.linspace(1, -1, 24)})
            for signature in (base, user):
                expected = runtime.bundle.network.reference(signature.task, runtime.bundle.resolve(signature).parts, x)
                assert np.abs(runtime.predict(x, signature) - expected).max() <= 1e-4
            assert runtime.engine == ("onnx" if engine == "auto" else engine)
    assert len(list(tmp_path.glob("plan-*"))) == (engine in ("auto", "onnx"))


def test_it_learns_its_logits_layer(path, caplog) -> None:
    """The head is fitted through the engine; other parts cannot be; a stream is adapted to by methods that need no BN."""
    x, labels = data(60, 4)
    with Runtime.open(path) as runtime:
        found = runtime.fit(x, labels, runtime.signature("stripes"), classes=CLASSES)
        assert set(found.signature.parts) == {"logits.weight", "logits.bias"}
        other, truth = data(90, 5)
        assert (runtime.predict(other, found.signature).argmax(axis=1) == truth).mean() > 0.9
        with pytest.raises(UsageError, match="one or more of head"):
            runtime.fit(x, labels, parts=["mixture"])
        for method in ("t3a", "lame", "spsa"):
            assert runtime.adapter(found.signature, method=method)(other[:16]).shape == (16, 3)
        for method in ("auto", "tent", "batch", "rotta", "eata"):
            with pytest.raises(UsageError, match="BN"):
                runtime.adapter(found.signature, method=method)(other[:16])


def test_its_signatures(path, tmp_path) -> None:
    """Files, inheritance, arithmetic; a signature of another kind is refused."""
    with Runtime.open(path) as runtime:
        base, bundle = runtime.signature("stripes"), runtime.bundle
        one, two = (base.keep("gains").replace(parts={"gains": np.full(24, value)}) for value in (1.0, 3.0))
        one.save(tmp_path / "one.safetensors")
        assert Signature.load(tmp_path / "one.safetensors") == one
        assert average(bundle, [one, two]).parts["gains"].tolist() == [2.0] * 24
        assert distance(bundle, one, two) == 1
        assert set(reduced(bundle, base).parts) == {"gains"}
        with pytest.raises(SignatureError, match="holds \\['mixture'\\]"):
            base.replace(parts={"mixture": np.zeros((2, 2))})
        with pytest.raises(SignatureError, match="kind"):
            bundle.resolve(Signature(parts={"mixture": np.zeros((2, 2))}, template=bundle.digest, task="stripes"))


def test_its_commands(path, tmp_path, capsys) -> None:
    """``inspect`` says what the kind says; ``figure`` draws what it uses; ``predict`` takes the engine by name."""
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["stripes"]["gains"][0] == 0.5
    assert main(["figure", str(path), "-o", str(tmp_path / "gains.svg")]) == 0
    assert (tmp_path / "gains.svg").stat().st_size > 1000
    x, _ = data(2, 6)
    np.savez(tmp_path / "x.npz", x=x)
    assert main(["predict", str(path), str(tmp_path / "x.npz"), "--task", "stripes", "--engine", "nothing"]) == 2
    assert "one of auto, onnx, sessions, tensorrt, reference" in capsys.readouterr().err


def test_it_is_served(path, tmp_path) -> None:
    """Predictions, a user's signature, personalizing, templates and the document of the API."""
    x, labels = data(30, 7)
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    label = {"name": "label", "shape": [30], "datatype": "BYTES", "data": [CLASSES[index] for index in labels]}
    with Runtime.open(path) as runtime, Store(tmp_path / "s.db") as store:
        client = create_app(runtime, store=store).test_client()
        answer = client.post("/v2/models/stripes/infer", json={"inputs": [tensor]})
        logits = np.array(next(o["data"] for o in answer.json["outputs"] if o["name"] == "logits")).reshape(30, 3)
        assert np.abs(logits - runtime.predict(x, runtime.signature("stripes"))).max() <= 1e-5
        user = "/v1/models/stripes/signatures/alice"
        job = client.post(f"{user}/personalize", json={"inputs": [tensor, label]}, headers={"Prefer": "wait=60"})
        assert job.json["state"] == "done", job.json
        assert client.get("/v1/models/stripes/templates?signature=alice").json["templates"] == 1
        assert client.get("/openapi.json").json["paths"]["/v1/models/{task}/signatures/{user}/personalize"]


def test_it_is_trained(tmp_path, capsys) -> None:
    """``isoform train`` and ``isoform compile`` by a recipe that names it, and what they write predicts as it did in training."""
    (tmp_path / "gains.toml").write_text(RECIPE)
    assert main(["train", str(tmp_path / "gains.toml"), "-o", str(tmp_path / "bundle"), "--gains.lr", "0.02"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["updates"] == 120
    assert min(summary["test_accuracy"].values()) > 0.7
    assert "after 120 updates" in printed.err
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.training["recipe"]["kind"] == "gains"
    assert bundle.training["recipe"]["gains"] == {"embedding": 24, "lr": 0.02}
    assert set(bundle.training["history"][0]) == {"step", "loss", "updates"}
    assert main(["compile", str(tmp_path / "bundle")]) == 0
    report = json.loads((tmp_path / "bundle" / "compiled" / "report.json").read_text())
    for task, accuracy in summary["test_accuracy"].items():
        assert report["tasks"][task]["verified"]["top1_before"] == pytest.approx(accuracy, abs=1e-4)


def test_its_training_goes_on_where_it_was_stopped(tmp_path) -> None:
    """A run that dies and is started again ends in the same bytes: its dropout, its order of tasks, and what it counts, too."""
    (tmp_path / "gains.toml").write_text(RECIPE)
    recipe = read_recipe(str(tmp_path / "gains.toml"), {"steps": "9"})
    datasets = {name: load_task(task, recipe.data, root=None) for name, task in recipe.tasks.items()}

    def die(report) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    whole = train(recipe, datasets, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, datasets, checkpoint=tmp_path / "state", checkpoint_seconds=0, progress=die)
    before = torch.get_rng_state()
    steps = []
    resumed = train(recipe, datasets, checkpoint=tmp_path / "state", progress=lambda report: steps.append(report.step))
    assert steps == [5, 6, 7, 8, 9]
    assert (resumed.digest, dict(resumed.signatures)) == (whole.digest, dict(whole.signatures))
    assert resumed.training == whole.training
    assert torch.equal(torch.get_rng_state(), before)


def test_its_recipe_and_its_flags(tmp_path, capsys) -> None:
    """Its fields are flags beside everybody's; mistakes in them, and of other kinds' fields, are one line."""
    (tmp_path / "gains.toml").write_text(RECIPE)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    flags = capsys.readouterr().out
    assert "--gains.embedding VALUE" in flags
    assert flags.count("  --steps VALUE") == 1
    for flag, message in (
        ("--gains.lr fast", "gains, lr is 'fast', but a number"),
        ("--network.layers 3", "unknown field 'network'"),
    ):
        assert main(["train", str(tmp_path / "gains.toml"), "-o", str(tmp_path / "bundle"), *flag.split()]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", str(tmp_path / "gains.toml"), "-o", str(tmp_path / "bundle"), "--gains.lr", "1e30"]) == 2
    assert "at step 2; look for samples that are not finite, or lower gains.lr" in capsys.readouterr().err


def test_a_kind_that_is_not_there(path, monkeypatch) -> None:
    """One line says which kinds there are."""
    monkeypatch.delitem(runtime_kind.KINDS, "gains")
    monkeypatch.delitem(train_kind.TRAINERS, "gains")
    with pytest.raises(BundleError, match="of kind 'gains', but this version reads 'mixture'"):
        Bundle.load(path)
    with pytest.raises(RecipeError, match="recipe, kind is 'gains', but 'mixture'"):
        Recipe.from_json({"kind": "gains", "steps": 1})


def test_an_engine(path, monkeypatch) -> None:
    """An engine by its module and one line: opened by its name, asked for logits, and first of all where it is put first."""

    class Half:
        name, drawback = "half", None

        def __init__(self, bundle):
            self.bundle, self.asked = bundle, []

        def logits(self, x, signature):
            self.asked.append(signature.digest)
            return self.bundle.network.reference(
                signature.task, self.bundle.resolve(signature).parts, x.astype(np.float16)
            )

        def forget(self, signature): ...

        def clear(self): ...

        def stats(self):
            return {"asked": float(len(self.asked))}

    module = types.ModuleType("fake_engine")
    module.open_engine = lambda bundle, *, threads, cache_bytes, providers: Half(bundle)
    monkeypatch.setitem(sys.modules, "fake_engine", module)
    monkeypatch.setitem(engines.ENGINES, "half", "fake_engine")
    x, _ = data(3, 8)
    with Runtime.open(path, engine="half") as runtime, Runtime.open(path) as other:
        signature = runtime.signature("stripes")
        assert np.abs(runtime.predict(x, signature) - other.predict(x, signature)).max() < 0.05
        assert runtime.stats() == {"asked": 1.0}
        assert other.engine == "onnx"
    monkeypatch.setattr(engines, "BY_ITSELF", ("half", *engines.BY_ITSELF))
    with Runtime.open(path) as runtime:
        assert runtime.engine == "half"


def test_providers(path) -> None:
    """The CPU by its name is the plan's; another that is not installed is an error that lists those that are; the reference has none."""
    from isoform.runtime.errors import EngineError

    with Runtime.open(path, providers=["CPUExecutionProvider"]) as runtime:
        assert runtime.engine == "onnx"
    for engine in ("auto", "sessions"):
        with pytest.raises(EngineError, match="has no provider CUDAExecutionProvider, but .*CPUExecutionProvider"):
            Runtime.open(path, engine=engine, providers=["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match="plans run on CPUExecutionProvider only"):
        Runtime.open(path, engine="onnx", providers=["CUDAExecutionProvider"])
    with pytest.raises(UsageError, match="the reference engine runs numpy"):
        Runtime.open(path, engine="reference", providers=["CPUExecutionProvider"])
