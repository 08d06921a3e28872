"""Nobody gets another's answer, and nothing that was acknowledged is lost: many clients at once of the real server, killed or not.

    python benchmarks/isolation.py [--bundle PATH] [--seconds 60] [--clients 64] [--users 500] [--kill-every 5] [--store URL]
                                   [--restart-database-every 10] [--quick] [--json PATH]

`isoform serve` with two processes, guarded by a key for every user. Clients predict (JSON and binary), put, personalize, adapt, roll back,
delete, cancel jobs, read histories, and ask for somebody else with a key that may not. With ``--kill-every 5`` one process is killed by
SIGKILL every five seconds. With ``--restart-database-every 10`` the store is a PostgreSQL server of the benchmark's own, which is stopped
for a second every ten seconds. Afterwards every prediction is compared with the one computed here from the signature whose digest it states, and every
revision that was acknowledged is looked for in the store. What is counted as a fault stands in ``bench/faults/verdict.py``; the exit status is 1
if there is one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib
import itertools
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench.faults.crowd import KINDS, Answer, Batch, Crowd, User, batches_of
from bench.faults.served import Regularly, kills, restarts, served
from bench.faults.verdict import FAULTS, History, judge, merged, read_history
from bench.harness import machine, parser, print_table, write_json
from sqlalchemy.engine import URL

from isoform.runtime import Runtime
from isoform.runtime.errors import StoreError
from isoform.server.access.keys import Keys
from isoform.server.opening import store_url
from isoform.server.store.store import Store

WORKERS, THREADS = 2, 16
WATCH_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Run:
    """What happened."""

    answers: list[Answer]
    history: History
    seen: History
    batches: list[Batch]
    sent: dict[str, bytes]
    kills: int
    restarts: int
    tracebacks: int
    """In what the server said."""


def main() -> int:
    """Run, judge, print, write; 1 if there was a fault."""
    arguments = _arguments()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="isoform-isolation-"))
        if arguments.restart_database_every is not None:
            store = stack.enter_context(_postgres().postgres())
        else:
            store = arguments.store or str(Path(folder) / "signatures.db")
        run = crowded(
            arguments.bundle, store, Path(folder), seconds=arguments.seconds, clients=arguments.clients, users=arguments.users,
            kill_every=arguments.kill_every, restart_every=arguments.restart_database_every,
        )  # fmt: skip
    figures: dict[str, object] = {
        **machine(), "quick": arguments.quick, "seconds": arguments.seconds, "clients": arguments.clients, "users": arguments.users,
        "kill_every": arguments.kill_every, "restart_database_every": arguments.restart_database_every,
        "store": _url(store).drivername, **summary(arguments.bundle, run),
    }  # fmt: skip
    rows = [
        [kind, *(str(sum(_column(a) == name for a in run.answers if a.kind == kind)) for name in COLUMNS)]
        for kind in (*KINDS, "job")
    ]
    who = f"{arguments.clients} clients, {arguments.users} users, {arguments.seconds:g} s"
    title = f"{who}, {figures['store']}, {run.kills} kills, {run.restarts} restarts, {figures['machine']}, {figures['date']}"
    print_table(title, ["request", *COLUMNS], rows)
    print_table("judged afterwards", ["figure", ""], [[k, f"{v:.6g}"] for k, v in summary_rows(figures)])
    write_json(arguments.json, figures)
    return int(any(figures[name] for name in (*FAULTS, "tracebacks")))


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--bundle", type=Path, default=Path("quickstart/bundle"), help="a compiled bundle of digits")
    add("--seconds", type=float, help="how long the clients ask (default: 60; --quick: 10)")
    add("--clients", type=int, help="(default: 64; --quick: 16)")
    add("--users", type=int, help="(default: 500; --quick: 60)")
    add("--kill-every", type=float, help="seconds between two kills of a process (default: nobody is killed)")
    add(
        "--restart-database-every",
        type=float,
        help="seconds between two stops of PostgreSQL (default: it is not stopped)",
    )
    add("--store", help="as for isoform serve; must be empty (default: a SQLite file that is deleted afterwards)")
    found = arguments.parse_args()
    for name, full, quick in (("seconds", 60.0, 10.0), ("clients", 64, 16), ("users", 500, 60)):
        if getattr(found, name) is None:
            setattr(found, name, quick if found.quick else full)
    if found.restart_database_every is not None and found.store is not None:
        raise SystemExit("--restart-database-every starts a database of its own; leave --store out")
    return found


def _postgres() -> Any:
    """The tests' own PostgreSQL."""
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
    found = importlib.import_module("postgres")
    if found.POSTGRES is None:
        raise SystemExit("PostgreSQL is not installed; Debian's package is 'postgresql'")
    return found


def _url(store: str) -> URL:
    """What ``--store`` means."""
    url = store_url(store)
    if url is None:
        raise SystemExit("--store is none, but what was acknowledged is looked for there; name one")
    return url


