"""Requests that are begun and not ended, by crowds of clients: what they do to everybody else; beside Flask and ONNX Runtime alone.

    python benchmarks/serving/half_requests.py [--bundle PATH] [--seconds 60] [--crowds 12 100 800] [--kinds KIND ...] [--rivals flask|none]
                                               [--quick] [--json PATH]

`isoform serve` with two processes, keys and a SQLite store. A crowd of connections, with a key that may predict and without one, holds
up requests of each kind of ``bench/faults/halves.py``; connections that the server closes are opened again at once. Beside it four honest clients predict in a
closed loop (binary, one sample), and health (live and ready) is asked for every tenth of a second, each time on a new connection. Before
and after every crowd the honest clients are timed alone. The two attacks that this was built for, two megabytes announced and not sent, or
sent at 6 kB/s, last ``--seconds``, the others a twelfth of it, but 5 s at least. Figures, each the worst of all crowds, and their aims:

    slowest_health_seconds       from connecting to the answer                                     <= 1
    unanswered_health            no answer within 5 s, or one that is no 200                        0
    prediction_p50_over_alone    median of the honest predictions, over that without a crowd       <= 2
    failed_predictions           answered by something else than 200, or not within 5 s             0
    peak_resident_bytes          of the process that needed most, as Linux counts it (``VmHWM``)   <= 400 MB
    deaths, tracebacks           processes of the server that were started again; of the log        0

The exit status is 1 where an aim is missed. The rival knows no keys, so it meets the crowds without one, each for 6 s at most. Linux.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package ``bench`` is

from bench.faults.halves import Half, halves
from bench.faults.health import ask_health
from bench.faults.served import served
from bench.harness import machine, parser, print_table, write_json
from bench.networks import complete_file
from bench.processes import Helper, status_bytes
from bench.serving.http_servers import start_flask, wait_until_ready
from bench.serving.wire import Wire, wire

from isoform.runtime.formats.bundle import Bundle
from isoform.server.access.keys import Keys
from isoform.server.store.store import Store

AIMS = {
    "slowest_health_seconds": 1.0, "unanswered_health": 0, "prediction_p50_over_alone": 2.0, "failed_predictions": 0, "peak_resident_bytes": 400e6,
    "deaths": 0, "tracebacks": 0,
}  # fmt: skip
WORKERS, HONEST = 2, 4
HEALTH_SECONDS, PATIENCE_SECONDS, SETTLE_SECONDS, WEIGH_SECONDS = 0.1, 5.0, 0.5, 0.25
RIVAL_SECONDS = 6.0


@dataclasses.dataclass(frozen=True)
class Target:
    """A server under attack."""

    name: str
    port: int
    processes: Callable[[], list[int]]
    """Numbers of the processes whose memory counts."""
    honest: Wire
    health: Sequence[str]
    """Paths that are asked for."""
    halves: Mapping[str, Mapping[str, Half]]
    """``key`` or ``no key`` → kind of attack → what is sent."""


def main() -> int:
    """Attack, watch, print, write; 1 if an aim is missed."""
    arguments = _arguments()
    bundle = Bundle.load(arguments.bundle)
    with tempfile.TemporaryDirectory(prefix="isoform-half-") as name:
        rows, ours = _ours(bundle, Path(name), arguments)
        rivals = _flask(bundle, Path(name), arguments) if arguments.rivals == "flask" else []
    figures: dict[str, Any] = {
        **machine(), "quick": arguments.quick, "seconds": arguments.seconds, "crowds": arguments.crowds, **worst(rows), **ours,
        **{f"flask.{key}": value for key, value in (worst(rivals) if rivals else {}).items()}, "rows": rows + rivals,
    }  # fmt: skip
    _show(figures)
    write_json(arguments.json, figures)
    return int(any(figures[name] > aim for name, aim in AIMS.items()))


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--bundle", type=Path, default=Path("docs/examples/bundle"), help="a compiled bundle (default: %(default)s)")
    add("--seconds", type=float, help="how long a crowd stays (default: 60; --quick: 1)")
    add("--crowds", type=int, nargs="+", help="how many connections (default: 12 100 800; --quick: 100)")
    add(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="attack in these ways only (default: in all of bench/faults/halves.py)",
    )
    add("--rivals", choices=("flask", "none"), default="flask", help="whom to compare with (default: flask)")
    found = arguments.parse_args()
    found.seconds = found.seconds or (1.0 if found.quick else 60.0)
    found.crowds = found.crowds or ([100] if found.quick else [12, 100, 800])
    return found


def _ours(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    task, file = next(iter(bundle.signatures)), folder / "signatures.db"
    with Store(file) as store:
        honest = Keys(store).add("honest", ["predict"])
        crowd = Keys(store).add("crowd", ["write:crowd"])
    health = ("/v2/health/live", "/v2/health/ready")
    infer, put = f"/v2/models/{task}/infer", f"/v1/models/{task}/signatures/crowd"
    request = wire("isoform", "binary", _sample(bundle), task=task, key=honest)
    with served(arguments.bundle, str(file), folder / "log", "--workers", str(WORKERS)) as server:
        numbers = server.workers()
        keys = {"no key": None, "key": crowd}
        target = Target(
            "isoform", server.port, server.workers, request, health, {who: halves(infer, put, health, key) for who, key in keys.items()},
        )  # fmt: skip
        rows = attack(target, arguments.crowds, arguments.kinds, seconds=arguments.seconds, others=_others(arguments))
        peak = max(status_bytes(number, "VmHWM") for number in server.workers())
        deaths = len({*numbers} - {*server.workers()})
    tracebacks = (folder / "log").read_text().count("Traceback")
    return rows, {"peak_resident_bytes": peak, "deaths": deaths, "tracebacks": tracebacks}


def _flask(bundle: Bundle, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    model = folder / "network.onnx"
    model.write_bytes(complete_file(bundle, bundle.base(next(iter(bundle.signatures)))))
    flask = start_flask(model, folder, workers=WORKERS)
    with flask.process:
        wait_until_ready(flask)
        target = Target(
            "flask", flask.ports["binary"], flask.process.numbers, wire("flask", "binary", _sample(bundle)), ["/health"],
            {"no key": halves("/predict", None, ["/health"], None)},
        )  # fmt: skip
        seconds = min(RIVAL_SECONDS, arguments.seconds)
        return attack(target, arguments.crowds, arguments.kinds, seconds=seconds, others=seconds)


def _sample(bundle: Bundle) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (1, *bundle.spec.input_shape)).astype(np.float32)


def _others(arguments: argparse.Namespace) -> float:
    return float(arguments.seconds) if arguments.quick else max(5.0, arguments.seconds / 12)


def attack(
    target: Target, crowds: Sequence[int], kinds: Sequence[str] | None, *, seconds: float, others: float
) -> list[dict[str, Any]]:
    """Every crowd, one after the other; a row for each.

    Args:
        target: Whom.
        crowds: How many connections.
        kinds: Names of attacks; None for all.
        seconds: How long those attacks last that are ``whole``.
        others: How long the others last.
    """
    cases = [
        (size, who, kind, half) for size in crowds for who, found in target.halves.items() for kind, half in found.items()
        if kinds is None or kind in kinds
    ]  # fmt: skip
    rows, alone = list[dict[str, Any]](), dict[str, Any]()
    with Helper("faults/honest_clients.py") as honest, Helper("faults/half_clients.py") as crowd:

        def ask(length: float) -> None:
            honest.tell({
                "port": target.port, "connections": HONEST, "seconds": length, "patience": PATIENCE_SECONDS,
                "request": base64.b64encode(target.honest.head.encode() + target.honest.body).decode(),
            })  # fmt: skip

        def by_themselves() -> list[int]:
            time.sleep(min(SETTLE_SECONDS, seconds / 2))
            ask(min(1.5, seconds / 2))
            latencies: list[int] = honest.answer()["latencies_us"]
            return latencies

        by_themselves()  # what is new to the server is not measured
        alone = by_themselves()
        for size, who, kind, half in cases:
            length = seconds if half.whole else others
            with Health(target) as health:
                ask(length)
                heads = [base64.b64encode(head).decode() for head in half.heads]
                crowd.tell(
                    {"port": target.port, "connections": size, "seconds": length, "heads": heads, "rate": half.rate}
                )
                came = crowd.answer()
            asked = honest.answer()
            before, alone = alone, by_themselves()
            rows.append({
                "server": target.name, "connections": size, "who": who, "kind": kind, "seconds": length, **health.figures(),
                **_predictions(asked, before + alone), "crowd": came, "crowd_cores": came.pop("cpu_seconds") / length,
            })  # fmt: skip
            print(f"{target.name}: {'  '.join(_cells(rows[-1]))}", file=sys.stderr, flush=True)
    return rows


def _predictions(asked: Mapping[str, Any], alone: Sequence[int]) -> dict[str, Any]:
    """The honest clients' figures; those that had no answer count as if it had come when they gave up."""
    latencies = [*asked["latencies_us"], *[1e6 * PATIENCE_SECONDS] * asked["failed"]]
    found: dict[str, Any] = {"predictions": len(asked["latencies_us"]), "failed_predictions": asked["failed"], "problem": asked["problem"]}  # fmt: skip
    for share in (50, 99):
        beside, usual = (float(np.percentile(values, share)) / 1e3 for values in (latencies, alone))
        found |= {f"p{share}_ms": beside, f"p{share}_alone_ms": usual, f"prediction_p{share}_over_alone": beside / usual}  # fmt: skip
    return found


