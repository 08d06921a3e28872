"""What clients may send, must not, and do all the same: a server as it is, over real sockets. The table is in docs/server.md."""

import contextlib
import datetime
import gzip
import ipaddress
import json
import re
import socket
import ssl
import time

import numpy as np
import pytest
from bench.faults.served import served
from bodies import binary
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serving import serving
from support import ROOT, all_listed
from wire import answer_of, statuses, talk

from isoform.server.access.keys import Keys
from isoform.server.store.store import Store

pytestmark = pytest.mark.xdist_group("odd")  # two servers for all
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
INFER = b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: localhost\r\n"
NONE = b"POST /v2/models/none/infer HTTP/1.1\r\nHost: localhost\r\n"
INDEX = b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANNOUNCED = b"Content-Length: 900000\r\n\r\n"


@pytest.fixture(scope="module")
def address(compiled):
    """Of a server without keys."""
    with serving(compiled, "--store", "none", "--open", "--max-body-mb", "1") as server:
        yield server.address


@pytest.fixture(scope="module")
def guarded(compiled, tmp_path_factory):
    """Of a server with keys, and a key that may predict for alice."""
    folder = tmp_path_factory.mktemp("odd")
    with Store(folder / "s.db") as store:
        key = Keys(store).add("phone", ["predict:alice"])
    with served(compiled, str(folder / "s.db"), folder / "log") as server:
        yield (server.host, server.port), key


