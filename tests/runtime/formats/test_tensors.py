"""The canonical tensor file."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isoform.runtime.errors import InputError
from isoform.runtime.formats.tensors import HEADER_LIMIT, decode, encode

GOLDEN = (
    b"\x90\x00\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"a":"1","b":"\xce\xbe"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"y":{"dtype":"F16","shape":[1,1],"data_offsets":[8,10]}}'
    b"\x00\x00\x80?\x00\x00\x00\xc0\x00>"
)


def read(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Decode, with errors of some class."""
    return decode(data, error=InputError, what="file")


def test_golden_bytes() -> None:
    """The format is what docs/formats.md says, byte by byte, whatever order things were given in."""
    tensors = {"y": np.array([[1.5]], np.float16), "x": np.array([1, -2], np.float32)}
    data = encode(tensors, {"b": "ξ", "a": "1"})
    assert data == GOLDEN
    arrays, metadata = read(GOLDEN)
    assert metadata == {"a": "1", "b": "ξ"}
    assert {name: array.tolist() for name, array in arrays.items()} == {"x": [1.0, -2.0], "y": [[1.5]]}


def test_the_safetensors_library_reads_what_we_write() -> None:
    """The files are ordinary safetensors files for everybody else."""
    assert safetensors.numpy.load(GOLDEN)["x"].tolist() == [1.0, -2.0]


arrays = st.sampled_from([np.float32, np.float16]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@given(st.dictionaries(names, arrays, max_size=4), st.dictionaries(names, st.text(max_size=20), max_size=4))
def test_round_trip(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Any arrays and text come back bit for bit."""
    found, text = read(encode(tensors, metadata))
    assert text == metadata
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def with_header(header: object, payload: bytes = b"") -> bytes:
    """A file with any header, well-formed or not."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes long"),
        (b"1234567", "7 bytes long"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + b"{}", "claims a header of 1,048,577 bytes"),
        ((1 << 63).to_bytes(8, "little"), "claims a header of 9,223,372,036,854,775,808 bytes"),
        ((64).to_bytes(8, "little") + b"{}", "cut short"),
        (with_header(None), "no metadata"),
        (with_header([]), "no metadata"),
        (with_header({"__metadata__": {"a": 1}}), "no metadata"),
        ((8).to_bytes(8, "little") + b"{1234567", "not JSON"),
        ((8).to_bytes(8, "little") + b"\xff" * 8, "not JSON"),
        (with_header({"__metadata__": {}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "not a valid"),
        (
            with_header({"__metadata__": {}, "x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
            "stores 'x' as F64",
        ),
        (GOLDEN + b"\0", "not a valid"),
        (GOLDEN.replace(b'"1"', b'"1" ').replace(b"\x90", b"\x91", 1), "not a valid|not in canonical form"),
    ],
)
def test_malformed_files_are_refused(data: bytes, message: str) -> None:
    """One clear error for each way in which a file can be wrong."""
    with pytest.raises(InputError, match=message):
        read(data)


def test_overlapping_tensors_are_refused() -> None:
    """Two tensors over the same bytes are refused."""
    header = {"__metadata__": {}} | {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("x", "y")
    }
    with pytest.raises(InputError, match="not a valid"):
        read(with_header(header, bytes(4)))


def test_other_writers_order_is_refused() -> None:
    """A file with the same content in another order is not canonical, so its digest would be ambiguous: refused."""
    tensors = {"x": np.zeros(1, np.float32), "a": np.ones(1, np.float16)}
    for _ in range(3):
        data = safetensors.numpy.save(tensors, metadata={"b": "1", "a": "2", "c": "3"})
        if data != encode(tensors, {"b": "1", "a": "2", "c": "3"}):
            with pytest.raises(InputError, match="not in canonical form"):
                read(data)
