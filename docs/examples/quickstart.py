"""The whole chain on real digits: train → compile → swap → serve → personalize → adapt, in a few minutes on two cores.

    make quickstart                                   or, in an environment with 'isoform[server,train]':
    python docs/examples/quickstart.py -o quickstart

Trains four domains of scikit-learn's handwritten digits, compiles them, swaps their signatures on one machine, starts the
server, asks it over HTTP, stops it, fits signatures to three new users by ten samples of each digit, adapts to a stream of
unlabelled samples from each, draws figures, and prints one table of what happened and where the files are.
Other flags are passed on to ``isoform train``, such as ``--network.layers 2``.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from isoform.runtime import Bundle, Runtime, Signature
from isoform.runtime.commands.figures.style import heat_map, new_figure, on_colour, save_figure, styled
from isoform.train.data.domains import NEW_USERS
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset
from isoform.train.recipe import Recipe, TaskRecipe

ISOFORM = [sys.executable, "-m", "isoform.runtime.cli"]


def main() -> None:
    """Run every step; any failure ends with an error and an exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("quickstart"), help="folder for everything that is made"
    )
    parser.add_argument("--seed", default="0", help="the training run's seed")
    parser.add_argument(
        "--steps",
        help="training steps, fewer for a quick look, for users too (default: the recipe's)",
    )
    arguments, fields = parser.parse_known_args()
    output, bundle = arguments.output, arguments.output / "bundle"
    (output / "images").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []

    started = time.monotonic()
    overrides = ["--seed", arguments.seed] + (["--steps", arguments.steps] if arguments.steps else []) + fields
    trained = run("train", "digits", "-o", str(bundle), *overrides)
    rows.append(
        (
            "train",
            f"{percent(trained['test_accuracy'].values())} mean test accuracy, mean max ξ {trained['mean_max_xi']:.4f}",
            str(bundle),
        )
    )
    rows += [("", f"{task}: {100 * value:.2f} %", "") for task, value in trained["test_accuracy"].items()]

    compiled = run("compile", str(bundle), *(["--max-drop", "100"] if arguments.steps else []))
    top1 = compiled["mean_top1_percent"]
    rows.append(
        (
            "compile",
            f"top-1 {top1['before']:.2f} % before, {top1['after']:.2f} % after snapping, {top1['float16']:.2f} % in float16",
            str(bundle / "compiled"),
        )
    )
    report = json.loads((bundle / "compiled" / "report.json").read_text())
    first = report["tasks"]["plain"]
    gap = max(
        max(task["verified"][k] for k in ("torch_fast", "numpy_fast", "torch_small", "torch_portable"))
        for task in report["tasks"].values()
    )
    rows.append(
        (
            "",
            f"torch = numpy = ONNX Runtime within {gap:.0e} on {first['verified']['parity_samples']} real samples per domain",
            "report.json",
        )
    )
    size = first["size_bytes"]
    rows.append(
        (
            "",
            f"a domain: ξ {size['mixture_only']:,} B, everything private {size['signature']:,} B, its own network {size['fast']:,} B",
            "",
        )
    )

    datasets = test_data(bundle)
    with Runtime.open(bundle) as runtime:
        matrix, cold_ms, warm_ms = swap(runtime, datasets)
        rows.append(
            (
                "swap",
                f"own signature {np.diag(matrix).mean():.2f} %, another domain's {matrix[~np.eye(len(matrix), dtype=bool)].mean():.2f} %",
                "swap.png",
            )
        )
        rows.append(("", f"first use of a signature {cold_ms:.1f} ms, later predictions {warm_ms:.3f} ms", ""))
        images = write_images(output / "images", datasets)
        predicted = run("predict", str(bundle), str(images["plain"]), "--task", "plain")
        rows.append(
            (
                "predict",
                f"{images['plain'].name} is a {predicted['label']} ({predicted['top'][0]['probability']:.1%})",
                str(images["plain"]),
            )
        )
        asked, right = serve(bundle, runtime, datasets)
        rows.append(
            (
                "serve",
                f"{asked} predictions over HTTP, {right / asked:.1%} right, equal to the local ones, then stopped",
                "request.json",
            )
        )
        image = datasets["plain"].test.images[0]
        tensor = {"name": "image", "shape": [1, *image.shape], "datatype": "FP32", "data": image.ravel().tolist()}
        (output / "request.json").write_text(json.dumps({"inputs": [tensor]}))

    users = new_users(bundle, output / "users", limit=["--steps", arguments.steps] if arguments.steps else [])
    for user, (start, before, after, fitted) in users.items():
        rows.append(
            (
                "personalize" if user == NEW_USERS[0] else "",
                f"{user}: {before:.2f} % with the best base ({start}), {after:.2f} % by {fitted['size_bytes']:,} B, after {fitted['seconds']:.1f} s with "
                f"{fitted['samples']} samples",
                f"users/{user}.safetensors",
            )
        )

    for user, adapted in streams(bundle, output / "users").items():
        right = adapted["accuracy"]
        rows.append(
            (
                "adapt" if user == NEW_USERS[0] else "",
                f"{user}: {100 * right['before']:.2f} % with the base plain, {100 * right['during']:.2f} % along {adapted['samples']} unlabelled samples",
                f"users/{user}-stream.png",
            )
        )

    files = [word for user in users for word in ("--signature", str(output / "users" / f"{user}.safetensors"))]
    run_silent("figure", str(bundle), "-o", str(output / "users.png"), *files)
    run_silent("figure", str(bundle), "-o", str(output / "signatures.png"))
    draw(output, bundle, datasets, matrix)
    rows.append(("figures", "signatures.png, users.png, training.png, domains.png, swap.png", str(output)))
    print_table(rows, seconds=time.monotonic() - started)


