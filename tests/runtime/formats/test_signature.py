"""Signatures: the object, the file, and what a damaged one says."""

import copy
import dataclasses
import json
import multiprocessing
import operator
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import SMALL, make_bundle

from isoform.runtime.arrays import softmax
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats import tensors
from isoform.runtime.formats.signature import Signature, check_name
from isoform.runtime.kinds.mixture.discrete import DISCRETE_GAP, discrete_logits, sequence_of, xi_of
from isoform.runtime.kinds.mixture.spec import NetworkSpec

TEMPLATE = "ab" * 32
GOLDEN_DIGEST = "0434b1f27676b8717620a77960f902df2708f55eea653e07df9cb5c384316551"


def small() -> Signature:
    """The signature whose bytes are written down here."""
    return Signature(
        parts={"mixture": np.array([[0, 1], [2, -3]], np.float32)}, template=TEMPLATE, task="plain", base="cd" * 32
    )


def test_golden_bytes() -> None:
    """A signature's file is exactly these bytes, on every machine."""
    data = small().encode()
    header = (
        '{"__metadata__":{"base":"' + "cd" * 32 + '","digest":"' + GOLDEN_DIGEST + '","format":"1","kind":"mixture",'
        '"task":"plain","template":"' + TEMPLATE + '"},"mixture":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    )
    header += " " * (-len(header) % 8)
    payload = bytes.fromhex("00000000 0000803f 00000040 000040c0")
    assert data == len(header).to_bytes(8, "little") + header.encode() + payload
    assert Signature.decode(data) == small()


finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Any signature that the format can hold."""
    layers, templates, n, classes = (draw(st.integers(1, 5)) for _ in range(4))
    parts = {"mixture": draw(hnp.arrays(np.float32, (layers, templates), elements=finite))}
    if draw(st.booleans()):
        parts["bn.affine"] = draw(hnp.arrays(np.float32, (2, n), elements=finite))
    if draw(st.booleans()):
        parts["bn.statistics"] = np.abs(draw(hnp.arrays(np.float32, (2, n), elements=finite)))
    labels = None
    if draw(st.booleans()):
        parts["logits.weight"] = draw(hnp.arrays(np.float32, (classes, 3), elements=finite))
        parts["logits.bias"] = draw(hnp.arrays(np.float32, (classes,), elements=finite))
        label = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
        labels = draw(st.none() | st.lists(label, min_size=classes, max_size=classes, unique=True).map(tuple))
    digest = st.text("0123456789abcdef", min_size=64, max_size=64)
    return Signature(
        parts=parts, template=draw(digest), task=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)),
        base=draw(st.none() | digest), parent=draw(st.none() | digest), labels=labels,
        created=draw(st.none() | st.just("2026-11-20T00:00:00Z")), precision=draw(st.sampled_from(["float32", "float16"])),
    )  # fmt: skip


@given(signatures())
def test_round_trip(signature: Signature) -> None:
    """Every signature comes back from its bytes as it was, and has the digest that its file names."""
    data = signature.encode()
    found = Signature.decode(data)
    assert found == signature
    assert found.encode() == data
    assert tensors.decode(data, error=SignatureError, what="")[1]["digest"] == signature.digest
    for field in dataclasses.fields(Signature):
        if field.name != "parts":
            assert getattr(found, field.name) == getattr(signature, field.name)


@settings(deadline=None, max_examples=5)
@given(signatures())
def test_truncated_at_every_byte(signature: Signature) -> None:
    """A file that was cut short anywhere is refused."""
    data = signature.encode()
    for end in range(len(data)):
        with pytest.raises(SignatureError):
            Signature.decode(data[:end])


def test_every_flipped_bit_is_noticed() -> None:
    """A file with one wrong bit anywhere is refused."""
    data = small().encode()
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(SignatureError):
                Signature.decode(bytes(damaged))


def test_a_mixture_only_file_fits_a_kibibyte() -> None:
    """L = 16, K = 4 with every digest and a date is at most 1 KiB."""
    signature = Signature(
        parts={"mixture": np.zeros((16, 4))},
        template=TEMPLATE,
        task="t" * 64,
        base=TEMPLATE,
        parent=TEMPLATE,
        created="2026-11-20T12:00:00Z",
    )
    assert len(signature.encode()) <= 1024


def test_mixture_and_bn_fit_24_kibibytes_and_half_in_float16() -> None:
    """C = 24, L = 8: mixture, BN affine and statistics are at most 24 KiB, and at most 12 in float16."""
    spec = NetworkSpec(input_shape=(1, 32, 32), adapter_kernel=(4, 4), layers=8, templates=4)
    n = spec.bn_channels
    signature = Signature(
        parts={"mixture": np.zeros((8, 4)), "bn.affine": np.ones((2, n)), "bn.statistics": np.ones((2, n))},
        template=TEMPLATE, task="inverted", base=TEMPLATE, parent=TEMPLATE,
    )  # fmt: skip
    assert len(signature.encode()) <= 24 * 1024
    assert len(signature.to("float16").encode()) <= 12 * 1024


def test_discrete_layers_are_one_hot_to_the_last_bit() -> None:
    """A discrete layer's ξ is exactly one-hot in both precisions, and ``sequence`` says which template it is."""
    mixture = np.concatenate([discrete_logits((2, 0), 3), [[0.0, 0.1, 9.0]]])
    for precision in ("float32", "float16"):
        signature = Signature(parts={"mixture": mixture}, template=TEMPLATE, task="a", precision=precision)
        assert xi_of(signature.parts)[:2].tolist() == [[0, 0, 1], [1, 0, 0]]
        assert sequence_of(xi_of(signature.parts)) == (2, 0, None)
    assert np.exp(-DISCRETE_GAP) == 0


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_softmax_rows_sum_to_one(logits: np.ndarray) -> None:
    """ξ is a distribution for any finite logits."""
    xi = softmax(logits)
    assert np.isfinite(xi).all()
    np.testing.assert_allclose(xi.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("sequence", [(), (0, 3), (-1,), (0.5,), ((0, 1),)])
def test_bad_sequences_are_refused(sequence: tuple[object, ...]) -> None:
    """Indices outside 0 to K-1, none at all, or no whole numbers are refused."""
    with pytest.raises(SignatureError, match="a sequence is"):
        discrete_logits(sequence, 3)  # type: ignore[arg-type]


def test_parts_are_read_only_copies() -> None:
    """Nobody can change a signature, not even through the array it was made from."""
    mixture = np.zeros((2, 2), np.float32)
    signature = Signature(parts={"mixture": mixture}, template=TEMPLATE, task="a")
    mixture[0, 0] = 5
    assert signature.parts["mixture"][0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        signature.parts["mixture"][0, 0] = 1
    with pytest.raises(TypeError, match="does not support item assignment"):
        signature.parts["mixture"] = mixture  # type: ignore[index]


ONES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "transformer"}, "kind 'transformer', but this version reads 'mixture', 'allocation'"),
        ({"template": "xyz"}, "template digest is 'xyz', but 64"),
        ({"base": "AB" * 32}, "base digest is"),
        ({"parent": "12"}, "parent digest is"),
        ({"task": "../../etc/passwd"}, "named '../../etc/passwd'"),
        ({"task": ""}, "named ''"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"labels": ("a", "a")}, "has labels .*distinct strings"),
        ({"labels": ("",)}, "has labels"),
        ({"labels": (["a"],)}, "has labels"),
        ({"labels": ("\ud800",)}, "has labels"),
        ({"created": "\ud800"}, "date is"),
        ({"parts": {}}, "holds \\[\\], but one or more of"),
        ({"parts": {"theta": ONES}}, "holds \\['theta'\\]"),
        ({"parts": {"mixture": np.ones(4, np.float32)}}, "mixture is float32 of shape \\(4,\\)"),
        ({"parts": {"mixture": np.ones((2, 2), int)}}, "mixture is int64"),
        ({"parts": {"mixture": np.ones((0, 2))}}, "mixture is"),
        ({"parts": {"mixture": np.array([[np.nan, 0]])}}, "not finite"),
        ({"parts": {"mixture": np.array([[np.inf, 0]])}}, "not finite"),
        ({"parts": {"mixture": np.array([[1e5, 0]])}, "precision": "float16"}, "not finite in float16"),
        ({"parts": {"bn.affine": np.ones((3, 4))}}, "bn.affine has shape \\(3, 4\\), but \\(2, N\\)"),
        ({"parts": {"bn.statistics": -ONES}}, "negative variance"),
        ({"parts": {"logits.weight": ONES}}, "half a logits layer"),
        ({"parts": {"logits.weight": ONES, "logits.bias": np.ones(3)}}, "2 rows, 3 biases"),
        ({"parts": {"logits.weight": ONES, "logits.bias": np.ones(2)}, "labels": ("a",)}, "1 labels"),
    ],
)
def test_malformed_signatures_are_refused(change: dict[str, object], message: str) -> None:
    """Each wrong field is named, with what was expected."""
    fields: dict[str, object] = {"parts": {"mixture": ONES}, "template": TEMPLATE, "task": "a", **change}
    with pytest.raises(SignatureError, match=message):
        Signature(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "3"}, "format '3', but this version reads 1 and 2"),
        ({"colour": "red"}, "unknown metadata \\['colour'\\]"),
        ({"digest": "00" * 32}, "does not match its digest"),
        ({"digest": None}, "does not match its digest: it states none"),
        ({"template": "00" * 32}, "does not match its digest"),
        ({"labels": "[1]"}, "not a JSON list of strings"),
        ({"labels": "{"}, "not a JSON list of strings"),
        ({"task": None}, "named ''"),
        ({"kind": None}, "kind ''"),
    ],
)
def test_malformed_metadata_is_refused(change: dict[str, str | None], message: str) -> None:
    """Each wrong piece of metadata is named."""
    arrays, metadata = tensors.decode(small().encode(), error=SignatureError, what="")
    for key, value in change.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    with pytest.raises(SignatureError, match=message):
        Signature.decode(tensors.encode(arrays, metadata), name="me.safetensors")


