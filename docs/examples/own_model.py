"""Your own PyTorch model, a variant of it per user: train → wrap → compile → personalize → swap → serve, in a minute on two cores.

    python docs/examples/own_model.py -o own_model

The model is an ordinary ``nn.Module`` that knows nothing of isoform, trained here on scikit-learn's handwritten digits. It becomes a bundle
in four lines. Two people whose handwriting it has not seen each get their own BN and logits layer from ten samples of each digit, learned
without torch. Prints one table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from isoform.compile.build import compile_bundle
from isoform.runtime import Runtime, Signature
from isoform.runtime.engines.onnx.session import open_session, session_options
from isoform.train.data.load import load_task
from isoform.train.data.samples import Dataset
from isoform.train.modules import wrap
from isoform.train.recipe import DataRecipe, TaskRecipe

USERS = {"ada": "slanted", "bob": "thick"}
"""User → how they write."""


class Model(nn.Module):
    """Somebody's network for images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 1, 8, 8) → logits (n, 10)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def main() -> None:
    """Run every step; any failure ends with an error and an exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("own_model"), help="folder for all that is made")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of training (default: 30)")
    arguments = parser.parse_args()
    bundle = arguments.output / "bundle"
    if bundle.exists():
        raise SystemExit(f"{bundle} exists; choose another folder with -o")
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the network is too small for two
    digits, model = domain("plain"), Model()
    fit(model, digits, arguments.epochs)
    rows = [
        (
            "train",
            f"{accuracy(model, digits):.2f} % test accuracy, {sum(p.numel() for p in model.parameters()):,} parameters",
        )
    ]

    # From here on it is isoform's: four lines.
    example = torch.from_numpy(digits.train.images[:2])
    wrapped = wrap(model.eval(), example, classes=digits.classes, private=["norm"])
    wrapped.bundle().write(bundle)
    report = compile_bundle(bundle, datasets={"base": digits})["tasks"]["base"]

    rows.append(("wrap", f"the exported graph differs from the model by {wrapped.gap:.1e} at most"))
    rows.append(
        ("compile", f"{report['verified']['latency_fast_ms']:.3f} ms a prediction, {report['size_bytes']['fast']:,} B")
    )
    with Runtime.open(bundle) as runtime:
        people = {}
        for user, style in USERS.items():
            people[user], line = personalized(runtime, domain(style), arguments.output / f"{user}.safetensors")
            rows.append(("personalize" if user == "ada" else "", f"{user}: {line}"))
        rows.append(("swap", swap(runtime, [*people.values()], digits)))
        rows.append(("serve", serve(bundle, runtime, digits)))
    print("\n".join(f"{step:12} {what}" for step, what in rows))


def domain(style: str) -> Dataset:
    """Load the digits, written in a style."""
    return load_task(TaskRecipe(data="digits", domain=style), DataRecipe(input_shape=(1, 8, 8)), root=None)


def fit(model: nn.Module, dataset: Dataset, epochs: int) -> None:
    """Train as anybody would."""
    images, labels = torch.from_numpy(dataset.train.images), torch.from_numpy(dataset.train.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()


def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """Return the test accuracy in percent."""
    assert dataset.test is not None
    model.eval()
    with torch.no_grad():
        found = model(torch.from_numpy(dataset.test.images)).argmax(1).numpy()
    return 100 * float((found == dataset.test.labels).mean())


def personalized(runtime: Runtime, dataset: Dataset, path: Path) -> tuple[Signature, str]:
    """Learn a user's signature from ten samples of each digit, and write the file; also returns what to print."""
    train, test, rng = dataset.train, dataset.test, np.random.default_rng(0)
    assert test is not None
    rows = np.concatenate([rng.permutation(np.flatnonzero(train.labels == digit))[:10] for digit in range(10)])
    outcome = runtime.fit(train.images[rows], train.labels[rows])
    outcome.signature.save(path)
    before, after = (
        100 * float((runtime.predict(test.images, signature).argmax(1) == test.labels).mean())
        for signature in (runtime.signature("base"), outcome.signature)
    )
    return (
        outcome.signature,
        f"{before:.2f} → {after:.2f} % with {path.stat().st_size:,} B of its own, after {outcome.seconds:.1f} s",
    )


def swap(runtime: Runtime, people: list[Signature], dataset: Dataset) -> str:
    """Measure predictions for two users in turn, for one of them alone, and by a session whose weights are constants, in µs."""
    assert dataset.test is not None
    x = dataset.test.images[:1]
    constant = open_session(runtime.bundle.require_compiled().read("fast/base.onnx"), session_options(1), what="fast")
    ways = {
        "turn": lambda number: runtime.predict(x, people[number % 2]), "one": lambda _: runtime.predict(x, people[0]),
        "constant": lambda _: constant.run(None, {"image": x}),
    }  # fmt: skip
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(3000):
        for name, way in ways.items():
            began = time.perf_counter()
            way(number)
            took[name].append(1e6 * (time.perf_counter() - began))
    medians = {name: float(np.median(some[100:])) for name, some in took.items()}
    return (
        f"{medians['turn']:.0f} µs a prediction with two users in turn, {medians['one']:.0f} µs with one; a session with constant weights takes "
        f"{medians['constant']:.0f} µs"
    )


def serve(bundle: Path, runtime: Runtime, dataset: Dataset, count: int = 30) -> str:
    """Start the server, ask for predictions, compare them with the local ones, stop it."""
    command = [
        sys.executable,
        "-m",
        "isoform.runtime.cli",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--open",
        "--store",
        str(bundle.parent / "users.db"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; its exit code is {process.wait(timeout=30)}")
        assert dataset.test is not None
        x = dataset.test.images[:count]
        tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        request = urllib.request.Request(
            f"{json.loads(line)['url']}/v2/models/base/infer",
            json.dumps({"inputs": [tensor]}).encode(),
            {"content-type": "application/json"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
        answer = json.loads(direct.open(request, timeout=60).read())
        output = next(entry for entry in answer["outputs"] if entry["name"] == "logits")
        logits = np.array(output["data"], dtype=np.float32).reshape(output["shape"])
        if np.abs(logits - runtime.predict(x, runtime.signature("base"))).max() > 1e-4:
            raise SystemExit("the server's answers are not the local ones")
        return f"{count} predictions over HTTP, equal to the local ones"
    finally:
        process.terminate()
        process.wait(timeout=60)


if __name__ == "__main__":
    main()
