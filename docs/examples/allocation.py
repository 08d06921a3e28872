"""Gumbel-Matrix on real digits: train → compile → swap → serve → a new user, in three minutes on two cores.

    python docs/examples/allocation.py -o allocation

Trains four domains of scikit-learn's handwritten digits on one modular network (the recipe ``digits-allocation``), compiles a graph per
mask, changes from domain to domain on one machine, asks a server over HTTP, learns a mask and a logits layer for someone with slanted
handwriting from ten samples of each digit, and draws which components the domains use. Prints one table.
Other flags are passed on to ``isoform train``, such as ``--steps 100``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime import Runtime
from isoform.train.data.load import load_task
from isoform.train.data.samples import Split
from isoform.train.recipe import Recipe, TaskRecipe

ISOFORM = [sys.executable, "-m", "isoform.runtime.cli"]
NEW_USER = "slanted"


def main() -> None:
    """Run every step; any failure ends with an error and an exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("allocation"), help="folder for everything that is made"
    )
    arguments, fields = parser.parse_known_args()
    output, bundle = arguments.output, arguments.output / "bundle"
    output.mkdir(parents=True, exist_ok=True)

    trained = isoform("train", "digits-allocation", "-o", str(bundle), *fields)
    accuracies = 100 * np.array([*trained["test_accuracy"].values()])
    rows = [
        (
            "train",
            f"{accuracies.mean():.2f} % mean test accuracy with {100 * trained['active_share']:.0f} % of the components",
        )
    ]
    rows += [("", f"{task}: {' '.join(mask)}") for task, mask in trained["allocation"].items()]

    isoform("compile", str(bundle))
    report = json.loads((bundle / "compiled/report.json").read_text())["tasks"]
    for task, entry in report.items():
        figures = (
            f"{entry['verified']['latency_fast_ms']:.3f} ms, {entry['pruned_over_full_latency']:.2f} of all components"
        )
        rows.append(
            ("compile" if task == next(iter(report)) else "", f"{task}: {entry['size_bytes']['fast']:,} B, {figures}")
        )

    with Runtime.open(bundle) as runtime:
        recipe = Recipe.from_json(runtime.bundle.training["recipe"])
        halves = {task: load_task(entry, recipe.data, root=None).test for task, entry in recipe.tasks.items()}
        rows.append(("swap", f"another domain each time costs {swap_us(runtime, halves):.1f} µs"))
        rows.append(("serve", serve(bundle, runtime, halves)))
        whole = load_task(TaskRecipe(data="digits", domain=NEW_USER), recipe.data, root=None)
        rows.append(("personalize", personalize(runtime, whole.train, whole.test, output / f"{NEW_USER}.safetensors")))
    isoform("figure", str(bundle), "--view", "tasks", "-o", str(output / "masks.png"))
    isoform("figure", str(bundle), "--view", "history", "-o", str(output / "history.png"))
    rows.append(("figure", f"{output / 'masks.png'}, {output / 'history.png'}"))
    print("\n" + "\n".join(f"{step:12} {what}" for step, what in rows))


def isoform(*words: str) -> dict[str, Any]:
    """Run a command of isoform's; returns the JSON that it prints, if any."""
    print(f"\n$ isoform {' '.join(words)}", file=sys.stderr)
    done = subprocess.run([*ISOFORM, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"'isoform {words[0]}' failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return found


def swap_us(runtime: Runtime, halves: dict[str, Split | None]) -> float:
    """Measure the median time of a prediction with the domains in turn less that of the same predictions one domain after the other, in µs."""
    signatures = {task: runtime.signature(task) for task in runtime.tasks}
    x = {task: half.images[:1] for task, half in halves.items() if half is not None}
    took: dict[str, list[float]] = {"turns": [], "blocks": []}
    orders = {"turns": [*signatures] * 200, "blocks": [task for task in signatures for _ in range(200)]}
    for name, order in [*orders.items()] * 3:
        for task in order:
            began = time.perf_counter()
            runtime.predict(x[task], signatures[task])
            took[name].append(time.perf_counter() - began)
    return 1e6 * float(np.median(took["turns"]) - np.median(took["blocks"]))


def serve(bundle: Path, runtime: Runtime, halves: dict[str, Split | None], count: int = 30) -> str:
    """Start the server, ask for predictions in every domain, compare them with the local ones, stop it."""
    store = bundle.parent / "signatures.db"
    command = [*ISOFORM, "serve", str(bundle), "--port", "0", "--open", "--store", str(store)]
    print(f"\n$ isoform serve {bundle} --port 0 --open --store {store}", file=sys.stderr)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; its exit code is {process.wait(timeout=30)}")
        url, right = json.loads(line)["url"], 0
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
        for task, half in halves.items():
            assert half is not None
            x, labels = half.images[:count], half.labels[:count]
            tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
            body = json.dumps({"inputs": [tensor]}).encode()
            request = urllib.request.Request(
                f"{url}/v2/models/{task}/infer", body, {"content-type": "application/json"}
            )
            answer = json.loads(direct.open(request, timeout=60).read())
            output = next(entry for entry in answer["outputs"] if entry["name"] == "logits")
            logits = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
            if np.abs(logits - runtime.predict(x, runtime.signature(task))).max() > 1e-4:
                raise SystemExit(f"the server's answers for {task} are not the local ones")
            right += int((logits.argmax(1) == labels).sum())
        asked = count * len(halves)
        return f"{asked} predictions over HTTP, {right / asked:.1%} right, equal to the local ones"
    finally:
        process.terminate()
        process.wait(timeout=60)


def personalize(runtime: Runtime, train: Split, test: Split | None, path: Path) -> str:
    """Learn a mask and a logits layer from ten samples of each digit, beside the best domain's; write the file."""
    assert test is not None
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(np.flatnonzero(train.labels == digit))[:10] for digit in range(10)])
    outcome = runtime.fit(train.images[rows], train.labels[rows])
    outcome.signature.save(path)

    def percent(signature: Any) -> float:
        return 100 * float((runtime.predict(test.images, signature).argmax(1) == test.labels).mean())

    mask = runtime.bundle.resolve(outcome.signature).parts["allocation"]
    known = any(np.array_equal(mask, runtime.signature(task).parts["allocation"]) for task in runtime.tasks)
    return (
        f"{NEW_USER}: {percent(outcome.start):.2f} % with the best domain's signature ({outcome.start.task}), {percent(outcome.signature):.2f} % "
        f"with {'its mask' if known else 'a mask of its own'} and {path.stat().st_size:,} B, after {outcome.seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
