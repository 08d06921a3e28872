"""What a buyer would ask for first: one network for all domains, a network per domain, personal logits layers; beside signatures.

    python benchmarks/baselines.py [--quick] [--json PATH] [--seeds N] [--steps N] [--worlds digits photographs]

Digits (the quickstart's) and photographs (ten classes of CIFAR-100), both in the domains plain, inverted, blurred and edges; all networks
come from recipes, which are printed, and are compiled and verified (bench/baselines/worlds.py). The tests are the same for all.

trained domains   mean over the four of the accuracy on test samples: one pooled network, a network per domain, a signature per domain
new domains       slanted, thick and low_contrast, ten labelled samples of each class: the pooled network as it is, a personal logits layer on
                  it, a personal signature on it, the best of the four base signatures as it is, a personal signature on the shared templates
bytes             of what a domain or a new user adds; for networks, of the network in float32
signature_minus_pooled_points, signature_minus_own_points   trained domains, ours less theirs; mean over seeds
personal_minus_head_points                                  new domains, our personal signature less the logits layer on the pooled network
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread each; numpy reads it when it is imported

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench.baselines.worlds import DOMAINS, World, digits, ten_photographs
from bench.harness import machine, parser, print_table, write_json
from bench.learning.domains import drawn
from bench.learning.held_out import progress
from bench.product import train_and_compile

from isoform.runtime import Runtime
from isoform.runtime.arrays import Array
from isoform.train.data.samples import Split

ROOT = Path(__file__).resolve().parent.parent
POOLED, OWN, SHARED = "one network for all domains", "a network per domain", "shared templates, a signature per domain"
AS_IT_IS, BASE = "one network for all domains, as it is", "best base signature, as it is"
HEAD, ON_POOLED, PERSONAL = "personal logits layer on the one network", "personal signature on the one network", "personal signature"  # fmt: skip
TRAINED, NEW = (POOLED, OWN, SHARED), (AS_IT_IS, HEAD, ON_POOLED, BASE, PERSONAL)

WORLDS = ("digits", "photographs")

Scores = dict[str, dict[str, float]]
"""Row → domain → accuracy in percent."""


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    quick, started = arguments.quick, time.perf_counter()
    seeds, steps = (1, 20) if quick else (arguments.seeds, arguments.steps)
    figures: dict[str, object] = {**machine(), "quick": quick, "seeds": seeds, "steps": steps}
    with tempfile.TemporaryDirectory(prefix="isoform-baselines-") as folder:
        for name in arguments.worlds or (["digits"] if quick else WORLDS):
            place = Path(folder) / name
            if name == "digits":
                world = digits(place)
            elif (arguments.data / "cifar-100").is_dir():
                world = ten_photographs(arguments.data, place)
            else:
                print(f"photographs are left out: there is no {arguments.data / 'cifar-100'}", file=sys.stderr)
                continue
            found, sizes = [], dict[str, int]()
            for seed in range(seeds):
                found.append(
                    _measured(world, seed, steps, sizes, layers=2 if quick else 8, fit_steps=40 if quick else 300)
                )
                progress(f"{name}, seed {seed}", started)
                figures |= _summary(name, found, sizes)
                write_json(arguments.json, figures)  # the seeds that are done are not lost if the next is interrupted
            _print(
                name,
                found,
                sizes,
                f"{seeds} seed{'s' * (seeds > 1)}, {steps} steps, {figures['machine']}, {figures['date']}",
            )


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3, help="how many seeds (default: 3; --quick: 1)")
    arguments.add_argument(
        "--steps", type=int, default=700, help="training steps of every network (default: 700; --quick: 20)"
    )
    arguments.add_argument(
        "--worlds", nargs="+", choices=WORLDS, help="which data sets (default: both; --quick: digits)"
    )
    arguments.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder with cifar-100 in it"
    )
    return arguments.parse_args()


def _measured(world: World, seed: int, steps: int, sizes: dict[str, int], *, layers: int, fit_steps: int) -> Scores:
    """All rows for one seed; fills in the bytes."""
    recipes = world.recipes(steps=steps, seed=seed, layers=layers)
    paths = {name: world.folder / f"{name.replace(', ', '-')}-{seed}" for name in recipes}
    for name, recipe in recipes.items():
        train_and_compile(recipe, paths[name], data=world.folder)
    found: Scores = {row: {} for row in (*TRAINED, *NEW)}
    with Runtime.open(paths["shared"]) as shared, Runtime.open(paths["pooled"]) as pooled:
        one = pooled.signature("pooled")
        sizes[POOLED] = sizes[OWN] = (paths["pooled"] / "compiled" / "fast" / "pooled.onnx").stat().st_size
        sizes[SHARED] = max(len(shared.signature(domain).encode()) for domain in DOMAINS)
        for domain in DOMAINS:
            test = world.split(domain)[1]
            found[POOLED][domain] = _percent(pooled.predict(test.images, one), test)
            found[SHARED][domain] = _percent(shared.predict(test.images, shared.signature(domain)), test)
            with Runtime.open(paths[f"own, {domain}"]) as own:
                found[OWN][domain] = _percent(own.predict(test.images, own.signature(domain)), test)
        for domain in world.new:
            learning, test = world.split(domain)
            x, labels = drawn(learning, seed)
            found[AS_IT_IS][domain] = _percent(pooled.predict(test.images, one), test)
            outcomes = {
                HEAD: (pooled, pooled.fit(x, labels, one, parts=("head",), seed=seed, steps=fit_steps)),
                ON_POOLED: (pooled, pooled.fit(x, labels, one, seed=seed, steps=fit_steps)),
                PERSONAL: (shared, shared.fit(x, labels, seed=seed, steps=fit_steps)),
            }
            best = max(
                (shared.signature(d) for d in DOMAINS),
                key=lambda s: float((shared.predict(x, s).argmax(1) == labels).mean()),
            )
            found[BASE][domain] = _percent(shared.predict(test.images, best), test)
            for row, (runtime, outcome) in outcomes.items():
                found[row][domain] = _percent(runtime.predict(test.images, outcome.signature), test)
                if outcome.improved:
                    sizes[row] = max(sizes.get(row, 0), len(outcome.signature.encode()))
    return found


def _percent(logits: Array, test: Split) -> float:
    return 100 * float((logits.argmax(axis=1) == test.labels).mean())


def _means(found: list[Scores], row: str) -> list[float]:
    """Mean over domains, for each seed."""
    return [float(np.mean(list(scores[row].values()))) for scores in found]


def _summary(name: str, found: list[Scores], sizes: dict[str, int]) -> dict[str, object]:
    means = {row: float(np.mean(_means(found, row))) for row in (*TRAINED, *NEW)}
    return {
        f"{name}.signature_minus_pooled_points": round(means[SHARED] - means[POOLED], 3),
        f"{name}.signature_minus_own_points": round(means[SHARED] - means[OWN], 3),
        f"{name}.personal_minus_head_points": round(means[PERSONAL] - means[HEAD], 3),
        f"{name}.accuracy": {row: round(mean, 3) for row, mean in means.items()},
        f"{name}.bytes": sizes,
        f"{name}.by_seed": found,
    }


def _print(name: str, found: list[Scores], sizes: dict[str, int], setting: str) -> None:
    """Two tables: trained domains and new ones; mean ± standard deviation over seeds."""
    for what, rows in (("trained domains", TRAINED), ("new domains, ten samples per class", NEW)):
        domains = list(found[0][rows[0]])
        cells = []
        for row in rows:
            columns = [_means(found, row), *([scores[row][domain] for scores in found] for domain in domains)]
            spread = f" ± {np.std(columns[0], ddof=1):.1f}" if len(found) > 1 else ""
            cells.append(
                [
                    row,
                    f"{sizes[row]:,}" if row in sizes else "",
                    f"{np.mean(columns[0]):.1f}{spread}",
                    *(f"{np.mean(c):.1f}" for c in columns[1:]),
                ]
            )
        print_table(f"{name}, {what}: accuracy in %, {setting}", ["what", "bytes", "mean", *domains], cells)


if __name__ == "__main__":
    main()
