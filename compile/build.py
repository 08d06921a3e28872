"""Build ``compiled/``: snap, fold, export and verify every task, then replace the directory in one step.

Nothing is written unless every check passed. The files are a function of the bundle, τ, and the versions of isoform and onnx. The last
bits of ``source/`` also depend on the number of numpy's threads, which ``isoform compile`` sets to one. ``report.json`` holds measured
times, so it differs from run to run and the manifest does not name it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isoform.compile.kind import Task, exporter_of
from isoform.compile.nodes import OPSET
from isoform.compile.report import report
from isoform.compile.tensorrt.target import Target, verify_on_gpu, write_target
from isoform.compile.verify import check, measure
from isoform.runtime.engines.onnx.features import Features
from isoform.runtime.errors import CompileError
from isoform.runtime.formats import files
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.formats.compiled import FORMAT, load_compiled
from isoform.runtime.formats.signature import Signature
from isoform.train.data.load import IN_MEMORY, load_tasks
from isoform.train.data.samples import Dataset, loaded, loaded_count
from isoform.train.recipe import Recipe

__all__ = ["compile_bundle", "write_compiled"]


def compile_bundle(
    path: Path,
    *,
    data: Path | None = None,
    datasets: Mapping[str, Dataset] | None = None,
    tau: float = 0.95,
    max_drop_points: float = 0.5,
    target: Target | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compile a bundle in place.

    Args:
        path: The bundle directory.
        data: The ``--data`` folder of the training run, to verify on real samples; embedded data needs none.
        datasets: Task → samples to verify on, for bundles that 'isoform train' did not write; None loads those of the bundle's recipe.
        tau: τ; layers whose largest mixture weight is at least τ are snapped.
        max_drop_points: Points of accuracy (percent) that snapping may cost a task, and so may a target's precision.
        target: TensorRT's engines to build besides; None for ONNX files alone.
        progress: Called with one line at each stage of the work.

    Returns:
        The report, as written to ``compiled/report.json``.

    Raises:
        BundleError: If the bundle is damaged.
        DataError: If the samples to verify on are missing.
        CompileError: If the result disagrees with torch, snapping costs too much, or an argument is out of range; nothing is written.
        MissingExtraError: If the target's product is not installed.
        EngineError: If an engine cannot be built.
    """
    if math.isnan(max_drop_points):
        raise CompileError(f"max_drop_points is {max_drop_points}, but a number of points was expected")
    product = None if target is None else target.found()  # before the work, not after it
    # The old compiled/ is not read: it may be damaged or of an old format, and compiling is how one repairs it.
    bundle = Bundle.load(path, with_compiled=False)
    tests = _datasets(bundle, data, progress) if datasets is None else datasets
    exporter = exporter_of(bundle)
    tasks = [
        _task(bundle, name, exporter.snap(signature, tau=tau), tests[name])
        for name, signature in bundle.signatures.items()
    ]
    # Opened once for all tasks: these sessions depend on the network's sizes, not on a signature.
    graphs, learning = exporter.graphs(bundle, tasks), exporter.learning(bundle)
    training = {} if learning is None else learning.graphs
    compiled = {f"{name}.onnx": graph for name, graph in graphs.items()}
    compiled.update({f"training/{name}": graph for name, graph in training.items()})
    measured = {}
    for task in tasks:
        progress(f"compiling and verifying {task.name}")
        layouts = exporter.layouts(bundle, task)
        if learning is not None and (source := learning.source(task)) is not None:
            compiled[f"source/{task.name}.safetensors"] = source
        measured[task.name] = measure(
            bundle, task, exporter, layouts=layouts, file=graphs[task.graph], learning=learning
        )
        compiled.update({f"{layout}/{task.name}.onnx": graph for layout, graph in layouts.items()})
    check(measured, max_drop_points=max_drop_points)
    written = None
    if target is not None:
        written = write_target(
            bundle, tasks, graphs, {task.name: compiled[f"fast/{task.name}.onnx"] for task in tasks}, target, product,
            max_drop_points=max_drop_points, progress=progress,
        )  # fmt: skip
    if written is not None:
        compiled |= written.files
    content = report(bundle, tasks, exporter, measured, {name: len(blob) for name, blob in compiled.items()}, tau=tau)
    if written is not None:
        content["tensorrt"] = written.report
    signatures = {task.name: task.signature for task in tasks}
    # Last, and as a whole: after a failed check the old compiled/ is still there, and no reader ever sees half a new one.
    with files.replace_directory(bundle.path / "compiled") as directory:
        write_compiled(directory, bundle, signatures, compiled, content, tau=tau)
        if written is not None:
            assert target is not None
            for name, engine in written.engines.items():
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_bytes(engine)
            if target.at_hand:
                progress("running the engines on the GPU, beside ONNX Runtime")
                made = load_compiled(
                    bundle.path, spec=bundle.spec, digest=bundle.digest, trained=bundle.signatures, folder=directory
                )
                content["tensorrt"]["verified"] = verify_on_gpu(
                    dataclasses.replace(bundle, compiled=made), tasks, target, max_drop_points=max_drop_points
                )
                (directory / "report.json").write_bytes(files.canonical_json(content))
    return content


