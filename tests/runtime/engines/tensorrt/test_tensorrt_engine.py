"""The engine ``tensorrt`` on the host: everything but CUDA's and TensorRT's own calls, with ONNX Runtime in TensorRT's place."""

import gc
import re
import shutil

import numpy as np
import pytest
from formed import with_forms
from host_device import HostDevice, host_engine
from support import ROOT, isoform

from isoform.compile.export.int8 import quantised
from isoform.runtime import Runtime
from isoform.runtime.engines.engine import MixingEngine
from isoform.runtime.engines.tensorrt.cuda import gpu_or_none
from isoform.runtime.engines.tensorrt.engine import TensorRtEngine, open_engine
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TASK, UserVector, vector_file
from isoform.runtime.engines.tensorrt.opened import KERNEL
from isoform.runtime.engines.tensorrt.rows import Rows
from isoform.runtime.engines.tensorrt.runner import padded
from isoform.runtime.errors import EngineError, IsoformError, UsageError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.predictor import Predictor

TASKS = ("plain", "inverted", "blurred", "edges")


@pytest.fixture(scope="module")
def formed(compiled, tmp_path_factory):
    """The bundle of the four digit domains, with both forms."""
    return with_forms(compiled, tmp_path_factory.mktemp("formed") / "bundle")


@pytest.fixture
def samples(formed):
    """Samples, and the right answers for every task."""
    x = formed.network.input.random(np.random.default_rng(0), 9)
    with Runtime.open(formed.path, engine="sessions") as runtime:
        return x, {task: runtime.predict(x, formed.base(task)) for task in TASKS}


def row_bytes_of(bundle) -> int:
    """Bytes of a user's row."""
    made = bundle.require_compiled()
    return 4 * UserVector.decode(made.read(vector_file("portable")), name="x").size


def close(found, expected, limit=1e-4) -> bool:
    """Whether logits are equal but for rounding."""
    return found.shape == expected.shape and np.abs(found - expected).max() <= limit * max(1, np.abs(expected).max())


def test_one_user_after_another(formed, samples) -> None:
    """Answers are the user's; rows are reused, the least recently used first; batch sizes are captured once."""
    x, expected = samples
    engine = host_engine(formed, cache_bytes=2 * row_bytes_of(formed))
    for task in (*TASKS, "plain", "plain", "edges"):
        assert close(engine.logits(x[:3], formed.base(task)), expected[task][:3])
    stats = engine.stats()
    assert (stats["entries"], stats["misses"], stats["hits"], stats["evictions"]) == (2, 5, 2, 3)
    assert stats["bytes"] <= stats["limit_bytes"]
    form = engine._opened["portable"].runners[ONE]._form
    assert len(form.sizes) == 1
    assert close(engine.logits(x[:1], formed.base("plain")), expected["plain"][:1])
    assert len(form.sizes) == 2
    engine.forget(formed.base("plain"))
    assert engine.stats()["entries"] == 1
    engine.clear()
    assert engine.stats()["entries"] == 0
    assert close(engine.logits(x, formed.base("plain")), expected["plain"])
    # larger buffers are elsewhere, so what was prepared and captured for the old ones is gone
    assert [runs.closed for runs in form.sizes] == [True, True, False]
    device = engine._device
    assert [capture.closed for capture in device.captures] == [True, True, False]
    engine.close()
    assert device.closed
    device = host_engine(formed)._device
    gc.collect()
    assert device.closed  # nobody had that engine


def test_every_sample_of_a_batch_may_belong_to_another_user(formed, samples) -> None:
    """With room for all, for two of them at a time, and without the form: each gets its own answer, in the given order."""
    x, expected = samples
    turn = [TASKS[row % 4] for row in (3, 0, 2, 2, 1, 0, 3, 1, 0)]
    right = np.stack([expected[task][row] for row, task in enumerate(turn)])
    row_bytes = row_bytes_of(formed)
    for cache_bytes, largest in ((1 << 20, 16), (2 * row_bytes, 16), (row_bytes, 16), (1 << 20, 2)):
        engine = host_engine(formed, cache_bytes=cache_bytes, largest=largest)
        assert close(engine.logits_each(x, [formed.base(task) for task in turn]), right)
    engine = host_engine(formed)
    assert close(engine.logits_each(x, [formed.base(task) for task in turn]), right)
    assert engine._opened["portable"].runners[MANY]._form.runs == 2  # one to warm up, and its replay


