"""Many clients at once of a guarded server, each with the key of one user after another; every request and its answer is written down.

    predict       JSON or binary, the user named in the body or in a header        base          nobody named
    put           a signature of random numbers, half with an idempotency key      rollback      to an earlier revision
    personalize   ten samples and labels, waiting or asking later                  adapt         four samples
    history       the user's revisions                                             another's     somebody else, with this user's key
    delete        the user, for good, until the next put                           job           asking how what was asked for goes
    cancel        the job that was sent last

Every third job has something happen to its user as soon as it is accepted: a put, a deletion or a cancellation.

Times are ``time.monotonic`` of this one process, so that what came before what is known among all clients.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from isoform.runtime.arrays import Array
from isoform.runtime.formats.signature import Signature

__all__ = ["KINDS", "Answer", "Batch", "Crowd", "User", "batches_of"]

KINDS = {
    "predict": 70, "base": 4, "put": 8, "rollback": 5, "adapt": 2, "personalize": 1, "history": 4, "another's": 6,
    "delete": 1, "cancel": 1,
}  # fmt: skip
"""How often each is asked for, of a hundred requests."""
HOT = 10
"""So many users get a fifth of all requests, so that clients meet at them."""
SECONDS = 60
"""Longer than this nobody waits for an answer."""
HEAD = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody with a signature."""

    task: str
    name: str
    key: str


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples, and how they stand in a request."""

    x: Array
    labels: tuple[str, ...]
    text: str
    """Of the tensor's ``data``, JSON."""
    data: bytes


def batches_of(x: Array, labels: Sequence[object], sizes: Sequence[int]) -> list[Batch]:
    """Cut samples into batches of these sizes, as far as they go."""
    found, first = list[Batch](), 0
    while first < len(x):
        part = np.ascontiguousarray(x[first : first + sizes[len(found) % len(sizes)]], dtype="<f4")
        names = tuple(map(str, labels[first : first + len(part)]))
        found.append(Batch(part, names, json.dumps(part.ravel().tolist()), part.tobytes()))
        first += len(part)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One request, and what came of it."""

    kind: str
    user: User | None
    began: float
    ended: float
    status: int
    """HTTP's; 0 if the connection broke, and nobody knows whether it was done."""
    told: dict[str, Any]
    """The answer's JSON; of predictions without their numbers."""
    batch: int | None = None
    """Which samples were asked about."""
    logits: Array | None = None
    digest: str | None = None
    """Of a signature that was put."""
    key: str | None = None
    """The idempotency key."""

    @property
    def whose(self) -> tuple[str, str]:
        """Task and name of the user; of a request that names nobody, two empty texts."""
        return ("", "") if self.user is None else (self.user.task, self.user.name)

    @property
    def predicted(self) -> int | None:
        """The revision that a prediction for somebody came from; None for all other answers."""
        if self.kind != "predict" or self.logits is None:
            return None
        number: int = self.told["parameters"]["revision"]
        return number

    @property
    def acknowledged(self) -> int | None:
        """The revision that this answer says is there; None if it says of none."""
        if self.status not in (200, 201) or self.kind not in ("put", "rollback", "personalize", "adapt", "job"):
            return None
        if "state" in self.told and self.told["state"] != "done":
            return None
        return self.told["revision"] or None


class Crowd:
    """Clients in threads.

    Args:
        address: Host and port.
        users: Who there is.
        bases: Task → its base signature.
        batches: What to predict.
        lesson: What to learn from.
        seed: Of everything random.
    """

    def __init__(
        self, address: tuple[str, int], users: Sequence[User], bases: dict[str, Signature], batches: Sequence[Batch], lesson: Batch,
        *, seed: int = 0,
    ) -> None:  # fmt: skip
        self.address, self.users, self.bases, self.batches, self.lesson = address, users, bases, batches, lesson
        self.sent = dict[str, bytes]()
        """Digest → file, of every signature that was put."""
        self.newest = dict.fromkeys(users, 1)
        """Revisions that some client has seen."""
        self._seed = seed

    def run(self, *, clients: int, seconds: float) -> list[Answer]:
        """Let them ask for so long, and then wait half as long at most for their jobs; all answers, of one client after the other."""
        until = time.monotonic() + seconds
        crowd = [_Client(self, self._seed * 10_000 + number) for number in range(clients)]
        problems = list[BaseException]()

        def work(client: _Client) -> None:
            try:
                client.work(until, until + seconds / 2)
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(client,)) for client in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        return [answer for client in crowd for answer in client.answers]


