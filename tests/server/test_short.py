"""Heads that are split in one go come to the same as gunicorn's parser makes of them; what is not plain is left to it."""

import collections

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import create
from hypothesis import given, settings
from hypothesis import strategies as st

from isoform.server.http.short import FIELDS, LINE_BYTES, SHORT_BYTES, Parser, short_request

CLIENT, SERVER = ("127.0.0.1", 50123), ("127.0.0.1", 8000)
LINE = b"POST /v2/models/plain/infer HTTP/1.1\r\n"
PLAIN = (
    LINE + b"Host: a\r\nIsoform-Signature:  alice \r\nContent-Length: 4\r\nX-Real-IP: ::1\r\n"
    b"Connection: close\r\nAuthorization: Bearer a.b:c\r\n\r\nfour"
)  # fmt: skip


class Wire:
    """A socket from which no more comes."""

    def recv(self, _size: int) -> bytes:
        """Nothing."""
        return b""

    def send(self, data: bytes) -> int:
        """To nobody."""
        return len(data)


def config() -> Config:
    """As ours is set, where it matters for heads."""
    result = Config()
    result.set("limit_request_line", LINE_BYTES)
    result.set("limit_request_fields", FIELDS)
    return result


CONFIG = config()


def told(request) -> tuple[dict, bytes, bool, bool]:
    """What an application is given of a request; whether the connection ends with it; whether the client waits for leave to go on."""
    _, environ = create(request, Wire(), CLIENT, SERVER, CONFIG)
    body, *_ = environ["wsgi.input"].read(), environ.pop("wsgi.input")
    own = ("gunicorn.socket", "wsgi.errors", "wsgi.early_hints")
    return (
        {name: value for name, value in environ.items() if name not in own},
        body,
        request.should_close(),
        request._expected_100_continue,
    )


def check_same(data: bytes) -> bool:
    """Whether it was split here; if so it must be what gunicorn says."""
    request = short_request(data, CONFIG, CLIENT)
    if request is None:
        return False
    parser = RequestParser(CONFIG, Wire(), CLIENT)
    parser.unreader.unread(data)
    assert told(request) == told(next(parser))
    assert parser.unreader.take_buffered() == b""
    return True


USUAL = [
    "Host",
    "Content-Type",
    "Isoform-Signature",
    "Inference-Header-Content-Length",
    "Accept-Encoding",
    "X-A",
    "x-b",
    "Connection",
]
ODD = [
    "content-length", "Expect", "Transfer-Encoding", "Content-Encoding", "Upgrade", "X-Forwarded-Proto", "X-Forwarded-For", "Script_Name",
    "X_A", "!#$%&'*+-.^`|~", "a:b", "a ", " a", "é", "",
]  # fmt: skip
odd_values = ["4", "04", "+4", "²", "chunked", "100-continue", "https", "gzip", "a\x01b", "a\x7f", "a\rb", "a\0"]
PATHS = [
    "/v2/models/a.b-c_1/versions/1/infer", "/v2/models/%70lain/infer", "/v2/models/plain/infer?a=b", "/v2/models/plain/infer#a",
    "/v2/models/é/infer", "/v2/models//infer", "/v2/models/../infer", "http://a/v2/models/plain/infer",
]  # fmt: skip
usual_values = st.sampled_from(["close", "keep-alive", "Close ", "a,b", ":", "alice"]) | st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=8
)


