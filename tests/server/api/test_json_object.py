"""JSON is read as ``json`` reads it, name by name, though something faster reads most of it."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isoform.runtime.errors import InputError
from isoform.server.protocol import json_object
from isoform.server.protocol.json_object import read_json

TEXTS = st.text(alphabet=st.characters(codec=None) | st.sampled_from('ab":\\'), max_size=6)
NUMBERS = st.integers() | st.floats() | st.integers(-(1 << 80), 1 << 80)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
PIECES = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"0", b"1", b"-", b"+", b".", b"e", b" ", b"\n", b"\x00", b"\x0c", b"null", b"true",
    b"NaN", b"-Infinity", b'"a"', b'"a":', b'"a":1,', b"\\u0061", b"\\u003a", b"\\ud800", b"\xc3\xa9", b"\xff", b"\xed\xa0\x80", b"1e5",
    b"1e309", b"18446744073709551616", b"\xef\xbb\xbf",
]  # fmt: skip
TWICE = "has the member '.*' twice; send it once"


class TwiceError(Exception):
    """A name stands twice."""


def expected(text: bytes) -> str:
    """What ``json`` makes of a text, as a word for refusals or as Python writes it, which tells 1 from 1.0 and -0.0 from 0.0."""

    def once(pairs: list) -> dict:
        if len({name for name, _ in pairs}) < len(pairs):
            raise TwiceError
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except TwiceError:
        return "twice"
    except (ValueError, RecursionError):
        return "no JSON"
    return repr(content) if isinstance(content, dict) else "no object"


def came(text: bytes) -> str:
    """The same of ``read_json``."""
    try:
        content = read_json(text)
    except InputError as problem:
        return "twice" if "twice" in str(problem) else "no object"
    return "no JSON" if content is None else repr(content)


@given(VALUES, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_every_value_is_what_json_makes_of_it(value, ascii_only, separators) -> None:
    """Any object, however it is written: the same texts, the same numbers of the same types, in the same order."""
    text = json.dumps({"v": value}, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")
    assert came(text) == expected(text) != "no JSON"


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.booleans())
@example(b'"a":1,"a":2', True)
@example(b'"a":1,"\\u0061":2', True)
@example(b'"a":1,"a":2,"b":"\\u003a"', True)
@example(b'"b":[1,{"a":1,"a":2}]', True)
@example(b'"b":[[[{"a":1,"a":2}]]]', True)
def test_bytes_that_are_hardly_json(text, inside) -> None:
    """Any pieces of JSON one after the other, by themselves or in an object: read or refused as ``json`` does."""
    text = b"{%b}" % text if inside else text
    assert came(text) == expected(text)


@pytest.mark.parametrize(
    "inside",
    ['"a":1,"a":1', '"a":1,"\\u0061":1', '"a":1,"a":2,"b":"\\u003a"', '"p":{"a":1,"a":2}', '"i":[{"a":1},{"a":1,"a":2}]', '"d":[0,{"a":1,"a":2}]',
     '"d":[[{"a":1,"a":2}]]', '"a":1,"a":2,"b":":"'],
)  # fmt: skip
def test_a_name_that_stands_twice_is_refused_wherever(inside) -> None:
    """On top, below, in lists, written with escapes, and beside a text with a colon that was escaped to even out the count."""
    with pytest.raises(InputError, match=TWICE):
        read_json(f"{{{inside}}}".encode())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings(encoding) -> None:
    """``json`` finds out which of Unicode's encodings it is."""
    assert read_json('{"a":["é",NaN,1e999,9999999999999999999999]}'.encode(encoding)) is not None


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("nested", [False, True])
def test_ordinary_requests_are_read_by_msgspec(kind, nested, monkeypatch) -> None:
    """Numbers flat or nested, parameters and outputs, colons in names and texts: ``json`` is not asked. With one as an escape it is, and says the same."""
    x = np.random.default_rng(0).normal(size=(2, 1, 3, 3))
    tensor = {"name": "image", "shape": [2, 1, 3, 3], "datatype": "FP32", "data": (x if nested else x.ravel()).tolist()}
    label = {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["a:b", ":"]}
    request = {"id": "urn:7", "inputs": [tensor, label], "outputs": [{"name": "label"}], "parameters": {"a:b": "alice"}}
    asked, loads = list[bytes](), json.loads
    monkeypatch.setattr(json_object.json, "loads", lambda text, **more: (asked.append(text), loads(text, **more))[1])
    assert read_json(kind(json.dumps(request).encode())) == request
    assert asked == []
    assert read_json(kind(json.dumps(request).replace("urn:", "urn\\u003a").encode())) == request
    assert len(asked) == 1


def test_depth_is_bounded() -> None:
    """Lists and objects within each other a hundred thousand times are no JSON, and no crash."""
    for text in (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        assert read_json(text) is None
