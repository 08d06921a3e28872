"""Who may do what: nobody without a key, nobody for another user, and nothing that looks like a key but is none."""

import json
import re
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from serving import ask, serving
from support import isoform, isoform_here

from isoform.runtime.errors import SignatureError, UsageError
from isoform.server.access import keys as keys_module
from isoform.server.access.guard import Gate
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import TokenError, Tokens
from isoform.server.app import create_app
from isoform.server.exchange.caller import Caller
from isoform.server.routes.inference import ROUTES

ALICE, BOB = (f"/v1/models/plain/signatures/{name}" for name in ("alice", "bob"))


@pytest.fixture
def keys(store) -> Keys:
    """The store's keys: none."""
    return Keys(store)


@pytest.fixture
def guarded(runtime, store, keys):
    """A client of an application that asks for keys."""
    return create_app(runtime, store=store, keys=keys).test_client()


def bearer(key) -> dict:
    """The header."""
    return {"Authorization": f"Bearer {key}"}


def infer(client, x, name, headers):
    """Status of a prediction."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = {"inputs": [tensor], "parameters": {"signature": name} if name else {}}
    return client.post("/v2/models/plain/infer", json=body, headers=headers).status_code


def test_every_route_asks_for_a_key(guarded) -> None:
    """All but live, ready and the page are 401 without one, whatever the method; also routes that do not exist."""
    open_to_all = ("/v2/health/live", "/v2/health/ready", "/", "/page/<name>", "/page/<folder>/<name>")
    routes = [(rule.rule, rule.methods) for rule in guarded.application.url_map.iter_rules()]
    routes = [route for route in [*routes, *((path, {"POST"}) for path in ROUTES)] if route[0] not in open_to_all]
    assert len(routes) >= 22
    for path, methods in routes:
        for name in re.findall(r"<(\w+)>", path):
            path = path.replace(f"<{name}>", {"task": "plain", "user": "alice", "version": "1"}.get(name, "x"))
        for method in methods - {"OPTIONS", "HEAD"}:
            answer = guarded.open(path, method=method)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.get("/nothing/here").status_code == 401
    assert guarded.get("/v2/health/live").status_code == guarded.get("/v2/health/ready").status_code == 200


def test_no_key_opens_anothers(guarded, keys, runtime, samples) -> None:
    """A user's key predicts and writes as that user, and is refused for everybody else, whether they exist or not."""
    data, x = runtime.signature("plain").replace(created="now").encode(), samples[0][:1]
    admin = bearer(keys.add("root", ["admin"]))
    for path in (ALICE, BOB):
        assert guarded.put(path, data=data, headers=admin).status_code == 201
    mine, reader, base = (bearer(keys.add("a", [scope])) for scope in ("write:alice", "predict:alice", "predict"))
    assert [infer(guarded, x, name, mine) for name in (None, "alice", "bob", "zoe")] == [200, 200, 403, 403]
    assert [infer(guarded, x, name, reader) for name in (None, "alice", "bob")] == [200, 200, 403]
    assert [infer(guarded, x, name, base) for name in (None, "alice", "bob")] == [200, 403, 403]
    for path, method in (("", "PUT"), ("", "GET"), ("/file", "GET"), ("/revisions", "GET"), ("/rollback", "POST"), ("/jobs", "GET"),
                         ("/personalize", "POST"), ("/adapt", "POST"), ("", "DELETE")):  # fmt: skip
        for headers in (mine, reader, base):
            assert guarded.open(BOB + path, method=method, data=data, headers=headers).status_code == 403
        for headers in (reader, base):
            assert guarded.open(ALICE + path, method=method, data=data, headers=headers).status_code == 403
    assert guarded.get(ALICE, headers=mine).json["actor"] == "root"
    assert guarded.put(ALICE, data=runtime.signature("plain").encode(), headers=mine).json["actor"] == "a"
    for headers, status in ((mine, 403), (admin, 200)):
        assert guarded.get("/v1/models/plain/signatures", headers=headers).status_code == status
        assert guarded.post("/v2/repository/models/edges/load", headers=headers).status_code == status
        assert guarded.post("/v2/repository/models/edges/unload", headers=headers).status_code == status


