"""The engine ``tensorrt`` on a GPU; skipped where there is none."""

import importlib.util
import shutil

import numpy as np
import pytest
from formed import with_forms

from isoform.compile.build import compile_bundle
from isoform.compile.tensorrt.target import Target
from isoform.runtime import Runtime
from isoform.runtime.engines.tensorrt import loading
from isoform.runtime.engines.tensorrt.builder import BuildOptions, build_engine
from isoform.runtime.engines.tensorrt.context import Context
from isoform.runtime.engines.tensorrt.cuda import Device, gpu_or_none
from isoform.runtime.engines.tensorrt.engine import open_engine
from isoform.runtime.engines.tensorrt.form import MANY, ONE, UserVector, form_file, vector_file
from isoform.runtime.engines.tensorrt.opened import KERNEL
from isoform.runtime.engines.tensorrt.products import PRODUCTS, find_product
from isoform.runtime.errors import MissingExtraError
from isoform.runtime.formats.bundle import Bundle

TASKS = ("plain", "inverted", "blurred", "edges")

pytestmark = pytest.mark.skipif(gpu_or_none() is None, reason="there is no GPU")


@pytest.fixture(scope="module")
def formed(compiled, tmp_path_factory):
    """The bundle of the four digit domains, with both forms."""
    return with_forms(compiled, tmp_path_factory.mktemp("formed") / "bundle")


@pytest.fixture
def samples(formed, monkeypatch, tmp_path):
    """Samples, a user for each, and the right answers; there is an empty cache."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    x = formed.network.input.random(np.random.default_rng(0), 130)
    turn = [formed.base(TASKS[row % 4]) for row in range(len(x))]
    with Runtime.open(formed.path, engine="sessions") as runtime:
        return x, turn, runtime.predict(x, turn)


@pytest.fixture
def product():
    """TensorRT or TensorRT-RTX."""
    try:
        return find_product()
    except MissingExtraError as problem:
        pytest.skip(str(problem))


def close(found, expected, limit=1e-3) -> bool:
    """Whether logits are equal to ``limit`` of the largest."""
    return found.shape == expected.shape and np.abs(found - expected).max() <= limit * max(1, np.abs(expected).max())


def test_answers_are_those_of_onnx_runtime(formed, samples) -> None:
    """One user after the other and mixed, in batches of several sizes, twice each: the second is a replay."""
    x, turn, expected = samples
    with Runtime.open(formed.path, engine="tensorrt") as runtime:
        for _ in range(2):
            for count in (1, 3, 32, 130):
                assert close(runtime.predict(x[:count], turn[:count]), expected[:count])
                assert close(runtime.predict(x[3 : 3 + 4 * count : 4], turn[3]), expected[3 : 3 + 4 * count : 4])
        assert runtime.stats()["entries"] == 4


def test_every_way_gives_the_same_answers(formed, samples) -> None:
    """Whichever was the fastest: the kernel, and TensorRT's forms where it is installed; users are evicted and come back."""
    x, turn, expected = samples
    size = UserVector.decode(formed.require_compiled().read(vector_file("portable")), name="x").size
    engine = open_engine(formed, threads=1, cache_bytes=8 * size, providers=None)  # two users
    opened = engine._opened["portable"]
    assert KERNEL in opened.runners
    if any(importlib.util.find_spec(module) for module in PRODUCTS.values()):
        assert {ONE, MANY} <= {*opened.runners}
    every = dict(opened.runners)
    for way, runner in every.items():
        opened.runners, opened._faster = {way: runner}, {}
        for count in (1, 32, 1, 5, 32):  # every size is captured once, and replayed after others
            assert close(engine.logits(x[1 : 4 * count : 4], turn[1]), expected[1 : 4 * count : 4]), way
        assert close(engine.logits_each(x, turn), expected), way
    opened.runners = every
    assert engine.stats()["evictions"] > 0
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_compiling_for_this_gpu_verifies_it(precision, compiled, product, tmp_path, monkeypatch) -> None:
    """And the runtime uses the engines that were written, without a build."""
    shutil.copytree(compiled, tmp_path / "bundle")
    target = Target(product=product.name, precision=precision, tasks=True)
    verified = compile_bundle(tmp_path / "bundle", max_drop_points=5, target=target)["tensorrt"]["verified"]
    for ways in verified["tasks"].values():
        assert {ONE, MANY} <= {*ways}
        for told in ways.values():
            assert told["agreement"] >= {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}[precision]
    monkeypatch.setattr(loading.Loading, "_own", None)  # which would look elsewhere, or build
    bundle = Bundle.load(tmp_path / "bundle")
    with Runtime.open(bundle.path, engine="tensorrt") as runtime:
        assert runtime.predict(
            bundle.network.input.random(np.random.default_rng(0), 3), bundle.base("plain")
        ).shape == (3, 10)


def test_weights_are_replaced_in_a_stored_engine(formed, product, samples) -> None:
    """By a refit, and in one that was stored without them."""
    if not hasattr(product.module, "OnnxParserRefitter"):
        pytest.skip(f"{product.title} has no refitter that reads a graph")
    vector = UserVector.decode(formed.require_compiled().read(vector_file("portable")), name="x")
    file = formed.require_compiled().read(form_file("portable", ONE, "fp32"))
    sizes = {}
    with Device() as device, device.current():
        for shared in ("refit", "stripped"):
            built = build_engine(
                product, file, form=ONE, vector=vector, takes=formed.network.input, options=BuildOptions(shared=shared)
            )
            sizes[shared] = len(built.engine)
            context = Context(product, device, built.engine, weights=file)
            again = Context(product, device, context.encode())
            again.close()
            context.close()
    assert sizes["stripped"] < sizes["refit"]


def test_what_a_build_has_timed_is_kept(formed, product, samples) -> None:
    """Of TensorRT; TensorRT-RTX times nothing."""
    open_engine(formed, threads=1, cache_bytes=1 << 20, providers=None).close()
    assert bool(loading.kept_timings(product, gpu_or_none())) == (product.name == "tensorrt")
