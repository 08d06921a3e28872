"""Serving one network: ours beside LitServe and MLServer in their documented settings, and beside Flask and ONNX Runtime alone.

    python benchmarks/server.py [--quick] [--json PATH] [--rivals NAME ...] [--environments PATH] [--users N]

The small network of random weights (C = 24, L = 16, 32×32), folded for one task; the rivals serve it as an ONNX file in ONNX Runtime, one
thread per prediction as ours. Before anything is timed every server must give the same logits in every form, within 1e-4.

Clients are processes of this machine in a closed loop: every connection sends its next request as soon as it has its answer. All servers
are there all the time and are measured in turn, in blocks of a fraction of a second; figures are medians of blocks. LitServe's and MLServer's processes are
stopped (SIGSTOP) while others are measured: some of them never rest, and would take the processors from everybody. Every server has one or two
predicting processes, and each is judged by the best of its settings (``bench/serving/contenders.py``). Three figures come of it:

    ours_rps_over_best_rival         answers per second, bytes, one sample, 8 connections, over the better of LitServe and MLServer
    http_overhead_ms_p50             one connection: median of a request, less that of ``Runtime.predict`` in a process of its own
    random_users_over_single_user    answers per second with another of 10,000 users each time, over those of always the same user; all
                                     of them hot (with --quick as many as had their first turn within 8 seconds: ``users_at_random``)

``wrk`` is not used: this client costs a few dozen microseconds per request, is there wherever the benchmark is, and speaks as much gRPC as
MLServer needs to take bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench.harness import Figures, machine, parser, print_table, write_json
from bench.networks import SPECS, complete_file, make_bundle
from bench.people import users
from bench.processes import Helper
from bench.serving.contenders import FLOOR, start_all
from bench.serving.environments import RIVALS, default_folder, requirements
from bench.serving.http_servers import Server, start_isoform, wait_until_ready
from bench.serving.load import Block, Load, difference, loading, median
from bench.serving.many_users import bytes_of_a_user, fill_store, free_bytes, many_users, names
from bench.serving.wire import wire

from isoform.runtime import Runtime, Signature
from isoform.runtime.arrays import Array
from isoform.runtime.formats.bundle import Bundle

AIMS = {
    "ours_rps_over_best_rival": ">= 1.5",
    "http_overhead_ms_p50": "<= 0.6",
    "random_users_over_single_user": ">= 0.85",
}
TOLERANCE = 1e-4
LOADS = ((1, 1), (1, 8), (16, 8))
"""Samples of a request, and connections."""
Key = tuple[Server, str, int, int]
"""Server, form, samples of a request, connections."""


def main() -> None:
    """Measure, print, write."""
    arguments, started = _arguments(), time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with it
    try:
        figures = {**machine(), "quick": arguments.quick, **measure(arguments, started)}
    except RuntimeError as problem:
        sys.exit(f"error: {problem}")
    show(figures)
    write_json(arguments.json, figures)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    add = arguments.add_argument
    everybody = [*RIVALS, FLOOR]
    add("--rivals", nargs="+", choices=everybody, default=everybody, help="whom to compare with (default: all)")
    add("--environments", type=Path, default=default_folder(), help="where rivals are installed (default: %(default)s)")
    add("--users", type=int, default=10_000, help="how many users; 10,000 hot ones take 7 GB (default: 10000)")
    add("--clients", type=int, default=2, help="client processes (default: 2)")
    add("--seconds", type=float, help="length of a block (default: 1, with --quick 0.15)")
    result = arguments.parse_args()
    result.seconds = result.seconds or (0.15 if result.quick else 1.0)
    return result


def measure(arguments: argparse.Namespace, started: float) -> dict[str, object]:
    """All figures, step by step."""

    def say(what: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {what}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="isoform-server-") as name, contextlib.ExitStack() as stack:
        folder, seconds, quick = Path(name), arguments.seconds, arguments.quick
        bundle = make_bundle(SPECS["small"], folder / "bundle")
        model = folder / "network.onnx"
        model.write_bytes(complete_file(bundle, bundle.base("base")))
        count, size = arguments.users, bytes_of_a_user(bundle)
        if 1.5 * count * size > free_bytes():
            count = int(free_bytes() / size / 1.5)
            say(f"{arguments.users} users do not fit into memory; {count} do")
        fill_store(folder / "users.db", bundle, count)
        say(f"{count} users in the store")
        servers = start_all(
            arguments.rivals, stack, bundle=bundle.path, model=model, folder=folder, environments=arguments.environments, quick=quick
        )  # fmt: skip
        keeper = start_isoform(
            bundle.path, folder, workers=1, store=folder / "users.db", cache_mb=64 + int(1.1 * count * size / 2**20)
        )
        keeper = dataclasses.replace(keeper, setting=f"{keeper.setting}, its users hot")
        stack.enter_context(keeper.process)
        wait_until_ready(keeper)
        for server in (*servers, keeper):
            stack.callback(server.process.ask_to_end)  # all at once, before one is waited for after the other
        load, direct = (
            stack.enter_context(loading(arguments.clients)),
            stack.enter_context(Helper("serving/in_process.py", bundle.path)),
        )
        say(f"{len(servers) + 1} servers answer")
        equal = compare(bundle, [*servers, keeper])
        say(f"all of them give the same logits, within {equal['largest_relative_difference']:.1e}")
        blocks = under_load(
            load, servers, bundle, seconds=seconds, rounds=(6, 1) if quick else (5, 5), limit=22 if quick else 1e4
        )
        say("load")
        over = overhead(load, direct, keeper, bundle, seconds=0.8 * seconds, rounds=8 if quick else 20)
        say("one request beside a call")
        several = many_users(
            load,
            keeper,
            samples_of(bundle, 1),
            count=count,
            seconds=2 * seconds,
            rounds=12 if quick else 15,
            touch_seconds=8 if quick else 600,
        )
        say(f"{several['users_at_random']:.0f} users at random")
        rows = [
            {"server": server.name, "setting": server.setting, "form": form, "batch": batch, "connections": connections, **vars(found)}
            for (server, form, batch, connections), found in blocks.items()
        ]  # fmt: skip
        memory = [
            {"server": server.name, "setting": server.setting, "rss_mb": resident, "pss_mb": proportional}
            for server in [*servers, keeper]
            for resident, proportional in (server.process.memory_mb(),)
        ]
    versions = dict(line.split("==") for rival in RIVALS for line in requirements(rival)[:1])
    return {**ratios(blocks), **over, **several, **equal, "versions": versions, "rows": rows, "memory": memory}


def samples_of(bundle: Bundle, count: int) -> Array:
    """The same ones for everybody."""
    return np.random.default_rng(0).uniform(0, 1, (count, *bundle.spec.input_shape)).astype(np.float32)


def compare(bundle: Bundle, servers: Sequence[Server]) -> Figures:
    """How far any server's logits are from the runtime's. Raises ``RuntimeError`` if it is more than the tolerance."""
    largest, compared = 0.0, 0
    with Runtime.open(bundle.path) as runtime:
        base, user = runtime.signature("base"), Signature.decode(users(bundle, 1, "mixture")[0])
        for batch in sorted({batch for batch, _ in LOADS}):
            x = samples_of(bundle, batch)
            cases = [(server, form, base, None) for server in servers for form in server.ports]
            cases += [(servers[-1], form, user, names(1)[0]) for form in servers[-1].ports]
            for server, form, signature, name in cases:
                found = difference(server, form, x, runtime.predict(x, signature), user=name)
                if not found <= TOLERANCE:
                    raise RuntimeError(
                        f"{server.title}, {form}, {batch} samples: logits are {found:.1e} from the runtime's"
                    )
                largest, compared = max(largest, found), compared + 1
    return {"largest_relative_difference": largest, "compared_answers": float(compared)}


def under_load(
    load: Load, servers: Sequence[Server], bundle: Bundle, *, seconds: float, rounds: tuple[int, int], limit: float
) -> dict[Key, Block]:
    """Every server in every form under every load, in turn.

    Rounds are those of one sample as bytes, and of everything else; none but the first begins later than ``limit`` seconds.
    """
    end = time.perf_counter() + limit
    keys = [
        (server, form, *size) for size in LOADS for binary in (True, False) for server in servers for form in server.ports
        if (form != "json") == binary
    ]  # fmt: skip
    blocks = dict[Key, list[Block]]({key: [] for key in keys})
    requests = {
        (server.name, form, batch): wire(server.name, form, samples_of(bundle, batch))
        for server, form, batch, _ in keys
    }
    for turn in range(max(rounds)):
        if turn and time.perf_counter() > end:
            break
        for server, form, batch, connections in keys:
            if turn < rounds[not (form != "json" and batch == 1)]:
                request = requests[server.name, form, batch]
                block = load(server, form, request, connections=connections, seconds=seconds)
                blocks[server, form, batch, connections].append(block)
    return {key: median(found) for key, found in blocks.items()}


def overhead(load: Load, direct: Helper, server: Server, bundle: Bundle, *, seconds: float, rounds: int) -> Figures:
    """Milliseconds of one request on one connection, of the same call in a process of its own, and between them; in turn."""
    x, found = samples_of(bundle, 1), dict[str, list[float]]({})
    for _ in range(rounds):
        for who in ("", "user_"):
            request = wire("isoform", "binary", x, named=bool(who))
            block = load(server, "binary", request, connections=1, seconds=seconds, users=names(1) if who else ())
            direct.tell({"seconds": seconds, "user": bool(who), "batch": 1})
            call = direct.answer()["p50_us"] / 1e3
            values = {
                "http_ms_p50": block.p50_ms,
                "in_process_ms_p50": call,
                "http_overhead_ms_p50": block.p50_ms - call,
            }
            for name, value in values.items():
                found.setdefault(who + name, []).append(value)
    return {name: float(np.median(values)) for name, values in found.items()}


def ratios(blocks: Mapping[Key, Block]) -> dict[str, object]:
    """The best setting of each, one sample as bytes on 8 connections; ours over the better of the rivals, and over the floor."""
    best = dict[str, tuple[float, str]]()
    for (server, form, batch, connections), block in blocks.items():
        if form != "json" and (batch, connections) == (1, 8):
            candidate = block.rps, f"{server.setting}, {form}"
            best[server.name] = max(best.get(server.name, candidate), candidate)
    ours, rivals = best["isoform"][0], [best[name][0] for name in RIVALS if name in best]
    return {
        "ours_rps_over_best_rival": ours / max(rivals) if rivals else None,
        "ours_rps_over_flask_alone": ours / best[FLOOR][0] if FLOOR in best else None,
        "best_rps": {name: rps for name, (rps, _) in best.items()},
        "best_settings": {name: setting for name, (_, setting) in best.items()},
    }  # fmt: skip


def show(figures: Mapping[str, Any]) -> None:
    """One row per server, setting and form: one connection, then 8, then 8 with 16 samples each; then the figures with aims, and others."""
    memory = {(row["server"], row["setting"]): row["pss_mb"] for row in figures["memory"]}
    rows = dict[tuple[str, str, str], dict[tuple[int, int], dict[str, float]]]()
    for row in figures["rows"]:
        place = rows.setdefault((row["server"], row["setting"], row["form"]), {})
        place[row["batch"], row["connections"]] = row
    columns = [
        "server, setting, form", "p50 ms", "p99 ms", "8 conn. /s", "p50 ms", "p99 ms", "CPU ms", "of 16 /s", "PSS MB"
    ]  # fmt: skip
    table = [
        [
            ", ".join(key), *(f"{found[1, 1][name]:.2f}" for name in ("p50_ms", "p99_ms")), f"{found[1, 8]['rps']:.0f}",
            *(f"{found[1, 8][name]:.2f}" for name in ("p50_ms", "p99_ms", "cpu_ms")), f"{found[16, 8]['rps']:.0f}", f"{memory[key[:2]]:.0f}",
        ]
        for key, found in rows.items()
    ]  # fmt: skip
    title = f"serving one network, {figures['machine']}, {figures['cores']} cores, {figures['date']}"
    print_table(title, columns, table)
    names = [*AIMS, *(name for name in figures if isinstance(figures[name], float) and name not in AIMS)]
    print_table("", ["figure", "", "aim"], [[name, _shown(figures[name]), AIMS.get(name, "")] for name in names])
    for name, setting in figures["best_settings"].items():
        print(f"best setting of {name}: {setting}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
