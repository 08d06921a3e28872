"""What nobody well-meaning sends, as hypothesis strategies: requests to every route, bodies, binary tensors.

All of them begin from something good and spoil a few places of it, so that much of it gets past the first check. JSON is written by
``dump``, because ``json.dumps`` cannot write what is no JSON.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["HEAD", "IMAGE", "Ask", "Raw", "binaries", "bodies", "dump", "junk", "requests"]

HEAD = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    """As it is sent: percent-encoded, and before the question mark."""
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __repr__(self) -> str:
        shown = (self.method, self.path, self.query, self.headers, self.body)
        return f"Ask{tuple(value if len(repr(value)) < 400 else repr(value)[:400] for value in shown)}"


@dataclasses.dataclass(frozen=True)
class Raw:
    """Text that stands in JSON as it is."""

    text: str

    def __repr__(self) -> str:
        return f"Raw({self.text[:40]!r}, {len(self.text)})"


def dump(value: object) -> str:
    """JSON, or what looks like it."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dump(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


LEAVES: list[object] = [
    None, True, False, 0, 1, -1, 2, 1024, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 0.0, -0.0, 1.5, 1e308, 5e-324, "", "x", "image",
    "label", "logits", "FP32", "INT64", "BYTES", "plain", "alice", "../bob", "a\nb", "\0", "\ud800", "💥", "x" * 3000, [], {}, [[]], [[], [1]], [None],
    [1, "1"], {"": 0}, {"binary_data": 1}, {"binary_data_size": 4096}, Raw("1e400"), Raw("-1e400"), Raw("NaN"), Raw("Infinity"), Raw("9" * 5000),
    Raw("1" * 400), Raw("[" * 10_000), Raw("[" * 300 + "]" * 300), Raw("[" * 960 + "]" * 960), Raw('{"a":' * 900 + "1" + "}" * 900), Raw('"\\ud800"'),
    Raw('"\\udfff\\ud800"'), Raw('"\\u0000"'), Raw(""), Raw("01"), Raw("'x'"), Raw('{"a":1,"a":2}'), Raw("[1,]"), Raw("\\"), Raw('"\x01"'),
    Raw('["' + "x" * 50_000 + '"' + ",0" * 1023 + "]"), Raw('["' + "💥" * 9000 + '"' + ",0.5" * 1023 + "]"), Raw("[" + "[]," * 40_000 + "[]]"),
    Raw("[" + '{"a":1},' * 20_000 + "{}]"), Raw("[" + "0," * 300_000 + "0]"), Raw("[[" + "[[0.5]]," * 9000 + "[[0]]]]"), Raw('"' + "x" * 300_000 + '"'),
    Raw("1e999"), Raw("-0"),  Raw("9" * 100_000), Raw("{" + ",".join(f'"{i}":{i}' for i in range(9000)) + "}"), Raw('{"name":"image","name":"label"}'),
]  # fmt: skip
junk: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(LEAVES), st.integers(), st.floats(), st.text(max_size=12),
    st.lists(st.sampled_from(LEAVES), max_size=3), st.dictionaries(st.text(max_size=6), st.sampled_from(LEAVES), max_size=2),
)  # fmt: skip
NAMES = [
    "alice", "bob", "zoe", ".", "..", ".hidden", "a" * 64, "a" * 65, "a" * 3000, "alice%00", "alice%0a", "alice%20", "%61lice", "alice%2f..%2fbob",
    "%2e%2e", "%ff%fe", "%c0%ae", "%E2%80%AEbob", "Alice", "*", "alice;x=1", "-", "%", "%zz", "CON", "0" * 32, "f" * 32,
]  # fmt: skip
HEADERS: dict[str, list[str]] = {
    HEAD: ["0", "1", "5", "100", "-1", "+1", " 5", "1e3", "0x10", "1_0", "²", "", "999999999999", "9" * 3000, "NaN"],
    "Content-Encoding": ["gzip", "deflate", "br", "identity", "gzip, gzip", "GZIP ", "x" * 2000, ""],
    "Content-Type": ["application/json; charset=utf-7", "multipart/form-data; boundary=", "x" * 3000, "\xff", "application/x-www-form-urlencoded"],
    "Content-Length": ["0", "-5", "abc", "99999999999999999999", "1.5", ""],
    "Isoform-Signature": ["alice", "bob", "zoe", "../bob", "", "a" * 3000, "alice, bob", "\xe9", "alice\x0b"],
    "If-Match": ["*", '"', '""', 'W/"1-x"', '"1-0", "2-0"', "1-" + "0" * 16, "x" * 3000, ",,,"],
    "If-None-Match": ["*", '"', 'W/"', "x" * 3000, ", ,"],
    "Idempotency-Key": ["k", "", "x" * 255, "x" * 256, "\x7f", "\xe9", " ", "'; --"],
    "Prefer": ["wait=0", "wait=-1", "wait=x", "wait=", "respond-async", "wait=0;wait=0", ";,;wait=0"],
    "Accept-Encoding": ["gzip;q=nan", "gzip;q=-1", "*;q=0", "deflate", "gzip;q=1e400", "," * 500, "gzip"],
    "Accept": ["*/*;q=x", "application/json;" * 200], "Range": ["bytes=0-", "bytes=-1", "bytes=9-1", "items=" + "1," * 500], "If-Range": ["x", '"1"'],
    "If-Modified-Since": ["yesterday", "Thu, 01 Jan 99999 00:00:00 GMT", "x" * 3000], "Host": ["", "[", "x" * 99, "a b", "[::1", "x:99999", "\xe9", "xn--\xff"],
    "Cookie": ["a=b", "=" * 3000, "\xff=\xff"], "X-Forwarded-For": ["' or 1=1"], "X-HTTP-Method-Override": ["DELETE"], "Expect": ["100-continue", "x"],
}  # fmt: skip
headers = st.lists(
    st.sampled_from([(name, value) for name, values in HEADERS.items() for value in values]), max_size=3
).map(tuple)
QUERIES = [
    "", "", "limit=1", "limit=0", "limit=-1", "limit=1001", "limit=1e3", "limit=%00", "limit=" + "9" * 3000, "limit=1&limit=x", "after=%00", "after=%ff",
    "after=" + "x" * 3000, "after='--", "revision=1", "revision=0", "revision=2147483647", "revision=2147483648", "revision=" + "9" * 30, "before=1",
    "before=2147483648", "before=x", "parts=mixture", "parts=mixture,mixture", "parts=", "parts=" + "mixture," * 300, "method=auto", "method=../x",
    "method=%00", "&&&===", "%%%", "a" * 3500,
]  # fmt: skip


