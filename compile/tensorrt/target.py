"""The target TensorRT of ``isoform compile``: forms of every graph, checked, and engines for the GPU at hand or named architectures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoform.compile.kind import Task
from isoform.compile.tensorrt.check import LIMIT, gaps
from isoform.compile.tensorrt.forms import Forms, forms_of
from isoform.compile.tensorrt.half import halved
from isoform.runtime.engines.tensorrt.builder import Batches, build_engine
from isoform.runtime.engines.tensorrt.cuda import gpu_or_none
from isoform.runtime.engines.tensorrt.form import MANY, ONE, PRECISIONS, form_file, vector_file
from isoform.runtime.engines.tensorrt.products import Product, find_product
from isoform.runtime.engines.tensorrt.stored import EngineKey, encode_engine, engine_name
from isoform.runtime.errors import CompileError
from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.kind import Graph

__all__ = ["Target", "Written", "write_target"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What to build. Raises ``CompileError`` on a value that is not known."""

    product: str
    """A key of ``PRODUCTS``."""
    precision: str = "fp32"
    architectures: tuple[str, ...] = ()
    """Architectures to build for; none for the GPU at hand."""
    classes: int | None = None
    """Rows of the logits layer, as many as the largest user has; None for the largest task's."""
    batches: Batches = dataclasses.field(default_factory=Batches)
    engines: bool = True
    """Whether to build; without, the forms alone are written, and the device builds when it opens the bundle."""

    def __post_init__(self) -> None:
        """Check the precision and the number of classes."""
        if self.precision not in PRECISIONS:
            raise CompileError(f"precision is {self.precision!r}, but one of {', '.join(PRECISIONS)} was expected")
        if self.classes is not None and not 1 <= self.classes <= 1 << 16:
            raise CompileError(f"classes is {self.classes}, but a number from 1 to {1 << 16} was expected")

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
    bundle: Bundle, tasks: Sequence[Task], graphs: Mapping[str, bytes], target: Target, product: Product | None,
    progress: Callable[[str], None],
) -> Written:  # fmt: skip
    """Write and check the forms of every graph that runs a task, and build their engines.

    Args:
        bundle: The bundle.
        tasks: Its tasks.
        graphs: Name → ONNX file without weights; those for learning are left out.
        target: What to build.
        product: The result of ``target.found``.
        progress: Called with one line at each stage.

    Raises:
        CompileError: If a graph has no form, or a form computes something else.
        EngineError: If an engine cannot be built.
    """
    written, engines, told, cache = dict[str, bytes](), dict[str, bytes](), dict[str, Any](), b""
    for name, file in graphs.items():
        able = [task for task in tasks if name in bundle.network.graphs(task.name, task.parts)]
        if not able:
            continue
        graph = bundle.network.graph(name)
        classes = max(target.classes or 0, *(len(task.labels) for task in tasks))
        progress(f"writing and checking TensorRT's forms of {name}")
        forms, told[name] = _checked(forms_of(file, graph, classes=classes), graph, file, able)
        written[vector_file(name)] = forms.vector.encode()
        for form, data in {ONE: forms.one, MANY: forms.many}.items():
            if data is None:
                continue
            if target.precision == "fp16":
                data = halved(data, samples=graph.input.name)
            written[form_file(name, form, target.precision)] = data
            if product is None:
                continue
            built = build_engine(
                product, data, form=form, vector=forms.vector, takes=graph.input, half=target.precision == "fp16",
                batches=target.batches, architectures=target.architectures, timing_cache=cache, progress=progress,
            )  # fmt: skip
            cache = built.timing_cache
            key = EngineKey(
                product=product.name, version=product.version, devices=target.architectures or (gpu_or_none() or "",), graph=name, form=form,
                precision=target.precision, digest=hashlib.sha256(data).hexdigest(), largest_batch=target.batches.largest,
            )  # fmt: skip
            engines[f"engines/{engine_name(key)}"] = encode_engine(key, built.engine)
            told[name][form] |= {
                "layers": built.layers, "inputs": len(built.inputs), "engine_bytes": len(built.engine), "build_seconds": built.seconds,
            }  # fmt: skip
    about = {} if product is None else {"version": product.version, "architectures": list(target.architectures)}
    report = {"product": target.product, "precision": target.precision, "limit": LIMIT, **about, "graphs": told}
    return Written(files=written, engines=engines, report=report)


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