@st.composite
def requests(draw) -> bytes:
    """Plain ones, and such as are not plain in one thing."""
    oddity = draw(st.integers(0, 12))

    def odd(number: int, choices: list, usual):
        return draw(st.sampled_from(choices)) if oddity == number else usual

    fields = [
        [name, draw(st.sampled_from(["", " ", "\t "])), draw(usual_values), "\r\n"]
        for name in draw(st.lists(st.sampled_from(USUAL), max_size=5, unique=oddity != 1))
    ]  # fmt: skip
    fields.insert(draw(st.integers(0, len(fields))), ["Content-Length", " ", odd(2, odd_values, "4"), "\r\n"])
    place = draw(st.integers(0, len(fields) - 1))
    if oddity == 3:
        fields.insert(place, [draw(st.sampled_from(ODD)), "", draw(st.sampled_from(odd_values)), "\r\n"])
    fields[place][2] = odd(4, odd_values, fields[place][2])
    fields[place][3] = odd(5, ["\n", "\r", "\r\n ", "", "\r\n\r\n"], "\r\n")
    head = "".join("{}:{}{}{}".format(*field) for field in fields)
    path, version = (
        odd(6, PATHS, "/v2/models/plain/infer"),
        odd(7, ["HTTP/1.0", "HTTP/2.0", "http/1.1", ""], "HTTP/1.1"),
    )
    body = odd(8, [b"fou", b"five5", b"", b"fourPOST / HTTP/1.1\r\n\r\n"], b"four")
    return f"POST {path} {version}\r\n{head}\r\n".encode("latin-1") + body


def test_same_as_gunicorn() -> None:
    """Of thousands of requests that are plain or nearly so, every one that is split here is what gunicorn makes of it."""
    seen = collections.Counter[bool]()

    @settings(max_examples=3000, deadline=None, derandomize=True)
    @given(requests())
    def compare(data: bytes) -> None:
        seen[check_same(data)] += 1

    compare()
    assert seen[True] > 300, seen
    assert seen[False] > 300, seen


def test_plain_is_split() -> None:
    """What usual clients send is split here, also with its length in other places, and in lower case."""
    for data in (PLAIN, PLAIN.lower().replace(b"post", b"POST").replace(b"http/1.1", b"HTTP/1.1")):
        assert check_same(data)
    assert check_same(LINE + b"content-length:0\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:-1], PLAIN + b"x", PLAIN.replace(b"Host: a", b"Host : a"), PLAIN.replace(b"Host: a", b"Ho_st: a"),
        PLAIN.replace(b"X-Real-IP", b"content-length"), PLAIN.replace(b"X-Real-IP: ::1", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"X-Real-IP: ::1", b"Expect: 100-continue"), PLAIN.replace(b"X-Real-IP: ::1", b"Content-Encoding: gzip"),
        PLAIN.replace(b"X-Real-IP: ::1", b"X-Forwarded-Proto: https"),
        PLAIN.replace(b"X-Real-IP: ::1", b"Host: b"), PLAIN.replace(b"\r\nX-Real", b"\r\n X-Real"), PLAIN.replace(b"::1", b"\x00"),
        PLAIN.replace(b"\r\n", b"\n"), PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), PLAIN.replace(b"POST", b"PUT"),
        PLAIN.replace(b"plain", b"pl%61in"), PLAIN.replace(b"Length: 4", "Length: ²".encode("latin-1")), PLAIN.replace(b"Length: 4", b"Length: +4"),
        PLAIN.replace(b"::1", b"a" * LINE_BYTES), LINE + b"X: y\r\n" * FIELDS + b"Content-Length: 0\r\n\r\n", LINE + b"\r\n",
        LINE + b"".join(b"X%d: y\r\n" % number for number in range(FIELDS)) + b"Content-Length: 0\r\n\r\n",
        LINE + b"Content-Length: %d\r\n\r\n" % SHORT_BYTES + bytes(SHORT_BYTES), b"",
    ],
)  # fmt: skip
def test_left_to_gunicorn(data) -> None:
    """What is long, breaks off, has more behind it, or says something special about itself."""
    assert short_request(data, CONFIG, CLIENT) is None


def test_parser_takes_turns() -> None:
    """One connection's requests, split here or not, one after the other."""
    parser = Parser(CONFIG, Wire(), CLIENT)
    other = b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"
    for turn in range(1, 7):
        if turn % 3:
            parser.given = short_request(LINE + b"Content-Length: 1\r\n\r\n%d" % turn, CONFIG, CLIENT)
            request = next(parser)
            assert (request.path, request.body.read()) == ("/v2/models/plain/infer", b"%d" % turn)
        else:
            parser.unreader.unread(other)
            assert next(parser).path == "/v2"
        assert parser.finish_body(deadline=0)
        assert parser.req_count == turn
