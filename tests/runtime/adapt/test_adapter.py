"""A stream: predictions, updates that can be undone, and whatever a camera may send."""

import numpy as np
import pytest

from isoform.runtime import InputError, SignatureError, UsageError
from isoform.runtime.adapt.method import Method
from isoform.runtime.adapt.registry import METHODS
from isoform.runtime.formats.signature import Signature
from isoform.train.data.domains import transform
from isoform.train.data.formats.digits import digits


@pytest.fixture(scope="module")
def shifted():
    """512 faded digits and their labels, shuffled."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))[:512]
    return transform(np.array(images[order]), domain="low_contrast"), labels[order]


def streamed(adapter, x, batch):
    """All answers, in order."""
    return np.concatenate([adapter(x[start : start + batch]) for start in range(0, len(x), batch)])


def finite(signature) -> bool:
    """Whether every number of it is."""
    return all(np.isfinite(array).all() for array in signature.parts.values())


def answered(adapter, x):
    """Its answers; none if the samples overflow, as ``predict`` says and no signature can help."""
    try:
        return adapter(x)
    except InputError:
        return np.zeros(0)


@pytest.mark.parametrize("batch", [1, 16, 128, 512])
def test_auto_helps_at_every_batch(batch, runtime, shifted) -> None:
    """A domain that the base never saw: far more is right, from one sample at a time to all at once."""
    x, labels = shifted
    count = 128 if batch == 1 else 512
    base = runtime.signature("plain")
    before = (runtime.predict(x[:count], base).argmax(axis=1) == labels[:count]).mean()
    found = streamed(runtime.adapter(base), x[:count], batch)
    assert (found.argmax(axis=1) == labels[:count]).mean() > before + 0.2


@pytest.mark.parametrize("batch", [1, 16, 128])
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_auto_does_not_harm(batch, order, runtime) -> None:
    """Samples of the base's own domain, shuffled or class after class: nothing is lost but chance."""
    images, labels = digits()
    rows = np.random.default_rng(1).permutation(len(labels))[:384]
    rows = rows if order == "shuffled" else rows[np.argsort(labels[rows], kind="stable")]
    x, base = np.array(images[rows]), runtime.signature("plain")
    before = (runtime.predict(x, base).argmax(axis=1) == labels[rows]).mean()
    found = streamed(runtime.adapter(base), x, batch)
    assert (found.argmax(axis=1) == labels[rows]).mean() >= before - 0.02


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(method, runtime, shifted) -> None:
    """Batches of 64, then one, then two: answers are finite, signatures are whole, and go back bit for bit."""
    x, base = shifted[0], runtime.signature("plain")
    adapter = runtime.adapter(base, method=method)
    before = runtime.predict(x[:32], base)
    for part in (x[:64], x[64:128], x[128:192], x[192:193], x[193:195]):
        logits = adapter(part)
        assert logits.shape == (len(part), 10)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        assert finite(adapter.signature)
    if method != "lame":
        assert adapter.signature.digest != base.digest
    assert len(adapter.history) == 5
    adapter.reset()
    assert adapter.signature.digest == base.digest
    assert np.array_equal(runtime.predict(x[:32], adapter.signature), before)
    again = runtime.adapter(base, method=method)(x[:64])
    assert np.array_equal(adapter(x[:64]), again)


@pytest.mark.parametrize(
    ("method", "options"), [("tent", {"parts": ("mixture",)}), ("eata", {"parts": ("bn", "mixture")})]
)
def test_a_mixture_moves(method, options, runtime, shifted) -> None:
    """Discrete layers begin softened, so that a gradient can move them."""
    adapter = runtime.adapter(runtime.signature("plain"), method=method, **options)
    streamed(adapter, shifted[0][:256], 64)
    assert "mixture" in adapter.signature.parts
    assert not np.array_equal(adapter.signature.parts["mixture"], runtime.signature("plain").parts["mixture"])


