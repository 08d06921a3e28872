"""Callers are told apart by what they are, not by what they are called; those without a key by their address."""

import http.client
import json
import logging

import pytest
from serving import serving

from isoform.runtime.errors import UsageError
from isoform.server.access.keys import Keys
from isoform.server.app import create_app
from isoform.server.exchange.address import client_address, networks
from isoform.server.service.settings import Settings

pytestmark = pytest.mark.trust
ALICE, BOB = (f"/v1/models/plain/signatures/{name}" for name in ("alice", "bob"))


@pytest.fixture
def keys(store) -> Keys:
    """The store's keys: none."""
    return Keys(store)


def bearer(keys: Keys, name: str, *scopes: str, **more: str) -> dict:
    """Headers with a new key."""
    return {"Authorization": f"Bearer {keys.add(name, list(scopes))}", **more}


def test_idempotency_keys_are_of_a_key_not_of_a_name(runtime, store, keys) -> None:
    """Of two API keys named alike, and of one that was revoked and made anew, none is answered what the other wrote."""
    client, data = create_app(runtime, store=store, keys=keys).test_client(), runtime.signature("plain").encode()
    one = bearer(keys, "phone", "write:*", **{"Idempotency-Key": "1"})
    assert client.put(ALICE, data=data, headers=one).status_code == 201
    assert client.put(ALICE, data=data, headers=one).headers["Idempotent-Replayed"] == "true"
    two = bearer(keys, "phone", "write:bob", **{"Idempotency-Key": "1"})
    answer = client.put(BOB, data=data, headers=two)
    assert (answer.status_code, answer.json["signature"], answer.json["actor"]) == (201, "bob", "phone")
    keys.revoke(one["Authorization"].split("_")[1])
    again = bearer(keys, "phone", "write:*", **{"Idempotency-Key": "1"})
    answer = client.put(ALICE, data=data, headers=again)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers, answer.json["revision"]) == (200, False, 2)


def test_two_keys_of_one_name_have_a_rate_each(runtime, store, keys, caplog) -> None:
    """What one sends does not use up what the other may send; the log names both, and tells them apart."""
    client = create_app(runtime, store=store, keys=keys, settings=Settings(rate_per_second=1, log="all")).test_client()
    one, two = (bearer(keys, "phone", "predict") for _ in range(2))
    with caplog.at_level(logging.INFO, "isoform.access"):
        statuses = [client.get("/v2", headers=one).status_code for _ in range(12)]
        assert (statuses[0], statuses[-1]) == (200, 429)
        assert client.get("/v2", headers=two).status_code == 200
    lines = [json.loads(record.message) for record in caplog.records if record.name == "isoform.access"]
    assert {line["caller"] for line in lines} == {"phone"}
    assert {line["caller_id"] for line in lines} == {f"key:{key['Authorization'].split('_')[1]}" for key in (one, two)}


def test_requests_without_a_valid_key_are_limited_by_address(runtime, store, keys) -> None:
    """401 becomes 429 for an address that tries on, not for others, nor for a good key from there; the page loads all the same."""
    client = create_app(runtime, store=store, keys=keys, settings=Settings(rate_per_second=1)).test_client()
    good = bearer(keys, "phone", "predict")

    def ask(address: str, headers: dict | None = None, path: str = "/v2") -> int:
        return client.get(path, headers=headers, environ_base={"REMOTE_ADDR": address}).status_code

    wrong = {"Authorization": f"Bearer iso_{'0' * 16}_{'x' * 43}", "X-Forwarded-For": "9.9.9.9"}
    tried = [ask("10.0.0.1", {} if number % 2 else wrong) for number in range(12)]
    assert (tried[0], tried[-1]) == (401, 429)
    assert ask("10.0.0.2") == 401
    assert ask("10.0.0.1", good) == 200
    assert {ask("10.0.0.1", path=path) for path in ("/", "/v2/health/live", "/page/page.css", "/page/page.js") * 4} == {
        200
    }
    tried = [ask(f"2001:db8::{number:x}") for number in range(12)]  # one machine has all of them
    assert (tried[0], tried[-1]) == (401, 429)
    assert ask("2001:db8:0:1::1") == 401


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [("10.0.0.1", None, "10.0.0.1"), ("10.0.0.1", "1.2.3.4", "1.2.3.4"), ("8.8.8.8", "1.2.3.4", "8.8.8.8"), ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
     ("10.0.0.1", "1.2.3.4, 10.1.1.1", "1.2.3.4"), ("10.0.0.1", "1.2.3.4, junk", "10.0.0.1"), ("10.0.0.1", "10.0.0.9", "10.0.0.9"),
     ("::ffff:10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4"), ("fd00::1", "2001:db8::5", "2001:db8::/64"), ("fe80::1%eth0", "", "fe80::/64"), ("", "1.2.3.4", ""),
     ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"), ("10.0.0.1", "[2001:db8::5]:99", "2001:db8::/64"), ("10.0.0.1", "[2001:db8::5]", "2001:db8::/64"),
     ("10.0.0.1", "6.6.6.6, 1.2.3.4:5, 10.1.1.1:80", "1.2.3.4"), ("10.0.0.1", "1.2.3.4:x", "10.0.0.1"), ("10.0.0.1", "[1.2.3.4", "10.0.0.1")],
)  # fmt: skip
def test_whose_address(peer, forwarded, address) -> None:
    """X-Forwarded-For is read from the right as far as trusted proxies wrote it; what a client wrote itself never counts."""
    environ = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    assert client_address(environ, networks(["10.0.0.0/8", "fd00::/8"])) == address
    if "10.0.0.1" in peer:
        assert client_address(environ, ()) == "10.0.0.1"


def test_a_trusted_proxy_is_believed(compiled, tmp_path) -> None:
    """Over the wire, clients of the proxy are limited each by its own address; what any other peer says of itself is not believed."""
    words = ("--store", tmp_path / "s.db", "--rate", "0.05", "--trusted-proxy", "127.0.0.2")
    with serving(compiled, *words) as server:

        def ask(peer: str, forwarded: str) -> int:
            connection = http.client.HTTPConnection(*server.address, timeout=20, source_address=(peer, 0))
            try:
                connection.request("GET", "/v2", headers={"X-Forwarded-For": forwarded})
                return connection.getresponse().status
            finally:
                connection.close()

        assert [ask("127.0.0.2", f"1.2.3.{number}") for number in (1, 2, 1, 3)] == [401, 401, 429, 401]
        assert [ask("127.0.0.3", f"1.2.3.{number}") for number in (4, 5, 6)] == [401, 429, 429]


def test_proxies_that_are_none() -> None:
    """An address that makes no sense is refused in one line."""
    for text in ("proxy", "10.0.0.1/8", "*", ""):
        with pytest.raises(UsageError, match="--trusted-proxy is .* was expected"):
            networks([text])
