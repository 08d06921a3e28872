"""Signature files that nobody well-meaning sends: good ones, spoilt, with a digest that is right where that is what gets further."""

import hashlib
import json
from collections.abc import Sequence

from hostile import Raw, dump, junk
from hypothesis import strategies as st

__all__ = ["files", "sealed"]

FIELDS = ["format", "kind", "template", "task", "base", "parent", "labels", "created", "digest", "x"]
TEXTS = [
    "", "1", "2", "mixture", "0" * 64, "f" * 64, "F" * 64, "plain", "edges", "../x", "[]", '["a","a"]', '["0","1"]', "[" * 2000, '["\\ud800"]', "\ud800",
    "x" * 5000, json.dumps([str(i) for i in range(9000)]), "[" + "[]," * 30_000 + "[]]", "x" * 1_100_000, '{"a":1}', "[1]", "\0", '"', "null",
]  # fmt: skip
ENTRIES: list[object] = [
    {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, {"dtype": "F32"}, {}, [], None, 5, "x",
    {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, {"dtype": "F32", "shape": [2**64 - 1, 0], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}, {"dtype": "F32", "shape": [0] * 80, "data_offsets": [0, 0]},
    {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 0]},
    {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 2**64]}, {"dtype": "F32", "shape": Raw("[1e400]"), "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": Raw("[" * 200 + "]" * 200), "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1, -1], "data_offsets": [0, 4]},
]  # fmt: skip
NUMBERS = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\1\0\0\0", b"\0\0\x80\xbf"]
"""NaN, both infinities, the largest float32, the smallest, -1."""


def sealed(header: object, data: bytes, *, pad: int = 8) -> bytes:
    """A tensor file with this header, whose digest is right if it has a place for one."""
    text = dump(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % pad)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    stated = metadata.get("digest") if isinstance(metadata, dict) else None
    file = len(text).to_bytes(8, "little") + text + data
    if isinstance(stated, str) and len(stated) == 64:
        zeros = f'"digest":"{"0" * 64}"'.encode()
        empty = file.replace(f'"digest":"{stated}"'.encode(), zeros, 1)
        file = empty.replace(zeros, f'"digest":"{hashlib.sha256(empty).hexdigest()}"'.encode(), 1)
    return file


_kinds, _tail, _bytes = st.integers(0, 7), st.binary(max_size=3), st.binary(max_size=200)
_floats = st.sampled_from(NUMBERS) | st.binary(min_size=4, max_size=4)
_texts = st.sampled_from([*TEXTS, None, 1, [], {}]) | st.text(max_size=20)
_fields = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2)
_entries = st.sampled_from(ENTRIES) | junk
_dtypes, _pads = st.sampled_from(["F32", "F32", "F16", "F64", "I8", "BF16"]), st.sampled_from([8, 8, 8, 1, 64])


@st.composite
def files(draw: st.DrawFn, good: Sequence[bytes]) -> bytes:
    """A signature file, spoilt; with a digest that is right, where that is what gets further."""
    file = draw(st.sampled_from(good))
    way = draw(_kinds)
    if way == 0:
        return draw(_bytes)
    if way == 1:
        return file[: draw(st.integers(0, len(file)))] + draw(_tail)
    if way == 2:
        spoilt = bytearray(file)
        for place in draw(st.lists(st.integers(0, 8 * len(file) - 1), min_size=1, max_size=4)):
            spoilt[place // 8] ^= 1 << place % 8
        return bytes(spoilt)
    size = int.from_bytes(file[:8], "little")
    if way == 3:
        length = draw(
            st.sampled_from([0, 1, 7, size - 8, size + 8, len(file), 2**20, 2**20 + 1, 2**24, 2**31, 2**63, 2**64 - 1])
        )
        return length.to_bytes(8, "little") + file[8:]
    header, data = json.loads(file[8 : 8 + size]), bytearray(file[8 + size :])
    if way == 4:  # numbers that no network should have
        for _ in range(draw(st.integers(1, 3))):
            place = 4 * draw(st.integers(0, len(data) // 4 - 1))
            data[place : place + 4] = draw(_floats)
    elif way == 5:
        for name in draw(_fields):
            header["__metadata__"][name] = draw(_texts)
        if draw(st.booleans()):
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    elif way == 6:
        name = draw(st.sampled_from([*header, "mixture", "bn.affine", "x", "\ud800", ""]))
        header[name] = draw(_entries)
    else:
        entry = header[draw(st.sampled_from([name for name in header if name != "__metadata__"]))]
        entry["shape"] = draw(
            st.sampled_from(
                [entry["shape"][::-1], [*entry["shape"], 1], [len(data) // 4], [1, *entry["shape"]], [2, 2**61]]
            )
        )
        entry["dtype"] = draw(_dtypes)
        if draw(st.booleans()):
            start = entry["data_offsets"][0]
            end = start + {"F16": 2, "BF16": 2, "I8": 1, "F64": 8}.get(entry["dtype"], 4) * draw(
                st.sampled_from([1, 8, 32])
            )
            entry["data_offsets"] = [start, end]
            del data[end:]
    return sealed(header, bytes(data), pad=draw(_pads))