def test_without_the_scope_a_task_may_exist_or_not(guarded, keys) -> None:
    """403 for a task that answers, is unloaded or never was, on every route that requires a scope; 404 only with the scope."""
    admin = bearer(keys.add("root", ["admin"]))
    assert guarded.post("/v2/repository/models/edges/unload", headers=admin).status_code == 200
    mine, scrape = bearer(keys.add("a", ["write:alice"])), bearer(keys.add("s", ["metrics"]))
    bob = {"Isoform-Signature": "bob"}
    for task, there in (("plain", True), ("edges", False), ("klingon", False)):
        asked = (
            ("POST", f"/v2/models/{task}/infer", mine, bob), ("POST", f"/v2/models/{task}/infer", scrape, {}),
            ("POST", f"/v2/models/{task}/versions/2/infer", mine, bob), ("GET", f"/v1/models/{task}/templates?signature=bob", mine, {}),
            ("GET", f"/v1/models/{task}/templates", scrape, {}), ("GET", f"/v1/models/{task}/signatures", mine, {}),
            ("GET", f"/v1/models/{task}/signatures/bob", mine, {}), ("DELETE", f"/v1/models/{task}/signatures/bob", mine, {}),
            ("POST", f"/v1/models/{task}/signatures/bob/adapt", mine, {}), ("GET", f"/v1/models/{task}/signatures/bob/jobs", mine, {}),
            ("POST", f"/v2/repository/models/{task}/load", mine, {}), ("POST", f"/v2/repository/models/{task}/unload", mine, {}),
        )  # fmt: skip
        for method, path, key, more in asked:
            assert guarded.open(path, method=method, headers={**key, **more}).status_code == 403, (method, path)
        answer = guarded.get(f"/v1/models/{task}/templates", headers=mine)
        assert answer.status_code == (200 if there else 404)
        answer = guarded.post(f"/v2/models/{task}/infer", headers=mine, json={})
        assert answer.status_code == (400 if there else 404)


def test_nobody_sees_anothers_job(guarded, keys, store, runtime) -> None:
    """Not even that there is one."""
    from isoform.server.store.ledger import Ledger

    job = Ledger(store).add("plain", "bob", action="adapt", actor="b", expect=0)
    for scope, status in (("write:alice", 404), ("write:bob", 200)):
        headers = bearer(keys.add("k", [scope]))
        assert guarded.get(f"/v1/jobs/{job.id}", headers=headers).status_code == status
        assert guarded.delete(f"/v1/jobs/{job.id}", headers=headers).status_code == status


def test_what_is_no_key(guarded, keys, monkeypatch) -> None:
    """Another secret, another id, cut, longer, another kind: 401; many of them do not make the server ask again for a key that is good."""
    key = keys.add("a", ["admin"])
    assert guarded.get("/v2", headers=bearer(key)).status_code == 200
    other = keys.add("b", ["admin"])
    wrong = [
        key[:-1], key + "a", key[:-1] + ("b" if key[-1] == "a" else "a"), key[:20] + other[20:], "iso_", "", "x" * 9000, key.upper(), " ",
    ]  # fmt: skip
    for text in wrong:
        assert guarded.get("/v2", headers=bearer(text)).status_code == 401
    for header in (f"Basic {key}", key, "Bearer"):
        assert guarded.get("/v2", headers={"Authorization": header}).status_code == 401
    monkeypatch.setattr(keys_module, "REMEMBERED", 3)
    for number in range(5):
        assert guarded.get("/v2", headers=bearer(f"iso_{number:016x}_{'a' * 43}")).status_code == 401
    monkeypatch.setattr(keys, "_read", lambda identity: None)  # what is asked for now is unknown
    monkeypatch.setattr(keys_module, "SECONDS", 60.0)
    assert guarded.get("/v2", headers=bearer(key)).status_code == 200


def test_the_store_has_no_secret(keys, tmp_path) -> None:
    """Whoever reads the database cannot use what is in it."""
    key = keys.add("a", ["admin"])
    found = b"".join(path.read_bytes() for path in tmp_path.glob("signatures.db*"))
    assert key.split("_")[1].encode() in found
    assert key.split("_", 2)[2].encode() not in found


