"""A server without keys: this machine's programs and its own page are let in, other web pages are not; no header moves a request."""

import contextlib
import http.client
import json
import re
import socket
import time

import pytest
from serving import serving

from isoform.server.app import create_app

pytestmark = pytest.mark.trust
UNLOAD, LOAD = (f"/v2/repository/models/edges/{verb}" for verb in ("unload", "load"))
ALICE = "/v1/models/plain/signatures/alice"


@pytest.fixture(scope="module")
def client(runtime):
    """A client of an application that asks for no keys."""
    return create_app(runtime).test_client()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example:80", "0.0.0.0:8000", "192.168.1.2",
     "127.0.0.1@evil.example", "127.0.0.1:80,evil.example", "[::2]:8000", "[fe80::1]", "[::ffff:10.0.0.1]", "localhost:x", "", "[::1", "notlocalhost"],
)  # fmt: skip
def test_a_name_that_was_rebound_to_loopback_is_refused(host, client) -> None:
    """A Host that is not loopback is 403 on every route, whatever X-Forwarded-Host says, so DNS rebinding reaches nothing."""
    headers = {"Host": host, "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
    for method, path in (
        ("GET", "/v2"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("POST", UNLOAD),
        ("POST", "/v2/models/plain/infer"),
    ):
        answer = client.open(path, method=method, headers=headers)
        assert (answer.status_code, "a loopback name like localhost was expected" in answer.json["error"]) == (
            403,
            True,
        )


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:9000", "localhost.:1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]:1"]
)  # fmt: skip
def test_loopback_by_any_name_and_port_is_let_in(host, client) -> None:
    """So a forwarded port works; and the page of the same origin may do everything, also behind what ends TLS."""
    assert client.get("/v2", headers={"Host": host}).status_code == 200
    for scheme in ("http", "https"):
        own = {"Host": host, "Origin": f"{scheme}://{host.lower()}", "Sec-Fetch-Site": "same-origin"}
        assert client.post(LOAD, json={}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none, cross-site"}, {"Origin": "http://evil.example"},
     {"Origin": "null"}, {"Origin": "http://localhost:3000"}, {"Origin": "https://localhost.evil.example"}, {"Origin": "file://"},
     {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}],
)  # fmt: skip
def test_what_a_browser_sends_for_another_site_is_refused(sent, client) -> None:
    """Reading, predicting, changing and asking whether one may: 403, and nothing has changed."""
    users, infer = "/v1/models/plain/signatures", "/v2/models/plain/infer"
    for method, path in (("POST", UNLOAD), ("GET", users), ("POST", infer), ("OPTIONS", UNLOAD), ("DELETE", ALICE)):
        answer = client.open(path, method=method, headers={"Host": "localhost:8000", **sent})
        assert answer.status_code == 403, (path, sent)
    assert client.get("/v2/models/edges/ready").status_code == 200


