"""Swapping users: the runtime beside every other way to give a user their own weights, in one run, on one thread.

    python benchmarks/swap.py [--quick] [--json PATH] [--plot PATH] [--users N] [--effort X]

Networks of random weights: small (C = 24, L = 16, 32×32, stem 4) and large (C = 40, L = 16, 224×224, stem 16), K = 4.
Times are medians, timed in turn. What runs:

    lifted        isoform: the device plan with a user's weights bound, through ``PlanEngine.logits``
    exported      the user's network written in torch, from ``torch.onnx.export``, in a session of its own
    constant      a session of our graph whose weights are constants: a new session for every user
    mixture       mixing in the graph at every run: a user is L·K numbers in the feed
    inputs        the portable graph with its weights as plain inputs
    adapter       the mixture graph with an ONNX Runtime adapter file per user

What a swap is, until ready to run:

    warm swap     isoform, a hot user who was here within the last 64 predictions, whose weights have a binding of their own
    far swap      isoform, a hot user who was not: the weights are copied to where a binding is ready
    cold swap     isoform, a user who is not in memory, from a signature file's bytes: check, resolve, fold, copy or bind
    rebuild       a session from the bytes of a user's own ONNX file
    preoptimised  the same, the file being optimised for this machine already
    adapter load  ONNX Runtime's adapter file of L·K numbers: no checks, and nothing folded

Last come graphs that nobody made for us, as torch exports them (``bench/swapping/any_graph.py``): a run of one sample over the plan, over one of a
session with constant weights, and which of the two ``auto`` chooses (``isoform.runtime.engines.onnx.plans.choice``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench.harness import Figures, in_turn, machine, parser, print_table, write_json
from bench.networks import SPECS, complete_file, make_bundle
from bench.people import users
from bench.swapping import rivals
from bench.swapping.any_graph import GRAPHS, exported, subject
from bench.swapping.plot import plot_swaps

from isoform.runtime import Signature
from isoform.runtime.engines.onnx.bindings import NEAR
from isoform.runtime.engines.onnx.plan_engine import PlanEngine
from isoform.runtime.engines.onnx.plans.builder import build_plan
from isoform.runtime.engines.onnx.plans.choice import PAYS
from isoform.runtime.engines.onnx.plans.disk import cached_plan
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kinds.mixture.discrete import xi_of
from isoform.runtime.predictor import Predictor


def main() -> None:
    """Measure, print, write."""
    arguments, started = _arguments(), time.perf_counter()
    figures: dict[str, object] = {**machine(), "quick": arguments.quick, "users": arguments.users}
    with tempfile.TemporaryDirectory(prefix="isoform-swap-") as folder:
        for name, spec in ((name, SPECS[name]) for name in arguments.networks):
            bundle = make_bundle(spec, Path(folder) / name)
            for step, measured in measure(bundle, name, arguments):
                print(f"{time.perf_counter() - started:6.1f} s  {name}: {step}", file=sys.stderr)
                figures.update({f"{name}.{key}": value for key, value in measured.items()})
    for name in GRAPHS:
        figures.update({f"anygraph.{name}.{key}": value for key, value in any_graph(name).items()})
    print(f"{time.perf_counter() - started:6.1f} s  graphs of others", file=sys.stderr)
    title = (
        f"swapping users, one thread, {figures['machine']}, ONNX Runtime {figures['onnxruntime']}, {figures['date']}"
    )
    rows = {key.split(".", 1)[1]: None for key in figures if key.split(".")[0] in SPECS}
    print_table(
        title,
        ["figure", *arguments.networks],
        [[key, *(_shown(figures.get(f"{name}.{key}")) for name in arguments.networks)] for key in rows],
    )
    chosen = {name: "plan" if figures[f"anygraph.{name}.plan_chosen"] else "sessions" for name in GRAPHS}
    print_table(
        "graphs of others, as torch exports them: one sample over the plan, over a session with constant weights",
        ["graph", "lifted over constant", "chosen"],
        [[name, _shown(figures[f"anygraph.{name}.lifted_over_constant"]), chosen[name]] for name in GRAPHS],
    )
    write_json(arguments.json, figures)
    if arguments.plot:
        plot_swaps(figures, arguments.plot)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--plot", type=Path, help="where to draw the figures, such as swap.svg")
    arguments.add_argument(
        "--users",
        type=int,
        help="how many users are in memory at once; 10,000 take 5 GB (default: 10000; --quick: 1000)",
    )
    arguments.add_argument(
        "--effort", type=float, help="how long is timed, in fifths of a full run (default: 5; --quick: 0.2)"
    )
    arguments.add_argument(
        "--networks", nargs="+", choices=[*SPECS], default=[*SPECS], help="(default: both; --plot needs both)"
    )
    found = arguments.parse_args()
    found.users = found.users or (1_000 if found.quick else 10_000)
    return found


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}"


def measure(bundle: Bundle, name: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """All figures of one network, step by step."""
    effort = arguments.effort or (0.2 if arguments.quick else 5.0)
    engine = plan_engine(bundle, 64 << 20)
    for batch in (1, 16):
        yield f"batch {batch}", running(bundle, engine, batch, seconds=5 * effort)
    yield "mixed users", mixed(bundle, engine, seconds=2 * effort)
    yield "swaps", swaps(bundle, seconds=6 * effort)
    yield "start", starts(bundle)
    yield "equality", equality(bundle, engine, samples=8 if arguments.quick else 100)
    if name == "small":
        for kind in ("bytes", "signatures"):
            found = child("resident", bundle, kind, arguments.users)
            yield f"cold users as {kind}", {f"cold_{kind}_mb.{count}": value for count, value in found.items()}
        for kind in ("mixture", "discrete"):
            yield f"hot users, {kind}", hot_users(bundle, kind, arguments.users, seconds=4 * effort)


def plan_engine(bundle: Bundle, cache_bytes: int) -> PlanEngine:
    """The engine that ``Runtime`` has on this machine."""
    return PlanEngine(bundle, threads=1, cache_bytes=cache_bytes)


def running(bundle: Bundle, engine: PlanEngine, batch: int, *, seconds: float) -> Figures:
    """Milliseconds of one run for a user whose weights are ready, and ratios to constant weights."""
    signature = Signature.decode(users(bundle, 1, "mixture")[0])
    xi = xi_of(signature.parts).astype(np.float32)
    x = np.random.default_rng(batch).uniform(0, 1, (batch, *bundle.spec.input_shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "constant": rivals.constant(bundle, signature),
            "exported": rivals.exported(bundle, signature),
            "lifted": lambda x: engine.logits(x, signature),
            "mixture": rivals.mixture_in_graph(bundle, bundle.base("base"), xi),
            "inputs": rivals.plain_inputs(bundle, signature),
            "adapter": rivals.adapter(bundle, bundle.base("base"), xi, Path(folder))[0],
        }
        expected = runs["constant"](x)
        for name, run in runs.items():
            np.testing.assert_allclose(run(x), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(), err_msg=name)
        burst = {"constant": 10, "exported": 10, "lifted": 10, "mixture": 4, "inputs": 4, "adapter": 4}
        times = in_turn({name: lambda run=run: run(x) for name, run in runs.items()}, seconds=seconds, burst=burst)
    ratios = {f"{name}_over_constant": value / times["constant"] for name, value in times.items() if name != "constant"}
    ratios["lifted_over_exported"] = times["lifted"] / times["exported"]
    figures = {**{f"{name}_ms": 1e3 * value for name, value in times.items()}, **ratios}
    return {f"b{batch}.{name}": value for name, value in figures.items()}


def mixed(bundle: Bundle, engine: PlanEngine, *, seconds: float) -> Figures:
    """Sixteen samples of sixteen users in one call, beside sixteen of one user; all of them hot."""
    signatures = [Signature.decode(data) for data in users(bundle, 16, "mixture")]
    x = np.random.default_rng(0).uniform(0, 1, (16, *bundle.spec.input_shape)).astype(np.float32)
    predictor = Predictor(bundle, engine)
    runs = {
        "single": lambda: predictor.predict(x, signatures[0]),
        "mixed": lambda: predictor.predict(x, signatures),
    }
    times = in_turn(runs, seconds=seconds)
    return {
        "mixed16_ms": 1e3 * times["mixed"],
        "mixed16_over_single16_throughput": times["single"] / times["mixed"],
    }


def any_graph(name: str) -> Figures:
    """How a run over the plan of one of ``bench/swapping/any_graph.py`` compares with constant weights, and whether the plan would be chosen."""
    made, _ = subject(name, exported(name))
    plan = build_plan(made)
    return {"lifted_over_constant": plan.over_session, "plan_chosen": float(plan.over_session <= PAYS)}


def swaps(bundle: Bundle, *, seconds: float) -> Figures:
    """Microseconds of every kind of swap."""
    base, hot = bundle.base("base"), plan_engine(bundle, 1 << 40)
    signatures = [Signature.decode(file) for file in users(bundle, 2 * NEAR, "mixture")]
    warm, far = itertools.cycle(signatures[:32]), itertools.cycle(signatures)
    turns = {kind: itertools.cycle(users(bundle, 64, kind)) for kind in ("mixture", "discrete", "bn")}
    size = 4 * len(
        cached_plan(
            subject_of(bundle.require_compiled().graphs["portable"], bundle.network.graph("portable"))
        ).layout.gather
    )
    limits = {"mixture": 8 * size, "bn": 8 * size, "discrete": 1 << 19}  # too little for 64 users
    cold = {kind: plan_engine(bundle, limit) for kind, limit in limits.items()}

    def swap_in(engine: PlanEngine, signature: Signature) -> None:
        with engine.bound(signature):
            pass

    runs = {f"cold_{kind}": lambda e=cold[kind], t=turns[kind]: swap_in(e, Signature.decode(next(t))) for kind in turns}
    runs["far"] = lambda: swap_in(hot, next(far))
    with tempfile.TemporaryDirectory() as folder:
        complete, path = complete_file(bundle, signatures[0]), Path(folder) / "optimised.onnx"
        options, disabled = session_options(1), session_options(1)
        options.optimized_model_filepath = str(path)
        open_session(complete, options, what="a user's file")
        disabled.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        optimised = path.read_bytes()
        runs["adapter"] = rivals.adapter(bundle, base, xi_of(signatures[0].parts).astype(np.float32), Path(folder))[1]
        burst = dict.fromkeys(runs, 40)
        runs["rebuild"] = lambda: open_session(complete, session_options(1), what="a user's file")
        runs["preoptimised"] = lambda: open_session(optimised, disabled, what="a user's file")
        for signature in signatures:
            swap_in(hot, signature)
        found = in_turn(runs, seconds=seconds, burst={**burst, "rebuild": 3, "preoptimised": 3})
    found.update(in_turn({"warm": lambda: swap_in(hot, next(warm))}, seconds=seconds / 10, burst=40))
    for kind, engine in cold.items():
        if engine.stats()["hits"] > 0:
            raise RuntimeError(f"the users of the cold swap ({kind}) were not cold")
    return {
        "warm_swap_us": 1e6 * found["warm"], "far_swap_us": 1e6 * found["far"], "cold_swap_us": 1e6 * found["cold_mixture"],
        "discrete_cold_swap_us": 1e6 * found["cold_discrete"], "bn_cold_swap_us": 1e6 * found["cold_bn"],
        "adapter_load_us": 1e6 * found["adapter"],
        "rebuild_us": 1e6 * found["rebuild"], "preoptimised_us": 1e6 * found["preoptimised"],
        "rebuild_over_cold_swap": found["rebuild"] / found["cold_mixture"],
        "preoptimised_over_cold_swap": found["preoptimised"] / found["cold_mixture"],
        "mixture_signature_bytes": float(len(next(turns["mixture"]))), "bn_signature_bytes": float(len(next(turns["bn"]))),
        "complete_file_bytes": float(len(complete_file(bundle, base))),
    }  # fmt: skip


def starts(bundle: Bundle) -> Figures:
    """Building a plan, and starting a process whose plan is on the disk."""
    portable = bundle.require_compiled().graphs["portable"]
    built = in_turn({"plan": lambda: build_plan(subject_of(portable, bundle.network))}, seconds=0.1, burst=2)["plan"]
    runs = [child("start", bundle) for _ in range(4)][1:]  # the first one compiles Python's files
    return {"plan_build_ms": 1e3 * built, "warm_start_ms": float(np.median([run["start_ms"] for run in runs]))}


def equality(bundle: Bundle, engine: PlanEngine, *, samples: int) -> Figures:
    """How far the lifted plan is from a session of constants, over 50 users with so many random samples each."""
    rng, largest, equal, count = np.random.default_rng(1), 0.0, 0, 0
    kinds = [
        file for kind, n in (("mixture", 20), ("discrete", 15), ("bn", 15)) for file in users(bundle, n, kind, seed=2)
    ]
    for file in kinds:
        signature = Signature.decode(file)
        constant = rivals.constant(bundle, signature)
        x = rng.uniform(0, 1, (samples, *bundle.spec.input_shape)).astype(np.float32)
        for part in (x[:1], x[1:4], x[4:]):
            expected, found = constant(part), engine.logits(part, signature)
            largest = max(largest, float(np.abs(found - expected).max() / np.abs(expected).max()))
            equal += int((found == expected).all(axis=1).sum())
            count += len(part)
    return {
        "compared_samples": count, "largest_relative_difference": largest, "bit_equal_share": equal / count,
    }  # fmt: skip


def hot_users(bundle: Bundle, kind: str, count: int, *, seconds: float) -> Figures:
    """Megabytes that hot users add; predictions per second with a random user each, over those of one and the same user."""
    found = child("hot", bundle, kind, count, seconds)
    single, prefix = found["single"], "" if kind == "mixture" else "discrete_"
    return {
        **{f"hot_{kind}_mb.{count}": value for count, value in found.items() if count.isdigit()},
        f"{prefix}single_user_per_second": 1 / single,
        f"{prefix}random_users_over_single_user_throughput": single / found["random"],
        f"{prefix}cold_users_over_single_user_throughput": single / found["cold"],
    }  # fmt: skip


def child(what: str, bundle: Bundle, *words: object) -> dict[str, float]:
    """A measurement in a process of its own, which finds Python's files compiled, as those of an installed package are."""
    command = [
        sys.executable,
        str(Path(__file__).parent / "bench" / "swapping" / "child.py"),
        what,
        str(bundle.path),
        *map(str, words),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bundle.path.parent / "pycache")
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    result: dict[str, float] = json.loads(printed)
    return result


if __name__ == "__main__":
    main()