def run(*words: str) -> dict:
    """Run the command line as a user would; its stdout is JSON."""
    print(f"\n$ isoform {' '.join(words)}", file=sys.stderr)
    result = subprocess.run([*ISOFORM, *words], stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.returncode)
    return json.loads(result.stdout)


def run_silent(*words: str) -> None:
    """Run the command line where it prints nothing."""
    print(f"\n$ isoform {' '.join(words)}", file=sys.stderr)
    if code := subprocess.run([*ISOFORM, *words], check=False).returncode:
        raise SystemExit(code)


def percent(values) -> str:
    """Mean of shares as a percentage."""
    return f"{100 * float(np.mean(list(values))):.2f} %"


def test_data(bundle: Path) -> dict[str, Dataset]:
    """The data of every domain, exactly as the bundle was trained on it."""
    recipe = Recipe.from_json(Bundle.load(bundle).training["recipe"])
    return {task: load_task(entry, recipe.data, root=None) for task, entry in recipe.tasks.items()}


def swap(runtime: Runtime, datasets: dict[str, Dataset]) -> tuple[np.ndarray, float, float]:
    """Accuracy of every signature (column) on every domain (row) in %, and the times of first and later use in ms."""
    signatures: dict[str, Signature] = {task: runtime.signature(task) for task in datasets}
    one = next(iter(datasets.values())).test.images[:1]
    cold, warm = [], []
    for signature in signatures.values():
        start = time.perf_counter()
        runtime.predict(one, signature)
        cold.append(time.perf_counter() - start)
    for turn in range(400):
        signature = list(signatures.values())[turn % len(signatures)]
        start = time.perf_counter()
        runtime.predict(one, signature)
        warm.append(time.perf_counter() - start)
    matrix = [
        [100 * (runtime.predict(d.test.images, s).argmax(1) == d.test.labels).mean() for s in signatures.values()]
        for d in datasets.values()
    ]
    return np.array(matrix), 1e3 * float(np.median(cold)), 1e3 * float(np.median(warm))


def write_images(folder: Path, datasets: dict[str, Dataset]) -> dict[str, Path]:
    """One test sample of each domain as a PNG."""
    paths = {}
    for task, dataset in datasets.items():
        paths[task] = folder / f"{task}-{dataset.classes[dataset.test.labels[0]]}.png"
        Image.fromarray(np.round(255 * dataset.test.images[0, 0]).astype(np.uint8)).save(paths[task])
    return paths


