"""Tokens of ordinary identity providers: subjects, scopes, keys that change; a refusal says what is wrong."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from isoform.runtime.errors import UsageError
from isoform.server.access import key_set
from isoform.server.access.tokens import TokenError, Tokens
from isoform.server.app import create_app

pytestmark = pytest.mark.trust
ISSUER, OTHER = "https://id.example", "https://sts.example"
RSA, EC, ED = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()  # fmt: skip
STRANGER = ec.generate_private_key(ec.SECP256R1())


def public(key, **more) -> dict:
    """A key's public half, as an issuer publishes it."""
    kinds = {rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm}
    kind = next((found for owner, found in kinds.items() if isinstance(key, owner)), jwt.algorithms.OKPAlgorithm)
    return {**json.loads(kind.to_jwk(key.public_key())), **more}


def token(key=EC, algorithm="ES256", *, kid="e", **changes) -> str:
    """A good token but for the changes; a claim of None is left out."""
    claims = {"iss": ISSUER, "aud": "isoform", "sub": "alice", "scope": "predict", "exp": time.time() + 60, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm, {"kid": kid} if kid else None)


@pytest.fixture
def path(tmp_path):
    """A key set's file: keys of three types, and what is not for us."""
    found = tmp_path / "keys.json"
    strange = [{"kty": "PQ", "kid": "q"}, {"kty": "RSA"}, "text", public(STRANGER, kid="x", use="enc"), public(STRANGER, alg="RSA-OAEP"),
               public(STRANGER, key_ops=["encrypt"]), {"kty": "oct", "k": "c2VjcmV0", "kid": "o"}]  # fmt: skip
    found.write_text(
        json.dumps({"keys": [*strange, public(RSA, kid="r"), public(ED, kid="d"), public(EC, kid="e", use="sig")]})
    )
    return found


@pytest.fixture
def tokens(path) -> Tokens:
    """What checks tokens of two issuers."""
    return Tokens(path, issuer=[ISSUER, OTHER], audience=["isoform", "api://isoform"])


@pytest.mark.parametrize(
    "subject",
    ["auth0|507f1f77", "me@x.example", "system:serviceaccount:ns:name", "-dash", "Zoë Ångström", "../x", "s" * 255],
)
def test_subjects_of_ordinary_providers(subject, tokens, runtime, store) -> None:
    """Any printable text is somebody, whom the history names; PostgreSQL's columns hold the name."""
    client = create_app(runtime, store=store, tokens=tokens).test_client()
    headers = {"Authorization": f"Bearer {token(sub=subject, scope='write:alice')}"}
    answer = client.put("/v1/models/plain/signatures/alice", data=runtime.signature("plain").encode(), headers=headers)
    assert answer.status_code == 201
    actor = answer.json["actor"]
    assert actor == subject if len(subject) <= 64 else (len(actor) == 64 and actor.startswith("s" * 50))


def test_a_subject_is_of_its_issuer(tokens) -> None:
    """The same subject of another issuer, or a long one that begins alike, is somebody else; the same token's is the same."""
    texts = [
        {},
        {"iss": OTHER},
        {"sub": "a" * 200 + "b"},
        {"sub": "a" * 200 + "c"},
        {"iss": ISSUER + '", "a', "sub": "lice"},
    ]
    ids = [tokens.caller(token(**changes)).id for changes in texts[:4]]
    assert len(set(ids)) == 4
    assert all(len(identity) <= 64 for identity in ids)
    assert tokens.caller(token(exp=time.time() + 99, scope="admin")).id == ids[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"iss": "https://evil.example"}, "'iss' is wrong"), ({"aud": "shop"}, "'aud' is wrong.*'isoform' or"), ({"aud": None}, "'aud' is missing"),
     ({"exp": 1}, "'exp' is wrong"), ({"exp": None}, "'exp' is missing"), ({"nbf": 9e9}, "nbf"), ({"iat": 9e9}, "iat"), ({"sub": None}, "'sub' is missing"),
     ({"sub": ""}, "'sub' is wrong"), ({"sub": "s" * 256}, "'sub' is wrong"), ({"sub": "a\0b"}, "'sub' is wrong"), ({"exp": 1e999}, "exp"),
     ({"exp": "soon"}, "exp"), ({"sub": 7}, "'sub' is wrong"),
     ({"scope": {"x": 1}}, "'scope' is wrong"), ({"scp": 3}, "'scp' is wrong"), ({"key": STRANGER}, "no key of the key set"), ({"kid": "new"}, "no key"),
     ({"key": "k" * 64, "algorithm": "HS256"}, "'alg' is 'HS256'"), ({"key": None, "algorithm": "none"}, "'alg' is 'none'"),
     ({"key": STRANGER, "kid": "x"}, "no key"), ({"key": STRANGER, "kid": None}, "no key")],
)  # fmt: skip
def test_a_refusal_says_which_claim_was_wrong(changes, said, tokens) -> None:
    """Of a token that is not accepted: the claim, or that no key has signed it; never a key for encryption, never a shared secret."""
    with pytest.raises(TokenError, match=said):
        tokens.caller(token(**changes))