def test_a_runtime_gives_it_whole_batches_of_several_users(formed, samples) -> None:
    """``Predictor`` neither cuts batches for it nor sorts them by user; signatures with other classes are refused by the sample's number."""
    x, expected = samples
    engine = host_engine(formed)
    predictor = Predictor(formed, engine)
    assert isinstance(engine, MixingEngine)
    assert predictor.mixes
    turn = [TASKS[row % 4] for row in range(9)]
    right = np.stack([expected[task][row] for row, task in enumerate(turn)])
    assert close(predictor.predict(x, [formed.base(task) for task in turn]), right)
    assert engine._opened["portable"].runners[MANY]._form.runs == 2  # one to warm up, and its replay
    many = np.tile(x, (40, 1, 1, 1))
    given, engine.logits = [], lambda x, signature: given.append(len(x)) or np.zeros((len(x), 10), np.float32)
    predictor.predict(many, formed.base("plain"))
    assert given == [len(many)]
    assert predictor.predict(x[:0], []).shape == (0, 0)
    base = formed.base("plain")
    parts = {name: base.parts[name][:3] for name in ("logits.weight", "logits.bias")}
    fewer = base.replace(parts={**base.parts, **parts}, labels=("a", "b", "c"))
    with pytest.raises(UsageError, match="the signature of sample 1 has 3 classes, but that of sample 0 has 10"):
        predictor.predict(x[:2], [base, fewer])


def test_batches_are_padded_to_a_few_sizes() -> None:
    """At most half as large again, and two sizes per power of two; a size of 7 is run as 8, and 9 as 12."""
    sizes = {padded(count, 1024) for count in range(1, 1025)}
    assert sorted(sizes) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert [padded(count, 1024) for count in (7, 9, 33)] == [8, 12, 48]
    assert all(count <= padded(count, 1024) <= 1.5 * count for count in range(1, 1025))
    assert padded(900, 1000) == 1000
    assert padded(5, 5) == 5


def test_numbers_beyond_float16_are_cut_off() -> None:
    """As in the graph; not turned into infinity."""
    device = HostDevice()
    rows = Rows(device, size=4, half=True, limit_bytes=64)
    (row,) = rows.rows({"a": lambda: np.array([1e6, -1e6, 2, 0], dtype=np.float32)})
    found = np.frombuffer(device.memories[1].buffer, dtype=np.float16, count=4, offset=8 * row)
    assert found.tolist() == [65504, -65504, 2, 0]
    rows.close()
    device.close()