class Health:
    """Asks a server whether it lives, and how large it is, for as long as the ``with`` block lasts."""

    def __init__(self, target: Target) -> None:
        self._target, self._over = target, threading.Event()
        self._seconds, self._unanswered, self._resident = list[float](), 0, 0
        watches = [threading.Thread(target=self._ask, args=(path,)) for path in target.health]
        self._threads = [*watches, threading.Thread(target=self._weigh)]

    def __enter__(self) -> Health:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> dict[str, float]:
        """What was seen."""
        return {
            "slowest_health_seconds": max(self._seconds), "health_asked": len(self._seconds), "unanswered_health": self._unanswered,
            "resident_bytes": self._resident,
        }  # fmt: skip

    def _ask(self, path: str) -> None:
        while not self._over.wait(HEALTH_SECONDS):
            answered, seconds = ask_health(("127.0.0.1", self._target.port), path, patience_seconds=PATIENCE_SECONDS)
            self._unanswered += not answered
            self._seconds.append(seconds)

    def _weigh(self) -> None:
        while not self._over.wait(WEIGH_SECONDS):
            self._resident = max(self._resident, *(status_bytes(n, "VmRSS") for n in self._target.processes()), 0)


def worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest of each figure that has an aim, or the sum of what is counted."""
    largest = ("slowest_health_seconds", "prediction_p50_over_alone", "prediction_p99_over_alone")
    found = {name: max(float(row[name]) for row in rows) for name in largest}
    counted = ("unanswered_health", "health_asked", "failed_predictions", "predictions")
    found |= {name: sum(int(row[name]) for row in rows) for name in counted}
    return {**found, "peak_resident_bytes": max(row["resident_bytes"] for row in rows)}


COLUMNS = ("crowd", "sends", "health s", "p50 ms", "over alone", "p99 ms", "over alone", "failed", "MB", "statuses")


def _cells(row: Mapping[str, Any]) -> list[str]:
    statuses = " ".join(f"{status}×{times}" for status, times in row["crowd"]["statuses"].items())
    return [
        f"{row['connections']} {row['who']}", row["kind"], f"{row['slowest_health_seconds']:.2f}", f"{row['p50_ms']:.2f}",
        f"{row['prediction_p50_over_alone']:.2f}", f"{row['p99_ms']:.1f}", f"{row['prediction_p99_over_alone']:.2f}",
        f"{row['unanswered_health'] + row['failed_predictions']}", f"{row['resident_bytes'] / 1e6:.0f}", statuses,
    ]  # fmt: skip


def _show(figures: Mapping[str, Any]) -> None:
    title = f"{figures['seconds']:g} s a crowd, {figures['machine']}, {figures['cores']} cores, {figures['date']}"
    for server in dict.fromkeys(row["server"] for row in figures["rows"]):
        rows = [_cells(row) for row in figures["rows"] if row["server"] == server]
        print_table(f"{server}, {title}", COLUMNS, rows)
    rows = [
        [name, *(f"{figures[key]:,.4g}" if key in figures else "" for key in (name, f"flask.{name}")), f"{AIMS[name]:g}" if name in AIMS else ""]
        for name in (*AIMS, "prediction_p99_over_alone", "predictions", "health_asked")
    ]  # fmt: skip
    print_table("the worst of all", ["figure", "isoform", "Flask alone", "aim"], rows)


if __name__ == "__main__":
    sys.exit(main())
