"""A hundred thousand requests that nobody well-meaning sends: no 5xx, no memory that grows, no key that opens another's signature.

``ISOFORM_HOSTILE`` is how many requests are made in all (default: 3,000). Every one that is counted was answered.
"""

import collections
import gc
import json
import os
import zlib
from pathlib import Path

import hostile
import jwt
import pytest
from asking import ask, check
from breach import CLAIMS, SECRET, Breach
from hostile import Ask
from hostile_files import files, sealed
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from postgres import POSTGRES, postgres

from isoform.runtime.errors import SignatureError
from isoform.runtime.formats.signature import Signature
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.routes.inference import ROUTES
from isoform.server.service.settings import Settings
from isoform.server.store.store import Store

TOTAL = int(os.environ.get("ISOFORM_HOSTILE", "3000"))
SHARES = {"requests": 0.25, "bodies": 0.25, "binaries": 0.1, "files": 0.25, "access": 0.15}
CHUNK = 500
"""Examples of one run of hypothesis, which remembers all that it made."""
GROWTH_BYTES = 64 << 20
"""So much may resident memory grow after the first tenth, with hypothesis in the same process."""
CACHE_BYTES, DECODED_BYTES = 8 << 20, 1 << 20
"""What a server may keep on purpose; by default more than that bound, which whole files would fill."""
pytestmark = pytest.mark.timeout(max(300, TOTAL // 20))


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
def runtime(compiled):
    """An open runtime that keeps little."""
    with Runtime.open(compiled, cache_bytes=CACHE_BYTES) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def attacked(runtime, tmp_path_factory):
    """An application that is open, with alice in it; and its store."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('hostile') / 's.db'}", keep=3) as store:
        app = create_app(runtime, store=store, settings=Settings(max_body_bytes=1 << 20, decoded_bytes=DECODED_BYTES))
        app.test_client().put("/v1/models/plain/signatures/alice", data=mixed(runtime).encode())
        yield app


def kinds(app, runtime, breach):
    """Kind → strategy, and what to do with an example; which returns the status."""
    rules = [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
    ]
    rules += [("POST", path) for path in ROUTES]
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
            assert status == 400 or (status == 413 and len(file) > app.extensions["isoform"].settings.max_body_bytes)
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
        "files": (files(good), put), "access": breach,
    }  # fmt: skip


@pytest.fixture(scope="module")
def breach(runtime, tmp_path_factory):
    """The guarded application."""
    folder = tmp_path_factory.mktemp("breach")
    with Store(f"sqlite:///{folder / 's.db'}") as store:
        yield Breach(runtime, store, folder)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # bodies of a megabyte are meant
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


def test_hostile_on_postgresql(runtime) -> None:
    """A database that is stricter about texts and numbers: a tenth as many of those that get to it."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed; Debian's package is 'postgresql'")
    tally = Tally()
    with postgres() as url, Store(url, keep=3) as store:
        app = create_app(runtime, store=store, settings=Settings(max_body_bytes=1 << 20, decoded_bytes=DECODED_BYTES))
        found = kinds(app, runtime, None)
        for kind in ("requests", "files"):
            app.test_client().put("/v1/models/plain/signatures/alice", data=mixed(runtime).encode())
            tally.run(kind, TOTAL // 20, *found[kind])
        for path, query in (
            ("/alice/file", "revision=2147483648"),
            ("/alice/revisions", "before=2147483648"),
            ("", "after=%00"),
        ):
            asked = Ask("GET", f"/v1/models/plain/signatures{path}", query)
            answer = ask(app, asked)
            check(asked, answer)
            assert answer[0] == 400
    assert sum(tally.counts.values()) >= TOTAL // 10 - 1


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
    assert sealed(header, file[8 + size :]) == file
    header["__metadata__"]["created"] = "now"
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    assert Signature.decode(sealed(header, file[8 + size :])).created == "now"
