"""Users who differ in a single number get their own answers; runtimes are freed; large batches keep no memory."""

import dataclasses
import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from support import ROOT, SMALL, make_bundle

from isoform.compile.kinds.mixture.graph import portable_graph
from isoform.runtime import Runtime, predictor
from isoform.runtime.batches import in_slices, slice_samples
from isoform.runtime.engines.onnx.per_signature import SessionEngine
from isoform.runtime.engines.onnx.plan_engine import PlanEngine
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.compiled import Compiled
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.learn.learner import MixtureLearner
from isoform.runtime.kinds.mixture.reference import reference_logits

pytestmark = pytest.mark.trust

KEPT = ROOT / "docs" / "examples" / "bundle"
KINDS = tuple(SMALL.block_shapes)


def near_twins() -> tuple[Bundle, list[Signature]]:
    """A bundle, and users of it who differ from the first in one number: the last of a weight, or a bias."""
    spec = dataclasses.replace(SMALL, templates=1 + len(KINDS), affine="layer")
    tensors = {name: array.copy() for name, array in make_bundle(spec).tensors.items()}
    for template, kind in enumerate(KINDS, start=1):
        for name in KINDS:
            tensors[f"template.{name}"][template] = tensors[f"template.{name}"][0]
        tensors[f"template.{kind}"][template].flat[-1] += 1
    made = make_bundle(spec)
    digest = template_digest(spec, tensors)
    parts = dict(made.signatures["a"].parts) | {"mixture": discrete_logits([0] * spec.layers, spec.templates)}
    base = Signature(parts=parts, template=digest, task="a", labels=("x", "y", "z"))
    bundle = Bundle.create(spec=spec, tensors=tensors, signatures={"a": base}, training={})
    graph = portable_graph(spec, template=digest)
    compiled = Compiled(path=ROOT, manifest={"files": {}}, signatures={"a": base}, graphs={"portable": graph})
    bundle = dataclasses.replace(bundle, compiled=compiled)

    def user(**changed: np.ndarray) -> Signature:
        return base.replace(parts={name.replace("_", "."): array for name, array in changed.items()}, base=base.digest)

    users = [base]
    users += [user(mixture=discrete_logits([k] * spec.layers, spec.templates)) for k in range(1, spec.templates)]
    affine = tensors["bn.affine"]
    for place in (
        spec.bn_slices.values()
    ):  # γ of a BN's last channel: a weight's last numbers; β of its first and last: the bias
        for row, channel in ((0, place.stop - 1), (1, place.start), (1, place.stop - 1)):
            moved = affine.copy()
            moved[row, channel] += 1
            users.append(user(bn_affine=moved))
    logits = parts["logits.weight"].copy()
    logits.flat[-1] += 1
    users.append(base.replace(parts={"logits.weight": logits, "logits.bias": parts["logits.bias"]}, base=base.digest))
    return bundle, users


@pytest.mark.parametrize("kind", ["plan", "sessions"])
def test_users_who_differ_in_one_number(kind) -> None:
    """Users who differ only in the stem's bias, another bias, or after a weight's sixteenth number never get each other's answers."""
    bundle, users = near_twins()
    made, cache_bytes = (PlanEngine, 1 << 16) if kind == "plan" else (SessionEngine, 1 << 30)
    engine = made(bundle, threads=1, cache_bytes=cache_bytes)
    x = np.random.default_rng(0).uniform(0, 1, (1, *bundle.spec.input_shape)).astype(np.float32)
    expected = [reference_logits(bundle.spec, bundle.tensors, bundle.resolve(user).parts, x) for user in users]
    gaps = [np.abs(one - other).max() for i, one in enumerate(expected) for other in expected[:i]]
    assert len(users) == 1 + len(KINDS) + 3 * len(bundle.spec.bn_slices) + 1
    tolerance = 1e-5 * max(np.abs(one).max() for one in expected)
    assert min(gaps) > 2 * tolerance
    for _ in range(3):
        for index in range(1, len(users)):
            for turn in (0, index, 0, index, index - 1):
                assert np.abs(engine.logits(x, users[turn]) - expected[turn]).max() <= tolerance, turn


