"""Opening a bundle and predicting with it."""

import numpy as np
import pytest

from isoform.runtime import Runtime, Signature
from isoform.runtime.engines.onnx.per_signature import portable_session
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.errors import BundleError, EngineError, InputError, SignatureError, UsageError


def test_predict_equals_the_compiled_file(runtime, compiled, samples) -> None:
    """A signature through the portable graph gives what its own compiled network gives."""
    for task in runtime.tasks:
        session = open_session(
            (compiled / "compiled" / "fast" / f"{task}.onnx").read_bytes(), session_options(1), what="the file"
        )
        expected = session.run(None, {"image": samples[0]})[0]
        np.testing.assert_allclose(runtime.predict(samples[0], runtime.signature(task)), expected, rtol=0, atol=1e-5)


def test_predict_equals_the_numpy_engine(compiled, runtime, samples) -> None:
    """ONNX Runtime and the slow twin agree to 1e-4 on 256 real samples, every task."""
    with Runtime.open(compiled, engine="reference") as slow:
        for task in runtime.tasks:
            signature = runtime.signature(task)
            np.testing.assert_allclose(
                slow.predict(samples[0], signature), runtime.predict(samples[0], signature), rtol=0, atol=1e-4
            )


def test_signatures_differ(runtime, samples) -> None:
    """Two signatures on one runtime are two networks, and switching back gives the first one's answers again."""
    one, other = (runtime.signature(task) for task in runtime.tasks[:2])
    first = runtime.predict(samples[0][:4], one)
    assert not np.array_equal(first, runtime.predict(samples[0][:4], other))
    assert np.array_equal(first, runtime.predict(samples[0][:4], one))


def test_a_users_delta_runs(runtime, samples) -> None:
    """A mixture-only signature of a few hundred bytes predicts with its base's other parts."""
    base = runtime.signature("plain")
    user = Signature.decode(base.keep("mixture").encode())
    assert len(user.encode()) < 1024
    assert np.array_equal(runtime.predict(samples[0][:8], user), runtime.predict(samples[0][:8], base))
    assert runtime.labels(user) == tuple("0123456789")


def test_a_batch_of_many_users(runtime, samples) -> None:
    """Samples of different signatures in one batch come back in order, each with its own signature's logits."""
    rng = np.random.default_rng(0)
    signatures = [runtime.signature(task) for task in runtime.tasks]
    chosen = [signatures[i] for i in rng.integers(0, 4, 40)]
    found = runtime.predict(samples[0][:40], chosen)
    alone = np.concatenate([runtime.predict(samples[0][i : i + 1], chosen[i]) for i in range(40)])
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
    assert np.array_equal(
        runtime.predict(samples[0][:3], [signatures[0]] * 3), runtime.predict(samples[0][:3], signatures[0])
    )
    assert runtime.predict(samples[0][:0], []).shape == (0, 0)


def test_a_batch_of_users_that_do_not_go_together(runtime, samples) -> None:
    """Too few signatures, something else among them, or other numbers of classes are refused."""
    base = runtime.signature("plain")
    fewer = base.replace(
        parts={
            **base.parts,
            "logits.weight": base.parts["logits.weight"][:3],
            "logits.bias": base.parts["logits.bias"][:3],
        },
        labels=("a", "b", "c"),
    )
    for wrong, message in (
        ([base], "1 signatures for 2 samples"), ([base, "plain"], "one per sample"), ([base, fewer], "sample 1 has 3 classes, but that of sample 0 has 10"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            runtime.predict(samples[0][:2], wrong)


def test_batches_do_not_matter(runtime, samples) -> None:
    """A sample's logits hardly depend on the batch it is in, and an empty batch is an empty answer."""
    signature = runtime.signature("plain")
    whole = runtime.predict(samples[0][:9], signature)
    single = np.concatenate([runtime.predict(samples[0][i : i + 1], signature) for i in range(9)])
    np.testing.assert_allclose(whole, single, rtol=0, atol=1e-5)
    assert runtime.predict(samples[0][:0], signature).shape == (0, 10)


def test_other_number_types_are_converted(runtime, samples) -> None:
    """Lists, float64 and integers predict as their float32 values."""
    signature = runtime.signature("plain")
    x = np.round(samples[0][:2])
    expected = runtime.predict(x, signature)
    for other in (x.astype(np.float64), x.astype(np.uint8), x.astype(bool), x.tolist(), np.asfortranarray(x)):
        assert np.array_equal(runtime.predict(other, signature), expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 32, 32)), r"shape \(1, 32, 32\), but \(n, 1, 32, 32\) was expected"),
        (np.zeros((1, 3, 32, 32)), r"\(n, 1, 32, 32\)"),
        (np.zeros(()), "shape"),
        ([[1.0], [1.0, 2.0]], "ragged"),
        (np.full((1, 1, 32, 32), "a"), "are <U1, but float32"),
        (np.zeros((1, 1, 32, 32), complex), "complex128"),
        (np.full((2, 1, 32, 32), np.nan), "sample 0 holds a number that is not finite"),
        (np.full((1, 1, 32, 32), 1e300), "not finite in float32"),
        (np.full((1, 1, 32, 32), 3e38), "sample 0 holds numbers so large"),
    ],
)
def test_bad_samples_are_refused(x, message, runtime) -> None:
    """Samples of another form, or with a number that is not finite, are named."""
    with pytest.raises(InputError, match=message):
        runtime.predict(x, runtime.signature("plain"))


