"""Somebody's own networks: wrapped, compiled, learned by two users each, swapped; beside sessions of ONNX Runtime with constant weights.

    python benchmarks/own_models.py [--quick] [--json PATH] [--models resnet18,lstm] [--steps N] [--ways]

Each network is trained for a short time on real data, with nothing of isoform's. Then it is a bundle, and two users whom it has not seen
learn their signatures from ten samples per class, without torch. Rows: accuracy before and after, bytes and seconds; the largest
difference of answers from torch's, for the base and for users; time of a prediction with both users in turn over that of a session in which
the weights are constants, for 1 sample and 16, and what another user costs. With ``--ways`` also what each user learns without a backward pass: the
logits layer alone, and everything by forward passes. Their data: ``bench/own/subjects.py``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread, as the sessions have; torch reads it when it is imported

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench.harness import in_turn, machine, parser, print_table, write_json
from bench.own.subjects import SUBJECTS, Subject, subject
from torch import Tensor, nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.bodies.learning import BodyLearner
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.runtime.kinds.module.kind import RATES
from isoform.runtime.kinds.module.network import ModuleNetwork
from isoform.runtime.learn.personalize import personalize
from isoform.train.data.samples import Dataset, Split
from isoform.train.modules import Wrapped, wrap

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
PRIVATE = ("norm", "bias")
QUICK = ("transformer",)


def main() -> None:
    """Run, print, write."""
    arguments = _arguments()
    names = arguments.models.split(",") if arguments.models else (QUICK if arguments.quick else [*SUBJECTS])
    steps = arguments.steps or (100 if arguments.quick else 400)
    figures: dict[str, object] = {**machine(), "quick": arguments.quick, "steps": steps}
    learned, timed, ways = [], [], []
    for name in names:
        found = measured(
            subject(name, arguments.data), steps, seconds=2 if arguments.quick else 10, ways=arguments.ways
        )
        figures[name] = found
        ways += [
            (f"{name}, {user}", way, *(f"{entry[key]:.1f}" for key in ("after", "seconds")))
            for user, entry in found["users"].items()  # type: ignore[attr-defined]
            for way, entry in {**entry["ways"], "gradients": entry}.items()
        ]
        learned += [
            (f"{name}, {user}", *(f"{entry[key]:.1f}" for key in ("before", "after")), f"{entry['bytes']:,}", f"{entry['seconds']:.1f}", f"{entry['diff']:.1e}")
            for user, entry in found["users"].items()  # type: ignore[attr-defined]
        ]  # fmt: skip
        timed.append(
            (name, f"{found['parameters']:,}", f"{found['accuracy']:.1f}", f"{found['wrap_diff']:.1e}", f"{found['torch_diff']:.1e}",
             f"{found['over_constant_1']:.2f}", f"{found['over_constant_16']:.2f}", f"{found['swap_us']:.0f}")
        )  # fmt: skip
        print(f"{name} is done", file=sys.stderr)
    print_table(
        "users, 10 samples per class: accuracy in %", ("network, user", "before", "after", "bytes", "s", "from torch"), learned
    )  # fmt: skip
    if arguments.ways:
        print_table("without a backward pass, and with one: accuracy in %", ("network, user", "by", "after", "s"), ways)
    print_table(
        "networks: accuracy in %, differences from torch, time over a session with constant weights, another user",
        ("network", "parameters", "accuracy", "wrapped", "compiled", "1 sample", "16", "swap µs"), timed,
    )  # fmt: skip
    write_json(arguments.json, figures)


def measured(given: Subject, steps: int, *, seconds: float, ways: bool = False) -> dict[str, object]:
    """Train, wrap, compile, learn, and time one network."""
    model, x = given.model, torch.from_numpy(given.test.images)
    _fit(model, given, steps * given.rounds)
    wrapped = wrap(model, torch.from_numpy(given.train.images[:2]), classes=given.classes, private=PRIVATE)
    with torch.no_grad():
        expected = model(x[:256])
        wrap_diff = float((wrapped(x[:256]) - expected).abs().max())
    accuracy = 100 * float((_answers(model, x).argmax(1) == given.test.labels).mean())
    with tempfile.TemporaryDirectory(prefix="isoform-own-") as folder:
        path = Path(folder) / "bundle"
        wrapped.bundle().write(path)
        compile_bundle(path, datasets={"base": Dataset(train=given.train, test=given.test, classes=given.classes)})
        with Runtime.open(path, engine="onnx") as runtime:
            base, users, entries = runtime.signature("base"), [], {}
            torch_diff = float(np.abs(runtime.predict(given.test.images[:256], base) - expected.numpy()).max())
            for user, (learn, test) in given.users.items():
                began = time.perf_counter()
                signature = runtime.fit(learn.images, learn.labels, start=base).signature
                took = time.perf_counter() - began
                others = _without_gradients(runtime, base, learn, test) if ways else {}
                users.append(signature)
                right = [
                    100 * float((runtime.predict(test.images, some).argmax(1) == test.labels).mean())
                    for some in (base, signature)
                ]
                entries[user] = {
                    "before": right[0], "after": right[1], "bytes": len(signature.encode()), "seconds": took, "ways": others,
                    "diff": _difference(wrapped, runtime, signature, test.images[:256]),
                }  # fmt: skip
            constant = open_session(
                runtime.bundle.require_compiled().read("fast/base.onnx"), session_options(1), what="fast"
            )
            return {
                "parameters": sum(parameter.numel() for parameter in model.parameters()), "accuracy": accuracy, "wrap_diff": wrap_diff,
                "torch_diff": torch_diff, "users": entries, **_times(runtime, users, constant, given.test.images, seconds=seconds),
            }  # fmt: skip


def _without_gradients(runtime: Runtime, base: Signature, learn: Split, test: Split) -> dict[str, dict[str, float]]:
    """Learn the logits layer alone, and everything by forward passes: accuracy in %, and seconds."""
    bundle, found = runtime.bundle, {}
    network = bundle.network
    assert isinstance(network, ModuleNetwork)
    graphs = {name: file for name, file in bundle.require_compiled().graphs.items() if name != "backward"}
    learner = BodyLearner(bundle, network.spec.body, network, graphs, rates=RATES, threads=1)
    for way, parts in (("logits layer alone", ("head",)), ("forward passes", None)):
        began = time.perf_counter()
        signature = personalize(learner, learn.images, learn.labels, starts=[base], parts=parts).signature
        took = time.perf_counter() - began
        right = (runtime.predict(test.images, signature).argmax(1) == test.labels).mean()
        found[way] = {"after": 100 * float(right), "seconds": took}
    return found


def _fit(model: nn.Module, given: Subject, steps: int) -> None:
    """Train as anybody would."""
    images, labels = torch.from_numpy(given.train.images), torch.from_numpy(given.train.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(steps):
        rows = torch.randint(len(labels), (32,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def _answers(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model(some).numpy() for some in x.split(256)])


def _difference(wrapped: Wrapped, runtime: Runtime, signature: Signature, x: np.ndarray) -> float:
    """Return the largest difference of a user's answers from those of the module in torch with the user's numbers."""
    parts = {name: torch.from_numpy(np.array(value)) for name, value in runtime.bundle.resolve(signature).parts.items()}
    with torch.no_grad():
        if "private" in parts:
            wrapped.private[0] = parts["private"]
        if "bn.affine" in parts:
            wrapped.affine[0], wrapped.statistics[0] = parts["bn.affine"], parts["bn.statistics"]
        next(iter(wrapped.heads)).copy_(parts["logits.weight"])
        next(iter(wrapped.biases)).copy_(parts["logits.bias"])
        expected = wrapped(torch.from_numpy(x)).numpy()
    return float(np.abs(runtime.predict(x, signature) - expected).max())


def _times(
    runtime: Runtime, users: list[Signature], constant: object, x: np.ndarray, *, seconds: float
) -> dict[str, float]:
    found: dict[str, float] = {}
    name = runtime.input_of("base").name
    for count in (1, 16):
        some, turn = np.ascontiguousarray(x[:count]), [0]

        def another(some: np.ndarray = some, turn: list[int] = turn) -> None:
            turn[0] += 1
            runtime.predict(some, users[turn[0] % 2])

        def one(some: np.ndarray = some) -> None:
            runtime.predict(some, users[0])

        def fixed(some: np.ndarray = some) -> None:
            constant.run(None, {name: some})  # type: ignore[attr-defined]

        times = in_turn({"another": another, "one": one, "fixed": fixed}, seconds=seconds)
        found[f"over_constant_{count}"] = times["another"] / times["fixed"]
        if count == 1:
            found["swap_us"] = 1e6 * (times["another"] - times["one"])
    return found


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument(
        "--models", help=f"some of {', '.join(SUBJECTS)}, with commas (default: all; with --quick {', '.join(QUICK)})"
    )
    made.add_argument(
        "--steps",
        type=int,
        help="batches of 32 that each network is trained for (default: 400; small ones several times as many)",
    )
    made.add_argument("--ways", action="store_true", help="also learn without a backward pass")
    made.add_argument("--data", type=Path, default=DATA, help="folder of the data sets, with motion-sense")
    return made.parse_args()


if __name__ == "__main__":
    main()