def serve(bundle: Path, runtime: Runtime, datasets: dict[str, Dataset], per_task: int = 50) -> tuple[int, int]:
    """Start the server, ask for predictions in every domain, compare with the local ones, stop it. Returns asked and right."""
    store = bundle.parent / "signatures.db"
    print(f"\n$ isoform serve {bundle} --port 0 --open --store {store}", file=sys.stderr)
    command = [*ISOFORM, "serve", str(bundle), "--port", "0", "--open", "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; its exit code is {process.wait(timeout=30)}")
        url = json.loads(line)["url"]
        right = 0
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
        for task, dataset in datasets.items():
            x, labels = dataset.test.images[:per_task], dataset.test.labels[:per_task]
            body = {
                "id": task,
                "inputs": [{"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}],
            }
            request = urllib.request.Request(
                f"{url}/v2/models/{task}/infer",
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
            with direct.open(request, timeout=60) as response:
                answer = json.load(response)
            logits = np.array(answer["outputs"][0]["data"], dtype=np.float32).reshape(answer["outputs"][0]["shape"])
            signature = runtime.signature(task)
            if answer["parameters"]["digest"] != signature.digest or not np.array_equal(
                logits, runtime.predict(x, signature)
            ):
                raise SystemExit(f"the server's answer for {task} is not the local one")
            right += int((logits.argmax(1) == labels).sum())
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    if code:
        raise SystemExit(f"the server ended with exit code {code}")
    return per_task * len(datasets), right


def new_users(
    bundle: Path, folder: Path, *, limit: list[str], shots: int = 10
) -> dict[str, tuple[str, float, float, dict]]:
    """Fit a signature to each new user, from PNG files, on the command line.

    Returns:
        User → the base that it began from, its test accuracy and the new signature's in percent, and what the command said.
    """
    recipe = Recipe.from_json(Bundle.load(bundle).training["recipe"])
    found = {}
    for user in NEW_USERS:
        dataset = load_task(TaskRecipe(data="digits", domain=user), recipe.data, root=None)
        for label, name in enumerate(dataset.classes):
            (folder / user / name).mkdir(parents=True, exist_ok=True)
            for number, row in enumerate(np.flatnonzero(dataset.train.labels == label)[:shots]):
                pixels = np.round(255 * dataset.train.images[row, 0]).astype(np.uint8)
                Image.fromarray(pixels).save(folder / user / name / f"{number}.png")
        file = folder / f"{user}.safetensors"
        fitted = run("personalize", str(bundle), "--data", str(folder / user), "-o", str(file), *limit)
        with Runtime.open(bundle) as runtime:
            mine, base = Signature.load(file), runtime.signature(fitted["task"])
            before, after = (
                100 * float((runtime.predict(dataset.test.images, signature).argmax(1) == dataset.test.labels).mean())
                for signature in (base, mine)
            )
        found[user] = fitted["task"], before, after, fitted
    return found


def streams(bundle: Path, folder: Path) -> dict[str, dict]:
    """Adapt to each new user's test samples as they come, 32 at a time; labels only count what was right."""
    recipe = Recipe.from_json(Bundle.load(bundle).training["recipe"])
    found = {}
    for user in NEW_USERS:
        test = load_task(TaskRecipe(data="digits", domain=user), recipe.data, root=None).test
        np.savez(folder / f"{user}.npz", x=test.images, labels=test.labels)
        name = str(folder / f"{user}-stream")
        words = ["--data", str(folder / f"{user}.npz"), "--task", "plain", "--batch", "32", "-o", f"{name}.safetensors"]
        found[user] = run("adapt", str(bundle), *words, "--history", f"{name}.json")
        run_silent("figure", f"{name}.json", "-o", f"{name}.png")
    return found


@styled
def draw(output: Path, bundle: Path, datasets: dict[str, Dataset], matrix: np.ndarray) -> None:
    """Figures: the training run, the domains, and what happens with another domain's signature."""
    history = Bundle.load(bundle).training["history"]
    figure = new_figure(8, 3)
    for axis, name, title in zip(
        figure.subplots(1, 3),
        ("loss", "accuracy", "mean_max_xi"),
        ("loss", "batch accuracy", "mean max ξ"),
        strict=True,
    ):
        axis.plot([entry["step"] for entry in history], [entry[name] for entry in history])
        axis.set(title=title, xlabel="step")
    save_figure(figure, output / "training.png")

    figure = new_figure(8, 0.9 * len(datasets))
    axes = figure.subplots(len(datasets), 10)
    for row, (task, dataset) in zip(axes, datasets.items(), strict=True):
        for axis, image in zip(row, dataset.test.images, strict=False):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(task, rotation=0, ha="right", va="center")
    save_figure(figure, output / "domains.png")

    figure = new_figure(5, 4)
    axis = figure.subplots()
    heat_map(axis, matrix, vmax=100)
    axis.set(
        xticks=range(len(datasets)),
        xticklabels=datasets,
        yticks=range(len(datasets)),
        yticklabels=datasets,
        xlabel="signature",
        ylabel="test samples of",
    )
    for (i, j), value in np.ndenumerate(matrix):
        axis.text(j, i, f"{value:.1f}", ha="center", va="center", color=on_colour(value / 100))
    axis.set_title("accuracy in %, one set of templates")
    save_figure(figure, output / "swap.png")


def print_table(rows: list[tuple[str, str, str]], *, seconds: float) -> None:
    """The closing table, on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 140)
    table = Table(title=f"isoform quickstart: {seconds:.0f} s", title_justify="left")
    for column in ("step", "what happened", "where"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