def test_revoked(guarded, keys, runtime, store, monkeypatch) -> None:
    """At once where it was revoked; in other processes after a moment."""
    key = keys.add("a", ["admin"])
    elsewhere = create_app(runtime, store=store, keys=Keys(store)).test_client()
    assert (
        guarded.get("/v2", headers=bearer(key)).status_code
        == elsewhere.get("/v2", headers=bearer(key)).status_code
        == 200
    )
    assert keys.revoke(key.split("_")[1]) is True
    assert keys.revoke(key.split("_")[1]) is False
    assert guarded.get("/v2", headers=bearer(key)).status_code == 401
    monkeypatch.setattr(keys_module, "SECONDS", 0.0)
    assert elsewhere.get("/v2", headers=bearer(key)).status_code == 401
    assert [entry.revoked is None for entry in keys.listed()] == [False]


def test_scopes_that_are_none(keys) -> None:
    """Each is named."""
    for scopes in (["root"], ["predict:"], ["write:a b"], ["admin", "write:../x"], ["predict:**"]):
        with pytest.raises(UsageError, match="were expected, but the scope"):
            keys.add("a", scopes)
    with pytest.raises(UsageError, match="none came"):
        keys.add("a", [])
    with pytest.raises(SignatureError, match="the key is named"):
        keys.add("a b", ["admin"])
    assert not Caller("x", frozenset({"write:a"})).may_predict("ab")
    assert Caller("x", frozenset({"predict:*"})).may_predict("ab")
    assert not Caller("x", frozenset({"predict:*"})).may_write("ab")


def test_key_command(tmp_path) -> None:
    """Add, list, revoke; misuse is one line."""
    store = ["--store", tmp_path / "s.db"]
    made = json.loads(isoform("key", "add", "phone", "--scope", "write:alice", "--scope", "predict", *store).stdout)[
        "key"
    ]
    (entry,) = json.loads(isoform("key", "list", "--json", *store).stdout)
    assert (entry["name"], entry["scopes"], entry["revoked"]) == ("phone", ["predict", "write:alice"], None)
    assert made.startswith(f"iso_{entry['id']}_")
    isoform("key", "revoke", entry["id"], *store)
    table = isoform_here("key", "list", *store).stdout.splitlines()
    assert table[0].split() == ["id", "name", "scopes", "created", "revoked"]
    day = entry["created"][:10]
    assert table[1].split() == [entry["id"], "phone", "predict,", "write:alice", day, day]
    assert len(table) == 2
    assert isoform_here("key", "list", "--store", tmp_path / "new.db").stdout.startswith("no keys; 'isoform key add ")
    for words, message in (
        (["revoke", entry["id"]], "no active key has the id"), (["add"], "expected isoform key add NAME"), (["list", "x"], "expected isoform key add NAME"),
        (["add", "x", "--scope", "y"], "the scope 'y' came"), (["list", "--store", "none"], "keys are kept in a store"),
    ):  # fmt: skip
        result = isoform_here("key", *words, *(store if "--store" not in words else []))
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    """A private key, the file with its public half, and one that nobody trusts."""
    private, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public = {
        **json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key())),
        "kid": "k1",
        "alg": "ES256",
        "use": "sig",
    }
    path = tmp_path_factory.mktemp("issuer") / "keys.json"
    path.write_text(json.dumps({"keys": [public]}))
    return private, path, other


def token(key, *, headers=None, algorithm="ES256", **changes) -> str:
    """A token of the issuer, good but for the changes; a claim of None is left out."""
    claims = {
        "iss": "https://id.example",
        "aud": "isoform",
        "sub": "alice",
        "scope": "openid write:alice",
        "exp": time.time() + 60,
    }
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k1", **(headers or {})})


