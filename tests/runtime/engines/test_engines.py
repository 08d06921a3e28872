"""Both engines: who stays in memory, what is used again, and that nobody ever gets somebody else's network."""

import threading
import weakref

import numpy as np
import pytest

from isoform.runtime import Runtime, Signature
from isoform.runtime.engines.onnx.bindings import PieceWeights, Shared
from isoform.runtime.engines.onnx.per_signature import SessionEngine
from isoform.runtime.engines.onnx.plan_engine import PlanEngine
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.discrete import discrete_logits


def users(bundle: Bundle, count: int, sorts: str = "mixture sequence bn sequence+head mixture+head") -> list[Signature]:
    """Signatures of all sorts and of every base in turn."""
    rng = np.random.default_rng(0)
    spec, bases, made = bundle.spec, [bundle.base(task) for task in bundle.signatures], []
    for number in range(count):
        base, sort = bases[number % len(bases)], sorts.split()[number // len(bases) % len(sorts.split())]
        parts = {"mixture": rng.normal(size=(spec.layers, spec.templates))}
        labels = None
        if "sequence" in sort:
            parts["mixture"] = discrete_logits(rng.integers(0, spec.templates, spec.layers), spec.templates)
        if "bn" in sort:
            parts["bn.statistics"] = base.parts["bn.statistics"] * rng.uniform(0.9, 1.1, (2, spec.bn_channels))
        if "head" in sort:
            labels = tuple("abc"[: 2 + number % 2])
            parts["logits.weight"] = rng.normal(size=(len(labels), spec.embedding))
            parts["logits.bias"] = rng.normal(size=len(labels))
        made.append(base.replace(parts=parts, base=base.digest, labels=labels))
    return made


@pytest.fixture(params=["plan", "sessions"])
def engine(request, compiled):
    """Both engines over the small bundle: ``make(cache_bytes)`` gives one."""
    bundle = Bundle.load(compiled)

    def make(cache_bytes: int):
        if request.param == "plan":
            return PlanEngine(bundle, threads=1, cache_bytes=cache_bytes)
        return SessionEngine(bundle, threads=1, cache_bytes=cache_bytes)

    return make


@pytest.mark.parametrize("sort", ["mixture", "sequence", "bn", "sequence+head"])
def test_the_cache_holds_what_it_may(engine, runtime, samples, sort) -> None:
    """The longest unused signatures are dropped when the bytes run out; one always stays; dropped ones still predict."""

    def held(made) -> tuple[float, ...]:
        return tuple(made.stats()[name] for name in ("bytes", "entries", "hits", "misses", "evictions"))

    x, signatures = samples[0][:1], users(runtime.bundle, 20, sort)[:: len(runtime.tasks)][:4]
    one = engine(0)
    answers = [one.logits(x, signature) for signature in signatures]
    size = held(one)[0]
    assert size > 0
    assert held(one) == (size, 1, 0, 4, 3)
    two = engine(2 * size)
    for signature, answer in zip(signatures * 2, answers * 2, strict=True):
        assert np.array_equal(two.logits(x, signature), answer)
    assert held(two) == (2 * size, 2, 0, 8, 6)
    two.logits(x, signatures[-1])
    assert held(two)[2] == 1
    assert two.stats()["bytes"] <= two.stats()["limit_bytes"]
    assert 0 < two.stats()["longest_miss_seconds"] < two.stats()["miss_seconds"]
    two.clear()
    assert (two.stats()["entries"], two.stats()["bytes"]) == (0, 0)
    assert np.array_equal(two.logits(x, signatures[0]), answers[0])


def test_both_engines_agree(compiled, runtime, samples) -> None:
    """The plan gives what a session of constants gives, to 1e-6 of the largest logit, for every task and batch size."""
    sessions = SessionEngine(runtime.bundle, threads=1, cache_bytes=0)
    for task in runtime.tasks:
        for batch in (1, 2, 16, 100):
            expected = sessions.logits(samples[0][:batch], runtime.signature(task))
            found = runtime.predict(samples[0][:batch], runtime.signature(task))
            assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("bare", [True, False])
def test_weights_that_are_used_again_are_the_new_users(runtime, samples, monkeypatch, bare) -> None:
    """Users of all sorts through one slot, one after the other: each gets what a session of its own weights gives."""
    monkeypatch.setattr("isoform.runtime.engines.onnx.bindings.BARE", bare)
    one = PlanEngine(runtime.bundle, threads=1, cache_bytes=0)
    sessions = SessionEngine(runtime.bundle, threads=1, cache_bytes=0)
    x, signatures = samples[0][:2], users(runtime.bundle, 60)
    for place in np.random.default_rng(0).permutation(np.repeat(np.arange(60), 3)):
        expected = sessions.logits(x, signatures[place])
        found = one.logits(x, signatures[place])
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert one.stats()["entries"] == 1


def test_what_a_base_shares_is_made_once(runtime, samples, monkeypatch) -> None:
    """Users of all bases in turn, with room for one: a session and blocks per base, and discrete users hold no weights."""
    made = []

    def counted(*arguments, **options) -> Shared:
        made.append(Shared(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("isoform.runtime.engines.onnx.planned.Shared", counted)
    engine = PlanEngine(runtime.bundle, threads=1, cache_bytes=0)
    bundle, x = runtime.bundle, samples[0][:1]
    for signature in users(bundle, 100, "sequence mixture"):
        engine.logits(x, signature)
    (planned,) = engine._planned.values()
    shared = list(planned._shared.values())
    assert len(shared) == len(made) == len(bundle.signatures)
    blocks = bundle.spec.layers * bundle.spec.templates
    assert sum(len(one._pieces) for one in shared) <= blocks * len(shared)
    assert (
        engine.stats()["shared_bytes"]
        >= 4 * planned.folder.moving // bundle.spec.layers * sum(len(one._pieces) for one in shared)
        > 0
    )
    (entry,) = engine._hot._entries.values()
    discrete = users(bundle, 1, "sequence")[0]
    engine.logits(x, discrete)
    (entry,) = engine._hot._entries.values()
    assert isinstance(entry.value, PieceWeights)
    assert all(binding.vector is None for binding in entry.value._free)
    engine.clear()
    assert engine.stats()["shared_bytes"] == engine.stats()["bytes"] == 0
    assert not planned.stages._free


def test_the_plain_fold_will_do(runtime, samples, monkeypatch) -> None:
    """Without a fast fold, weights are gathered from the plain one: the same answers, to rounding, for users of all sorts."""
    bundle, x = runtime.bundle, samples[0][:3]
    fast = PlanEngine(bundle, threads=1, cache_bytes=0)
    monkeypatch.setattr(type(bundle.network), "folder", lambda network, layout: None)
    plain = PlanEngine(bundle, threads=1, cache_bytes=0)
    for signature in (*map(runtime.signature, runtime.tasks), *users(bundle, 12)):
        expected = fast.logits(x, signature)
        assert np.abs(plain.logits(x, signature) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_users_who_seldom_come_hold_no_bindings(runtime, samples) -> None:
    """Weights that were not used for a while run as a copy on a stage; those of a user who comes again have their own binding."""
    engine = PlanEngine(runtime.bundle, threads=1, cache_bytes=1 << 30)
    x, signatures = samples[0][:1], users(runtime.bundle, 100, "mixture bn")
    answers = [engine.logits(x, signature) for signature in signatures]
    held = {key: entry.value for key, entry in engine._hot._entries.items()}
    assert not any(weights._free for weights in held.values())
    again = [engine.logits(x, signature) for signature in (*signatures, signatures[-1])]
    assert all(np.array_equal(one, other) for one, other in zip(again, [*answers, answers[-1]], strict=True))
    assert [key for key, weights in held.items() if weights._free] == [signatures[-1].digest]


def test_threads_never_mix_users(runtime, compiled, samples) -> None:
    """8 threads, 200 signatures of all sorts, a cache too small for them, 20,000 predictions: every one as alone."""
    signatures = users(runtime.bundle, 200)
    x = samples[0][:1]
    expected = [runtime.predict(x, signature) for signature in signatures]
    assert len({answer.tobytes() for answer in expected}) > 190  # some users have the same sequence
    wrong, done = [], []
    with Runtime.open(compiled, cache_bytes=4_000_000) as crowded:

        def work(seed: int) -> None:
            for turn in np.random.default_rng(seed).integers(0, 200, 2500):
                if not np.array_equal(crowded.predict(x, signatures[turn]), expected[turn]):
                    wrong.append(turn)
                done.append(turn)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = crowded.stats()
    assert wrong == []
    assert len(done) == 20_000
    assert stats["evictions"] > 1000
    assert stats["hits"] > 1000
    assert stats["hits"] + stats["misses"] == 20_000


@pytest.mark.parametrize("bare", [True, False])
def test_samples_are_not_kept(engine, runtime, samples, monkeypatch, bare) -> None:
    """Once the answer is there, nothing holds the samples: neither memory nor privacy would bear it."""
    monkeypatch.setattr("isoform.runtime.engines.onnx.bindings.BARE", bare)
    made = engine(1 << 30)
    x = np.array(samples[0][:3])
    gone = weakref.ref(x)
    made.logits(x, runtime.signature("plain"))
    del x
    assert gone() is None


def test_one_build_per_signature_however_many_ask(engine, runtime, samples) -> None:
    """Sixteen threads that want one cold signature at once cause one build, not sixteen, and get the same answer."""
    shared = engine(1 << 30)
    signature = runtime.signature("plain")
    barrier = threading.Barrier(16)
    answers = []

    def work() -> None:
        barrier.wait()
        answers.append(shared.logits(samples[0][:1], signature))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.stats()["misses"] == 1
    assert len(answers) == 16
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_failed_build_leaves_nothing_behind(engine, runtime, samples) -> None:
    """Signatures that cannot be folded cost no memory, however many come."""
    made = engine(0)
    for digit in "0123":
        foreign = runtime.signature("plain").keep("mixture").replace(base=digit * 64)
        with pytest.raises(SignatureError, match="inherits parts from base"):
            made.logits(samples[0][:1], foreign)
    assert made.stats()["entries"] == 0
