"""The device plan: lifting, learning layouts, testing itself, and its place on the disk."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from lifted import lifted_output
from support import SMALL, make_bundle

from isoform.compile.kinds.mixture.graph import portable_graph
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.plans import builder as module
from isoform.runtime.engines.onnx.plans import disk
from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.lift import lift_weights, read_weights
from isoform.runtime.engines.onnx.plans.plan import Plan, subject_of
from isoform.runtime.engines.onnx.plans.trial import self_tested
from isoform.runtime.engines.user_cache import cache_directory
from isoform.runtime.errors import EngineError
from isoform.runtime.kinds.mixture.discrete import discrete_logits
from isoform.runtime.kinds.mixture.fold import CONSTANTS, fold, folded_shapes
from isoform.runtime.kinds.mixture.laid_fold import row_size
from isoform.runtime.layout import Layout, aligned

SPECS = {
    "small": SMALL,
    "quickstart": dataclasses.replace(
        SMALL, input_shape=(1, 32, 32), adapter_kernel=(4, 4), channels=24, head_channels=72, layers=2
    ),
    "large": dataclasses.replace(
        SMALL, input_shape=(3, 64, 64), adapter_kernel=(16, 16), channels=40, expansion=6, head_channels=240, layers=2,
        mean=(0.5,) * 3, std=(0.2,) * 3,
    ),
    "sensor": dataclasses.replace(
        SMALL, input_shape=(6, 1, 64), adapter_kernel=(1, 8), kernel=5, mean=(0.0,) * 6, std=(1.0,) * 6
    ),
    "odd": dataclasses.replace(SMALL, channels=7, expansion=3, head_channels=11, embedding=5),
}  # fmt: skip


@pytest.fixture(scope="module", params=SPECS)
def case(request):
    """A bundle of random numbers, its portable graph, and its plan."""
    bundle = make_bundle(SPECS[request.param])
    portable = portable_graph(bundle.spec, template=bundle.digest)
    return bundle, portable, build_plan(subject_of(portable, bundle.network))


def test_the_plan_is_the_constant_network(case) -> None:
    """Through the plan, any signature gives what its weights give as constants, to 1e-6 of the largest logit."""
    bundle, portable, plan = case
    for task in "ab":
        folded = fold(bundle.spec, bundle.tensors, bundle.resolve(bundle.signatures[task]).parts)
        head = {name: folded[name] for name in ("logits.weight", "logits.bias")}
        constant = portable_session(portable, folded, threads=1)
        for batch in (1, 2, 16):
            x = np.random.default_rng(batch).uniform(0, 1, (batch, *bundle.spec.input_shape)).astype(np.float32)
            expected = constant.run(None, {"image": x, **head})[0]
            found = lifted_output(plan, folded, {"image": x, **head}, "logits")
            assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_every_weight_is_laid_out(case) -> None:
    """The layout holds every folded weight, padding is 0, and every tensor starts at a multiple of 64 bytes."""
    bundle, _, plan = case
    changing = {name: shape for name, shape in folded_shapes(bundle.spec).items() if name not in CONSTANTS}
    total = sum(int(np.prod(shape)) for shape in changing.values())
    assert set(plan.layout.gather) | {0} == set(range(total + 1))
    folded = fold(bundle.spec, bundle.tensors, bundle.resolve(bundle.signatures["a"]).parts)
    vector = plan.layout.lay_out(folded)
    assert vector.ctypes.data % 64 == 0
    assert all(start % 16 == 0 for _, _, start in plan.layout.weights)
    assert not vector[plan.layout.gather == 0].any()
    flat = np.concatenate([[0], *(folded[name].ravel() for name in folded_shapes(bundle.spec))])
    assert np.array_equal(vector, flat[plan.layout.gather].astype(np.float32))


@pytest.mark.parametrize("affine", ["layer", "task", "mixed"])
@pytest.mark.parametrize("name", SPECS)
def test_the_fast_fold_is_the_fold(name, affine) -> None:
    """Folding straight into the layout gives what folding and laying out gives, but for the last bit, wherever γ and β live.

    A discrete signature's layers are its blocks, exactly.
    """
    bundle = make_bundle(dataclasses.replace(SPECS[name], affine=affine))
    plan = build_plan(subject_of(portable_graph(bundle.spec, template=bundle.digest), bundle.network))
    fast = bundle.network.folder(plan.layout)
    base = bundle.signatures["a"]
    discrete = base.replace(
        parts={**base.parts, "mixture": discrete_logits([1] * bundle.spec.layers, bundle.spec.templates)}
    )
    for signature in (base, bundle.signatures["b"], discrete):
        parts = bundle.resolve(signature).parts
        expected = plan.layout.lay_out(fold(bundle.spec, bundle.tensors, parts))
        found, group = aligned(fast.size), fast.group(parts)
        found[:] = np.nan
        fast.fill(fast.read(parts), group, found)
        np.testing.assert_array_max_ulp(found, expected, maxulp=1)
    rows = expected[: fast.moving].reshape(bundle.spec.layers, -1)
    for layer in range(bundle.spec.layers):
        assert np.array_equal(fast.piece(group, layer, 1), rows[layer])


def test_lifting_a_cut_graph_is_refused(case) -> None:
    """A graph that was cut short is refused, and so is one whose weights lie elsewhere."""
    _, portable, plan = case
    for end in range(len(plan.graph) - 20, len(plan.graph)):
        with contextlib.suppress(EngineError):
            assert lift_weights(plan.graph[:end], {}, {}) == plan.graph[:end]
    with pytest.raises(EngineError, match="cut short"):
        lift_weights(plan.graph[:100], {}, {})
    with pytest.raises(EngineError, match="bytes in the file, but"):
        read_weights(portable)


def test_an_optimiser_that_computes_is_noticed(case, monkeypatch) -> None:
    """If a weight comes out as anything but a whole index, there is no plan."""
    bundle, portable, _ = case
    real = module.read_weights

    def computed(data):
        weights = real(data)
        name = next(iter(weights))
        return {**weights, name: weights[name] * np.float32(0.5)}

    monkeypatch.setattr(module, "read_weights", computed)
    with pytest.raises(EngineError, match="computed with weight .* instead of moving it"):
        build_plan(subject_of(portable, bundle.network))


def test_a_wrong_layout_fails_the_self_test(case, monkeypatch) -> None:
    """A plan whose map is wrong in one tensor does not pass its own test."""
    bundle, portable, plan = case
    gather = plan.layout.gather.copy()
    _, shape, start = max(plan.layout.weights, key=lambda entry: int(np.prod(entry[1])))
    places = start + np.flatnonzero(gather[start : start + int(np.prod(shape))])
    gather[places] = np.roll(gather[places], 1)
    with pytest.raises(EngineError, match="logits differ by .* so the plan is not used"):
        self_tested(
            dataclasses.replace(plan, layout=Layout(plan.layout.weights, gather)), subject_of(portable, bundle.network)
        )


def test_layers_that_are_laid_out_unlike_others_are_noticed(case) -> None:
    """If one layer's map differs from the first one's, there is no fast fold into it."""
    bundle, _, plan = case
    gather = plan.layout.gather.copy()
    size = row_size(plan.layout, bundle.spec)
    assert bundle.network.folder(plan.layout).moving == bundle.spec.layers * size
    row = gather[size : 2 * size]
    places = np.flatnonzero(row)[:2]
    row[places] = row[places[::-1]]
    unlike = Layout(plan.layout.weights, gather)
    assert row_size(unlike, bundle.spec) is None
    assert bundle.network.folder(unlike) is None


def test_too_many_weights_have_no_plan(monkeypatch, case) -> None:
    """Indices beyond what float32 holds exactly are refused before anything is built."""
    bundle, portable, _ = case
    monkeypatch.setattr(module, "EXACT", 100)
    with pytest.raises(EngineError, match="layouts are learned for fewer than 100"):
        build_plan(subject_of(portable, bundle.network))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache directory, and a count of plans that were built."""
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "cache"))
    built = []

    def counted(*arguments):
        built.append(arguments)
        return build_plan(*arguments)

    monkeypatch.setattr(disk, "build_plan", counted)
    return tmp_path / "cache", built