def test_every_answer_can_be_computed_again(runtime, shifted) -> None:
    """Each update is a signature with its parent's digest, and what was answered is what it predicts."""
    x, base = shifted[0], runtime.signature("plain")
    adapter = runtime.adapter(base)
    answers, signatures = [], []
    for start in range(0, 256, 64):
        answers.append(adapter(x[start : start + 64]))
        signatures.append(adapter.signature)
    for start, answer, signature in zip(range(0, 256, 64), answers, signatures, strict=True):
        assert np.array_equal(runtime.predict(x[start : start + 64], signature), answer)
    chain = [base.digest, *(signature.digest for signature in signatures)]
    assert [signature.parent for signature in signatures] == chain[:-1]
    assert [record.digest for record in adapter.history] == chain[1:]
    assert adapter.digests == tuple(chain)
    assert signatures[0].base == base.digest
    assert Signature.decode(signatures[0].encode()).digest == signatures[0].digest


def test_rollback(runtime, shifted) -> None:
    """Any digest that is kept can be gone back to; what is not, is refused."""
    x, base = shifted[0], runtime.signature("plain")
    adapter = runtime.adapter(base, keep=3)
    seen = [base.digest]
    for start in range(0, 320, 64):
        adapter(x[start : start + 64])
        seen.append(adapter.signature.digest)
    assert adapter.digests == (base.digest, *seen[-3:])
    for digest in adapter.digests:
        expected = runtime.predict(x[:8], adapter.rollback(digest))
        assert adapter.signature.digest == digest
        assert np.array_equal(runtime.predict(x[:8], adapter.signature), expected)
    assert adapter.history[-1].event == "rollback"
    with pytest.raises(SignatureError, match="the last 3 and the start"):
        adapter.rollback(seen[1])
    adapter.rollback(seen[-2])
    adapter(x[:64])
    assert adapter.signature.parent == seen[-2]


def test_a_folder_outlives_the_process(runtime, shifted, tmp_path) -> None:
    """A second adapter goes on where the first was, and can go back to what that did."""
    x, base = shifted[0], runtime.signature("plain")
    first = runtime.adapter(base, directory=tmp_path / "a", keep=2)
    for start in range(0, 256, 64):
        first(x[start : start + 64])
    kept = first.digests
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 3
    first.close()
    second = runtime.adapter(base, directory=tmp_path / "a")
    assert second.signature.digest == first.signature.digest
    assert second.digests == kept
    second(x[:64])
    assert second.signature.parent == first.signature.digest
    assert second.rollback(kept[1]).digest == kept[1]
    second.close()
    assert runtime.adapter(base, directory=tmp_path / "a").signature.digest == kept[1]


def test_what_a_dead_writer_left_is_no_other_file(runtime, shifted, tmp_path) -> None:
    """A process that died while it wrote the very first file leaves a folder that can be used."""
    (tmp_path / f".start.safetensors.tmp-{'0' * 16}").write_bytes(b"half")
    adapter = runtime.adapter(runtime.signature("plain"), directory=tmp_path)
    adapter(shifted[0][:64])
    assert (tmp_path / "head").read_text().strip() == adapter.signature.digest == adapter.last.digest


