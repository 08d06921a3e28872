"""Where a prediction's time goes: by step, and by operator of the graph, beside the network that torch exports.

    python benchmarks/predict.py [--bundle PATH] [--batch 1] [--quick] [--json PATH]

Steps are timed without ONNX Runtime's profiler, operators with it, which adds about 5 µs to each node: compare shares, not sums.

    predict       ``Runtime.predict``: check, swap and run, and a look whether the logits are finite
    check         shape, dtype and finiteness of the samples (``Runtime.checked``)
    swap          a binding with the weights of a user who was here just before (``PlanEngine.bound``)
    swap, far     of one in memory who was not: the weights are copied to where a binding is ready
    swap, cold    of one from the bytes of a signature file: decode, check, resolve, fold, bind
    run           ONNX Runtime over the device plan, inputs bound
    exported      ONNX Runtime over torch's own export of this user's network, inputs bound

Each step is timed alone, and they do not add up to ``predict``: after a run Python finds the processor's caches full of the network, and
takes about twice as long. The users are the bundle's first task's, each with a mixture of their own; BN and the logits layer are the task's.
The profiled graph has every weight as an input; for these users the engine runs one in which BN is constant.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from bench.harness import Figures, in_turn, machine, parser, print_table, write_json
from bench.people import users as mixtures
from bench.swapping import rivals
from bench.swapping.as_torch import as_exported, as_torch

from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.bindings import NEAR
from isoform.runtime.engines.onnx.plan_engine import PlanEngine
from isoform.runtime.engines.onnx.plans.disk import cached_plan
from isoform.runtime.engines.onnx.plans.gates import for_batch
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.engines.onnx.session import open_session, ort, session_options
from isoform.runtime.formats.signature import Signature
from isoform.runtime.kind import HEAD

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    seconds, runs = (2.0, 50) if arguments.quick else (10.0, 400)
    with Runtime.open(arguments.bundle, threads=1) as runtime:
        people = mixtures(runtime.bundle, 2 * NEAR, "mixture")
        signature = Signature.decode(people[0])
        shape = runtime.bundle.spec.input_shape
        x = np.random.default_rng(0).uniform(0, 1, (arguments.batch, *shape)).astype(np.float32)
        steps = _steps(runtime, people, x, seconds=seconds)
        nodes = {
            "isoform": _operators(*_lifted(runtime, signature, x), runs=runs),
            "exported": _operators(_exported(runtime, signature), {"image": x}, runs=runs),
        }
    title = f"{arguments.bundle.name}, batch {arguments.batch}, one thread, {machine()['machine']}, {machine()['date']}"
    print_table(title, ["step", "µs"], [[name, f"{value:.1f}"] for name, value in steps.items()])
    print_table(
        "operators, with the profiler: µs per run, and nodes",
        ["operator", *nodes],
        [[name, *(_cell(found.get(name)) for found in nodes.values())] for name in sorted({*nodes["isoform"], *nodes["exported"]})],
    )  # fmt: skip
    operators = {
        f"{who}.{name}_us": value[0] for who, found in nodes.items() for name, value in found.items()
    }  # fmt: skip
    write_json(arguments.json, {**machine(), **{f"{name}_us": value for name, value in steps.items()}, **operators})


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--bundle", type=Path, default=ROOT / "docs" / "examples" / "bundle",
        help="a compiled bundle of kind mixture (default: the one in docs/examples)",
    )  # fmt: skip
    arguments.add_argument("--batch", type=int, default=1, help="samples per prediction (default: 1)")
    return arguments.parse_args()


def _steps(runtime: Runtime, people: list[bytes], x: Array, *, seconds: float) -> Figures:
    """Median microseconds of each step, timed in turn."""
    engine = PlanEngine(runtime.bundle, threads=1, cache_bytes=64 << 20)
    # room for one: every other user is cold
    small = PlanEngine(runtime.bundle, threads=1, cache_bytes=0)
    signatures = [Signature.decode(data) for data in people]
    first = signatures[0]
    exported = rivals.exported(runtime.bundle, first)
    far, cold = itertools.cycle(signatures[1:]), itertools.cycle(people)

    def swap(engine: PlanEngine, signature: Signature) -> None:
        with engine.bound(signature):
            pass

    def run() -> None:
        with engine.bound(first) as binding:
            binding.run(x)

    ways = {
        "predict": lambda: runtime.predict(x, first),
        "check": lambda: runtime.checked(x, first.task),
        "swap": lambda: swap(engine, first),
        "swap, far": lambda: swap(engine, next(far)),
        "swap, cold": lambda: swap(small, Signature.decode(next(cold))),
        "swap and run": run, "exported": lambda: exported(x),
    }  # fmt: skip
    times = {name: 1e6 * value for name, value in in_turn(ways, seconds=seconds, burst=10).items()}
    times["run"] = times.pop("swap and run") - times["swap"]
    return {name: times[name] for name in ("predict", "check", "swap", "swap, far", "swap, cold", "run", "exported")}


def _lifted(runtime: Runtime, signature: Signature, x: Array) -> tuple[bytes, dict[str, Array]]:
    """The graph that the engine runs for this batch size, and all of its inputs."""
    resolved = runtime.bundle.resolve(signature)
    name, graph = runtime.bundle.graph(resolved)
    plan = cached_plan(subject_of(runtime.bundle.require_compiled().graphs[name], graph))
    vector = plan.layout.lay_out(graph.fold(resolved.parts))
    feeds = {name: vector[start:][: int(np.prod(shape))].reshape(shape) for name, shape, start in plan.layout.weights}
    rewritten = for_batch(plan.graph, len(x)) if len(x) in plan.batches else None
    return rewritten or plan.graph, {
        **feeds, **{name: resolved.parts[name] for name in HEAD}, graph.input.name: x
    }  # fmt: skip


def _exported(runtime: Runtime, signature: Signature) -> bytes:
    bundle = runtime.bundle
    network = as_torch(bundle.spec, bundle.tensors, bundle.resolve(signature).parts)
    return as_exported(network, bundle.spec.input_shape)


def _operators(graph: bytes, feeds: dict[str, Array], *, runs: int) -> dict[str, tuple[float, int]]:
    """Operator → microseconds per run, and its number of nodes; by ONNX Runtime's profiler."""
    options = session_options(1)
    if len(feeds) > 1:  # a plan's graph is optimised already
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="isoform-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "run")
        session = open_session(graph, options, what="the profiled graph")
        for _ in range(runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    times = defaultdict[tuple[str, str], list[float]](list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["args"]["node_index"]].append(event["dur"])
    found = dict[str, tuple[float, int]]()
    for (operator, _), durations in times.items():  # the median of each node: a mean has every interruption in it
        total, nodes = found.get(operator, (0.0, 0))
        found[operator] = total + float(np.median(durations)), nodes + 1
    return found


def _cell(found: tuple[float, int] | None) -> str:
    return "" if found is None else f"{found[0]:.1f} · {found[1]}"


if __name__ == "__main__":
    main()