def same(one: Plan, other: Plan) -> bool:
    """Whether two plans are the same."""
    return all(
        a == b for a, b in ((one.graph, other.graph), (one.layout.weights, other.layout.weights))
    ) and np.array_equal(one.layout.gather, other.layout.gather)


def test_a_stored_plan_is_used(case, cache) -> None:
    """The second start reads the plan that the first one stored, and it is the same."""
    bundle, portable, _ = case
    first = disk.cached_plan(subject_of(portable, bundle.network))
    assert same(first, disk.cached_plan(subject_of(portable, bundle.network)))
    assert len(cache[1]) == 1
    assert [path.suffix for path in cache[0].iterdir()] == [".bin"]


def test_a_damaged_plan_is_built_anew(cache) -> None:
    """Whatever byte of a stored plan is wrong, it is not used, and a good one takes its place."""
    bundle = make_bundle(SMALL)
    portable = portable_graph(bundle.spec, template=bundle.digest)
    disk.cached_plan(subject_of(portable, bundle.network))
    (path,) = cache[0].iterdir()
    good = path.read_bytes()
    for wrong in (b"", good[:30], good[:-1], good[:100] + b"x" + good[101:], b"ISOPLAN1" + good[8:]):
        path.write_bytes(wrong)
        disk.cached_plan(subject_of(portable, bundle.network))
        # Names inside the optimised graph differ from run to run, so a new plan need not have the old bytes.
        assert disk._decoded(
            path.read_bytes(), disk._key(subject_of(portable, bundle.network)), subject_of(portable, bundle.network)
        ).layout.weights
    assert len(cache[1]) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda header, gather: (b"[]", gather),
        lambda header, gather: (b"{", gather),
        lambda header, gather: (b"\xff", gather),
        lambda header, gather: (json.dumps({**header, "key": 1}).encode(), gather),
        lambda header, gather: (json.dumps({"graph": 1}).encode(), gather),
        *(
            lambda header, gather, graph=graph: (json.dumps({**header, "graph": graph}).encode(), gather)
            for graph in ("x", 1.5, -1, -(10**9), 10**12, None)
        ),
        *(
            lambda header, gather, place=place: (json.dumps({**header, "weights": place(header["weights"])}).encode(), gather)
            for place in (
                lambda weights: None,
                lambda weights: [],
                lambda weights: weights[:-1],
                lambda weights: [[name, shape, start + 5_000_000] for name, shape, start in weights],
                lambda weights: [[name, [-1, *shape[1:]], start] for name, shape, start in weights],
                lambda weights: [*weights[:-1], ["w", [1 << 40], weights[-1][2]]],
            )
        ),
        lambda header, gather: (json.dumps(header).encode(), gather[:-3]),
        lambda header, gather: (json.dumps(header).encode(), gather[:-4]),
        lambda header, gather: (json.dumps(header).encode(), b"\xff" * len(gather)),
        lambda header, gather: (json.dumps(header).encode(), b"\x7f" * len(gather)),
        lambda header, gather: (json.dumps(header).encode(), bytes(len(gather))),
    ],
)  # fmt: skip
def test_a_malformed_plan_with_a_right_checksum_is_built_anew(cache, change) -> None:
    """Nothing in a stored plan is believed: bare addresses are made from it."""
    bundle = make_bundle(SMALL)
    portable = portable_graph(bundle.spec, template=bundle.digest)
    disk.cached_plan(subject_of(portable, bundle.network))
    (path,) = cache[0].iterdir()
    rest = path.read_bytes()[40:]
    length = int.from_bytes(rest[:4], "little")
    header = json.loads(rest[4 : 4 + length])
    start = 4 + length + header["graph"]
    text, gather = change(header, rest[start:])
    rest = len(text).to_bytes(4, "little") + text + rest[4 + length : start] + gather
    path.write_bytes(disk.MAGIC + hashlib.sha256(rest).digest() + rest)
    assert disk.cached_plan(subject_of(portable, bundle.network)).layout.weights
    assert len(cache[1]) == 2