def test_over_http(tokens, runtime) -> None:
    """What is wrong is 401 with that line; what is right but has no scope of ours is 403, on every route but those open to all."""
    client = create_app(runtime, tokens=tokens).test_client()

    def ask(text: str, path: str = "/v2"):
        return client.get(path, headers={"Authorization": f"Bearer {text}"})

    answer = ask(token(aud="shop"))
    assert (answer.status_code, "'aud' is wrong" in answer.json["error"]) == (401, True)
    for path in ("/v2", "/metrics", "/nothing", "/v2/models/plain/infer", "/v1/models/plain/signatures/alice"):
        answer = ask(token(scope="openid profile"), path)
        assert (answer.status_code, "none of this server's scopes" in answer.json["error"]) == (403, True)
    for text in (token(scope=None), token(exp=1)):
        assert [ask(text, path).status_code for path in ("/", "/v2/health/live")] == [200, 200]
    for text in ("a.b.c", "x", "e30.e30.", "." * 500, "é"):
        assert ask(text).status_code == 401


def test_scopes_and_audiences_in_every_form(tokens) -> None:
    """As words in a text or as a list, in any of the claims that providers use; audiences as a list."""
    forms = (
        {"scope": "openid predict"},
        {"scope": ["predict", 3]},
        {"scp": "predict x"},
        {"scp": ["predict"]},
        {"scopes": ["predict"]},
    )
    for form in forms:
        assert tokens.caller(token(**{"scope": None, **form})).scopes == {"predict"}
    assert tokens.caller(token(scope="predict", scp=["write:a"])).scopes == {"predict", "write:a"}
    assert tokens.caller(token(aud=["shop", "api://isoform"])).scopes == {"predict"}


@pytest.mark.parametrize("kid", [True, False])
def test_every_key_is_tried_where_none_is_named(kid, tokens) -> None:
    """With kid that one, without it all that fit, whatever their order; RSA keys without 'alg' with every RSA algorithm."""
    for key, algorithm, name in ((RSA, "RS256", "r"), (RSA, "PS384", "r"), (ED, "EdDSA", "d"), (EC, "ES256", "e")):
        assert tokens.caller(token(key, algorithm, kid=name if kid else None)).name == "alice"


def test_the_key_set_is_read_again(path, tokens, monkeypatch, caplog) -> None:
    """A new key works at once; one that is gone does not; a file that is damaged or gone changes nothing and is said once."""
    new = token(STRANGER, kid="new")
    with pytest.raises(TokenError, match="no key"):
        tokens.caller(new)
    good = path.read_text()
    path.write_text(json.dumps({"keys": [public(STRANGER, kid="new")]}))
    assert tokens.caller(new).name == "alice"
    with pytest.raises(TokenError, match="no key"):
        tokens.caller(token())
    monkeypatch.setattr(key_set, "SECONDS", 0.0)
    for broken in ("{", '{"keys": []}', None):
        path.write_text(broken) if broken is not None else path.unlink()
        caplog.clear()
        assert [tokens.caller(new).name for _ in range(3)] == ["alice"] * 3
        assert len([record for record in caplog.records if "stay in use" in record.message]) == 1
    path.write_text(good)
    assert tokens.caller(token()).name == "alice"


def test_leeway(path) -> None:
    """Clocks may differ by as much as was said."""
    late = token(exp=time.time() - 30)
    assert Tokens(path, issuer=ISSUER, audience="isoform", leeway=60).caller(late).name == "alice"
    with pytest.raises(TokenError, match="'exp' is wrong"):
        Tokens(path, issuer=ISSUER, audience="isoform", leeway=0).caller(late)
    with pytest.raises(UsageError, match="is not a valid key set"):
        Tokens(path.with_name("none"), issuer=ISSUER, audience="isoform")
    path.write_text(path.read_text() + " " * key_set.LARGEST)
    with pytest.raises(UsageError, match="is not a valid key set: it is larger than 1,048,576 bytes"):
        Tokens(path, issuer=ISSUER, audience="isoform")