def test_memory_is_freed_if_something_cannot_be_opened(formed) -> None:
    """Whatever it is."""
    device = HostDevice()

    def load(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TensorRtEngine(formed, device, load, load, cache_bytes=1 << 20)
    assert device.closed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_base_signature_has_an_engine_of_its_own(precision, compiled, samples, tmp_path) -> None:
    """In int8 always, else where it is faster; users of the task, and batches of several, do not get its weights."""
    x, expected = samples
    bundle = Bundle.load(compiled)
    file = bundle.require_compiled().read("fast/plain.onnx")
    if precision == "int8":
        file = quantised(
            file, samples=bundle.network.input.name, x=bundle.network.input.random(np.random.default_rng(1), 32)
        )
    engine = host_engine(with_forms(compiled, tmp_path / "bundle", tasks={"plain": (precision, file)}))
    base = bundle.base("plain")
    user = base.replace(parts={**base.parts, "logits.bias": base.parts["logits.bias"] + 1})
    opened = engine._opened["portable"]
    ((digest, (own, found)),) = opened.own.items()
    assert (digest, found) == (base.digest, precision)
    answers = engine.logits(x, base)
    if precision == "int8":
        assert own._form.runs == 2  # one to warm up, and its replay
        assert not np.array_equal(answers, expected["plain"])
        assert engine.stats()["misses"] == 0
    else:
        assert opened.chosen[4, base.digest] in (ONE, TASK)
        assert close(answers, expected["plain"])
    assert close(answers, expected["plain"], 0.2)
    runs = own._form.runs
    assert close(engine.logits(x, user), expected["plain"] + 1)
    turn = [base, user, bundle.base("edges")] * 3
    right = [answers, expected["plain"] + 1, expected["edges"]] * 3
    # what is rounded does not depend on who else is in the batch
    assert close(engine.logits_each(x, turn), np.stack([logits[row] for row, logits in enumerate(right)]))
    assert (own._form.runs > runs) == (precision == "int8")
    engine.close()
    assert own._form.closed


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("forms", [True, False])
def test_the_kernel_runs_what_it_runs_faster(forms, formed, samples, tmp_path) -> None:
    """Beside TensorRT both are timed once per size, and give the same answers; without TensorRT it runs everything."""
    x, expected = samples
    engine = host_engine(formed, kernels=tmp_path, forms=forms)
    turn = [TASKS[row % 4] for row in (3, 0, 2, 2, 1, 0, 3, 1, 0)]
    right = np.stack([expected[task][row] for row, task in enumerate(turn)])
    opened = engine._opened["portable"]
    assert {*opened.runners} == ({KERNEL, ONE, MANY} if forms else {KERNEL})
    for runner in opened.runners.values():
        if runner is not opened.runners.get(ONE):
            engine.logits_each(x, [formed.base(task) for task in turn])
            opened._faster[4, MANY] = runner
            assert close(engine.logits_each(x, [formed.base(task) for task in turn]), right)
    for count in (1, 2, 3):
        assert close(engine.logits(x[:count], formed.base("blurred")), expected["blurred"][:count])
    if forms:
        assert {*opened.chosen} >= {(1, ONE), (2, ONE)}
    engine.close()


@pytest.mark.parametrize(("forms", "precision", "limit"), [((ONE,), "fp32", 1e-4), ((ONE, MANY), "fp16", 0.05)])
def test_other_forms(forms, precision, limit, compiled, samples, tmp_path) -> None:
    """Without the form for many users, samples are sorted by user; with float16, rows have half the size."""
    bundle = with_forms(compiled, tmp_path / "bundle", forms=forms, precision=precision)
    x, expected = samples
    engine = host_engine(bundle)
    turn = [TASKS[row % 4] for row in range(9)]
    right = np.stack([expected[task][row] for row, task in enumerate(turn)])
    assert close(engine.logits_each(x, [bundle.base(task) for task in turn]), right, limit)
    size = engine._opened["portable"].vector.size
    assert engine._opened["portable"].rows.row_bytes == size * (4 if precision == "fp32" else 2)


def test_users_with_other_classes(formed, samples) -> None:
    """Fewer classes than the engine's are cut off; more are refused with what to do."""
    x, expected = samples
    base, engine = formed.base("plain"), host_engine(formed)
    weight, bias = (formed.resolve(base).parts[name] for name in ("logits.weight", "logits.bias"))

    def with_head(weight, bias):
        parts = {**base.parts, "logits.weight": weight, "logits.bias": bias}
        return base.replace(parts=parts, labels=tuple(f"c{number}" for number in range(len(bias))))

    fewer = with_head(weight[:3].copy(), bias[:3].copy())
    assert close(engine.logits(x, fewer), expected["plain"][:, :3])
    assert close(engine.logits(x, base), expected["plain"])
    with pytest.raises(EngineError, match="as many classes each"):
        engine.logits_each(x[:2], [base, fewer])
    with pytest.raises(EngineError, match="20 classes, but the engine was built for 12; run .* --classes 20"):
        engine.logits(x, with_head(np.tile(weight, (2, 1)), np.tile(bias, 2)))


def test_without_forms_or_a_gpu(compiled, formed) -> None:
    """One line that says what to run, or what is missing."""
    with pytest.raises(EngineError, match=r"has no graphs for TensorRT; run 'isoform compile .* --target tensorrt'"):
        host_engine(Bundle.load(compiled))
    if gpu_or_none() is None:
        with pytest.raises(IsoformError, match=r"NVIDIA driver|isoform\[tensorrt\]"):
            open_engine(formed, threads=1, cache_bytes=1 << 20, providers=None)
        said = isoform("predict", formed.path, "--engine", "tensorrt", ROOT / "README.md", check=False)
        assert said.returncode != 0
        assert "Traceback" not in said.stderr
        assert not re.search(r"\n.*\n.*\n", said.stderr.strip())