def test_old_plans_are_removed(cache, monkeypatch) -> None:
    """The directory keeps the newest plans only."""
    monkeypatch.setattr(disk, "KEPT", 2)
    bundle = make_bundle(SMALL)
    for number in range(4):
        portable = portable_graph(bundle.spec, template=f"{number}" * 64)
        disk.cached_plan(subject_of(portable, bundle.network))
        assert len(list(cache[0].iterdir())) == min(number + 1, 2)
        assert (cache[0] / f"plan-{disk._key(subject_of(portable, bundle.network))[:32]}.bin").exists()


def test_a_device_without_a_home_or_a_temporary_directory(tmp_path, cache, monkeypatch) -> None:
    """Without a home, plans are not stored; without a place for the optimised graph, there is none, which is an EngineError."""
    bundle = make_bundle(SMALL)
    portable = portable_graph(bundle.spec, template=bundle.digest)
    for name in ("ISOFORM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(disk.Path, "expanduser", homeless)
    assert disk.cached_plan(subject_of(portable, bundle.network)).layout.weights
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(EngineError, match="temporary directory"):
        disk.cached_plan(subject_of(portable, bundle.network))


def test_another_version_is_another_plan(cache, monkeypatch) -> None:
    """Another ONNX Runtime, processor or graph never uses this one's plan, not even under its name."""
    bundle = make_bundle(SMALL)
    portable = portable_graph(bundle.spec, template=bundle.digest)
    disk.cached_plan(subject_of(portable, bundle.network))
    (path,) = cache[0].iterdir()
    with pytest.raises(EngineError, match="another graph, ONNX Runtime version or processor"):
        disk._decoded(path.read_bytes(), "0" * 64, subject_of(portable, bundle.network))
    keys = {disk._key(subject_of(portable, bundle.network)), disk._key(subject_of(portable + b"x", bundle.network))}
    monkeypatch.setattr(disk, "_processor", lambda: b"another")
    keys.add(disk._key(subject_of(portable, bundle.network)))
    monkeypatch.setattr(disk.ort, "__version__", "0.0.0")
    keys.add(disk._key(subject_of(portable, bundle.network)))
    # the same file with another weight as a constant: its plan has one input less
    subject = subject_of(portable, bundle.network)
    first = next(iter(subject.changing))
    fewer = dataclasses.replace(subject, constants={**subject.constants, first: np.ones(subject.weights[first])})
    keys.add(disk._key(fewer))
    assert len(keys) == 5


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, cache, monkeypatch) -> None:
    """Where the cache directory cannot be made, every start builds its plan, and works."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ISOFORM_CACHE", str(tmp_path / "file" / "below"))
    bundle = make_bundle(SMALL)
    portable = portable_graph(bundle.spec, template=bundle.digest)
    for _ in range(2):
        assert disk.cached_plan(subject_of(portable, bundle.network)).layout.weights
    assert len(cache[1]) == 2


def test_two_processes_at_once(compiled, tmp_path) -> None:
    """Processes that start together with an empty cache all get a plan, and leave one whole file."""
    code = "import sys; from isoform.runtime import Runtime; rt = Runtime.open(sys.argv[1]); print(type(rt._engine).__name__)"
    environment = {**os.environ, "ISOFORM_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(compiled)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in started] == ["PlanEngine\n"] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_cache_directory(monkeypatch) -> None:
    """``ISOFORM_CACHE`` first, then the user's cache directory."""
    monkeypatch.setenv("ISOFORM_CACHE", "/a")
    assert str(cache_directory()) == "/a"
    monkeypatch.delenv("ISOFORM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert str(cache_directory()) == "/b/isoform"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory().parts[-2:] == (".cache", "isoform")