def _datasets(bundle: Bundle, data: Path | None, progress: Callable[[str], None]) -> Mapping[str, Dataset]:
    recipe_json = bundle.training.get("recipe")
    if not isinstance(recipe_json, dict):
        raise CompileError(
            f"{bundle.path} does not say how it was trained, so the samples to verify on are unknown; run 'isoform train', or pass datasets to compile_bundle"
        )
    digests = bundle.training.get("data")
    if not isinstance(digests, dict):
        raise CompileError(f"{bundle.path} does not say what data it was trained on; train it with 'isoform train'")
    recipe = Recipe.of_bundle(recipe_json, where=f"{bundle.path / 'bundle.json'}, recipe")
    datasets = load_tasks(recipe.tasks, recipe.data, root=data)
    for task, dataset in datasets.items():
        progress(f"samples of {task}: {dataset.account.sentence()}")
        if dataset.test is not None and (count := loaded_count(dataset.test, most=IN_MEMORY)) < len(
            dataset.test.labels
        ):
            progress(
                f"verifying {task} on {count:,} of {len(dataset.test.labels):,} test samples, as many as are kept in memory"
            )
    for task in bundle.signatures:
        # Other files may be split otherwise, and training samples among the test samples would flatter the accuracies.
        if task not in datasets or datasets[task].digest() != digests.get(task):
            raise CompileError(
                f"the data of task {task!r} is not what the bundle was trained on; pass the --data folder of the training run"
            )
    return datasets


def _task(bundle: Bundle, name: str, signature: Signature, dataset: Dataset) -> Task:
    resolved = bundle.resolve(signature)
    assert dataset.test is not None
    train, test = (loaded(half, most=IN_MEMORY) for half in (dataset.train, dataset.test))
    if (front := bundle.network.front(name)) is not None:  # from here on a sample is its features
        features = Features(front, threads=1)
        train, test = (dataclasses.replace(half, images=features.checked(half.images)) for half in (train, test))
    graph = bundle.network.graphs(name, resolved.parts)[0]
    return Task(
        name=name, trained=bundle.signatures[name], signature=signature, parts=resolved.parts, graph=graph,
        weights=bundle.network.graph(graph).fold(resolved.parts), labels=resolved.labels, train=train, test=test,
    )  # fmt: skip


def write_compiled(
    directory: Path,
    bundle: Bundle,
    signatures: Mapping[str, Signature],
    compiled: Mapping[str, bytes],
    content: Mapping[str, Any],
    *,
    tau: float,
) -> None:
    """Write the files of ``compiled/`` into a directory.

    Args:
        directory: An empty directory.
        bundle: The trained bundle.
        signatures: Task → compiled (snapped) base signature.
        compiled: Path below ``directory`` → content.
        content: The report.
        tau: The τ that ``signatures`` were snapped with.
    """
    (directory / "signatures").mkdir()
    for name, blob in compiled.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(blob)
    for task, signature in signatures.items():
        (directory / "signatures" / f"{task}.safetensors").write_bytes(signature.encode())
    # report.json is not among the files: its times differ from run to run, and the manifest is a function of the bundle and τ.
    manifest = {
        "format": FORMAT, "template": bundle.digest, "opset": OPSET, "tau": tau,
        "tasks": {task: {"signature": s.digest, "trained": bundle.signatures[task].digest} for task, s in signatures.items()},
        "files": {name: {"sha256": hashlib.sha256(blob).hexdigest(), "size_bytes": len(blob)} for name, blob in compiled.items()},
    }  # fmt: skip
    (directory / "manifest.json").write_bytes(files.canonical_json(manifest))
    (directory / "report.json").write_bytes(files.canonical_json(content))