def test_a_link_to_the_page_may_be_followed(client) -> None:
    """A browser that goes to the page from another site gets it; the same as a part of another page does not."""
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=visit).status_code == 200
    assert client.get("/", headers={**visit, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert client.get("/v2", headers=visit).status_code == 403


@pytest.mark.parametrize(
    "media",
    ["text/plain", "text/plain; x=application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "TEXT/PLAIN"],
)  # fmt: skip
def test_a_form_changes_nothing(media, client) -> None:
    """What a page may send without a preflight is 415 where something changes, also from a browser that says nothing of sites."""
    for method, path in (
        ("POST", UNLOAD),
        ("PUT", ALICE),
        ("POST", f"{ALICE}/rollback"),
        ("POST", f"{ALICE}/adapt"),
        ("DELETE", ALICE),
    ):
        answer = client.open(path, method=method, data=b"{}", content_type=media)
        assert (answer.status_code, "application/json or application/octet-stream" in answer.json["error"]) == (
            415,
            True,
        )
    assert client.get("/v2/models/edges/ready").status_code == 200
    assert client.post("/v2/repository/index", data=b"{}", content_type=media).status_code == 200
    assert client.post("/v2/models/plain/infer", data=b"{}", content_type=media).status_code == 400  # it only asks
    for usual in ("application/json; charset=utf-8", "application/octet-stream"):
        assert client.post(LOAD, data=b"{}", content_type=usual).status_code == 200
    assert client.post(LOAD).status_code == 200
    for path in (
        LOAD,
        f"{ALICE}/rollback",
        f"{ALICE}/adapt",
        f"{ALICE}/personalize",
    ):  # fetch sends a Blob without a type
        assert client.post(path, data=b"{}", headers={"Origin": "http://localhost"}).status_code == 415, path
    assert client.post(LOAD, data=b"{}").status_code == 200  # and tritonclient names no type, nor an origin
    assert client.put(ALICE, data=b"{}").status_code == 404  # curl -T sends none: there is no store here


@pytest.fixture(scope="module")
def server(compiled):
    """A running server without keys that keeps idle connections for two seconds."""
    with serving(compiled, "--store", "none", "--open", "--keep-alive", "2") as server:
        yield server


def talk(server, head: str) -> tuple[int, bytes]:
    """Status and all of the answer to one request on a connection of its own."""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n")
        found = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(found.split(b" ", 2)[1]), found


@pytest.mark.parametrize(
    "header",
    ["SCRIPT_NAME: /v2", "Script-Name: /v2", "PATH_INFO: /v2/health/live", "X-Script-Name: /v2", "X-Forwarded-Prefix: /v2", "X-Original-URL: /v2/health/live",
     "X-Rewrite-URL: /v2/health/live", "X-Forwarded-Path: /v2/health/live", "REMOTE_USER: root", "X-Forwarded-Proto: https", "HTTP_HOST: evil.example"],
)  # fmt: skip
def test_no_header_moves_a_request(header, server) -> None:
    """Not even from loopback, whose word some servers take by default: the path is the one of the request line."""
    assert talk(server, f"GET /nothing HTTP/1.1\r\nHost: localhost\r\n{header}")[0] == 404
    status, answer = talk(server, f"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n{header}")
    assert (status, b'"live":true' in answer) == (200, True), answer


def test_hosts_over_the_wire(server) -> None:
    """Host must be loopback, also where the target is a whole URL, which no browser sends; without any Host, as HTTP/1.0 allows, it is none."""
    host, port = server.address
    for head, status in (
        (f"GET /v2 HTTP/1.1\r\nHost: {host}:{port}", 200), ("GET /v2 HTTP/1.0", 200), (f"GET /v2 HTTP/1.1\r\nHost: evil.example:{port}", 403),
        ("GET http://localhost/v2 HTTP/1.1\r\nHost: evil.example", 403), ("GET /v2 HTTP/1.1\r\nHost: [::1]:80", 200),
    ):  # fmt: skip
        assert talk(server, head)[0] == status, head
    cross = "POST /v2/models/plain/infer HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0"
    assert talk(server, cross)[0] == 403  # a short prediction, which the loop answers


def test_the_page_works_where_it_came_from(server) -> None:
    """It and all that it names are answered to a browser's own requests of the same origin."""
    host, port = server.address
    origin = f"Host: {host}:{port}\r\nOrigin: http://{host}:{port}\r\nSec-Fetch-Site: same-origin"
    status, page = talk(server, f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nSec-Fetch-Site: none")
    assert status == 200
    named = re.findall(rb'"(page/[a-z.]+)"', page)
    assert len(named) >= 3
    for name in named:
        assert talk(server, f"GET /{name.decode()} HTTP/1.1\r\n{origin}")[0] == 200
    index = f"POST /v2/repository/index HTTP/1.1\r\n{origin}\r\nContent-Type: application/json\r\nContent-Length: 0"
    status, answer = talk(server, index)
    assert (status, len(json.loads(answer.partition(b"\r\n\r\n")[2]))) == (200, 4)


def test_idle_connections_make_room(compiled) -> None:
    """When a process has as many connections as it takes, the one that is idle for longest is closed for a new one."""
    ask = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(compiled, "--store", "none", "--open") as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(server.address, timeout=10)) for _ in range(830)]
        for connection in idle:
            connection.sendall(ask)
        for connection in idle[-20:]:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert talk(server, "GET /v2/health/live HTTP/1.1\r\nHost: localhost")[0] == 200


def test_idle_connections_are_kept_as_long_as_was_said(server) -> None:
    """--keep-alive is how long a connection stays open between requests."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b'{"live":true}\n'
        began = time.monotonic()
        assert connection.sock.recv(1) == b""
        assert 1 < time.monotonic() - began < 10  # the machine may be busy