class _Client:
    def __init__(self, crowd: Crowd, seed: int) -> None:
        self.crowd, self.rng, self.numbers = crowd, random.Random(seed), np.random.default_rng([1, seed])
        self.answers, self.jobs = list[Answer](), list[tuple[User, str]]()
        self.connection = http.client.HTTPConnection(*crowd.address, timeout=SECONDS)

    def work(self, until: float, patience: float) -> None:
        does: dict[str, Callable[[User], None]] = {
            "predict": self.predict, "base": lambda user: self.predict(user, base=True), "put": self.put, "rollback": self.rollback,
            "adapt": lambda user: self.learn(user, "adapt"), "personalize": lambda user: self.learn(user, "personalize"),
            "history": self.history, "another's": self.anothers, "delete": self.delete, "cancel": self.cancel,
        }  # fmt: skip
        while time.monotonic() < until:
            if self.jobs and self.rng.random() < 0.1:
                self.ask(*self.jobs.pop(0))
            users = self.crowd.users[:HOT] if self.rng.random() < 0.2 else self.crowd.users
            does[self.rng.choices([*KINDS], [*KINDS.values()])[0]](self.rng.choice(users))
        while self.jobs and time.monotonic() < patience:
            time.sleep(0.5)
            self.ask(*self.jobs.pop(0))
        self.connection.close()

    def predict(self, user: User, *, base: bool = False, name: str | None = None, kind: str = "predict") -> None:
        number, binary, named = self.rng.randrange(len(self.crowd.batches)), *self.rng.choices((False, True), k=2)
        batch, headers = self.crowd.batches[number], dict[str, str]()
        wanted = None if base else name or user.name
        if wanted is not None and named:
            headers["Isoform-Signature"] = wanted
        parameters = json.dumps({"signature": wanted} if wanted is not None and not named else {})
        numbers = f'"parameters":{{"binary_data_size":{len(batch.data)}}}' if binary else f'"data":{batch.text}'
        outputs = f'[{{"name":"logits","parameters":{{"binary_data":{"true" if binary else "false"}}}}}]'
        tensor = f'{{"name":"image","datatype":"FP32","shape":{list(batch.x.shape)},{numbers}}}'
        body = f'{{"parameters":{parameters},"outputs":{outputs},"inputs":[{tensor}]}}'.encode()
        if binary:
            headers[HEAD], body = str(len(body)), body + batch.data
        self.request(
            "base" if base else kind, user, "POST", f"/v2/models/{user.task}/infer", body, headers, batch=number
        )

    def put(self, user: User) -> None:
        base = self.crowd.bases[user.task]
        mixture = self.numbers.normal(size=base.parts["mixture"].shape) * 3
        mine = base.replace(parts={"mixture": mixture.astype(np.float32)}, base=base.digest, labels=None)
        self.crowd.sent[mine.digest] = mine.encode()
        key = uuid.uuid4().hex if self.rng.random() < 0.5 else None
        headers = {"Idempotency-Key": key} if key else {}
        for _ in range(3):  # what nobody knows is asked again, where that does no harm
            status = self.request("put", user, "PUT", _place(user), mine.encode(), headers, digest=mine.digest, key=key)
            if status != 0 or key is None:
                break

    def rollback(self, user: User) -> None:
        newest = self.crowd.newest[user]
        body = json.dumps({"revision": self.rng.randint(max(1, newest - 50), newest)}).encode()
        self.request("rollback", user, "POST", f"{_place(user)}/rollback", body)

    def learn(self, user: User, verb: str) -> None:
        lesson, count = self.crowd.lesson, 10 if verb == "personalize" else 4
        first = self.rng.randrange(len(lesson.x) - count)
        x, labels = lesson.x[first : first + count], lesson.labels[first : first + count]
        data, texts = x.tobytes(), b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in labels)
        parts = [("image", "FP32", list(x.shape), data), ("label", "BYTES", [count], texts)][
            : 2 if verb == "personalize" else 1
        ]
        inputs = [
            {"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(b)}} for n, d, s, b in parts
        ]
        head = json.dumps({"inputs": inputs}).encode()
        headers = {HEAD: str(len(head)), **({"Prefer": "wait=20"} if self.rng.random() < 0.5 else {})}
        query = f"?parts={self.rng.choice(('mixture', 'bn', 'mixture,bn,head'))}" if verb == "personalize" else ""
        body = b"".join((head, *(part[3] for part in parts)))
        status = self.request(verb, user, "POST", f"{_place(user)}/{verb}{query}", body, headers)
        if status == 202 and self.rng.random() < 1 / 3:
            self.rng.choice((self.put, self.delete, self.cancel))(user)

    def delete(self, user: User) -> None:
        self.request("delete", user, "DELETE", _place(user))

    def cancel(self, _: User) -> None:
        if self.jobs:
            user, job = self.jobs[-1]
            self.request("cancel", user, "DELETE", f"/v1/jobs/{job}")

    def ask(self, user: User, job: str) -> None:
        self.request("job", user, "GET", f"/v1/jobs/{job}")

    def history(self, user: User) -> None:
        self.request("history", user, "GET", f"{_place(user)}/revisions?limit=1000")

    def anothers(self, user: User) -> None:
        """Ask for somebody else with this user's key, in one of the ways there are."""
        other = self.rng.choice([entry for entry in self.crowd.users[:50] if entry.name != user.name])
        thief, mine = User(other.task, other.name, user.key), self.crowd.sent
        file = next(iter(mine.values()), b"")
        path = _place(thief)
        ways: list[tuple[str, str, bytes]] = [
            ("GET", path, b""), ("GET", f"{path}/file", b""), ("GET", f"{path}/revisions", b""), ("PUT", path, file), ("DELETE", path, b""),
            ("POST", f"{path}/rollback", b'{"revision":1}'), ("GET", f"{path}/jobs", b""),
        ]  # fmt: skip
        if self.rng.random() < 0.5:
            self.predict(thief, kind="another's")
        else:
            self.request("another's", thief, *self.rng.choice(ways))

    def request(
        self, kind: str, user: User, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, **known: Any,
    ) -> int:  # fmt: skip
        """Ask, and write down what came of it."""
        headers = {"Authorization": f"Bearer {user.key}", **(headers or {})}
        began, status, told, logits = time.monotonic(), 0, dict[str, Any](), None
        try:
            self.connection.request(method, path, body or None, headers)
            answer = self.connection.getresponse()
            data, status = answer.read(), answer.status
            size = answer.headers.get(HEAD)
            text = data if size is None else data[: int(size)]
            told = json.loads(text) if "json" in answer.headers.get("Content-Type", "") or size is not None else {}
            if "outputs" in told:
                (output,) = told.pop("outputs")
                flat = np.array(output["data"], "<f4") if size is None else np.frombuffer(data[int(size) :], "<f4")
                logits = flat.reshape(output["shape"])
        except (OSError, http.client.HTTPException) as problem:
            self.connection.close()
            status, told = 0, {"error": f"{type(problem).__name__}: {problem}"}
            time.sleep(self.rng.uniform(0.02, 0.2))
        ended = time.monotonic()
        answer_of = Answer(
            kind=kind, user=None if kind == "base" else user, began=began, ended=ended, status=status, told=told, logits=logits, **known
        )  # fmt: skip
        self.answers.append(answer_of)
        made = answer_of.acknowledged
        if made is not None:
            self.crowd.newest[user] = max(made, self.crowd.newest[user])
        if told.get("state") in ("queued", "running") and kind != "cancel":
            self.jobs.append((user, told["id"]))
        if status in (0, 503) and kind == "job":
            self.jobs.append((user, path.rpartition("/")[2]))
        return status


def _place(user: User) -> str:
    return f"/v1/models/{user.task}/signatures/{user.name}"
