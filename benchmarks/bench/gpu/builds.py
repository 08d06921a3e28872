"""What engines are built of: layers, bytes and seconds, by TensorRT-RTX, on a machine with or without a GPU."""

from __future__ import annotations

from bench.gpu.subjects import Subject
from bench.harness import Figures
from isoform.runtime.engines.tensorrt.builder import BuildOptions, build_engine
from isoform.runtime.engines.tensorrt.form import MANY, ONE, TASK, UserVector, form_file, vector_file
from isoform.runtime.engines.tensorrt.nvrtc import compile_kernel
from isoform.runtime.engines.tensorrt.products import find_product

__all__ = ["builds"]


def builds(subject: Subject, *, architecture: str, largest: int) -> Figures:
    """Build every form for an architecture, and the kernel.

    Args:
        subject: The network.
        architecture: Such as sm89.
        largest: The largest batch.
    """
    product, compiled = find_product("tensorrt-rtx"), subject.bundle.require_compiled()
    vector = UserVector.decode(compiled.read(vector_file("portable")), name="the vector")
    figures: Figures = {"kilobytes_per_user": vector.size * (4 if subject.precision == "fp32" else 2) / 1e3}
    for name, form in (("base", TASK), ("portable", ONE), ("portable", MANY)):
        built = build_engine(
            product, compiled.read(form_file(name, form, subject.precision)), form=form, vector=vector, takes=subject.bundle.network.input,
            precision=subject.precision, architectures=(architecture,), options=BuildOptions(usual=min(32, largest), largest=largest),
        )  # fmt: skip
        figures |= {
            f"{form}.layers": built.layers,
            f"{form}.mb": len(built.engine) / 1e6,
            f"{form}.seconds": built.seconds,
        }
    graph = subject.bundle.network.graph("portable")
    kernel = graph.kernel(vector.places, row=vector.size, half=subject.precision == "fp16")
    if kernel is not None:
        figures["kernel.mb"] = len(compile_kernel(kernel.source, architecture)) / 1e6
        figures["kernel.shared_bytes"] = kernel.shared_bytes
    return figures
