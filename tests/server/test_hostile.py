"""A hundred thousand requests that nobody well-meaning sends: no 5xx, no memory that grows, no key that opens another's signature.

``ISOFORM_HOSTILE`` is how many requests are made in all (default: 3,000). Every one that is counted was answered.
"""

import base64
import collections
import gc
import hashlib
import io
import json
import os
import urllib.parse
import zlib
from pathlib import Path

import hostile
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hostile import Ask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from werkzeug.test import run_wsgi_app

from isoform.runtime.errors import SignatureError
from isoform.runtime.signature import Signature
from isoform.server.access.keys import Keys
from isoform.server.access.tokens import Tokens
from isoform.server.app import create_app
from isoform.server.settings import Settings
from isoform.server.store.store import Store

TOTAL = int(os.environ.get("ISOFORM_HOSTILE", "3000"))
SHARES = {"requests": 0.25, "bodies": 0.25, "binaries": 0.1, "files": 0.25, "access": 0.15}
CHUNK = 500
"""Examples of one run of hypothesis, which remembers all that it made."""
GROWTH_BYTES = 64 << 20
"""So much may resident memory grow after the first tenth, with hypothesis in the same process."""
LONGEST_ERROR = 2000
pytestmark = pytest.mark.timeout(max(300, TOTAL // 20))


def ask(app, asked: Ask) -> tuple[int, dict, bytes]:
    """Status, headers in lower case and body, straight from the WSGI application, which has to bear what servers let through."""
    environ = {
        "REQUEST_METHOD": asked.method, "SCRIPT_NAME": "", "PATH_INFO": urllib.parse.unquote_to_bytes(asked.path).decode("latin-1"),
        "QUERY_STRING": asked.query, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(asked.body)), "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(asked.body),
        "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in asked.headers:
        name = name.upper().replace("-", "_")
        environ[name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"] = value
    content, status, headers = run_wsgi_app(app, environ, buffered=True)
    body = b"".join(content)
    return int(status.split()[0]), {name.lower(): value for name, value in headers}, body


def check(asked: Ask, answer: tuple[int, dict, bytes]) -> None:
    """No failure of ours; and errors are one line of JSON."""
    status, headers, body = answer
    told = (status, body[:300])
    assert status < 500 or (status == 503 and ("retry-after" in headers or asked.path.endswith("ready"))), told
    if status >= 400 and status != 503 and body:
        assert headers["content-type"] == "application/json", told
        error = json.loads(body)["error"]
        assert error
        assert len(error.splitlines()) == 1, told
        assert len(error) <= LONGEST_ERROR, told


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Tally:
    """How many requests of each kind were answered, and with what."""

    def __init__(self) -> None:
        self.counts, self.statuses = collections.Counter[str](), collections.Counter[int]()

    def run(self, kind: str, count: int, strategy: st.SearchStrategy, body) -> None:
        """Let ``body`` have so many examples at least; each that comes through counts."""
        until = self.counts[kind] + count
        while self.counts[kind] < until:

            @seed(zlib.crc32(f"{kind} {self.counts[kind]}".encode()))
            @settings(
                max_examples=min(CHUNK, until - self.counts[kind]), deadline=None, database=None, suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False,
            )  # fmt: skip
            @given(example=strategy)
            def one(example) -> None:
                self.statuses[body(example)] += 1
                self.counts[kind] += 1

            one()


def mixed(runtime, task="plain", **changes) -> Signature:
    """A signature of less than a kilobyte."""
    return runtime.signature(task).keep("mixture").replace(**changes)


@pytest.fixture(scope="module")
def attacked(runtime, tmp_path_factory):
    """An application that is open, with alice in it; and its store."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('hostile') / 's.db'}", keep=3) as store:
        app = create_app(runtime, store=store, settings=Settings(max_body_bytes=1 << 20))
        app.test_client().put("/v1/models/plain/signatures/alice", data=mixed(runtime).encode())
        yield app


def kinds(app, runtime, breach):
    """Kind → strategy, and what to do with an example; which returns the status."""
    rules = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
    ]
    assert len(rules) >= 25
    good = [
        mixed(runtime).encode(), runtime.signature("plain").encode(), mixed(runtime).to("float16").encode(), mixed(runtime, "edges").encode(),
        mixed(runtime, template="0" * 64).encode(), mixed(runtime, base="1" * 64, created="now").encode(),
    ]  # fmt: skip

    def send(asked: Ask) -> int:
        answer = ask(app, asked)
        check(asked, answer)
        return answer[0]

    def put(file: bytes) -> int:
        status = send(Ask("PUT", "/v1/models/plain/signatures/mallory", body=file))
        try:
            signature = Signature.decode(file)
        except SignatureError:
            assert status == 400
            return status
        assert status in (200, 201, 400)  # whole, but perhaps of another bundle
        if status != 400:
            assert signature.template == runtime.bundle.digest
            used = send(
                Ask(
                    "POST",
                    "/v2/models/plain/infer",
                    body=hostile.dump({"inputs": [hostile.IMAGE], "parameters": {"signature": "mallory"}}).encode(),
                )
            )
            assert used in (200, 400)  # numbers so large that logits are not finite are refused
        return status

    return {
        "requests": (hostile.requests(rules), send), "bodies": (hostile.bodies(), send), "binaries": (hostile.binaries(), send),
        "files": (hostile.files(good), put), "access": breach,
    }  # fmt: skip


SECRET = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": "https://id.example", "aud": "isoform", "sub": "alice", "scope": "write:alice", "exp": 2**40}


class Breach:
    """An application with alice and bob in it, and alice's key and token; whatever is made of those must not open bob."""

    def __init__(self, runtime, store: Store, folder: Path) -> None:
        self.public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(SECRET.public_key())), "kid": "k1", "alg": "ES256", "use": "sig"}  # fmt: skip
        (folder / "keys.json").write_text(json.dumps({"keys": [self.public]}))
        self.keys = Keys(store)
        tokens = Tokens(folder / "keys.json", issuer="https://id.example", audience="isoform")
        self.app = create_app(runtime, store=store, keys=self.keys, tokens=tokens)
        self.bobs, self.bob = mixed(runtime, created="bob's"), self.keys.add("bob", ["write:bob"])
        self.store, self.alice = store, self.keys.add("alice", ["write:alice"])
        for name, signature in (("bob", self.bobs), ("alice", mixed(runtime, created="alice's"))):
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
        return st.sampled_from(plain) | _spoilt(st.sampled_from(plain)) | st.text(st.characters(max_codepoint=255), max_size=60)

    def _headers(self) -> list[object]:
        made: list[object] = [{"alg": name, "typ": "JWT", "kid": "k1"} for name in ("none", "None", "nOnE", "HS256", "HS512", "ES256", "", "RS256", None, 5, ["ES256"])]  # fmt: skip
        more = [{"alg": "ES256", "kid": kid} for kid in (None, 5, "../k1", {"a": 1}, "k1\0")]
        return [*made, *more, {"alg": "HS256"}, {"alg": "ES256", "crit": ["exp"], "b64": False}, {"alg": "ES256", "jwk": self.public}, [], "x", 5, None, hostile.Raw("[" * 4000)]  # fmt: skip

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
        more = st.sampled_from([(), (("Isoform-Signature", "bob"),), (("Isoform-Signature", "alice"),), (("If-None-Match", "x"),), (("Cookie", "user=bob"),)])  # fmt: skip
        schemes = st.sampled_from(["Bearer ", "Bearer ", "Bearer ", "bearer  ", "Basic ", "", "Bearer\t", "Bearer Bearer "])
        return st.builds(
            lambda door, scheme, text, more: Ask(door[0], door[1], "", (("Authorization", scheme + text), *more), door[2]),
            st.sampled_from(doors), schemes, self.credentials, more,
        )  # fmt: skip


def _part(content: object) -> str:
    return base64.urlsafe_b64encode(hostile.dump(content).encode()).decode().rstrip("=")


def _token(header: object, claims: object, secret: bytes) -> str:
    """Signed as HS256 by something that is no secret."""
    import hmac

    text = f"{_part(header)}.{_part(claims)}"
    sign = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{base64.urlsafe_b64encode(sign).decode().rstrip('=')}"


def _spoilt(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A text with one character other, gone or more."""
    return st.builds(
        lambda text, place, way, by: text[: place % (len(text) + 1)] + by + text[place % (len(text) + 1) + way :],
        texts, st.integers(0, 400), st.integers(0, 2), st.sampled_from(["", "", "a", "_", ".", "=", "A", "\0", "\xe9", " ", "%00"]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def breach(runtime, tmp_path_factory):
    """The guarded application."""
    folder = tmp_path_factory.mktemp("breach")
    with Store(f"sqlite:///{folder / 's.db'}") as store:
        yield Breach(runtime, store, folder)


def test_hostile(attacked, breach, runtime, capsys) -> None:
    """So many of every kind; what came of them, and how memory grew."""
    tally, start = Tally(), 0
    found = kinds(attacked, runtime, (breach.strategy, breach.send))
    for share in (0.1, 0.45, 0.45):
        for kind, (strategy, body) in found.items():
            attacked.test_client().put("/v1/models/plain/signatures/alice", data=mixed(runtime).encode())
            tally.run(kind, round(TOTAL * SHARES[kind] * share), strategy, body)
        gc.collect()
        start = start or resident_bytes()
    grown = resident_bytes() - start
    with capsys.disabled():
        print(f"\nhostile: {dict(tally.counts)}, {sum(tally.counts.values())} in all; statuses {dict(sorted(tally.statuses.items()))}; "
              f"memory grew by {grown / 2**20:.1f} MiB")  # fmt: skip
    assert sum(tally.counts.values()) >= TOTAL * 0.99
    assert set(tally.counts) == set(SHARES)
    assert {200, 400, 401, 403, 404} <= set(tally.statuses)  # some get through, some are stopped at each of the doors
    assert grown < GROWTH_BYTES
    assert breach.untouched()


def test_bobs_own_key_opens_bob(breach) -> None:
    """The same door with the right key: what must not come out does, so the check above can fail."""
    headers = (("Authorization", f"Bearer {breach.bob}"),)
    with pytest.raises(AssertionError):
        breach.send(Ask("GET", "/v1/models/plain/signatures/bob", headers=headers))
    token = jwt.encode({**CLAIMS, "sub": "bob", "scope": "write:bob"}, SECRET, algorithm="ES256", headers={"kid": "k1"})
    with pytest.raises(AssertionError):
        breach.send(Ask("GET", "/v1/models/plain/signatures/bob/file", headers=(("Authorization", f"Bearer {token}"),)))


def test_a_sealed_file_gets_past_the_digest(runtime) -> None:
    """What ``sealed`` makes of a good header is the good file, so that spoilt ones are refused for what is spoilt."""
    file = mixed(runtime).encode()
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    assert hostile.sealed(header, file[8 + size :]) == file
    header["__metadata__"]["created"] = "now"
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    assert Signature.decode(hostile.sealed(header, file[8 + size :])).created == "now"
