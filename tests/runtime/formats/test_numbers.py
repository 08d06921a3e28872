"""Signatures of whole numbers and bits: the format's second version. Those of floats alone stay what they were."""

import hashlib
import json
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isoform.runtime import kind as door
from isoform.runtime.errors import SignatureError
from isoform.runtime.formats import tensors
from isoform.runtime.formats.numbers import in_file
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import Part

TEMPLATE = "ab" * 32
PARTS = {
    "mask": Part(2, "bit"),
    "modules": Part(1, "integer"),
    "scale": Part(1),
    "logits.weight": Part(2),
    "logits.bias": Part(1),
}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """A kind with parts of all sorts."""
    module = types.SimpleNamespace(
        KIND=types.SimpleNamespace(name="sorts", parts=PARTS, check_part=lambda name, array: None)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(door.KINDS, "sorts", "sorts_kind")
        patch.setitem(__import__("sys").modules, "sorts_kind", module)
        yield


def of(**parts) -> Signature:
    """A signature of that kind."""
    return Signature(parts=parts, template=TEMPLATE, task="plain", kind="sorts")


def test_golden_bytes() -> None:
    """A file of bits and whole numbers is exactly these bytes, on every machine."""
    mask = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]], dtype=bool)
    signature = of(mask=mask, modules=np.array([3, -1, 700]))
    tensors_ = '"mask":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"modules":{"dtype":"I16","shape":[3],"data_offsets":[2,8]}}'

    def header(digest: str) -> bytes:
        text = (
            '{"__metadata__":{"bits":"{\\"mask\\":[3,3]}","digest":"'
            + digest
            + '","format":"2","kind":"sorts","task":"plain",'
            '"template":"' + TEMPLATE + '"},' + tensors_
        )
        return (text + " " * (-len(text) % 8)).encode()

    payload = bytes.fromhex("b880 0300 ffff bc02")
    length = len(header("0" * 64)).to_bytes(8, "little")
    digest = hashlib.sha256(length + header("0" * 64) + payload).hexdigest()
    assert signature.encode() == length + header(digest) + payload
    assert Signature.decode(signature.encode()) == signature


WHOLE = hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(-(2**63), 2**63 - 1))
BITS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(WHOLE, BITS, st.sampled_from(["float32", "float16"]))
def test_a_file_gives_back_what_it_was_given(whole, bits, precision) -> None:
    """All numbers and bits, in the narrowest form, whatever the precision of floats."""
    signature = of(modules=whole, mask=bits, scale=np.ones(3)).to(precision)
    data = signature.encode()
    found = Signature.decode(data)
    assert found == signature
    assert found.parts["modules"].tolist() == whole.tolist()
    assert found.parts["mask"].dtype == bool
    assert np.array_equal(found.parts["mask"], bits)
    arrays, metadata = tensors.decode(data, error=SignatureError, what="it")
    assert metadata["format"] == "2"
    assert json.loads(metadata["bits"]) == {"mask": list(bits.shape)}
    assert arrays["mask"].nbytes == -(-bits.size // 8)
    for narrower in ("u1", "i1", "<u2", "<i2", "<i4"):
        if np.dtype(narrower).itemsize < arrays["modules"].itemsize:
            low, high = np.iinfo(narrower).min, np.iinfo(narrower).max
            assert not (low <= whole.min() and whole.max() <= high)


def test_floats_alone_stay_what_they_were() -> None:
    """A signature without integers and bits is of the first format, of whatever kind."""
    _, metadata = tensors.decode(of(scale=np.ones(2)).encode(), error=SignatureError, what="it")
    assert metadata["format"] == "1"
    assert "bits" not in metadata


@pytest.mark.trust
def test_other_forms_are_refused() -> None:
    """Wider integers, bits behind the last, shapes that do not fit, the other format: each is another file of one signature."""
    arrays = {"mask": np.array([0xB8, 0x80], dtype=np.uint8), "modules": np.array([1, 2], dtype=np.uint8)}
    good = {"format": "2", "kind": "sorts", "task": "plain", "template": TEMPLATE, "bits": '{"mask":[3,3]}'}

    def read(arrays=arrays, **changes) -> Signature:
        metadata = {name: value for name, value in {**good, **changes}.items() if value is not None}
        blank = tensors.encode(arrays, {**metadata, "digest": "0" * 64})
        digest = hashlib.sha256(blank).hexdigest()
        return Signature.decode(tensors.encode(arrays, {**metadata, "digest": digest}))

    assert read().parts["mask"].sum() == 5
    for changed in (
        {"arrays": {**arrays, "modules": np.array([1, 2], dtype="<i4")}},
        {"arrays": {**arrays, "mask": np.array([0xB8, 0x81], dtype=np.uint8)}},
        {"arrays": {**arrays, "mask": np.array([0xB8], dtype=np.uint8)}},
        {"arrays": {**arrays, "mask": np.array([0xB8, 0x80], dtype=np.uint8).view(np.int8)}},
        {"bits": '{"mask":[9,3]}'}, {"bits": '{"mask":[3, 3]}'}, {"bits": "{}"}, {"bits": "[]"}, {"bits": "nothing"}, {"bits": None},
        {"bits": '{"mask":[3,3],"modules":[2]}'}, {"bits": '{"mask":[3,-3]}'}, {"bits": '{"mask":[3,3.0]}'}, {"format": "1"}, {"format": "3"},
        {"arrays": {"modules": arrays["modules"]}},
    ):  # fmt: skip
        with pytest.raises(SignatureError) as caught:
            read(**changed)
        assert len(str(caught.value).splitlines()) == 1, changed
    with pytest.raises(SignatureError, match="format 1, but its content has another"):
        read(format="1")


@pytest.mark.parametrize(
    "parts",
    [
        {"mask": np.ones((2, 2))}, {"mask": np.ones((2, 2), dtype=int)}, {"mask": np.ones(4, dtype=bool)}, {"modules": np.ones(3)},
        {"modules": np.array([2**63], dtype=np.uint64)}, {"modules": np.empty(0, dtype=int)}, {"scale": np.arange(3)},
    ],
)  # fmt: skip
def test_other_numbers_are_refused(parts) -> None:
    """Floats for bits, bits for whole numbers, whole numbers beyond 64 bits, no numbers."""
    with pytest.raises(SignatureError, match="was expected|were expected"):
        of(**parts)


def test_the_narrowest_integers() -> None:
    """One form for every range."""
    for values, kind in (
        ((0, 255), "u1"),
        ((-1, 127), "i1"),
        ((0, 256), "<u2"),
        ((-1, 255), "<i2"),
        ((0, 65536), "<i4"),
        ((0, 2**31), "<i8"),
    ):
        assert in_file(np.array(values), Part(1, "integer"), precision="float32").dtype == np.dtype(kind)