@pytest.mark.parametrize("engine", ["onnx", "reference"])
def test_a_runtime_is_freed(engine) -> None:
    """A runtime that nobody holds any more is gone at once, after predicting, learning and adapting too."""
    runtime = Runtime.open(KEPT, engine=engine)
    x = np.random.default_rng(0).uniform(0, 1, (2, *runtime.bundle.spec.input_shape)).astype(np.float32)
    start = runtime.signature("plain")
    runtime.predict(x, start)
    if engine == "onnx":
        runtime.adapter(start)(x)
    gone = weakref.ref(runtime)
    del runtime
    gc.collect()
    assert gone() is None


def test_two_first_requests_make_one_learner(monkeypatch) -> None:
    """However many threads want to learn first, the training graphs are opened once, and what a base saw is read once."""
    made, real = [], MixtureLearner.__init__

    def slow(self, *arguments, **options):
        made.append(self)
        time.sleep(0.05)
        real(self, *arguments, **options)

    monkeypatch.setattr(MixtureLearner, "__init__", slow)
    with Runtime.open(KEPT) as runtime:
        barrier, found = threading.Barrier(8), []

        def work() -> None:
            barrier.wait()
            found.append((runtime.learner, runtime._source("plain")))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1
    assert len({(id(learner), id(source)) for learner, source in found}) == 1


@pytest.mark.parametrize("engine", ["onnx", "reference"])
def test_slices_change_no_answer(engine, monkeypatch) -> None:
    """A batch in slices of any size gives what it gives at once, to the last bit with ONNX Runtime, and the order stays."""
    with Runtime.open(KEPT, engine=engine) as runtime:
        signature, count = runtime.signature("plain"), 37
        x = np.random.default_rng(0).uniform(0, 1, (count, *runtime.bundle.spec.input_shape)).astype(np.float32)
        assert slice_samples(runtime.bundle.spec, "plain", x.shape[1:]) > count
        whole = runtime.predict(x, signature)
        for samples in (4, 5, 7, 16, 36, 37) if engine == "onnx" else (16,):
            monkeypatch.setattr(predictor, "slice_samples", lambda *_, samples=samples: samples)
            sliced = runtime.predict(x, signature)
            if engine == "onnx":
                assert np.array_equal(sliced, whole)
            else:
                np.testing.assert_allclose(sliced, whole, rtol=0, atol=1e-5)


def test_how_a_batch_is_cut() -> None:
    """Every sample once and in order, never more at once than may be, never one alone; and the bound is one of bytes."""
    for count in range(4, 200):
        for samples in (4, 5, 16):
            sizes = []
            found = in_slices(lambda x, sizes=sizes: sizes.append(len(x)) or x, np.arange(count), samples)
            assert np.array_equal(found, np.arange(count))
            assert 2 <= min(sizes) <= max(sizes) <= samples
    wide = dataclasses.replace(SMALL, input_shape=(1, 512, 512))
    assert slice_samples(wide, "a", (1, 512, 512)) == 8 < slice_samples(SMALL, "a", SMALL.input_shape) < 10_000


LARGE = """
import sys, numpy as np
from isoform.runtime import Runtime
def resident(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
with Runtime.open(sys.argv[1]) as rt:
    x = np.zeros((8192, *rt.bundle.spec.input_shape), np.float32)
    x[:] = np.linspace(0, 1, 32, dtype=np.float32)
    for task in rt.tasks: rt.predict(x[:1], rt.signature(task))
    before = resident()
    rt.predict(x, rt.signature("plain"))
    print(round(resident() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_large_batch_keeps_no_memory() -> None:
    """After 8,192 samples in one call a process holds at most 48 MB more than after one."""
    printed = subprocess.run([sys.executable, "-c", LARGE, str(KEPT)], capture_output=True, text=True, check=True)
    assert int(printed.stdout) <= 48
