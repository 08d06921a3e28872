"""Helpers that tests import: the command line as a process, and small bundles of random numbers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoform.runtime.cli import main
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.signature import Signature
from isoform.runtime.formats.templates import template_digest
from isoform.runtime.inputs import Input, Reading
from isoform.runtime.kinds.mixture.normalisation import packed
from isoform.runtime.kinds.mixture.spec import NetworkSpec
from isoform.runtime.samples.account import Account
from isoform.train.data.formats.files import read_files
from isoform.train.data.pictures import Pictures
from isoform.train.data.samples import Dataset

ROOT = Path(__file__).resolve().parents[2]
ISOFORM = [sys.executable, "-m", "isoform.runtime.cli"]
TINY = ["--steps", "40", "--network.layers", "3", "--batch", "16", "--threads", "1", "--mixture.entropy", "20"]
"""Flags that make the digits recipe small: seconds instead of minutes, still real."""


def image(shape: tuple[int, ...]) -> Input:
    """What a network of images of that shape takes: channels, height, width."""
    return Input(what="image", shape=shape)


def training_images(folder: Path, *, shape: tuple[int, int, int], account: Account) -> Dataset:
    """A folder of images as training reads it: listed, then decoded."""
    found = read_files(folder, shape=shape, account=account, reading=Reading())
    halves = [half for half in (found.train, found.test) if half is not None]
    for half in halves:
        assert isinstance(half.images, Pictures)
        half.images.read(account=account)
    return found


def benchmark(folder: Path, name: str, *words: str) -> tuple[str, dict[str, Any]]:
    """What a benchmark prints and writes with ``--quick --json``, run in a folder."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *words, "--quick", "--json", "out.json"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "out.json").read_text())


def checked_in() -> list[str]:
    """Every file of the project, by git where there is one, else by looking."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    if (ROOT / ".git").exists():
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return [name for name in result.stdout.splitlines() if (ROOT / name).is_file()]
    skipped = {"build", "dist", "quickstart", "__pycache__"}
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [
        path.as_posix()
        for path in found
        if not any(
            (part.startswith(".") and part not in (".ci", ".gitignore"))
            or part in skipped
            or part.endswith(".egg-info")
            for part in path.parts
        )
    ]


def isoform(*words: str | Path, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    result = subprocess.run([*ISOFORM, *map(str, words)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert not check or result.returncode == 0, result.stderr
    return result


def isoform_here(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which takes a hundredth of the time: for what it refuses, and what it says."""
    out, errors, root, access = io.StringIO(), io.StringIO(), logging.getLogger(), logging.getLogger("isoform.access")
    handlers = root.handlers[:], access.handlers[:], access.level, access.propagate
    try:
        with (
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = main([*map(str, words)])
    except SystemExit as left:
        code = int(left.code or 0)
    finally:  # serve sets up logs for its process, which is the tests' here
        root.handlers[:], access.handlers[:], access.level, access.propagate = handlers
    return subprocess.CompletedProcess([*map(str, words)], code, out.getvalue(), errors.getvalue())


def make_bundle(spec: NetworkSpec, *, tasks: tuple[str, ...] = ("a", "b"), classes: int = 3, seed: int = 0) -> Bundle:
    """A bundle of random but sane numbers, for tests of formats and arithmetic."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[2:]))), shape).astype(np.float32)
        for name, shape in spec.template_shapes.items()
        if not name.startswith("bn.direction")
    }
    if spec.bn_directions:
        tensors |= packed(rng.normal(0, 0.3, (spec.bn_directions, 2, spec.bn_channels)).astype(np.float32))
    digest = template_digest(spec, tensors)
    signatures = {}
    for task in tasks:
        n = spec.bn_channels
        parts = {
            "mixture": rng.normal(size=(spec.layers, spec.templates)),
            "bn.statistics": np.stack([rng.normal(size=n), rng.uniform(0.5, 2, n)]),
            "logits.weight": rng.normal(size=(classes, spec.embedding)) / np.sqrt(spec.embedding),
            "logits.bias": rng.normal(size=classes),
        }
        if spec.affine == "task":
            parts["bn.affine"] = rng.normal(1, 0.1, (2, n))
        signatures[task] = Signature(
            parts=parts, template=digest, task=task, labels=tuple(f"c{i}" for i in range(classes))
        )
    return Bundle.create(spec=spec, tensors=tensors, signatures=signatures, training={})


SMALL = NetworkSpec(
    input_shape=(1, 8, 8), adapter_kernel=(2, 2), layers=3, templates=2, channels=8, head_channels=16, embedding=8
)


def all_listed(page: str) -> set[str]:
    """``file.py::test`` of every test that a page names."""
    return set(re.findall(r"`(test_\w+\.py::test_\w+)`", page))