REFUSALS = {
    "403 for another site": (403, INFER + b"Sec-Fetch-Site: cross-site\r\n"),
    "404 for no task": (404, NONE),
    "405": (405, b"PUT" + INFER[4:]),
    "413": (413, INFER + b"Content-Length: 20000000\r\n\r\n"),
    "413 for a signature": (413, b"PUT /v1/models/plain/signatures/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"),
    "415 for an encoding": (415, INFER + b"Content-Encoding: br\r\n"),
    "415 for a form": (415, b"POST /v2/repository/models/plain/unload HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"),
    "431 for fields": (431, INDEX + b"X: y\r\n" * 100),
    "431 for a target": (431, b"POST /v2?" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_does_not_wait_for_the_body(kind, address) -> None:
    """It comes at once, while nothing of the body is sent; one line of JSON."""
    status, head = REFUSALS[kind]
    began = time.monotonic()
    answer, closed = talk(address, head if head.endswith(b"\r\n\r\n") else head + ANNOUNCED, seconds=0)
    assert (statuses(answer), closed) == ([status], False)
    assert time.monotonic() - began < 2
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_caller_who_may_not_is_told_before_the_body(guarded) -> None:
    """401 without a key, 403 with one that may not do that, both at once."""
    address, key = guarded
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    for status, fields in ((401, b""), (401, bearer + bearer), (403, bearer + b"Isoform-Signature: bob\r\n")):
        assert statuses(talk(address, INFER + fields + ANNOUNCED, seconds=0)[0]) == [status]


@pytest.mark.trust
@pytest.mark.parametrize("size", [900_000, 20_000_000])
@pytest.mark.parametrize("ends", [False, True], ids=["keep-alive", "close"])
def test_a_body_that_nobody_reads_is_thrown_away(size, ends, address) -> None:
    """Who sends all of it before looking at the answer finds the refusal, not a reset; and the next request of the connection is answered."""
    fields = f"Content-Length: {size}\r\n".encode() + b"Connection: close\r\n" * ends
    answer, closed = talk(address, NONE + fields + b"\r\n", bytes(size), *[] if ends else [LAST])
    assert (statuses(answer), closed) == ([404] + [200] * (not ends), True)


@pytest.mark.trust
def test_a_body_is_too_long_announced_or_not(address) -> None:
    """413 at once where the head says so; in chunks, as soon as it is; nobody has to send it all."""
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    answer, closed = talk(address, INFER + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 17, seconds=0)
    assert (statuses(answer), closed) == ([413], False)
    answer, _ = talk(address, INFER + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 40, b"0\r\n\r\n", LAST)
    assert statuses(answer) == [413, 200]


@pytest.mark.trust
@pytest.mark.parametrize("path", [b"live", b"ready"])
def test_health_with_a_body_is_answered(path, address) -> None:
    """A GET with a body, which is thrown away: at once, whether it comes or not; the next request of the connection too."""
    head = b"GET /v2/health/" + path + b" HTTP/1.1\r\nHost: localhost\r\n" + ANNOUNCED
    assert statuses(talk(address, head, seconds=0)[0]) == [200]
    assert statuses(talk(address, head, bytes(900_000), LAST)[0]) == [200, 200]


@pytest.mark.parametrize("size", [3, 900_000])
def test_a_client_is_told_to_go_on_when_it_may(size, address) -> None:
    """``Expect: 100-continue``: 100 for whoever may, then the answer; the connection goes on."""
    head = INFER + f"Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head)
        assert answer_of(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(bytes(size))
        assert statuses(answer_of(connection)) == [400]
        connection.sendall(LAST)
        assert statuses(answer_of(connection)) == [200]


@pytest.mark.trust
@pytest.mark.parametrize("sends", [False, True], ids=["and does not send", "and sends all the same"])
def test_a_client_that_may_not_is_not_told_to_go_on(sends, address) -> None:
    """No 100 but the refusal, and the end of the connection: nobody could know whether what comes next is the body."""
    for head in (NONE, INFER + b"Sec-Fetch-Site: cross-site\r\n", b"PUT" + INFER[4:]):
        head += b"Expect: 100-continue\r\n" + ANNOUNCED
        answer, closed = talk(address, head, *[bytes(900_000)] * sends)
        assert (statuses(answer), closed) == ([int(answer[9:12])], True)
        assert answer[9:12] in (b"403", b"404", b"405")
        assert b"connection: close" in answer.lower()


@pytest.mark.trust
def test_pipelining(address) -> None:
    """A thousand requests sent at once are answered in order, with and without bodies."""
    asks = [b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r%d\r\n\r\n" % i if i % 3 else
            INDEX + b"X-Request-Id: r%d\r\nContent-Length: 2\r\n\r\n{}" % i for i in range(1000)]  # fmt: skip
    answer, closed = talk(address, b"".join(asks), LAST)
    assert (statuses(answer), closed) == ([200] * 1001, True)
    assert re.findall(rb"x-request-id: r(\d+)", answer) == [b"%d" % i for i in range(1000)]


@pytest.mark.parametrize(
    ("version", "fields", "closes"),
    [(b"1.0", b"", True), (b"1.0", b"Connection: keep-alive\r\n", True), (b"1.1", b"Connection: close\r\n", True), (b"1.1", b"", False)],
)  # fmt: skip
def test_who_closes(version, fields, closes, address) -> None:
    """HTTP/1.0 is answered and closed, also with keep-alive, and the answer says so; HTTP/1.1 is kept open unless the client wants it closed."""
    answer, closed = talk(
        address, b"GET /v2 HTTP/" + version + b"\r\nHost: localhost\r\n" + fields + b"\r\n", seconds=0
    )
    assert (statuses(answer), closed, b"connection: close" in answer.lower()) == ([200], closes, closes)


@pytest.mark.parametrize("count", [1, 2])
def test_a_half_closed_connection_is_answered(count, address) -> None:
    """A client that sends whole requests and says that it sends nothing more (``nc -N``); then the server closes, too."""
    body, headers = binary(np.zeros((1, 1, 32, 32)))
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + f"Content-Length: {len(body)}\r\n\r\n"
    assert statuses(talk(address, (INFER + fields.encode() + body) * count, ends=True)[0]) == [200] * count
    answer, _ = talk(address, INFER + fields.encode() + body[:-1], ends=True)
    assert (statuses(answer), b"cut short" in answer) == ([400], True)


CHUNKED = INDEX + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = {
    "good": (200, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
    "with an extension": (200, b"2;a=b\r\n{}\r\n0\r\n\r\n"),
    "with trailers": (200, b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
    "no number": (400, b"zz\r\n{}\r\n0\r\n\r\n"),
    "less than nothing": (400, b"-1\r\n{}\r\n0\r\n\r\n"),
    "too much": (400, b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "no end of a chunk": (400, b"2\r\n{}0\r\n\r\n"),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_chunked(kind, address) -> None:
    """A body in chunks is read, and the connection goes on; malformed ones are 400, and it is closed."""
    status, body = CHUNKS[kind]
    answer, closed = talk(address, CHUNKED + body, LAST)
    assert (statuses(answer), closed) == ([status] + [200] * (status == 200), True)


@pytest.mark.trust
@pytest.mark.parametrize("length", [b"2\r\n{}\r\n0\r\n", b"0\r\n"])
def test_trailers_are_no_headers(length, address, guarded) -> None:
    """What stands behind a body says neither who sends it nor from where, also if all comes at once."""
    answer, _ = talk(
        address, CHUNKED + length + b"Sec-Fetch-Site: cross-site\r\nContent-Encoding: br\r\n\r\n", seconds=0
    )
    assert statuses(answer) == [200]
    trailer = f"Authorization: Bearer {guarded[1]}\r\n\r\n".encode()
    assert statuses(talk(guarded[0], CHUNKED + length + trailer, seconds=0)[0]) == [401]


NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "zeros": bytes(100),
    "a line": b"hello\r\n\r\n", "line feeds": b"GET /v2 HTTP/1.1\n\n", "PROXY": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "a method": b"HELLO /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", "bytes in the target": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "length and chunks": INDEX + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": INDEX + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "a length of letters": INDEX + b"Content-Length: two\r\n\r\n{}",
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_HTTP)
def test_what_is_no_http_is_400_and_closed(kind, address) -> None:
    """Bytes that are no request, or one that could be read in two ways, and what follows them."""
    assert (statuses((found := talk(address, NO_HTTP[kind] + LIVE))[0]), found[1]) == ([400], True)


def test_no_upgrade(address) -> None:
    """h2c and websocket: answered as HTTP/1.1, the first as if nobody had asked, the other with 400; never 101."""
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    assert statuses(talk(address, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + h2c + b"\r\n", seconds=0)[0]) == [200]
    assert statuses(talk(address, INDEX + h2c + b"Content-Length: 2\r\n\r\n{}", seconds=0)[0]) == [200]
    websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"
    assert statuses(talk(address, LIVE[:-2] + websocket + b"\r\n", seconds=0)[0]) == [400]


def test_an_upgrade_that_is_not_made_leaves_the_connection_as_it_was(address) -> None:
    """The next request on it is answered."""
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(3):
            connection.sendall(LIVE[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            assert statuses(answer_of(connection)) == [200]
        connection.sendall(LAST)
        assert statuses(answer_of(connection)) == [200]


def test_targets(address) -> None:
    """A whole URL is as good as a path, whatever host it names: the Host header counts; ``*`` is none of our paths."""
    for target, status in (
        (b"http://localhost/v2", 200),
        (b"http://evil.example/v2", 200),
        (b"*", 404),
        (b"/v2#x", 200),
    ):
        assert statuses(talk(address, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds=0)[0]) == [
            status
        ], target


def test_headers_with_an_underscore_are_ignored(address) -> None:
    """They cannot pass for another one, ``Content_Encoding`` for ``Content-Encoding``."""
    odd = b"Sec_Fetch_Site: cross-site\r\nContent_Encoding: br\r\nContent_Length: 9\r\n"
    assert statuses(talk(address, INDEX + odd + b"Content-Length: 2\r\n\r\n{}", seconds=0)[0]) == [200]


def test_headers_that_come_twice_are_joined(address) -> None:
    """So none of them is overlooked: a second Host, site or encoding is refused as the first would be."""
    for fields, status in (
        (b"Host: evil.example\r\n", 403), (b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n", 403),
        (b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", 415), (b"Accept: a/b\r\nAccept: */*\r\n", 200),
    ):  # fmt: skip
        assert statuses(talk(address, INDEX + fields + b"Content-Length: 0\r\n\r\n", seconds=0)[0]) == [status], fields


def test_compressed_over_the_wire(address) -> None:
    """gzip in and out, also in chunks; a megabyte and more in a kilobyte is 413 and not unpacked."""
    body, headers = binary(np.zeros((64, 1, 32, 32)))
    fields = (
        "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        + b"Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n"
    )
    packed = gzip.compress(body)
    for framing, sent in (
        (b"Content-Length: %d" % len(packed), packed),
        (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)),
    ):
        answer, _ = talk(address, INFER + b"Connection: close\r\n" + fields + framing + b"\r\n\r\n" + sent)
        head, _, data = answer.partition(b"\r\n\r\n")
        assert (statuses(head), b"content-encoding: gzip" in head.lower()) == ([200], True)
        assert len(json.loads(gzip.decompress(data))["outputs"]) >= 1
    bomb = gzip.compress(bytes(64 << 20))
    answer, _ = talk(address, INFER + fields + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb, LAST)
    assert statuses(answer) == [413, 200]


def test_half_requests_do_not_hold_up_the_end(compiled) -> None:
    """Silent connections, half heads, and bodies that were refused and do not come: the server stops within seconds all the same."""
    with contextlib.ExitStack() as stack:
        with serving(compiled, "--store", "none", "--open") as server:
            for start in (b"", LIVE[:20], NONE + ANNOUNCED, LIVE):
                stack.enter_context(socket.create_connection(server.address, timeout=10)).sendall(start)
            time.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < 8


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate for this machine, and of its key."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name, now = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
        datetime.datetime.now(datetime.UTC),
    )
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("::1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def test_tls_on_ipv6(compiled, certificate) -> None:
    """--tls-certificate and --tls-key on --host ::1: HTTPS with bodies, refusals and keep-alive; who speaks HTTP there, or is silent, stops nobody."""
    words = ("--tls-certificate", certificate[0], "--tls-key", certificate[1], "--host", "::1")
    with serving(compiled, "--store", "none", "--open", *words) as server, contextlib.ExitStack() as stack:
        assert re.fullmatch(r"https://\[::1\]:\d+", server.url)
        address = ("::1", int(server.url.rsplit(":", 1)[1]))
        context = ssl.create_default_context(cafile=certificate[0])
        for _ in range(20):
            stack.enter_context(socket.create_connection(address, timeout=10))  # silent before any TLS
        assert statuses(talk(address, LIVE)[0]) == []
        answer, closed = talk(address, INDEX + b"Content-Length: 2\r\n\r\n{}", LAST, tls=context)
        assert (statuses(answer), closed) == ([200, 200], True)
        answer, _ = talk(address, NONE + b"Content-Length: 900000\r\n\r\n", bytes(900_000), LAST, tls=context)
        assert statuses(answer) == [404, 200]


def test_a_unix_socket(compiled, tmp_path) -> None:
    """--unix: the same answers over a path, which is there while the server runs, and replaced if one was left behind."""
    path = tmp_path / "s.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))
    with serving(compiled, "--store", "none", "--open", "--unix", path) as server:
        assert server.url == f"unix:{path}"
        assert statuses(talk(str(path), INDEX + b"Content-Length: 2\r\n\r\n{}", LAST)[0]) == [200, 200]
        assert statuses(talk(str(path), NONE + ANNOUNCED, bytes(900_000), LAST)[0]) == [404, 200]
    assert not path.exists()


def test_every_row_of_the_table_has_its_test() -> None:
    """docs/server.md, "Slow, silent and odd clients": each row names tests that exist, and each test of this file and the slow ones has a row."""
    section = (
        (ROOT / "docs" / "server.md").read_text().partition("## Slow, silent and odd clients")[2].partition("\n## ")[0]
    )
    rows = [row for row in section.splitlines() if row.startswith("| ") and not row.startswith("| A client")]
    exist = {
        f"{file.name}::{name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(rows) > 30
    assert [row for row in rows if not all_listed(row)] == []
    assert all_listed(section) - exist == set()
    ours = {name for name in exist if name.startswith(("test_odd_clients.py", "test_slow_clients.py"))}
    assert ours - all_listed(section) == {"test_odd_clients.py::test_every_row_of_the_table_has_its_test"}