def test_mixed_precision_is_refused() -> None:
    """A file has one precision."""
    arrays = {"mixture": np.ones((1, 2), np.float32), "bn.affine": np.ones((2, 2), np.float16)}
    metadata = {"format": "1", "kind": "mixture", "template": TEMPLATE, "task": "a", "digest": "0" * 64}
    with pytest.raises(SignatureError, match="mixes float16 and float32"):
        Signature.decode(tensors.encode(arrays, metadata))


def test_another_bundles_signature_is_refused_by_name() -> None:
    """The error names both sides and the remedy."""
    one, other = make_bundle(SMALL, seed=1), make_bundle(SMALL, seed=2)
    with pytest.raises(
        SignatureError, match=f"'a' was trained on templates {one.digest[:8]}, but {other.digest[:8]} are loaded; open"
    ):
        one.signatures["a"].check_fits(other.spec, other.digest)


@pytest.mark.parametrize("part", ["mixture", "bn.statistics", "logits.weight"])
def test_a_part_of_another_shape_is_refused(part: str) -> None:
    """A part that does not fit the network is named with both shapes."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    wrong = base.parts[part][:, :-1]
    with pytest.raises(SignatureError, match=f"holds {part} of shape .*, but the network expects"):
        base.replace(parts={**base.parts, part: wrong}).check_fits(bundle.spec, bundle.digest)


def test_keep_inherits_the_rest_from_its_base() -> None:
    """A copy with fewer parts names the signature that the others come from, and resolves to the same numbers."""
    bundle = make_bundle(SMALL)
    base = bundle.signatures["a"]
    kept = base.keep("mixture")
    assert kept.base == kept.parent == base.digest
    assert set(kept.parts) == {"mixture"}
    ours, theirs = bundle.resolve(kept).parts, bundle.resolve(base).parts
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_saving_and_loading(tmp_path) -> None:
    """A saved file loads as the same signature; a missing or oversized one is a clear error."""
    path = tmp_path / "me.safetensors"
    small().save(path)
    assert Signature.load(path) == small()
    assert json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")["__metadata__"]["task"] == "plain"
    with pytest.raises(SignatureError, match="does not exist"):
        Signature.load(tmp_path / "no.safetensors")
    with pytest.raises(SignatureError, match="cannot be read"):
        Signature.load(tmp_path)


def test_xi_of_an_inherited_mixture_is_refused() -> None:
    """A signature without a mixture does not make one up."""
    signature = Signature(parts={"bn.affine": ONES}, template=TEMPLATE, task="a")
    with pytest.raises(SignatureError, match="inherits its mixture"):
        _ = xi_of(signature.parts)


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "x" * 64])
def test_good_names(name: str) -> None:
    """Letters, digits, dots, dashes and underscores are fine."""
    assert check_name(name) == name


def test_equality_and_hash() -> None:
    """Signatures are equal when their bytes are, and can be keys."""
    assert small() == small()
    assert len({small(), small(), small().to("float16")}) == 2
    assert small() != "small"
    assert "plain" in repr(small())


@pytest.mark.trust
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_signature_copies_and_pickles(precision) -> None:
    """Copies and pickles of every protocol are equal, immutable, and know their digest; none is made where a byte was changed."""
    signature = make_bundle(SMALL).signatures["a"].to(precision)
    data = signature.encode()
    copies = [copy.copy(signature), copy.deepcopy({"of": [signature]})["of"][0]]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copies.append(pickle.loads(pickle.dumps(signature, protocol)))
    for found in copies:
        assert found == signature
        assert (found.digest, found.encode(), found.precision) == (signature.digest, data, precision)
        assert not found.parts["mixture"].flags.writeable
    pickled = pickle.dumps(signature)
    place = pickled.index(data) + len(data) - 5
    with pytest.raises(SignatureError, match="does not match its digest"):
        pickle.loads(pickled[:place] + bytes([pickled[place] ^ 1]) + pickled[place + 1 :])


@pytest.mark.trust
def test_a_signature_travels_to_another_process() -> None:
    """A worker process that was spawned gets the very bytes, and sends a signature back."""
    signature = make_bundle(SMALL).signatures["a"]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(operator.methodcaller("encode"), signature).result() == signature.encode()
        assert pool.submit(copy.copy, signature).result().digest == signature.digest