def test_another_bundles_signature_is_refused(runtime, samples) -> None:
    """A signature for other templates never runs."""
    foreign = runtime.signature("plain").replace(template="0" * 64)
    for count in (0, 1):
        with pytest.raises(SignatureError, match="was trained on templates 00000000"):
            runtime.predict(samples[0][:count], foreign)
    with pytest.raises(UsageError, match="the signature is a str"):
        runtime.predict(samples[0][:1], "plain")


@pytest.mark.parametrize(
    "arguments",
    [
        {"threads": -1},
        {"threads": 1 << 32},
        {"threads": "2"},
        {"cache_bytes": -1},
        {"cache_bytes": 1.5},
        {"engine": "cuda"},
    ],
)
def test_bad_arguments_are_refused(arguments, compiled) -> None:
    """Each argument out of its range is named."""
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Runtime.open(compiled, **arguments)


def test_an_uncompiled_bundle_says_what_to_do(trained, samples) -> None:
    """The error has the command; the numpy engine needs no compiling."""
    with pytest.raises(BundleError, match="is not compiled; run 'isoform compile"):
        Runtime.open(trained)
    with Runtime.open(trained, engine="reference") as slow:
        assert slow.predict(samples[0][:2], slow.signature("plain")).shape == (2, 10)


def test_a_missing_bundle_says_what_to_do(tmp_path) -> None:
    """The error names the path and the command that makes a bundle."""
    with pytest.raises(BundleError, match="is not a directory; 'isoform train"):
        Runtime.open(tmp_path / "nothing")


def test_answers_are_fresh_arrays(runtime, samples) -> None:
    """An answer does not change when the next one is computed, and may be written to."""
    signature = runtime.signature("plain")
    first = runtime.predict(samples[0][:2], signature)
    kept = first.copy()
    second = runtime.predict(samples[0][2:4], signature)
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0
    assert np.array_equal(runtime.predict(samples[0][:2], signature), kept)


def test_without_a_plan_predictions_are_right(compiled, runtime, samples, monkeypatch, caplog) -> None:
    """If the optimiser does something that is not understood, the runtime says so once and still answers right."""

    def refuse(*_):
        raise EngineError("the optimiser did something new")

    monkeypatch.setattr("isoform.runtime.engines.onnx.plan_engine.cached_plan", refuse)
    with Runtime.open(compiled) as slow:
        for task in slow.tasks:
            found, expected = (r.predict(samples[0][:3], r.signature(task)) for r in (slow, runtime))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert caplog.text.count("no device plan: the optimiser did something new") == 1


def test_a_graph_that_is_none_is_an_engine_error(runtime) -> None:
    """ONNX Runtime's refusal becomes one line of ours."""
    from isoform.runtime.kinds.mixture.fold import fold

    bundle = runtime.bundle
    weights = fold(bundle.spec, bundle.tensors, bundle.resolve(runtime.signature("plain")).parts)
    with pytest.raises(EngineError, match="ONNX Runtime .* refused the network"):
        portable_session(b"not a graph", weights, threads=1)


def test_a_changed_graph_is_refused(bundle_copy) -> None:
    """A compiled file whose digest is not the manifest's never runs."""
    path = bundle_copy / "compiled" / "portable.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="is not the file that was compiled; run 'isoform compile"):
        Runtime.open(bundle_copy)


def test_closing_lets_go_and_opening_again_works(compiled, samples) -> None:
    """After ``close`` predicting still works, from new sessions."""
    runtime = Runtime.open(compiled)
    before = runtime.predict(samples[0][:1], runtime.signature("plain"))
    runtime.close()
    assert np.array_equal(before, runtime.predict(samples[0][:1], runtime.signature("plain")))
