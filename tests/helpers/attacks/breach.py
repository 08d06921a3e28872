"""Two users behind one door: whatever is made of alice's key and token must not open what is bob's."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import hostile
import jwt
from asking import ask, check
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hostile import Ask
from hypothesis import strategies as st

from isoform.runtime.runtime import Runtime
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import Tokens
from isoform.server.app import create_app
from isoform.server.store.store import Store

__all__ = ["CLAIMS", "SECRET", "Breach"]

SECRET = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": "https://id.example", "aud": "isoform", "sub": "alice", "scope": "write:alice", "exp": 2**40}


class Breach:
    """An application with alice and bob in it, and alice's key and token; whatever is made of those must not open bob."""

    def __init__(self, runtime: Runtime, store: Store, folder: Path) -> None:
        self.public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(SECRET.public_key())), "kid": "k1", "alg": "ES256", "use": "sig"}  # fmt: skip
        (folder / "keys.json").write_text(json.dumps({"keys": [self.public]}))
        self.keys = Keys(store)
        tokens = Tokens(folder / "keys.json", issuer="https://id.example", audience="isoform")
        self.app = create_app(runtime, store=store, keys=self.keys, tokens=tokens)
        mixture = runtime.signature("plain").keep("mixture")
        self.bobs, self.bob = mixture.replace(created="bob's"), self.keys.add("bob", ["write:bob"])
        self.store, self.alice = store, self.keys.add("alice", ["write:alice"])
        for name, signature in (("bob", self.bobs), ("alice", mixture.replace(created="alice's"))):
            store.append("plain", name, digest=signature.digest, data=signature.encode(), action="put", actor=name)
        self.token = jwt.encode(CLAIMS, SECRET, algorithm="ES256", headers={"kid": "k1"})

    def send(self, asked: Ask) -> int:
        """Ask, and see that nothing of bob's came out."""
        answer = ask(self.app, asked)
        check(asked, answer)
        assert self.bobs.digest.encode() not in answer[2], asked
        assert self.bobs.encode()[-64:] not in answer[2], asked
        return answer[0]

    def untouched(self) -> bool:
        """Whether bob is as he was."""
        newest = self.store.newest("plain", "bob")
        return newest is not None and (newest.revision, newest.digest) == (1, self.bobs.digest)

    @property
    def credentials(self) -> st.SearchStrategy[str]:
        """Alice's key and token, spoilt; forged ones; and as they are."""
        _, bob, _ = self.bob.split("_", 2)
        secret = self.alice.split("_", 2)[2]
        with self.store.reading() as connection:
            hashed = connection.exec_driver_sql("SELECT hash FROM isoform_keys").scalars().all()
        stolen = [f"iso_{bob}_{base64.urlsafe_b64encode(bytes(h)).decode().rstrip('=')}" for h in hashed]
        pem = SECRET.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        theirs = {**CLAIMS, "sub": "bob", "scope": "write:bob admin"}
        forged = [self.token, *(_token(header, theirs, sign) for header in self._headers() for sign in (
            b"", pem, json.dumps(self.public).encode(), self.public["x"].encode(), self.token.rpartition(".")[2].encode(),
        ))]  # fmt: skip
        other = ec.generate_private_key(ec.SECP256R1())
        forged += [
            jwt.encode(theirs, other, algorithm="ES256", headers=header)
            for header in ({"kid": "k1"}, {"jwk": self.public}, {"kid": "k1", "jku": "http://127.0.0.1/"})
        ]
        head, _, sign = self.token.split(".")
        forged.append(f"{head}.{_part(theirs)}.{sign}")
        plain = [self.alice, f"iso_{bob}_{secret}", *stolen, *forged, "iso_", f"iso_{'0' * 16}_{'A' * 43}"]
        known, text = st.sampled_from(plain), st.text(st.characters(max_codepoint=255), max_size=60)
        ways = [st.sampled_from([self.alice, self.token]), known, _spoilt(known), text]
        return st.integers(0, 9).flatmap(lambda way: ways[(0, 0, 0, 1, 1, 1, 2, 2, 2, 3)[way]])

    def _headers(self) -> list[object]:
        names = ("none", "None", "nOnE", "HS256", "HS512", "ES256", "", "RS256", None, 5, ["ES256"])
        return [
            *({"alg": name, "typ": "JWT", "kid": "k1"} for name in names), *({"alg": "ES256", "kid": kid} for kid in (None, 5, "../k1", {"a": 1}, "k1\0")),
            {"alg": "HS256"}, {"alg": "ES256", "crit": ["exp"], "b64": False}, {"alg": "ES256", "jwk": self.public}, [], "x", 5, None,
            hostile.Raw("[" * 4000),
        ]  # fmt: skip

    @property
    def strategy(self) -> st.SearchStrategy[Ask]:
        """Any of these at bob's door."""
        bob = "/v1/models/plain/signatures/bob"
        body = hostile.dump({"inputs": [{**hostile.IMAGE}], "parameters": {"signature": "bob"}}).encode()
        plain = hostile.dump({"inputs": [{**hostile.IMAGE}]}).encode()
        doors = [
            ("GET", bob, b""), ("GET", f"{bob}/file", b""), ("GET", f"{bob}/revisions", b""), ("PUT", bob, self.bobs.encode()), ("DELETE", bob, b""),
            ("POST", f"{bob}/rollback", b'{"revision":1}'), ("POST", f"{bob}/adapt", plain), ("POST", f"{bob}/personalize", plain),
            ("GET", f"{bob}/jobs", b""), ("POST", "/v2/models/plain/infer", body), ("GET", "/v1/models/plain/signatures", b""),
            ("GET", "/v1/models/plain/signatures/alice%2f..%2fbob", b""), ("GET", "/v1/models/plain/signatures/alice/../bob", b""),
            ("GET", "/v1/models/plain/signatures/%62ob/file", b""), ("GET", "//v1/models/plain/signatures/bob", b""),
            ("POST", "/v2/models/plain/infer?signature=bob", plain),
        ]  # fmt: skip
        more = st.sampled_from([
            (), (("Isoform-Signature", "bob"),), (("Isoform-Signature", "alice"),), (("If-None-Match", "x"),), (("Cookie", "user=bob"),),
        ])  # fmt: skip
        schemes = st.sampled_from(
            ["Bearer ", "Bearer ", "Bearer ", "bearer  ", "Basic ", "", "Bearer\t", "Bearer Bearer "]
        )
        return st.builds(
            lambda door, scheme, text, more: Ask(door[0], door[1], "", (("Authorization", scheme + text), *more), door[2]),
            st.sampled_from(doors), schemes, self.credentials, more,
        )  # fmt: skip


def _part(content: object) -> str:
    return base64.urlsafe_b64encode(hostile.dump(content).encode()).decode().rstrip("=")


def _token(header: object, claims: object, secret: bytes) -> str:
    """Signed as HS256 by something that is no secret."""
    text = f"{_part(header)}.{_part(claims)}"
    sign = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{base64.urlsafe_b64encode(sign).decode().rstrip('=')}"


def _spoilt(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A text with one character other, gone or more."""
    return st.builds(
        lambda text, place, way, by: text[: place % (len(text) + 1)] + by + text[place % (len(text) + 1) + way :],
        texts, st.integers(0, 400), st.integers(0, 2), st.sampled_from(["", "", "a", "_", ".", "=", "A", "\0", "\xe9", " ", "%00"]),
    )  # fmt: skip