def test_a_token_is_known_once_it_was_good(issuer) -> None:
    """That very one, after it was let in; not one that was refused, however well it looks."""
    private, path, other = issuer
    tokens, good, forged = Tokens(path, issuer="https://id.example", audience="isoform"), token(private), token(other)
    assert not tokens.knows(good)
    tokens.caller(good)
    with pytest.raises(TokenError):
        tokens.caller(forged)
    assert [tokens.knows(text) for text in (good, forged, good + "x", "")] == [True, False, False, False]
    gate = Gate(None, tokens)
    assert gate.knows({"HTTP_AUTHORIZATION": f"Bearer {good}"})
    assert not gate.knows({"HTTP_AUTHORIZATION": "Bearer anything"})


def test_tokens(runtime, store, issuer, samples) -> None:
    """A good one is let in with the scopes that are ours; any other is not."""
    private, path, other = issuer
    tokens = Tokens(path, issuer="https://id.example", audience="isoform")
    found = tokens.caller(token(private))
    assert (found.name, found.scopes) == ("alice", {"write:alice"})
    assert tokens.caller(token(private, scope=None, scopes=["predict", 3])).scopes == {"predict"}
    client = create_app(runtime, store=store, tokens=tokens).test_client()
    assert infer(client, samples[0][:1], None, bearer(token(private))) == 200
    assert infer(client, samples[0][:1], "bob", bearer(token(private))) == 403
    secret = "x" * 64
    bad = [
        token(other), token(private, exp=time.time() - 60), token(private, iss="https://evil.example"), token(private, aud="shop"),
        token(private, sub=None), token(private, exp=None), token(private, sub=""),
        token(private, headers={"kid": "k2"}), token(secret, algorithm="HS256"), token(None, algorithm="none"),
        token(private)[:-3], "a.b.c", "", token(private, scope={"x": 1}),
    ]  # fmt: skip
    for text in bad:
        with pytest.raises(TokenError):
            tokens.caller(text)
        assert client.get("/v2", headers=bearer(text)).status_code == 401


def test_key_sets_that_are_none(tmp_path) -> None:
    """One line."""
    for content in ("", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "EC"}]}', '{"keys": 3}'):
        path = tmp_path / "keys.json"
        path.write_text(content)
        with pytest.raises(UsageError, match="is not a valid key set"):
            Tokens(path, issuer="x", audience="y")
    with pytest.raises(UsageError, match="is not a valid key set"):
        Tokens(tmp_path / "nothing", issuer="x", audience="y")


def test_serve_is_open_only_on_loopback(compiled, tmp_path) -> None:
    """Misuse of the flags is one line, before anything listens."""
    for words, message in (
        (["--open", "--host", "0.0.0.0"], "allowed on loopback only"), (["--store", "none"], "API keys are kept in the store"),
        (["--open", "--token-keys", "x"], "leave one of them out"), (["--token-keys", "x"], "needs --token-issuer"),
        (["--token-keys", tmp_path / "x", "--token-issuer", "y"], "is not a valid key set"),
        (["--token-issuer", "y"], "--token-issuer has no effect without --token-keys"),
        (["--token-audience", "y"], "--token-audience has no effect"), (["--open", "--token-leeway", "10"], "--token-leeway has no effect"),
    ):  # fmt: skip
        store = [] if "none" in words else ["--store", tmp_path / "s.db"]
        result = isoform_here("serve", compiled, "--port", "0", *words, *store)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_the_start_line_says_that_no_key_exists(compiled, tmp_path) -> None:
    """A server that would refuse every request says so with the command that makes a key; with a key, or one that is revoked, it is true too."""
    store = tmp_path / "s.db"
    starts = []
    for words in (["add", "me", "--scope", "predict"], ["revoke"], None):
        with serving(compiled, "--store", store) as server:
            assert ask(server, "GET", "/v2/models/plain")[0] == 401
        starts += [line for line in server.errors.splitlines() if line.startswith("serving 4 tasks on ")]
        if words == ["revoke"]:
            words.append(json.loads(isoform_here("key", "list", "--json", "--store", store).stdout)[0]["id"])
        if words:
            assert isoform_here("key", *words, "--store", store).returncode == 0
    hint = ": isoform key add NAME --scope predict, with the same --store, makes one"
    assert [line.partition("; stop with Ctrl-C")[2] for line in starts] == [
        "; no key exists yet" + hint,
        "",
        "; every key is revoked" + hint,
    ]
