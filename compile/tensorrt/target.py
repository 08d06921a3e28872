"""The target TensorRT of ``isoform compile``: forms of every graph, checked, and engines for the GPU at hand or named architectures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoform.compile.export.half import halved
from isoform.compile.kind import Task
from isoform.compile.tensorrt.check import LIMIT, gaps
from isoform.compile.tensorrt.device import measure_on_device
from isoform.compile.tensorrt.forms import Forms, forms_of
from isoform.compile.tensorrt.kernels import kernels_of
from isoform.compile.tensorrt.structure import structure_of
from isoform.compile.tensorrt.tasks import task_form
from isoform.runtime.engines.tensorrt.builder import BuildOptions, build_engine
from isoform.runtime.engines.tensorrt.cuda import Device, gpu_or_none
from isoform.runtime.engines.tensorrt.form import (
    MANY,
    ONE,
    OPTIONS,
    TASK,
    TASK_PRECISIONS,
    UserVector,
    form_file,
    vector_file,
)
from isoform.runtime.engines.tensorrt.loading import Loading, keep_timings, kept_timings
from isoform.runtime.engines.tensorrt.products import Product, find_product
from isoform.runtime.engines.tensorrt.stored import EngineKey, encode_engine, engine_name
from isoform.runtime.errors import CompileError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.inputs import Input
from isoform.runtime.kind import Graph

__all__ = ["Target", "Written", "write_target"]

FEWEST, MOST = 32, 256
"""Samples that int8 is calibrated on."""
CALIBRATION_BYTES = 1 << 30
"""Memory for their activations, about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What to build. Raises ``CompileError`` on a value that is not known."""

    product: str
    """A key of ``PRODUCTS``."""
    precision: str = "fp32"
    """One of ``TASK_PRECISIONS``. ``int8`` is that of the tasks' own engines, and users' are float16 then."""
    architectures: tuple[str, ...] = ()
    """Architectures to build for; none for the GPU at hand."""
    classes: int | None = None
    """Rows of the logits layer, as many as the largest user has; None for the largest task's."""
    options: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    """How engines are built, here and on a device; ``structures`` are filled in."""
    tasks: bool = False
    """Whether every task has an engine of its own besides, with its weights as constants."""
    engines: bool = True
    """Whether to build; without, the forms alone are written, and the device builds when it opens the bundle."""

    def __post_init__(self) -> None:
        """Check the precision and the number of classes."""
        if self.precision not in TASK_PRECISIONS:
            raise CompileError(f"precision is {self.precision!r}, but one of {', '.join(TASK_PRECISIONS)} was expected")
        if self.precision == "int8" and not self.tasks:
            raise CompileError("int8 is for the tasks' own engines; add --tasks")
        if self.classes is not None and not 1 <= self.classes <= 1 << 16:
            raise CompileError(f"classes is {self.classes}, but a number from 1 to {1 << 16} was expected")

    @property
    def at_hand(self) -> bool:
        """Whether engines are built for the GPU of this machine, and can be run here."""
        return self.engines and not self.architectures

    def found(self) -> Product | None:
        """Return the product; None if no engines are built. Raises ``MissingExtraError`` if it is not installed."""
        return find_product(self.product) if self.engines else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What a target adds to ``compiled/``."""

    files: Mapping[str, bytes]
    """Path → content: forms and vectors. They depend on the bundle alone."""
    engines: Mapping[str, bytes]
    """Path → content: engines, whose bytes may differ from build to build."""
    report: Mapping[str, Any]


def write_target(
    bundle: Bundle, tasks: Sequence[Task], graphs: Mapping[str, bytes], complete: Mapping[str, bytes], target: Target, product: Product | None,
    *, max_drop_points: float, progress: Callable[[str], None],
) -> Written:  # fmt: skip
    """Write and check the forms of every graph that runs a task, and build their engines.

    Args:
        bundle: The bundle.
        tasks: Its tasks.
        graphs: Name → ONNX file without weights; those for learning are left out.
        complete: Task → its network as one complete ONNX file, layout ``fast``.
        target: What to build.
        product: The result of ``target.found``.
        max_drop_points: Points of accuracy (percent) that a precision may cost a task.
        progress: Called with one line at each stage.

    Raises:
        CompileError: If a graph has no form, a form computes something else, or a precision costs too much.
        EngineError: If an engine cannot be built.
    """
    builds = _Builds(target, product, progress)
    half = target.precision != "fp32"
    for name, file in graphs.items():
        able = [task for task in tasks if name in bundle.network.graphs(task.name, task.parts)]
        if not able:
            continue
        graph = bundle.network.graph(name)
        classes = max(target.classes or 0, *(len(task.labels) for task in tasks))
        progress(f"writing and checking TensorRT's forms of {name}")
        forms, told = _checked(forms_of(file, graph, classes=classes), graph, file, able)
        builds.files[vector_file(name)] = forms.vector.encode()
        for form, data in {ONE: forms.one, MANY: forms.many}.items():
            if data is not None:
                written = halved(data, samples=graph.input.name) if half else data
                told[form] |= builds.add(
                    name, form, "fp16" if half else "fp32", written, vector=forms.vector, takes=graph.input
                )
        if target.engines or target.architectures:
            kernels, why = kernels_of(
                name, graph, forms.vector, precision="fp16" if half else "fp32", architectures=target.architectures
            )
            builds.engines |= {f"engines/{file}": data for file, data in kernels.items()}
            told["kernel"] = {"reason": why} if why else {"engine_bytes": sum(map(len, kernels.values()))}
        builds.told[name] = told
        for task in able if target.tasks else ():
            if task.graph == name:
                progress(f"writing and checking TensorRT's form of task {task.name} in {target.precision}")
                made = task_form(
                    task, complete[task.name], samples=graph.input.name, precision=target.precision, max_drop_points=max_drop_points,
                    calibration=_calibration(bundle, task),
                )  # fmt: skip
                engine = builds.add(
                    task.name, TASK, target.precision, made.file, vector=forms.vector, takes=graph.input
                )
                builds.tasks[task.name] = {**made.answers.to_json(), "bytes": len(made.file), **engine}
    builds.files[OPTIONS] = dataclasses.replace(target.options, structures=builds.structures).encode()
    about = {} if product is None else {"version": product.version, "architectures": list(target.architectures)}
    report = {
        "product": target.product, "precision": target.precision, "limit": LIMIT, **about, "graphs": builds.told, "tasks": builds.tasks,
    }  # fmt: skip
    return Written(files=builds.files, engines=builds.engines, report=report)


def _calibration(bundle: Bundle, task: Task) -> int:
    """Return how many samples int8 is calibrated on: ONNX Runtime keeps all their activations in memory."""
    one = 4 * bundle.spec.sample_bytes(task.name, task.train.images.shape[1:])
    return max(FEWEST, min(MOST, CALIBRATION_BYTES // one))


def _checked(forms: Forms, graph: Graph, file: bytes, tasks: Sequence[Task]) -> tuple[Forms, dict[str, Any]]:
    """Return the forms, without ``many`` if it computes something else, and what to report. Raises ``CompileError`` if ``one`` does."""
    found = gaps(forms, graph, file, tasks)
    if not found[ONE] <= LIMIT:
        raise CompileError(
            f"TensorRT's form of the graph differs from it by {found[ONE]:.0e}, but at most {LIMIT:g} was expected; please report this"
        )
    if not found.get(MANY, 0.0) <= LIMIT:
        why = f"its answers differ from the graph's by {found.pop(MANY):.0e}"
        forms = dataclasses.replace(forms, many=None, reason=why)
    entries: dict[str, Any] = {form: {"gap": gap} for form, gap in found.items()}
    if forms.many is None:
        entries[MANY] = {"reason": forms.reason}
    return forms, {"classes": forms.vector.classes, "floats_per_user": forms.vector.size, **entries}


def verify_on_gpu(bundle: Bundle, tasks: Sequence[Task], target: Target, *, max_drop_points: float) -> dict[str, Any]:
    """Run what was built on the GPU of this machine, as ``device.measure_on_device`` does."""
    compiled = bundle.require_compiled()
    with Device() as device:
        loading = Loading(compiled, device, products=(target.product,), own=False)
        return measure_on_device(
            bundle, tasks, device, loading.engine, loading.kernel, precision=target.precision, max_drop_points=max_drop_points
        )  # fmt: skip


class _Builds:
    """Files, engines and report, as they are made.

    Args:
        target: What to build.
        product: The product; None for no engines.
        progress: Called with one line at each stage.
    """

    def __init__(self, target: Target, product: Product | None, progress: Callable[[str], None]) -> None:
        self._target, self._product, self.progress = target, product, progress
        # of engines for named architectures nothing is timed
        self._device = (gpu_or_none() or "") if target.at_hand else ""
        self._timings = kept_timings(product, self._device) if product is not None and self._device else b""
        self.files, self.engines, self.told = dict[str, bytes](), dict[str, bytes](), dict[str, Any]()
        self.tasks, self.structures = dict[str, Any](), dict[str, str]()

    def add(
        self, name: str, form: str, precision: str, file: bytes, *, vector: UserVector, takes: Input
    ) -> dict[str, Any]:
        """Add a form of a graph, or of a task, and its engine; return what to report of the engine."""
        self.files[form_file(name, form, precision)] = file
        self.structures[form_file(name, form, precision)] = structure_of(file)
        product, target = self._product, self._target
        if product is None:
            return {}
        built = build_engine(
            product, file, form=form, vector=vector, takes=takes, precision=precision, options=target.options,
            architectures=target.architectures, timing_cache=self._timings, progress=self.progress,
        )  # fmt: skip
        self._timings = built.timing_cache
        if self._device:
            keep_timings(product, self._device, self._timings)
        key = EngineKey(
            product=product.name, version=product.version, devices=target.architectures or (self._device,), graph=name, form=form,
            precision=precision, digest=hashlib.sha256(file).hexdigest(), structure=self.structures[form_file(name, form, precision)],
            shared=target.options.shared, largest_batch=target.options.largest,
        )  # fmt: skip
        self.engines[f"engines/{engine_name(key)}"] = encode_engine(key, built.engine)
        return {
            "layers": built.layers, "inputs": len(built.inputs), "engine_bytes": len(built.engine), "build_seconds": built.seconds,
        }  # fmt: skip
