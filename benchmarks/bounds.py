"""Memory and patience of a server that is sent what it should not be sent, at default settings; beside Flask and ONNX Runtime alone.

    python benchmarks/bounds.py [--bundle PATH] [--seconds 300] [--clients 16] [--quick] [--json PATH]

Clients send the requests of ``bench/faults/unbounded.py`` again and again: large batches, compressed ones, texts among numbers, JSON that becomes
objects, answers of samples × classes, signature files with huge headers, jobs; with a key that may, one that may not, and none. Beside
them one client asks every tenth of a second whether the server lives. Two figures have aims:

    peak_resident_bytes      of the process that needed most, as Linux counts it (``VmHWM``)       <= 400 MB
    slowest_health_seconds   from asking to the answer                                               <= 1

The exit status is 1 where an aim is missed, a question whether the server lives is not answered, an answer is a 5xx other than 503, or a
kind of job was never taken in (202). Linux.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import http.client
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.faults.health import ask_health
from bench.faults.served import served
from bench.faults.unbounded import JOBS, Ask, asks, flask_asks, many_classes
from bench.harness import machine, parser, print_table, write_json
from bench.networks import complete_file
from bench.processes import status_bytes
from bench.serving.http_servers import start_flask, wait_until_ready

from isoform.runtime.formats.bundle import Bundle
from isoform.server.access.keys import Keys
from isoform.server.store.store import Store

AIMS = {"peak_resident_bytes": 400e6, "slowest_health_seconds": 1.0}
HEALTH_SECONDS = 0.1
ANSWER_SECONDS = 120


@dataclasses.dataclass
class Seen:
    """What clients saw. Written by several threads."""

    statuses: dict[str, collections.Counter[int]]
    """Kind → status → how many; 0 where the connection broke."""
    longest_answer: int = 0
    slowest_health: float = 0.0
    unanswered_health: int = 0


def main() -> int:
    """Send, watch, print, write."""
    arguments = _arguments()
    bundle = Bundle.load(arguments.bundle)
    with tempfile.TemporaryDirectory(prefix="isoform-bounds-") as name:
        ours = _ours(bundle, Path(name), arguments)
        floor = _flask(bundle, Path(name), arguments)
    figures = {
        **machine(),
        "quick": arguments.quick,
        "seconds": arguments.seconds,
        "clients": arguments.clients,
        **ours,
    }
    figures |= {f"flask.{key}": value for key, value in floor.items()}
    _show(figures)
    write_json(arguments.json, figures)
    missing = [kind for kind, counts in ours["statuses"].items() if kind.startswith(JOBS) and not counts.get(202)]
    failed = [status for counts in ours["statuses"].values() for status in counts if status >= 500 and status != 503]
    return int(
        bool(failed or missing or ours["unanswered_health"]) or any(ours[name] > aim for name, aim in AIMS.items())
    )


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--bundle", type=Path, default=Path("docs/examples/bundle"), help="a compiled bundle (default: %(default)s)")
    add("--seconds", type=float, help="how long the clients ask (default: 300; --quick: 15)")
    add("--clients", type=int, default=16, help="(default: 16)")
    add("--kinds", nargs="+", metavar="KIND", help="what is sent, by the start of its name (default: everything)")
    found = arguments.parse_args()
    found.seconds = found.seconds or (15.0 if found.quick else 300.0)
    return found


def _ours(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    task = next(iter(bundle.signatures))
    file = folder / "signatures.db"
    with Store(file) as store:
        keys = {
            "writer": Keys(store).add("writer", ["write:alice"]),
            "metrics": Keys(store).add("metrics", ["metrics"]),
        }
        first = many_classes(bundle, task)
        store.append(task, "alice", digest=first.digest, data=first.encode(), action="put", actor="setup")
    with served(arguments.bundle, str(file), folder / "log") as server:
        found = sent(
            (server.host, server.port), _chosen(asks(bundle, task), arguments.kinds), keys, health="/v2/health/live", seconds=arguments.seconds,
            clients=arguments.clients, processes=server.workers,
        )  # fmt: skip
    return {**found, "tracebacks": (folder / "log").read_text().count("Traceback")}


def _chosen(kinds: Mapping[str, Ask], starts: Sequence[str] | None) -> Mapping[str, Ask]:
    return {kind: asked for kind, asked in kinds.items() if starts is None or kind.startswith(tuple(starts))}


def _flask(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    model = folder / "network.onnx"
    model.write_bytes(complete_file(bundle, bundle.base(next(iter(bundle.signatures)))))
    flask = start_flask(model, folder, workers=1)
    with flask.process:
        wait_until_ready(flask)
        return sent(
            ("127.0.0.1", flask.ports["json"]), flask_asks(bundle), {}, health="/health",
            seconds=min(60.0, arguments.seconds), clients=arguments.clients, processes=flask.process.numbers,
        )  # fmt: skip


def sent(
    address: tuple[str, int], kinds: Mapping[str, Ask], keys: Mapping[str, str], *, health: str, seconds: float, clients: int,
    processes: Callable[[], list[int]],
) -> dict[str, object]:  # fmt: skip
    """Send every kind once, then all of them for a while, and see how large the processes become and how soon they say that they live.

    Args:
        address: Host and port.
        kinds: What to send, at random.
        keys: Key of each ``Ask.who``; those that are not there send none.
        health: Path that says whether the server lives.
        seconds: For how long.
        clients: How many at the same time.
        processes: Numbers of the processes to look at.
    """
    seen, over = Seen({kind: collections.Counter() for kind in kinds}), threading.Event()
    threads = [threading.Thread(target=_client, args=(address, kinds, keys, seen, over, n)) for n in range(clients)]
    threads.append(threading.Thread(target=_watch, args=(address, health, seen, over)))
    peaks = dict[int, int]()
    for kind, asked in kinds.items():  # alone, so that none is refused because of the others
        _ask(address, kind, asked, keys, seen)
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for number in processes():
            peaks[number] = max(peaks.get(number, 0), status_bytes(number, "VmHWM"))
        time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join()
    return {
        "peak_resident_bytes": max(peaks.values()), "resident_bytes_at_the_end": max(status_bytes(n, "VmRSS") for n in processes()),
        "slowest_health_seconds": seen.slowest_health, "unanswered_health": seen.unanswered_health,
        "longest_answer_bytes": seen.longest_answer,
        "statuses": {kind: dict(sorted(counts.items())) for kind, counts in seen.statuses.items()},
    }  # fmt: skip


def _client(
    address: tuple[str, int], kinds: Mapping[str, Ask], keys: Mapping[str, str], seen: Seen, over: threading.Event, seed: int
) -> None:  # fmt: skip
    rng, names = random.Random(seed), [*kinds]
    while not over.is_set():
        kind = rng.choice(names)
        _ask(address, kind, kinds[kind], keys, seen)


def _ask(address: tuple[str, int], kind: str, asked: Ask, keys: Mapping[str, str], seen: Seen) -> None:
    headers = {**asked.headers, **({"Authorization": f"Bearer {keys[asked.who]}"} if asked.who in keys else {})}
    connection = http.client.HTTPConnection(*address, timeout=ANSWER_SECONDS)
    status = 0
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
            connection.request(asked.method, asked.path, asked.body, headers)
        answer = connection.getresponse()
        seen.longest_answer = max(seen.longest_answer, len(answer.read()))
        status = answer.status
    except (OSError, http.client.HTTPException):
        pass  # a refused body may not be read to its end
    finally:
        connection.close()
    seen.statuses[kind][status] += 1


def _watch(address: tuple[str, int], health: str, seen: Seen, over: threading.Event) -> None:
    while not over.wait(HEALTH_SECONDS):
        answered, seconds = ask_health(address, health, patience_seconds=ANSWER_SECONDS)
        seen.unanswered_health += not answered
        seen.slowest_health = max(seen.slowest_health, seconds)


def _show(figures: Mapping[str, object]) -> None:
    names = [
        "peak_resident_bytes",
        "resident_bytes_at_the_end",
        "slowest_health_seconds",
        "unanswered_health",
        "longest_answer_bytes",
    ]
    rows = [[name, f"{figures[name]:,.4g}", f"{figures[f'flask.{name}']:,.4g}", f"{AIMS[name]:g}" if name in AIMS else ""] for name in names]  # fmt: skip
    title = f"{figures['clients']} clients, {figures['seconds']:g} s, {figures['machine']}, {figures['date']}"
    print_table(title, ["figure", "isoform", "Flask alone", "aim"], rows)
    statuses = figures["statuses"]
    assert isinstance(statuses, dict)
    print_table(
        "answers", ["request", "status × times"], [[kind, ", ".join(f"{s} × {n}" for s, n in counts.items())] for kind, counts in statuses.items()]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