def crowded(
    bundle: Path, store: str, folder: Path, *, seconds: float, clients: int, users: int, kill_every: float | None,
    restart_every: float | None = None, seed: int = 0,
) -> Run:  # fmt: skip
    """Serve, let the clients ask, and read what is in the store at the end.

    Args:
        bundle: A compiled bundle of digits.
        store: An empty one, as ``--store`` takes it.
        folder: For the server's log.
        seconds: How long they ask.
        clients: How many.
        users: How many signatures there are, spread over the bundle's tasks.
        kill_every: Seconds between two kills; None for no kills.
        restart_every: Seconds between two restarts of the store, which is a PostgreSQL of ``postgres``; None for no restarts.
        seed: Of everything random.
    """
    from isoform.train.data.formats.digits import digits

    url = _url(store)
    images, labels = digits()
    with Runtime.open(bundle) as runtime, Store(url) as opened:
        bases = {task: runtime.signature(task) for task in runtime.tasks}
        people = [
            User(task, f"u{number:05d}", Keys(opened).add(f"u{number:05d}", [f"write:u{number:05d}"]))
            for number, task in zip(range(users), itertools.cycle(bases))
        ]  # fmt: skip
        crowd = Crowd(
            ("", 0), people, bases, batches_of(images[:150], labels, (1, 2, 4)), batches_of(1 - images[-200:], labels[-200:], (200,))[0],
            seed=seed,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        for user in people:
            base = bases[user.task]
            mixture = (rng.normal(size=base.parts["mixture"].shape) * 3).astype(np.float32)
            mine = base.replace(parts={"mixture": mixture}, base=base.digest, labels=None)
            opened.append(user.task, user.name, digest=mine.digest, data=mine.encode(), action="put", actor="setup")
    log = folder / "log"
    flags = ("--workers", str(WORKERS), "--threads", str(THREADS))
    with served(bundle, store, log, *flags) as server, Store(url) as watched:
        crowd.address = server.host, server.port
        watcher = Watcher(watched)
        with (
            Regularly(kills(server, seed=seed), kill_every, seconds=seconds) as killer,
            Regularly(restarts(lambda: _postgres().stopped(url)), restart_every, seconds=seconds) as restarter,
            Regularly(watcher.look, WATCH_SECONDS, seconds=math.inf),
        ):
            answers = crowd.run(clients=clients, seconds=seconds)
    with Store(url) as opened:
        history = read_history(opened)
    said = log.read_text()
    return Run(
        answers, history, watcher.seen, crowd.batches, crowd.sent, killer.times, restarter.times, said.count("Traceback")
    )  # fmt: skip


class Watcher:
    """Reads what is new in the store whenever it is told to, because a deletion leaves nothing to compare with."""

    def __init__(self, store: Store) -> None:
        self._store, self._since, self.seen = store, 0, dict[tuple[str, str], Any]()

    def look(self, _: threading.Event) -> bool:
        """Read it; returns whether the store answered."""
        began = int(time.time() * 1000)
        try:
            self.seen = merged(self.seen, read_history(self._store, since=self._since))
        except StoreError:  # restarted; it is asked again
            return False
        self._since = began - 2000  # what was being written then
        return True


COLUMNS = ("answered", "refused", "conflict", "busy", "broken", "failed")


def _column(answer: Answer) -> str:
    if answer.status == 0:
        return "broken"
    if answer.status >= 500:
        return "busy" if answer.status == 503 else "failed"
    if answer.status in (409, 412) or answer.told.get("state") in ("failed", "lost"):
        return "conflict"
    return "refused" if answer.status >= 400 else "answered"


def summary(bundle: Path, run: Run) -> dict[str, float]:
    """Faults, what was looked at, and how fast it went."""
    with Runtime.open(bundle) as runtime:
        found = judge(run.answers, run.history, runtime, run.batches, run.sent, seen=run.seen, kills=run.kills)
    counts = collections.Counter(map(_column, run.answers))
    span = max(a.ended for a in run.answers) - min(a.began for a in run.answers)
    return {
        **found, **_times(run.answers), **{name: counts[name] for name in COLUMNS if name not in found}, "requests": len(run.answers),
        "requests_per_second": len(run.answers) / span, "kills": run.kills, "restarts": run.restarts, "tracebacks": run.tracebacks,
    }  # fmt: skip


def _times(answers: Sequence[Answer]) -> dict[str, float]:
    found = dict[str, float]()
    for kind in ("predict", "put", "rollback"):
        times = [1e3 * (a.ended - a.began) for a in answers if a.kind == kind and a.status in (200, 201)]
        if times:
            found |= {f"{kind}_p{share}_ms": float(np.percentile(times, share)) for share in (50, 99)}
    slowest = max(answers, key=lambda answer: answer.ended - answer.began)
    return {**found, "longest_seconds": slowest.ended - slowest.began}


def summary_rows(figures: dict[str, object]) -> list[tuple[str, float]]:
    """The numbers to print, faults first."""
    numbers = {
        key: value for key, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    names = [
        *FAULTS,
        *(
            key
            for key in numbers
            if key not in (*FAULTS, "cores", "seconds", "clients", "users", "kill_every", "restart_database_every")
        ),
    ]
    return [(name, float(numbers[name])) for name in names]


if __name__ == "__main__":
    sys.exit(main())