def test_a_folder_of_something_else_is_refused(runtime, shifted, tmp_path) -> None:
    """Another start, other files, or a changed signature."""
    base = runtime.signature("plain")
    adapter = runtime.adapter(base, directory=tmp_path / "a")
    adapter(shifted[0][:64])
    adapter.close()
    with pytest.raises(UsageError, match="holds an adaptation that started from signature"):
        runtime.adapter(base.replace(created="now"), directory=tmp_path / "a")
    file = tmp_path / "a" / f"{adapter.signature.digest}.safetensors"
    other = base.replace(created="today")
    other.save(file)
    with pytest.raises(SignatureError, match="it was changed"):
        runtime.adapter(base, directory=tmp_path / "a")
    file.write_bytes(b"no")
    with pytest.raises(SignatureError, match="cut short"):
        runtime.adapter(base, directory=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        runtime.adapter(base, directory=tmp_path / "b")


def test_malformed_samples_move_nothing(runtime, shifted) -> None:
    """NaN, infinity, another size or no samples: an error in one line or an empty answer, and the signature as it was."""
    adapter = runtime.adapter(runtime.signature("plain"))
    adapter(shifted[0][:64])
    digest, bad = adapter.signature.digest, shifted[0][:4].copy()
    bad[2, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="sample 2 holds a number that is not finite"):
        adapter(bad)
    with pytest.raises(InputError, match="was expected"):
        adapter(np.zeros((2, 1, 5, 5), dtype=np.float32))
    assert adapter(np.zeros((0, 1, 32, 32), dtype=np.float32)).shape == (0, 10)
    assert adapter.signature.digest == digest
    assert len(adapter.history) == 1
    with pytest.raises(InputError, match="there are no samples"):
        runtime.adapt(np.zeros((0, 1, 32, 32), dtype=np.float32), runtime.signature("plain"))


@pytest.mark.parametrize("method", METHODS)
def test_odd_streams_leave_it_finite(method, runtime, shifted) -> None:
    """Constant images, one class, one image again and again, huge numbers: never a number that is not finite."""
    x, labels = shifted
    streams = [
        np.zeros((64, 1, 32, 32), dtype=np.float32), np.full((64, 1, 32, 32), 0.5, dtype=np.float32),
        x[labels == 3][:32], np.repeat(x[:1], 32, axis=0), np.full((4, 1, 32, 32), 1e30, dtype=np.float32), 1e6 * x[:16],
    ]  # fmt: skip
    for stream in streams:
        adapter = runtime.adapter(runtime.signature("plain"), method=method)
        for _ in range(3):
            assert np.isfinite(answered(adapter, stream)).all()
            assert finite(adapter.signature)
        good = runtime.adapter(runtime.signature("plain"), method=method)
        assert np.isfinite(good(x[:32])).all()


def test_after_an_odd_stream_auto_recovers(runtime, shifted) -> None:
    """Constant images in between: afterwards it is as right as if there had been none."""
    x, labels = shifted
    adapter = runtime.adapter(runtime.signature("plain"))
    streamed(adapter, x[:128], 64)
    streamed(adapter, np.full((128, 1, 32, 32), 0.5, dtype=np.float32), 64)
    streamed(adapter, x[128:256], 64)
    found = streamed(adapter, x[256:], 64)
    never = runtime.adapter(runtime.signature("plain"))
    streamed(never, x[:256], 64)
    expected = streamed(never, x[256:], 64)
    right = [(logits.argmax(axis=1) == labels[256:]).mean() for logits in (found, expected)]
    assert right[0] >= right[1] - 0.05


class Ruinous(Method):
    """Learns nothing for ten batches, and then, at once, that everything is a 3."""

    moves = ("logits.weight", "logits.bias")
    batches = 0

    def learn(self, x, logits) -> None:
        """One batch more."""
        self.batches += 1
        if self.batches == 10:
            weight = np.array(self.point.parts["logits.weight"])
            weight[3] += 0.9
            self.point = self.point.with_parts({"logits.weight": weight})

    def reset(self, point) -> None:
        """Stand at a point; the stream's batches still count."""
        self.point = point


def test_a_collapse_is_undone(runtime, shifted, monkeypatch) -> None:
    """What was learned finds one class where the start finds ten: it goes back to the last signature that did not."""
    monkeypatch.setattr("isoform.runtime.adapt.methods.auto.Auto", Ruinous)
    x, base = digits()[0][:512], runtime.signature("plain")
    adapter = runtime.adapter(base)
    records = []
    for start in range(0, 512, 32):
        logits = adapter(np.array(x[start : start + 32]))
        records.append(adapter.last)
    assert records[10].event == "update"
    assert records[10].digest != records[9].digest
    assert "reset" in [record.event for record in records[11:]]
    assert adapter.signature.digest == records[9].digest
    assert np.array_equal(adapter(np.array(x[:32])), runtime.predict(np.array(x[:32]), base))
    assert len(logits) == 32


def test_a_rate_that_ruins_is_bounded(runtime, shifted) -> None:
    """However large the steps, BN's affine map stays within reach of the start, in the signature and where learning goes on."""
    base = runtime.signature("plain")
    adapter = runtime.adapter(base, method="tent", lr=0.3)
    streamed(adapter, np.concatenate([shifted[0]] * 3), 64)
    moved = adapter.signature.parts["bn.affine"] - runtime.bundle.resolve(base).parts["bn.affine"]
    assert 0.9 < np.abs(moved).max() <= 1.0001
    assert finite(adapter.signature)


def test_one_class_forever(runtime) -> None:
    """A stream of a single class is not spread over all: auto is no worse than the base."""
    images = digits()[0][digits()[1] == 3][:160]
    base = runtime.signature("plain")
    before = (runtime.predict(np.array(images), base).argmax(axis=1) == 3).mean()
    found = streamed(runtime.adapter(base), np.array(images), 32)
    assert (found.argmax(axis=1) == 3).mean() >= before - 0.02


def test_arguments_that_make_no_sense(runtime) -> None:
    """Each is named, with what was expected."""
    base = runtime.signature("plain")
    for words, options in (
        ("one of auto, batch", {"method": "magic"}),
        ("method 'auto' has no option 'lr'; it has none", {"lr": 1}),
        ("alpha is 2", {"method": "alpha", "alpha": 2}),
        ("parts are", {"method": "tent", "parts": ("head",)}),
        ("lr is 7", {"method": "eata", "lr": 7}),
        ("supports is 0", {"method": "t3a", "supports": 0}),
        ("memory is 2", {"method": "rotta", "memory": 2}),
        ("keep is 0", {"keep": 0}),
    ):
        with pytest.raises(UsageError, match=words):
            runtime.adapter(base, **options)
    with pytest.raises(SignatureError, match="trained on templates"):
        runtime.adapter(base.replace(template="0" * 64))


def test_adapt_is_a_stream_in_any_order(runtime, shifted) -> None:
    """One call for a batch: the same samples give the same signature, and it predicts better than its start."""
    x, labels = shifted
    base = runtime.signature("plain")
    mine = runtime.adapt(x, base)
    assert mine.digest == runtime.adapt(x, base).digest
    right = [(runtime.predict(x, s).argmax(axis=1) == labels).mean() for s in (base, mine)]
    assert right[1] > right[0] + 0.2


def test_a_users_own_signature_adapts(runtime, shifted) -> None:
    """One with its own logits layer, labels and statistics: these stay, and the result inherits from no other."""
    x, labels = shifted
    names = [f"digit {label}" for label in labels[:60]]
    mine = runtime.personalize(x[:60], names, runtime.signature("plain"), classes=sorted(set(names)), steps=20)
    adapter = runtime.adapter(mine)
    streamed(adapter, x[60:188], 32)
    assert adapter.signature.labels == mine.labels
    assert np.array_equal(adapter.signature.parts["logits.weight"], mine.parts["logits.weight"])
    assert runtime.predict(x[:4], adapter.signature).shape == (4, len(mine.labels))


def test_memory_does_not_grow_with_the_stream(runtime, shifted) -> None:
    """Updates leave nothing in the runtime's cache but the signature in use, and the history keeps what it says."""
    x, base = shifted[0], runtime.signature("plain")
    adapter = runtime.adapter(base, keep=4)
    runtime.predict(x[:1], base)
    adapter(x[:64])
    before = runtime.stats()["entries"]
    for start in range(64, 512, 32):
        adapter(x[start : start + 32])
    assert runtime.stats()["entries"] <= before
    assert len(adapter.digests) == 5