_names, _queries = st.sampled_from(NAMES), st.sampled_from(QUERIES)
_tasks = st.sampled_from(["plain", "plain", "plain", "edges", "klingon", *NAMES[3:12]])
_spared_tasks, _users = (
    st.sampled_from(["edges", "klingon", *NAMES[3:12]]),
    st.sampled_from(["alice"] * len(NAMES) + NAMES),
)
_versions, _tenth, _twentieth = st.sampled_from(["1", "2", "01", "%31", "-1"]), st.integers(0, 9), st.integers(0, 19)
_before = st.sampled_from(["//", "/./", "/../", "/%2e%2e/", "/%00", "/v1//", "/v2/%", "/%2f%2f"])
_methods = st.sampled_from(["PATCH", "TRACE", "CONNECT", "HEAD", "OPTIONS", "get", "X" * 50, "PROPFIND"])
_short = st.sampled_from(
    [b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe{\0}\0", b'{"revision":1}', b"\0" * 4096]
) | st.binary(max_size=40)


@st.composite
def requests(draw: st.DrawFn, rules: Sequence[tuple[str, str]]) -> Ask:
    """A request to one of the routes, or past all of them. ``rules``: method and path with ``<task>`` and the like."""
    method, path = draw(st.sampled_from(rules))
    spared = method == "DELETE" or path.endswith("load")  # so that there is something left to ask for
    if "<task>" in path:
        path = path.replace("<task>", draw(_spared_tasks if spared else _tasks))
    if "<user>" in path:
        path = path.replace("<user>", "zoe" if spared else draw(_users))
    for name, strategy in (("<version>", _versions), ("<identity>", _names)):
        if name in path:
            path = path.replace(name, draw(strategy))
    if draw(_tenth) == 0:
        path = draw(_before) + path
    if draw(_twentieth) == 0:
        method = draw(_methods)
    return Ask(method, path, draw(_queries), draw(headers), draw(_short))


ZEROS = Raw("[" + ",".join(["0.5"] * 1024) + "]")
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": ZEROS, "parameters": {}}
LABEL = {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["1"], "parameters": {}}
SHAPES: list[object] = [
    [255, 1, 32, 32], [4096, 1, 32, 32], [2**31 - 1, 1, 32, 32], [0] * 4, [1] * 40_000,
    [0, 1, 32, 32], [2**31, 1, 32, 32], [2**31, 2**31, 2**31, 2**31], [1, 1, 32], [-1, 1, 32, 32], [1.0, 1, 32, 32], [True, 1, 32, 32], ["1", 1, 32, 32],
    [1, 1, 32, 32, 1], [2, 1, 32, 32], [1] * 3000, [2**64, 1, 32, 32], [], 1024, "1024",
]  # fmt: skip
PLACES: list[tuple[str | int, ...]] = [
    ("id",), ("parameters",), ("parameters", "signature"), ("parameters", "timeout"), ("parameters", "binary_data_output"), ("inputs",), ("inputs", 0),
    ("inputs", 0, "name"), ("inputs", 0, "datatype"), ("inputs", 0, "shape"), ("inputs", 0, "shape", 0), ("inputs", 0, "data"), ("inputs", 0, "parameters"),
    ("inputs", 0, "parameters", "binary_data_size"), ("inputs", 1), ("inputs", 1, "shape"), ("inputs", 1, "data"), ("inputs", 1, "data", 0), ("outputs",),
    ("outputs", 0), ("outputs", 0, "name"), ("outputs", 0, "parameters"), ("outputs", 0, "parameters", "binary_data"), ("revision",), ("ready",), ("x",),
]  # fmt: skip
VERBS = {
    "/v2/models/plain/infer": 1, "/v2/models/plain/versions/1/infer": 1, "/v1/models/plain/signatures/alice/personalize": 2,
    "/v1/models/plain/signatures/zoe/adapt": 1, "/v1/models/plain/signatures/alice/rollback": 0, "/v2/repository/index": 0,
    "/v2/repository/models/edges/load": 0,
}  # fmt: skip


def _spoilt(value: Any, place: tuple[str | int, ...], by: object) -> Any:
    """A copy with another value in one place, as far as there is such a place."""
    if not place:
        return by
    if isinstance(value, dict) and isinstance(place[0], str):
        return {**value, place[0]: _spoilt(value.get(place[0]), place[1:], by)}
    if isinstance(value, list) and isinstance(place[0], int):
        rest = value[place[0] : place[0] + 1] or [None]
        return [*value[: place[0]], _spoilt(rest[0], place[1:], by), *value[place[0] + 1 :]]
    return value


_shapes = st.sampled_from(SHAPES) | junk
_places, _maybe_places = (
    st.lists(st.sampled_from(PLACES), min_size=least, max_size=3 - (not least)) for least in (1, 0)
)
_verbs = st.sampled_from([*VERBS])
_maybe_headers = st.just(()) | headers
_ways = st.integers(0, 24)


@st.composite
def _contents(draw: st.DrawFn, inputs: int) -> dict[str, Any]:
    value: Any = {
        "inputs": [IMAGE, LABEL][:inputs],
        "outputs": [{"name": "logits", "parameters": {}}],
        "parameters": {},
    }
    if inputs == 0:
        value = {"revision": 1}
    for place in draw(_places):
        value = _spoilt(value, place, draw(junk if place[-1] != "shape" else _shapes))
    return value


def _encoded(draw: st.DrawFn, body: bytes) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Compressed, well or not; or as it is."""
    way = draw(_ways)
    if way == 0:
        return gzip.compress(body), (("Content-Encoding", "gzip"),)
    if way == 1:
        return zlib.compress(body)[: draw(st.integers(0, 30))], (("Content-Encoding", "deflate"),)
    if way == 2:
        return BOMB, (("Content-Encoding", "gzip"),)
    if way == 3:
        return gzip.compress(body) + b"more", (("Content-Encoding", "gzip"),)
    return body, ()


BOMB = gzip.compress(bytes(64 << 20))


@st.composite
def bodies(draw: st.DrawFn) -> Ask:
    """JSON that is nearly what a route takes."""
    path = draw(_verbs)
    text = dump(draw(_contents(VERBS[path])))
    body = text.encode("utf-8", "surrogatepass")
    way = draw(_twentieth)
    if way == 0:
        body = body[: draw(st.integers(0, len(body)))]
    elif way == 1:
        body = text.encode("utf-16", "surrogatepass")
    elif way == 2:
        body = b"\xef\xbb\xbf" + body
    body, more = _encoded(draw, body)
    return Ask("POST", path, "", more + draw(_maybe_headers), body)


_routes = st.sampled_from([route for route in VERBS.items() if route[1]])
_numbers = st.sampled_from(
    [
        bytes(4096),
        *(n * 1024 for n in (b"\xff" * 4, b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\xc0\x7f")),
        b"",
        bytes(4095),
    ]
)
_lengths = st.sampled_from(HEADERS[HEAD])
_labels = st.sampled_from(
    [b"\1\0\0\0" + b"1", b"\xff\xff\xff\xff" + b"1", b"\1\0\0\0" + b"\xff", b"", b"\0" * 8, b"\1\0"]
)


@st.composite
def binaries(draw: st.DrawFn) -> Ask:
    """JSON and numbers behind it, whose lengths may lie."""
    path, labelled = draw(_routes)
    value: Any = {
        "inputs": [
            {**IMAGE, "parameters": {"binary_data_size": 4096}},
            {**LABEL, "parameters": {"binary_data_size": 5}},
        ][:labelled]
    }
    for entry in value["inputs"]:
        del entry["data"]
    for place in draw(_maybe_places):
        value = _spoilt(value, place, draw(junk if place[-1] != "shape" else _shapes))
    head = dump(value).encode("utf-8", "surrogatepass")
    numbers, label = draw(_numbers), draw(_labels)
    off = draw(_twentieth)
    size = str(len(head) + max(0, off - 15) - (off == 15)) if off > 2 else draw(_lengths)
    body, more = _encoded(draw, head + numbers + (label if labelled == 2 else b""))
    return Ask("POST", path, "", (*more, (HEAD, size)), body)
